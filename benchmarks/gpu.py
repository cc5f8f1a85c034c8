"""Training steps on this machine's accelerator: images/s, memory, share of its peak; compared with PyTorch.

scripts/bench gpu [--networks resnet_fast resnet50] [--backends tensorflow jax torch] [--batch 256] [--json]

Keras trains our model code from arrays on the device, with each requested backend (tensorflow, jax) in its
own process, in bfloat16 where the device supports it. PyTorch, if installed, trains torchvision's ResNet50
and the same resnet_fast written with PyTorch's layers (channels last, bfloat16). On a machine without an
accelerator the CPU is measured, and the table says so.

Operations per image: those of components/training/models/flops.py times three, one forward pass and twice as
much for the backward pass. The peak is that of dense bfloat16 in the manufacturer's data sheet; for CPUs and
devices that are not in PEAKS no share is given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PEAKS = {  # operations/s, dense bfloat16, of NVIDIA's data sheets
    "H200": 989e12,
    "H100 80GB HBM3": 989e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "L4": 121e12,
    "L40S": 362e12,
    "A10": 125e12,
}
NETWORKS = {"resnet_fast": (32, 10), "resnet50": (224, 1000)}  # side of the image, classes
WARM_UP = 5  # steps that are not measured
BACKWARD = 3  # times the operations of a forward pass


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--backends", nargs="+", choices=("tensorflow", "jax", "torch"), default=_installed())
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("BACKEND", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.batch, options.steps)))
        return
    rows = [
        _in_subprocess(backend, network, options.batch, options.steps)
        for network in options.networks
        for backend in options.backends
    ]
    print(json.dumps(rows) if options.json else table(rows))


def measure(backend: str, network: str, batch: int, steps: int) -> dict[str, Any]:
    """Train for a number of steps; returns throughput and memory."""
    work = _torch if backend == "torch" else _keras
    result = work(network, batch, steps) if backend == "torch" else work(network, batch, steps, backend)
    operations = BACKWARD * result.pop("flops") * result["images_per_s"]
    peak = next((value for name, value in PEAKS.items() if name in result["device"]), None)
    return {
        "network": network, "backend": backend, "batch": batch, **result,
        "tflops": operations / 1e12, "share_of_peak": operations / peak if peak else None,
    }  # fmt: skip


def _in_subprocess(backend: str, network: str, batch: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", backend, network, "--batch", str(batch),
               "--steps", str(steps)]  # fmt: skip
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend != "torch":
        environment["KERAS_BACKEND"] = backend
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        problem = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return {"network": network, "backend": backend, "batch": batch, "problem": problem[0]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _keras(name: str, batch: int, steps: int, backend: str) -> dict[str, Any]:
    """Our model code, trained by Keras from arrays."""
    import keras
    import numpy as np

    from pergola.components.training.models.architectures import ModelSettings, Plan, build
    from pergola.components.training.models.flops import flops
    from pergola.components.training.models.statistics import Statistics

    assert keras.backend.backend() == backend
    device, used = _device(backend)
    side, classes = NETWORKS[name]
    policy = "mixed_bfloat16" if "CPU" not in device or _cpu_is_fast() else "float32"
    keras.config.set_dtype_policy(policy)
    plan = Plan(name, "measured", side, side, 3, classes, 64)
    network = build(plan, ModelSettings(architecture=name), Statistics((127.0,) * 3, (64.0,) * 3), fused=True)
    network.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=backend == "jax" or "CPU" not in device,
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (batch, side, side, 3)).astype(np.float32)
    labels = rng.integers(0, classes, batch)

    def train(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            loss = network.train_on_batch(images, labels)
        assert np.isfinite(float(np.asarray(loss)))  # waits for the device
        return time.perf_counter() - begin

    train(WARM_UP)
    seconds = train(steps)
    return {"device": device, "precision": policy, "images_per_s": batch * steps / seconds,
            "memory_mb": used(), "flops": flops(network)}  # fmt: skip


def _device(backend: str) -> tuple[str, Any]:
    """The name of the device, and a function for its peak memory in MB."""
    if backend == "jax":
        import jax

        chip = jax.devices()[0]
        if chip.platform == "cpu":
            return "CPU", _resident_mb
        return chip.device_kind, lambda: _mb((chip.memory_stats() or {}).get("peak_bytes_in_use"))
    import tensorflow as tf

    chips = tf.config.list_physical_devices("GPU")
    if not chips:
        return "CPU", _resident_mb
    name = str(tf.config.experimental.get_device_details(chips[0]).get("device_name", "GPU"))
    return name, lambda: _mb(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _torch(name: str, batch: int, steps: int) -> dict[str, Any]:
    import torch

    side, classes = NETWORKS[name]
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    network = (_torch_resnet50 if name == "resnet50" else _torch_resnet_fast)(classes).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    images = torch.rand(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,), device=device)
    fast = cuda or _cpu_is_fast()

    def train(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=fast):
                loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
        assert torch.isfinite(loss).item()  # waits for the device
        return time.perf_counter() - begin

    train(WARM_UP)
    seconds = train(steps)
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "precision": "autocast bfloat16" if fast else "float32",
        "images_per_s": batch * steps / seconds,
        "memory_mb": _mb(torch.cuda.max_memory_allocated()) if cuda else _resident_mb(),
        "flops": _torch_flops(network, side, device),
    }


def _torch_resnet50(classes: int) -> Any:
    import torchvision

    return torchvision.models.resnet50(num_classes=classes)


def _torch_resnet_fast(classes: int) -> Any:
    """components/training/models/resnet.py at 32 pixels and 64 channels, in PyTorch's layers."""
    import torch
    from torch import nn

    def convolve(before: int, after: int, pool: bool) -> Any:
        shrink = [nn.MaxPool2d(2)] if pool else []
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return nn.Sequential(convolution, *shrink, nn.BatchNorm2d(after), nn.ReLU())

    class Stage(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.widen = convolve(before, after, True)
            self.residual = convolve(after, after, False)

        def forward(self, x: Any) -> Any:
            x = self.widen(x)
            return x + self.residual(x)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whiten = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
            stages = Stage(24, 64), Stage(64, 256), Stage(256, 256)
            self.features = nn.Sequential(whiten, nn.ReLU(), *stages)
            self.logits = nn.Linear(512, classes)

        def forward(self, x: Any) -> Any:
            x = self.features(x)
            return self.logits(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    return Network()


def _torch_flops(network: Any, side: int, device: str) -> int:
    """The same count as components/training/models/flops.py."""
    import torch

    counted = []

    def count(layer: Any, inputs: Any, output: Any) -> None:
        places = output[0].numel() // output.shape[1] if output.dim() == 4 else 1
        counted.append(2 * places * layer.weight.numel())

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network(torch.zeros(2, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
    return sum(counted)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'network':<13}{'backend':<12}{'device':<22}{'precision':<19}{'images/s':>11}{'MB':>9}"
             f"{'TFLOP/s':>9}{'of peak':>9}"]  # fmt: skip
    for row in rows:
        if "problem" in row:
            lines.append(f"{row['network']:<13}{row['backend']:<12}{row['problem']}")
            continue
        share = f"{row['share_of_peak']:.1%}" if row["share_of_peak"] else "unknown"
        lines.append(
            f"{row['network']:<13}{row['backend']:<12}{row['device']:<22}{row['precision']:<19}"
            f"{row['images_per_s']:>11,.0f}{row['memory_mb']:>9,.0f}{row['tflops']:>9.2f}{share:>9}"
        )
    if any(row.get("device") == "CPU" for row in rows):
        lines.append("Measured on the CPU: no accelerator was found.")
    return "\n".join(lines)


def _installed() -> list[str]:
    return [name for name in ("tensorflow", "jax", "torch") if find_spec(name)]


def _cpu_is_fast() -> bool:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _resident_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _mb(num_bytes: int | None) -> float:
    return (num_bytes or 0) / 1e6


if __name__ == "__main__":
    main()
