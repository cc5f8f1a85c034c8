"""Talks to a model server with tensorflow-serving-api's stubs and plain HTTP: nothing of pergola's.

Imports TensorFlow, through those stubs.
"""

from __future__ import annotations

from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Refusal(NamedTuple):
    """An error as the wire carries it."""

    code: str
    text: str


class Wire:
    """Calls of one server. Each gives a response message, or a Refusal."""

    def __init__(self, address: str, credentials=None, options=()) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, model: str, inputs, output_filter=(), timeout_s: float = 30, **spec):
        """inputs: alias -> array, list or TensorProto. spec: version, version_label, signature_name."""
        request = predict_pb2.PredictRequest(output_filter=output_filter)
        fill_spec(request.model_spec, model, **spec)
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(proto(value))
        return self.send(self.prediction.Predict, request, timeout_s)

    def outputs(self, model: str, inputs, output_filter=(), **spec) -> dict[str, np.ndarray]:
        """The same, as arrays. Fails on a refusal."""
        answer = self.predict(model, inputs, output_filter, **spec)
        assert not isinstance(answer, Refusal), answer
        return {alias: tf.make_ndarray(tensor) for alias, tensor in answer.outputs.items()}

    def classify(self, model: str, examples, context=None, **spec):
        request = classification_pb2.ClassificationRequest()
        fill_spec(request.model_spec, model, **spec)
        fill_input(request.input, examples, context)
        return self.send(self.prediction.Classify, request)

    def regress(self, model: str, examples, context=None, **spec):
        request = regression_pb2.RegressionRequest()
        fill_spec(request.model_spec, model, **spec)
        fill_input(request.input, examples, context)
        return self.send(self.prediction.Regress, request)

    def infer(self, tasks, examples):
        """tasks: (model, signature, method)."""
        request = inference_pb2.MultiInferenceRequest()
        for model, signature, method in tasks:
            task = request.tasks.add(method_name=method)
            fill_spec(task.model_spec, model, signature_name=signature)
        fill_input(request.input, examples)
        return self.send(self.prediction.MultiInference, request)

    def metadata(self, model: str | None, fields=("signature_def",), **spec):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        if model is not None:
            fill_spec(request.model_spec, model, **spec)
        return self.send(self.prediction.GetModelMetadata, request)

    def status(self, model: str | None, **spec):
        request = get_model_status_pb2.GetModelStatusRequest()
        if model is not None:
            fill_spec(request.model_spec, model, **spec)
        return self.send(self.model.GetModelStatus, request)

    def states(self, model: str) -> dict[int, str]:
        """version -> state."""
        names = get_model_status_pb2.ModelVersionStatus.State
        answer = self.status(model)
        if isinstance(answer, Refusal):
            return {}
        return {s.version: names.Name(s.state) for s in answer.model_version_status}

    def reload(self, config, timeout_s: float = 60):
        """config: text of a ModelServerConfig."""
        from google.protobuf import text_format

        request = model_management_pb2.ReloadConfigRequest()
        if config:
            text_format.Parse(config, request.config)
            request.config.SetInParent()
        return self.send(self.model.HandleReloadConfigRequest, request, timeout_s)

    def send(self, call, request, timeout_s: float = 30):
        try:
            return call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return Refusal(error.code().name, error.details())

    def raw(self, method: str, body: bytes, timeout_s: float = 30):
        """Any bytes to any method. Gives bytes or a Refusal."""
        return self.send(self.channel.unary_unary(method), body, timeout_s)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def fill_spec(spec, model: str, version=None, version_label="", signature_name="") -> None:
    spec.SetInParent()
    spec.name, spec.signature_name = model, signature_name
    if version is not None:
        spec.version.value = version
    if version_label:
        spec.version_label = version_label


def fill_input(message, examples, context=None) -> None:
    """examples: dicts of feature -> float, int, str or a list of them."""
    entries = message.example_list.examples
    if context is not None:
        message.example_list_with_context.context.CopyFrom(example(context))
        entries = message.example_list_with_context.examples
    for item in examples:
        entries.add().CopyFrom(example(item))


def example(features):
    """A tf.train.Example."""
    found = tf.train.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = found.features.feature[name]
        if isinstance(values[0], float):
            feature.float_list.value.extend(values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
    return found


def proto(value):
    """A TensorProto; float32 for lists of Python floats."""
    if isinstance(value, TensorProto):
        return value
    return tf.make_tensor_proto(value)
