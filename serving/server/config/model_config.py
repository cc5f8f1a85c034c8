"""The model config file: which models a server serves, from where, under which policy and labels.

The file is a text proto of tensorflow.serving.ModelServerConfig, as for the stock server; its messages
come from tensorflow-serving-api and need no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pergola.serving.server.config.errors import BadConfig, ReloadTypeNotSupported
from pergola.serving.server.config.versions import All, Latest, Specific, VersionPolicy


@dataclass(frozen=True)
class RequestLogConfig:
    """Where sampled requests of a model go. sampling_rate: 0 to 1."""

    filename_prefix: str
    sampling_rate: float


@dataclass(frozen=True)
class ModelConfig:
    """One served model. base_path holds one folder per version."""

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    request_log: RequestLogConfig | None = None


def read_models(path: Path) -> list[ModelConfig]:
    """The models of a config file. Raises BadConfig, which names the file and the error in it."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(message=f"Cannot read the model config file {path}: {error}") from error
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise BadConfig(
            message=f"Error parsing text-format tensorflow.serving.ModelServerConfig: {path}: {error}"
        ) from error
    if message.WhichOneof("config") != "model_config_list":
        raise BadConfig(
            message=f"{path} lists no models. Expected: model_config_list {{ config {{ … }} }}; no other "
            "kind is supported"
        )
    return models_of(message)


def models_of(message: Any) -> list[ModelConfig]:
    """The models of a ModelServerConfig message. Raises BadConfig or ReloadTypeNotSupported."""
    if message.WhichOneof("config") != "model_config_list":
        raise ReloadTypeNotSupported()
    models = [_model(entry) for entry in message.model_config_list.config]
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadConfig(message=f"Illegal to list model {twice[0]} multiple times in config list")
    return models


def requested(message: Any, own: Sequence[ModelConfig]) -> list[ModelConfig]:
    """The models of a reload request. Models of `own` keep their request log.

    Raises BadConfig for a request that chooses where requests are logged: it could write any file.
    """
    models, logs = models_of(message), {model.name: model.request_log for model in own}
    for entry in message.model_config_list.config:
        if entry.HasField("logging_config"):
            raise BadConfig(
                message=f"Model {entry.name}: logging_config is not taken from a request. Set it in the "
                "server's --model_config_file"
            )
    return [replace(model, request_log=logs.get(model.name)) for model in models]


def write_models(models: list[ModelConfig], path: Path) -> None:
    """Write a config file that the stock server can read, too. Atomic."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    message = model_server_config_pb2.ModelServerConfig()
    for model in models:
        _fill(message.model_config_list.config.add(), model)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text_format.MessageToString(message), encoding="utf-8")
    aside.replace(path)


def _fill(entry: Any, model: ModelConfig) -> None:
    entry.name, entry.base_path, entry.model_platform = model.name, str(model.base_path), "tensorflow"
    match model.policy:
        case Latest(count):
            entry.model_version_policy.latest.num_versions = count
        case All():
            entry.model_version_policy.all.SetInParent()
        case Specific(versions):
            entry.model_version_policy.specific.versions.extend(sorted(versions))
    entry.version_labels.update(model.labels)
    if model.request_log:
        logging = entry.logging_config
        logging.log_collector_config.type = "file"
        logging.log_collector_config.filename_prefix = model.request_log.filename_prefix
        logging.sampling_config.sampling_rate = model.request_log.sampling_rate


def _model(entry: Any) -> ModelConfig:
    if not entry.name:
        raise BadConfig(message=f"A model without a name in the config list: base_path '{entry.base_path}'")
    if not entry.base_path:
        raise BadConfig(message=f"Expected model {entry.name} to have a base path, got none")
    if "://" in entry.base_path:
        raise BadConfig(
            message=f"Model {entry.name} has base_path {entry.base_path}; only local folders are served here"
        )
    if not entry.base_path.startswith("/"):
        raise BadConfig(
            message=f"Expected model {entry.name} to have an absolute path or URI; got "
            f"base_path()={entry.base_path}"
        )
    _check_platform(entry)
    return ModelConfig(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy=_policy(entry),
        labels=dict(entry.version_labels),
        request_log=_request_log(entry),
    )


def _check_platform(entry: Any) -> None:
    """With the stock server's text, which also shows the number of the former model_type."""
    if entry.model_type and entry.model_platform:
        raise BadConfig(
            message="Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform."
        )
    if entry.model_type not in (0, 1):
        raise BadConfig(message=f"ModelServerConfig::model_type choice {entry.model_type} not supported.")
    if not entry.model_type and not entry.model_platform:
        raise BadConfig(
            message="Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    if entry.model_platform not in ("", "tensorflow"):
        raise BadConfig(message=f"Model {entry.name} requests unsupported platform {entry.model_platform}")


def _policy(entry: Any) -> VersionPolicy:
    policy = entry.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            if not policy.specific.versions:
                raise BadConfig(
                    message=f"Model {entry.name}: the version policy 'specific' names no version; "
                    "add versions: N"
                )
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(policy.latest.num_versions or 1)


def _request_log(entry: Any) -> RequestLogConfig | None:
    if not entry.HasField("logging_config"):
        return None
    collector = entry.logging_config.log_collector_config
    rate = entry.logging_config.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise BadConfig(message=f"Model {entry.name}: sampling_rate is {rate}, expected 0 to 1")
    if not collector.filename_prefix:
        raise BadConfig(message=f"Model {entry.name}: logging_config has no filename_prefix to write to")
    return RequestLogConfig(collector.filename_prefix, rate)
