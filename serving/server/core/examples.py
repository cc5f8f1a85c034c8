"""Classify, Regress and MultiInference: what they feed and fetch, and how their outputs are read.

Checks, codes and texts follow classifier.cc, regressor.cc and multi_inference.cc of the stock server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from pergola.serving.server.config.errors import (
    BadModel,
    BadRequest,
    ExampleSignatureNotFound,
    InferenceSignatureNotFound,
    MissingModelName,
    NotImplementedHere,
    WrongMethodName,
)
from pergola.serving.server.core.model import CLASSIFY, DEFAULT_SIGNATURE, REGRESS, Signature
from pergola.serving.wire.datatypes import data_type_of
from pergola.serving.wire.protos.tensor_pb2 import DT_FLOAT, DT_STRING, DataType
from pergola.serving.wire.tensors import Array

INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


class Task(NamedTuple):
    """One task of a MultiInference request. target is a predictor.Target."""

    target: Any
    method: str


class ClassificationResult(NamedTuple):
    """labels: (N, K) bytes or None; scores: float32 (N, K) or None."""

    labels: Array | None
    scores: Array | None


class RegressionResult(NamedTuple):
    """values: float32 (N,)."""

    values: Array


@dataclass(frozen=True)
class ParseStep:
    """One classification or regression: the tensor to feed, the tensors to fetch, what they are."""

    method: str
    feed: str
    fetches: tuple[str, ...]
    parts: tuple[str, ...]  # aliases of fetches

    def read(self, values: Sequence[Array], count: int) -> ClassificationResult | RegressionResult:
        """Check the outputs for `count` examples and return them as a result."""
        found = dict(zip(self.parts, values, strict=True))
        if self.method == REGRESS:
            return _regression(found[OUTPUTS], count)
        return _classification(found.get(CLASSES), found.get(SCORES), count)


def batch(serialized: list[bytes]) -> Array:
    """Serialised examples as the string vector that a model's parser takes."""
    array = np.empty(len(serialized), object)
    array[:] = serialized
    return array


def plan(signatures: Mapping[str, Signature], name: str, method: str, check_method: bool) -> ParseStep:
    """How to classify or regress with the signature `name`. check_method: whether it must be of that kind."""
    signature = signatures.get(name)
    if signature is None:
        raise ExampleSignatureNotFound(signature=name)
    return _step(signature, method, check_method)


def plan_tasks(
    signatures: Mapping[str, Signature], tasks: Sequence[Task], check_method: bool
) -> list[ParseStep]:
    """How to run several tasks of one model at once."""
    steps: list[ParseStep] = []
    seen: set[str] = set()
    for task in tasks:
        if not task.target.model:
            raise (
                MissingModelName()
                if not steps
                else BadRequest(message="Found ModelSpec with an empty model name.")
            )
        if task.target.model != tasks[0].target.model:
            raise BadRequest(
                message="All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.target.signature or DEFAULT_SIGNATURE
        if name in seen:
            raise BadRequest(message=f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in signatures:
            raise InferenceSignatureNotFound(signature=name)
        if task.method not in (CLASSIFY, REGRESS):
            raise NotImplementedHere(message=f"Unsupported signature method_name: {task.method}")
        steps.append(_step(signatures[name], task.method, check_method))
    return steps


def _step(signature: Signature, method: str, check_method: bool) -> ParseStep:
    kind = "classification" if method == CLASSIFY else "regression"
    if check_method and signature.method_name != method:
        raise WrongMethodName(kind=kind, expected=method, got=signature.method_name)
    if len(signature.inputs) != 1:
        raise BadRequest(message="Expected one input Tensor.")
    if method == REGRESS and len(signature.outputs) != 1:
        raise BadRequest(message="Expected one output Tensor.")
    if method == CLASSIFY and len(signature.outputs) not in (1, 2):
        raise BadRequest(message=f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise BadModel(message=f"No {kind} inputs found in SignatureDef: {signature.name}")
    expected = (OUTPUTS,) if method == REGRESS else (CLASSES, SCORES)
    parts = tuple(alias for alias in expected if alias in signature.outputs)
    if not parts and method == REGRESS:
        raise BadModel(message=f"No regression outputs found in SignatureDef: {signature.name}")
    if not parts:
        raise BadModel(
            message="Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {signature.name}'
        )
    return ParseStep(method, signature.inputs[INPUTS], tuple(signature.outputs[p] for p in parts), parts)


def _classification(labels: Array | None, scores: Array | None, count: int) -> ClassificationResult:
    for name, array, enum in ((CLASSES, labels, DT_STRING), (SCORES, scores, DT_FLOAT)):
        if array is None:
            continue
        if array.ndim != 2:
            raise BadRequest(
                message=f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if data_type_of(array.dtype).number != enum:
            raise BadRequest(message=f"Expected {name} Tensor of {DataType.Name(enum)}. Got: {_dtype(array)}")
        if len(array) != count:
            raise BadRequest(message=f"Expected {name} output batch size of {count}. Got: {len(array)}")
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise BadRequest(
            message="Tensors class and score should match in dim_size(1). "
            f"Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return ClassificationResult(labels, scores)


def _regression(values: Array, count: int) -> RegressionResult:
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise BadRequest(
            message="Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            + _shape(values)
        )
    if len(values) != count:
        raise BadRequest(
            message=f"Input batch size did not match output batch size: {count} vs. {len(values)}"
        )
    if data_type_of(values.dtype).number != DT_FLOAT:
        raise BadRequest(message=f"Expected output Tensor of DT_FLOAT.  Got: {_dtype(values)}")
    return RegressionResult(cast(Array, values.ravel()))


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _dtype(array: Array) -> str:
    return str(DataType.Name(data_type_of(array.dtype).number))
