"""Classify and regress in the JSON of the REST API: examples in, results out (json_tensor.cc)."""

from __future__ import annotations

from typing import Any, NamedTuple

from pergola.serving.server.config.errors import BadRequest
from pergola.serving.server.core.examples import ClassificationResult, RegressionResult
from pergola.serving.server.core.predictor import ExamplesResult, Target
from pergola.serving.server.core.requests import fill_spec, serialized
from pergola.serving.server.rest import json_text
from pergola.serving.server.rest.json_tensors import decode_base64, is_base64, read_signature
from pergola.serving.server.rest.json_text import kind, show, string


class ExamplesBody(NamedTuple):
    """A classify or regress request's body. message: a tensorflow.serving.Input."""

    signature: str
    serialized: list[bytes]
    message: Any


def read(body: bytes) -> ExamplesBody:
    """Read a classify or regress request."""
    from tensorflow_serving.apis import input_pb2

    document = json_text.parse(body, finite=True)
    signature = read_signature(document)
    message = input_pb2.Input()
    entries = message.example_list.examples
    if "context" in document:
        entries = message.example_list_with_context.examples
        _example(document["context"], message.example_list_with_context.context)
    examples = document.get("examples")
    if "examples" not in document:
        raise BadRequest(
            message=f"JSON Value: {show(document)} When method is classify, key 'examples' is expected "
            "and was not found"
        )
    if not isinstance(examples, list):
        raise BadRequest(
            message=f"JSON Value: {show(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise BadRequest(message=f"JSON Value: {show(document)} 'examples' value is an empty array")
    for example in examples:
        _example(example, entries.add())
    return ExamplesBody(signature, serialized(message), message)


def message(kind: str, target: Target, body: ExamplesBody) -> Any:
    """The ClassificationRequest or RegressionRequest that a body stands for."""
    from tensorflow_serving.apis import classification_pb2, regression_pb2

    module = classification_pb2 if kind == "Classification" else regression_pb2
    request = getattr(module, f"{kind}Request")()
    fill_spec(request.model_spec, target)
    request.input.CopyFrom(body.message)
    return request


def write_classification(answer: ExamplesResult) -> bytes:
    """The body of the answer to classify: a list of [label, score] per example."""
    result = answer.result
    assert isinstance(result, ClassificationResult)
    labels, scores = result.labels, result.scores
    shape = labels.shape if labels is not None else scores.shape if scores is not None else (0, 0)
    if not shape[0]:
        raise BadRequest(message="Cannot convert empty ClassificationResults to JSON")
    names = [b'""'] * (shape[0] * shape[1])
    if labels is not None:
        names = [string(label) for label in labels.ravel().tolist()]
    values = ["0.0"] * len(names) if scores is None else json_text.numbers(scores)
    pairs = [b"[" + name + b", " + value.encode() + b"]" for name, value in zip(names, values, strict=True)]
    rows = [b"[" + b", ".join(pairs[i * shape[1] : (i + 1) * shape[1]]) + b"]" for i in range(shape[0])]
    return b'{\n    "results": [' + b", ".join(rows) + b"\n    ]\n}"


def write_regression(answer: ExamplesResult) -> bytes:
    """The body of the answer to regress: a number per example."""
    result = answer.result
    assert isinstance(result, RegressionResult)
    if not len(result.values):
        raise BadRequest(message="Cannot convert empty RegressionResults to JSON")
    return b'{\n    "results": [' + ", ".join(json_text.numbers(result.values)).encode() + b"]\n}"


def _example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise BadRequest(message=f"Example must be JSON object but got JSON {kind(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)


def _add(value: Any, name: str, feature: Any) -> None:
    if isinstance(value, bool):
        _list(feature, "int64_list", name).append(int(value))
    elif isinstance(value, str):
        _list(feature, "bytes_list", name).append(json_text.to_bytes(value))
    elif is_base64(value):
        _list(feature, "bytes_list", name).append(decode_base64(value))
    elif isinstance(value, int) and -(2**63) <= value < 2**64:
        if value >= 2**63:
            raise BadRequest(
                message=f"Feature: {json_text.quote(name)} has uint64_t element. Only int64 is supported."
            )
        _list(feature, "int64_list", name).append(value)
    elif isinstance(value, int | float):
        values = _list(feature, "float_list", name)
        try:
            values.append(float(value))
        except OverflowError:
            raise json_text.too_big() from None
    else:
        raise BadRequest(
            message=f"Feature: {json_text.quote(name)} has element with unexpected JSON type: {kind(value)}"
        )


def _list(feature: Any, expected: str, name: str) -> Any:
    """The list of a feature, which may hold only one kind."""
    kind_now = feature.WhichOneof("kind")
    if kind_now not in (None, expected):
        words = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
        raise BadRequest(
            message=f"Unexpected element type in feature: {json_text.quote(name)} "
            f"expecting type: {words[kind_now]}"
        )
    return getattr(feature, expected).value
