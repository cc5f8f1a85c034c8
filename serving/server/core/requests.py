"""Request messages as the types of serving/server/core/predictor.py.

Works on messages of tensorflow-serving-api, however they arrived: by gRPC, from a warm-up file, from JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pergola.serving.server.config.errors import MissingModelSpec, TensorParsingError
from pergola.serving.server.core.predictor import Target
from pergola.serving.wire import tensors


class ProtoInputs(Mapping[str, tensors.Array]):
    """A map of TensorProto as arrays, each made when it is asked for."""

    def __init__(self, protos: Mapping[str, Any]) -> None:
        self._protos = protos

    def __getitem__(self, alias: str) -> tensors.Array:
        return array_of(self._protos[alias], alias)

    def __contains__(self, alias: object) -> bool:
        return alias in self._protos

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def __len__(self) -> int:
        return len(self._protos)


def array_of(proto: Any, name: str) -> tensors.Array:
    """The array in a TensorProto. Raises TensorParsingError with the name of the input."""
    try:
        return tensors.to_array(proto)
    except tensors.TensorError as error:
        raise TensorParsingError(alias=name) from error


def serialized(source: Any) -> list[bytes]:
    """Serialised tf.train.Examples of an Input, each behind the context where there is one.

    One serialised message after another is their merge, so the example wins where both have a feature.
    """
    match source.WhichOneof("kind"):
        case "example_list":
            return [example.SerializeToString() for example in source.example_list.examples]
        case "example_list_with_context":
            context = source.example_list_with_context.context.SerializeToString()
            examples = source.example_list_with_context.examples
            return [context + example.SerializeToString() for example in examples]
    return []


def target(request: Any) -> Target:
    """Which model a request is for. Raises MissingModelSpec."""
    if not request.HasField("model_spec"):
        raise MissingModelSpec()
    return target_of(request.model_spec)


def target_of(spec: Any) -> Target:
    """Which model a ModelSpec names."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return Target(spec.name, spec.version.value, None, spec.signature_name)
    return Target(spec.name, None, spec.version_label if choice else None, spec.signature_name)


def fill_spec(spec: Any, wanted: Target) -> None:
    """Write a Target into a ModelSpec."""
    spec.name, spec.signature_name = wanted.model, wanted.signature
    if wanted.version is not None:
        spec.version.value = wanted.version
    elif wanted.label is not None:
        spec.version_label = wanted.label
