"""The dtype policy: bfloat16 where the hardware supports it, because training is almost twice as fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "mixed_bfloat16"
CHOICES = (AUTO, FLOAT32, BFLOAT16)

_FAST_ON_CPU = ("amx_bf16", "avx512_bf16")
_MIN_CAPABILITY = 8  # NVIDIA Ampere


def choose(requested: str, *, depthwise: bool = False) -> tuple[str, str]:
    """The dtype policy for this machine, and why.

    depthwise: whether most convolutions are depthwise. Those gain nothing from bfloat16 units: on two cores
    with AMX, MobileNetV2 trained a sixth to a quarter faster in float32.
    """
    if requested != AUTO:
        return requested, "set by train.precision"
    capability = _gpu_capability()
    if capability is not None:
        fast = capability >= _MIN_CAPABILITY
        return (BFLOAT16 if fast else FLOAT32), f"the GPU's compute capability is {capability}"
    if depthwise:
        return FLOAT32, "depthwise convolutions are faster in float32 on CPUs"
    found = [flag for flag in _FAST_ON_CPU if flag in _cpu_flags()]
    return (BFLOAT16, f"the CPU has {found[0]}") if found else (FLOAT32, "the CPU has no bfloat16 units")


@contextmanager
def policy(name: str) -> Iterator[None]:
    """Layers created inside use this dtype policy, and their automatic names are numbered from the start.

    Otherwise the names in a saved network would depend on how many networks were built before.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _gpu_capability() -> int | None:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None
    details = tf.config.experimental.get_device_details(devices[0])
    return int(details.get("compute_capability", (0, 0))[0])
