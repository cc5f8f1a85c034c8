"""The server's validated options, made from flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.core.manager import ManagerSettings
from pergola.serving.server.core.model import RuntimeSettings
from pergola.serving.server.flags import FlagError, Parsed
from pergola.serving.server.sockets import is_ip

ANY_PORT = -1


@dataclass(frozen=True)
class ServerOptions:
    """A server's settings. Ports: None is off, 0 is any free one. Exactly one of models and config_file."""

    models: tuple[ModelConfig, ...] = ()
    config_file: Path | None = None
    config_poll_s: float = 0.0
    bind_address: str = "0.0.0.0"
    grpc_port: int | None = 8500
    grpc_socket: Path | None = None
    grpc_max_threads: int = 8
    grpc_channel_arguments: tuple[tuple[str, str | int], ...] = ()
    rest_port: int | None = None
    rest_num_threads: int = 8
    rest_timeout_ms: int = 30000
    rest_cors: bool = False
    manager: ManagerSettings = field(default_factory=ManagerSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    warmup: bool = True
    warmup_iterations: int = 1
    batching: bool = False
    batching_file: Path | None = None
    batching_per_model: bool = False
    session_config_file: Path | None = None
    verify_checksums: bool = False
    public_key: Path | None = None  # of whom must have signed a version
    ssl_file: Path | None = None
    monitoring_file: Path | None = None
    profiler: bool = True
    reloads: bool = True
    token_file: Path | None = None
    health: bool = False
    check_method_names: bool = False
    as_content: bool = False
    port_file: Path | None = None
    grace_s: float = 25.0


def from_flags(parsed: Parsed) -> ServerOptions:
    """Options from a command line. Raises FlagError when flags contradict each other."""
    value = parsed.values
    _check(value)
    config_file = _path(value["model_config_file"])
    models: tuple[ModelConfig, ...] = ()
    if config_file is None:
        base = Path(value["model_base_path"]).absolute()
        models = (ModelConfig(name=value["model_name"], base_path=base),)
    return ServerOptions(
        models=models,
        config_file=config_file,
        config_poll_s=float(value["model_config_file_poll_wait_seconds"]),
        bind_address=value["bind_address"],
        grpc_port=_port(value["port"]),
        grpc_socket=_path(value["grpc_socket_path"]),
        grpc_max_threads=max(1, value["grpc_max_threads"]),
        grpc_channel_arguments=_channel_arguments(value["grpc_channel_arguments"]),
        rest_port=_port(value["rest_api_port"]),
        rest_num_threads=max(1, value["rest_api_num_threads"]),
        rest_timeout_ms=value["rest_api_timeout_in_ms"],
        rest_cors=value["rest_api_enable_cors_support"],
        manager=_manager(value),
        runtime=_runtime(value),
        warmup=value["enable_model_warmup"],
        warmup_iterations=max(1, value["num_request_iterations_for_warmup"]),
        batching=value["enable_batching"],
        batching_file=_path(value["batching_parameters_file"]),
        batching_per_model=value["enable_per_model_batching_parameters"],
        session_config_file=_path(value["tensorflow_session_config_file"]),
        verify_checksums=value["verify_checksums"],
        public_key=_path(value["require_signature"]),
        ssl_file=_path(value["ssl_config_file"]),
        monitoring_file=_path(value["monitoring_config_file"]),
        profiler=value["enable_profiler"],
        reloads=value["enable_model_reload"],
        token_file=_path(value["token_file"]),
        health=value["enable_grpc_healthcheck_service"],
        check_method_names=value["enable_signature_method_name_check"],
        as_content=value["enable_serialization_as_tensor_content"],
        port_file=_path(value["port_file"]),
        grace_s=float(value["shutdown_grace_s"]),
    )


def _check(value: Any) -> None:
    if not value["model_base_path"] and not value["model_config_file"]:
        raise FlagError("Both server_options.model_base_path and server_options.model_config_file are empty!")
    for name in ("port", "rest_api_port"):
        if not ANY_PORT <= value[name] <= 65535:
            raise FlagError(f"--{name} must be 0 to 65535, got {value[name]}")
    if not is_ip(value["bind_address"]):
        raise FlagError(f"--bind_address must be an IP address, got '{value['bind_address']}'")
    if value["port"] == value["rest_api_port"] and value["port"] > 0:
        raise FlagError("server_options.port and server_options.http_port must not have same ports.")
    if value["port"] == 0 and not value["grpc_socket_path"]:
        raise FlagError("server_options.port is not set.")
    if value["use_alts_credentials"]:
        raise FlagError("--use_alts_credentials is not served here; use --ssl_config_file for TLS.")
    if all(value[f"tensorflow_{kind}_parallelism"] > 0 for kind in ("session", "intra_op", "inter_op")):
        raise FlagError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    if value["mixed_precision"] not in ("", "bfloat16"):
        raise FlagError(f"--mixed_precision must be bfloat16, got '{value['mixed_precision']}'")
    if value["batching_parameters_file"] and not value["enable_batching"]:
        raise FlagError("server_options.batching_parameters_file without setting enable_batching to true.")
    if value["enable_per_model_batching_parameters"] and not value["enable_batching"]:
        raise FlagError("enable_per_model_batching_parameters without setting enable_batching to true.")


def _manager(value: Any) -> ManagerSettings:
    return ManagerSettings(
        poll_s=float(value["file_system_poll_wait_seconds"]),
        num_load_threads=value["num_load_threads"],
        num_unload_threads=value["num_unload_threads"],
        max_num_load_retries=max(0, value["max_num_load_retries"]),
        load_retry_interval_s=max(0, value["load_retry_interval_micros"]) / 1e6,
        allow_labels_for_unavailable=value["allow_version_labels_for_unavailable_models"],
    )


def _runtime(value: Any) -> RuntimeSettings:
    both = value["tensorflow_session_parallelism"]
    intra, inter = value["tensorflow_intra_op_parallelism"], value["tensorflow_inter_op_parallelism"]
    if intra <= 0 and inter <= 0:
        intra = inter = both
    return RuntimeSettings(
        tags=tuple(value["saved_model_tags"].split(",")),
        intra_op_parallelism=intra,
        inter_op_parallelism=inter,
        gpu_memory_fraction=value["per_process_gpu_memory_fraction"],
        mixed_precision=value["mixed_precision"],
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _port(number: int) -> int | None:
    return 0 if number == ANY_PORT else number or None


def _channel_arguments(text: str) -> tuple[tuple[str, str | int], ...]:
    """ "k=v,k=v"; a value that is a whole number is one."""
    arguments: list[tuple[str, str | int]] = []
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise FlagError(f"--grpc_channel_arguments must be key=value pairs, got '{pair}'")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return tuple(arguments)
