"""The command line of pergola-model-server: tensorflow_model_server's flags, names and defaults.

gflags style: --flag=value, --flag value, -flag=value; for booleans --flag, --noflag, --flag=true. A flag
that has no meaning here is accepted and reported to have no effect. Importing this needs no TensorFlow.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """One flag. default's type is the flag's type; effect is False if it is accepted and ignored."""

    name: str
    default: bool | int | float | str
    help: str
    effect: bool = True


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flags() -> tuple[Flag, ...]:
    """Every flag, in the order in which usage prints them."""
    threads = 4 * _cpus()
    return (
        Flag("port", 8500, "TCP port to listen on for the gRPC API. 0 disables it."),
        Flag("grpc_socket_path", "", "Path of a UNIX socket to serve gRPC on as well."),
        Flag("rest_api_port", 0, "Port for the HTTP/REST API. 0 disables it. Must differ from --port."),
        Flag("rest_api_num_threads", threads, "Threads that answer HTTP/REST requests. Default: 4 x CPUs."),
        Flag("rest_api_timeout_in_ms", 30000, "Timeout for HTTP/REST calls."),
        Flag("rest_api_enable_cors_support", False, "Send CORS headers in replies."),
        Flag("grpc_max_threads", threads, "gRPC requests in the model at once. Default: 4 x CPUs."),
        Flag("grpc_channel_arguments", "", 'Arguments for the gRPC server, "key=value,key=value".'),
        Flag("model_name", "default", "Name of the model. Ignored with --model_config_file."),
        Flag("model_base_path", "", "Folder with one folder per version. Ignored with --model_config_file."),
        Flag(
            "model_config_file", "", "Text file with a ModelServerConfig: several models, policies, labels."
        ),
        Flag("model_config_file_poll_wait_seconds", 0, "Seconds between reloads of that file. 0: never."),
        Flag("file_system_poll_wait_seconds", 1, "Seconds between checks for new versions. 0: once."),
        Flag("saved_model_tags", "serve", "Tags of the MetaGraphDef to load, separated by commas."),
        Flag(
            "allow_version_labels_for_unavailable_models",
            False,
            "Accept new labels for versions that are not loaded yet.",
        ),
        Flag("num_load_threads", 0, "Threads that load. 0: one."),
        Flag("num_unload_threads", 0, "Threads that unload. 0: one."),
        Flag("max_num_load_retries", 5, "Number of retries to load a version."),
        Flag("load_retry_interval_micros", 60 * 10**6, "Microseconds between retries."),
        Flag("flush_filesystem_caches", True, "Without effect here.", effect=False),
        Flag("enable_model_warmup", True, "Replay assets.extra/tf_serving_warmup_requests before serving."),
        Flag("num_request_iterations_for_warmup", 0, "Times to send each warm-up request. 0: once."),
        Flag("enable_batching", False, "Batch across requests."),
        Flag("batching_parameters_file", "", "Text file with BatchingParameters. Needs --enable_batching."),
        Flag(
            "enable_per_model_batching_parameters",
            False,
            "Read batching_params.pbtxt in each version folder, but for threads. Needs --enable_batching.",
        ),
        Flag("tensorflow_session_parallelism", 0, "For both of the next two, unless one is given. 0: auto."),
        Flag("tensorflow_intra_op_parallelism", 0, "Threads inside an operation. 0: auto."),
        Flag("tensorflow_inter_op_parallelism", 0, "Operations run in parallel. 0: auto."),
        Flag("tensorflow_session_config_file", "", "Text file with a tensorflow.ConfigProto."),
        Flag(
            "per_process_gpu_memory_fraction",
            0.0,
            "Share of a GPU's memory to take. 0: TensorFlow's default.",
        ),
        Flag("mixed_precision", "", '"bfloat16" runs float32 models in bfloat16 where TensorFlow can.'),
        Flag("prefer_tflite_model", False, "Without effect here.", effect=False),
        Flag("num_tflite_pools", 1, "Without effect here.", effect=False),
        Flag("num_tflite_interpreters_per_pool", 1, "Without effect here.", effect=False),
        Flag("platform_config_file", "", "Without effect here.", effect=False),
        Flag("xla_cpu_compilation_enabled", False, "Without effect here.", effect=False),
        Flag("xla_gpu_compilation_enabled", False, "Without effect here.", effect=False),
        Flag("use_alts_credentials", False, "Rejected: only Google's cloud has ALTS. Use --ssl_config_file."),
        Flag("ssl_config_file", "", "Text file with an SSLConfig: TLS for gRPC."),
        Flag("monitoring_config_file", "", "Text file with a MonitoringConfig: the Prometheus page."),
        Flag("enable_profiler", True, "Serve TensorFlow's profiler on the gRPC port."),
        Flag("enable_grpc_healthcheck_service", False, "Serve grpc.health.v1 on the gRPC port."),
        Flag("enable_signature_method_name_check", False, "Reject Predict on signatures of other kinds."),
        Flag("enable_serialization_as_tensor_content", False, "Return tensors as tensor_content."),
        Flag("remove_unused_fields_from_bundle_metagraph", True, "Without effect here.", effect=False),
        Flag("skip_initialize_tpu", False, "Without effect here.", effect=False),
        Flag("use_tfrt", False, "Without effect here.", effect=False),
        Flag("thread_pool_factory_config_file", "", "Without effect here.", effect=False),
        Flag("total_model_memory_limit_bytes", 2**63 - 1, "Without effect here.", effect=False),
        Flag("version", False, "Print the version and exit."),
        # Ours.
        Flag(
            "port_file",
            "",
            'pergola only: write {"grpc": port, "rest": port} here once both are open, and '
            "let ports of -1 be any free ones.",
        ),
        Flag(
            "verify_checksums",
            False,
            "pergola only: check a version's files against its checksums.sha256 before it is loaded.",
        ),
        Flag(
            "require_signature",
            "",
            "pergola only: public key (PEM) of whom must have signed a version before it is loaded.",
        ),
        Flag("shutdown_grace_s", 25, "pergola only: seconds for requests in flight after SIGTERM."),
        Flag("bind_address", "0.0.0.0", "pergola only: IP address to listen on, for both ports."),
        Flag("enable_model_reload", True, "pergola only: let callers change the list of served models."),
        Flag(
            "token_file",
            "",
            "pergola only: file with the bearer tokens that callers must send one of, one a line. Without it "
            "the variable PERGOLA_SERVER_TOKEN; without both, no token is needed.",
        ),
    )


class FlagError(ValueError):
    """An invalid command line."""


@dataclass(frozen=True)
class Parsed:
    """Values of all flags, the names that were given, and the unknown arguments."""

    values: Mapping[str, Any]
    given: frozenset[str]
    unknown: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Parsed:
    """Read a command line. Raises FlagError for a value of the wrong type or a missing one.

    Unknown flags are collected, not rejected: the stock server prints its usage and continues.
    """
    known = {flag.name: flag for flag in flags()}
    values: dict[str, Any] = {flag.name: flag.default for flag in known.values()}
    given: set[str] = set()
    unknown: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.lstrip("-").partition("=")
        flag, negated = _find(name, known)
        if not word.startswith("-") or flag is None:
            unknown.append(word)
            continue
        if isinstance(flag.default, bool) and not equals:
            values[flag.name] = not negated
        else:
            if not equals:
                if not rest:
                    raise FlagError(f"--{flag.name} needs a value: --{flag.name}={flag.default}")
                text = rest.pop(0)
            values[flag.name] = _convert(flag, text)
        given.add(flag.name)
    return Parsed(values, frozenset(given), tuple(unknown))


def usage() -> str:
    """The text of --help."""
    lines = ["usage: pergola-model-server [flags]", "", "Flags of tensorflow_model_server:"]
    for flag in flags():
        default = f'"{flag.default}"' if isinstance(flag.default, str) else str(flag.default).lower()
        lines += [f"  --{flag.name}={default}", f"      {flag.help}"]
    return "\n".join(lines) + "\n"


def nearest(name: str) -> str:
    """The known flag with the most similar name, or ""."""
    word = name.lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(word, [flag.name for flag in flags()], n=1)
    return close[0] if close else ""


def table() -> str:
    """The flags as a Markdown table, for the documentation."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for flag in flags():
        text, _, machine = flag.help.partition(" Default: ")  # of this machine, "4 x CPUs."
        default = machine.rstrip(".") or _shown(flag.default)
        lines.append(f"| `{flag.name}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{default}`" if default != "" else ""


def _find(name: str, known: Mapping[str, Flag]) -> tuple[Flag | None, bool]:
    if name in known:
        return known[name], False
    flag = known.get(name.removeprefix("no")) if name.startswith("no") else None
    return (flag, True) if flag is not None and isinstance(flag.default, bool) else (None, False)


def _convert(flag: Flag, text: str) -> Any:
    if isinstance(flag.default, bool):
        if text.lower() in ("true", "t", "1", "yes", "y"):
            return True
        if text.lower() in ("false", "f", "0", "no", "n"):
            return False
        raise FlagError(f"--{flag.name} must be true or false, got '{text}'")
    if isinstance(flag.default, str):
        return text
    kind = type(flag.default)
    try:
        return kind(text)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise FlagError(f"--{flag.name} must be {word}, got '{text}'") from None


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
