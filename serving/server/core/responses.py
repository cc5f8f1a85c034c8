"""Response messages of tensorflow-serving-api from a Predictor's results."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from pergola.serving.server.core.examples import ClassificationResult, RegressionResult
from pergola.serving.server.core.predictor import ExamplesResult, ModelMetadata, PredictResult
from pergola.serving.server.core.servable import ServableStatus
from pergola.serving.wire import tensors


def prediction(model: str, found: PredictResult, *, as_content: bool = False) -> Any:
    """A PredictResponse."""
    response = predict_pb2.PredictResponse()
    _spec(response.model_spec, model, found.version, found.signature)
    for alias, array in found.outputs.items():
        tensors.to_proto(array, response.outputs[alias], as_content=as_content)
    return response


def classification(model: str, found: ExamplesResult) -> Any:
    """A ClassificationResponse."""
    response = classification_pb2.ClassificationResponse()
    _spec(response.model_spec, model, found.version, found.signature)
    _classify(response.result, found.result)
    return response


def regression(model: str, found: ExamplesResult) -> Any:
    """A RegressionResponse."""
    response = regression_pb2.RegressionResponse()
    _spec(response.model_spec, model, found.version, found.signature)
    _regress(response.result, found.result)
    return response


def inference(models: list[str], answers: list[ExamplesResult]) -> Any:
    """A MultiInferenceResponse."""
    response = inference_pb2.MultiInferenceResponse()
    for model, found in zip(models, answers, strict=True):
        result = response.results.add()
        _spec(result.model_spec, model, found.version, found.signature)
        if isinstance(found.result, ClassificationResult):
            _classify(result.classification_result, found.result)
        else:
            _regress(result.regression_result, found.result)
    return response


def metadata(model: str, found: ModelMetadata) -> Any:
    """A GetModelMetadataResponse with the signatures."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model
    response.model_spec.version.value = found.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in found.signature_defs.items():
        signatures.signature_def[name].CopyFrom(signature)
    response.metadata["signature_def"].Pack(signatures)
    return response


def statuses(found: list[ServableStatus]) -> Any:
    """A GetModelStatusResponse."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in found:
        entry = response.model_version_status.add(version=status.version, state=int(status.state))
        entry.status.error_code = int(status.code)
        entry.status.error_message = status.message
    return response


def _spec(spec: Any, name: str, version: int, signature: str) -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.value = version


def _classify(message: Any, result: ClassificationResult | RegressionResult) -> None:
    assert isinstance(result, ClassificationResult)
    labels, scores = result.labels, result.scores
    present = labels if labels is not None else scores
    assert present is not None, "a classification has labels, scores or both"
    names = None if labels is None else [[_text(item) for item in row] for row in labels.tolist()]
    values = None if scores is None else scores.tolist()
    for row in range(present.shape[0]):
        classes = message.classifications.add().classes
        for column in range(present.shape[1]):
            item = classes.add()
            if names is not None:
                item.label = names[row][column]
            if values is not None:
                item.score = values[row][column]


def _regress(message: Any, result: ClassificationResult | RegressionResult) -> None:
    assert isinstance(result, RegressionResult)
    for value in result.values.tolist():
        message.regressions.add(value=value)


def _text(label: bytes | str) -> str:
    return label if isinstance(label, str) else label.decode("utf-8", "replace")
