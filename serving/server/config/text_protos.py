"""Messages of TensorFlow Serving that no installed package has, and text files of them.

Batching, monitoring, TLS and the profiler's calls: their fields are listed here, and google.protobuf
reads the text. Unknown fields are errors, as for the stock server. Needs no TensorFlow.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pergola.serving.server.config.errors import BadConfig

_INT64 = "google.protobuf.Int64Value"
_BOOL = "google.protobuf.BoolValue"
_TEXT = "google.protobuf.StringValue"

# message -> field -> type. "[int64]" is repeated; "=5" gives a number where they do not count up from 1.
MESSAGES: dict[str, dict[str, str]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": _TEXT,
        "allowed_batch_sizes": "[int64]",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": _BOOL,
        "max_execution_batch_size": _INT64,
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
    "ProfileRequest": {
        "duration_ms": "uint64=1",
        "repository_root": "string=5",
        "session_id": "string=6",
        "host_name": "string=7",
    },
    "ProfileResponse": {"empty_trace": "bool=7"},
    "TerminateRequest": {"session_id": "string"},
    "TerminateResponse": {},
    "MonitorRequest": {},
}


def read(path: Path, name: str) -> Any:
    """The message `name` from a text proto file. Raises BadConfig, which names file, line and error."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(message=f"Cannot read {path}: {error}") from error
    return parse(text, name, str(path))


def parse(text: str, name: str, where: str = "text") -> Any:
    """The message `name` from a text."""
    from google.protobuf import text_format

    message = message_class(name)()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise BadConfig(message=f"Invalid protobuf file: '{where}' is no {name}: {error}") from error
    return message


def message_class(name: str) -> Any:
    """The class of one of MESSAGES."""
    return _classes()[name]


@functools.cache
def _classes() -> dict[str, Any]:
    """Message classes in a separate pool, so that they cannot conflict with others."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="pergola/serving/text_protos.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, field, number, kind)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name in MESSAGES
    }


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    scalars = {
        "int64": Field.TYPE_INT64,
        "uint64": Field.TYPE_UINT64,
        "bool": Field.TYPE_BOOL,
        "string": Field.TYPE_STRING,
    }
    kind, _, given = kind.partition("=")
    repeated, kind = kind.startswith("["), kind.strip("[]")
    field = message.field.add(name=name, number=int(given or number))
    field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    if kind in scalars:
        field.type = scalars[kind]
    else:
        field.type = Field.TYPE_MESSAGE
        field.type_name = "." + (kind if "." in kind else f"tensorflow.serving.{kind}")
