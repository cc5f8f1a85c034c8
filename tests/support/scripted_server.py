"""A gRPC server that speaks TF-Serving's protocol and does what a test tells it to.

It has no model: `answer` maps a decoded request to outputs. Versions, failures and delays are set
from outside, so that a test of the client is about the client. tests/serving/contract holds the
client against real servers.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np

from pergola.serving.wire.protos import manage_pb2, predict_pb2
from pergola.serving.wire.tensors import to_array
from pergola.serving.wire.values import to_tensor

CLASSES = ("acer", "quercus", "tilia")


def classify(inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, Any]:
    """The signatures of serving/wire/contract.py: an image's class is its size modulo three."""
    if signature == "labels":
        return {"label": np.array([CLASSES[i].encode() for i in inputs["index"]], dtype=object)}
    classes = np.array([len(image) % 3 for image in inputs["image"]])
    probabilities = np.full((len(classes), 3), 0.1, np.float32)
    probabilities[np.arange(len(classes)), classes] = 0.8
    return {
        "probabilities": probabilities,
        "label": np.array([CLASSES[i].encode() for i in classes], dtype=object),
        "probability": probabilities.max(axis=1),
    }


class ScriptedServer:
    """Serves `answer` as model "leaves". `failures` holds (code, text) for the next calls, first to last."""

    def __init__(
        self,
        answer: Callable[[Mapping[str, np.ndarray], str], Mapping[str, Any]] = classify,
        *,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        num_threads: int = 16,
    ) -> None:
        self.answer = answer
        self.versions = [1]
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.delay_s = 0.0
        self.requests: list[tuple[str, Any]] = []  # (method, message)
        self.metadata: list[dict[str, str]] = []
        self.reload_error = (0, "")
        self.status: list[manage_pb2.ModelVersionStatus] | None = None
        self.under_way = self.most_under_way = 0
        self.num_abandoned = 0  # calls that ended before they were answered
        self._lock = threading.Lock()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(
            ThreadPoolExecutor(num_threads), options=[*options, ("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _handlers(self):
        predict = {
            "Predict": (self._predict, predict_pb2.PredictRequest),
            "GetModelMetadata": (self._metadata, predict_pb2.GetModelMetadataRequest),
        }
        models = {
            "GetModelStatus": (self._status, manage_pb2.GetModelStatusRequest),
            "HandleReloadConfigRequest": (self._reload, manage_pb2.ReloadConfigRequest),
        }
        for service, methods in (("PredictionService", predict), ("ModelService", models)):
            yield grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}",
                {
                    name: grpc.unary_unary_rpc_method_handler(
                        self._told(name, function),
                        request_deserializer=message.FromString,
                        response_serializer=lambda reply: (
                            reply if isinstance(reply, bytes) else reply.SerializeToString()
                        ),
                    )
                    for name, (function, message) in methods.items()
                },
            )

    def _told(self, name, function):
        def handle(request, context):
            with self._lock:
                self.requests.append((name, request))
                self.metadata.append(dict(context.invocation_metadata()))
                failure = self.failures.pop(0) if self.failures else None
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
            answered = threading.Event()
            context.add_callback(lambda: answered.is_set() or self._abandoned())
            try:
                time.sleep(self.delay_s)
                if failure is not None:
                    context.abort(*failure)
                return function(request, context)
            finally:
                answered.set()
                with self._lock:
                    self.under_way -= 1

        return handle

    def _abandoned(self) -> None:
        with self._lock:
            self.num_abandoned += 1

    def _version(self, spec, context) -> int:
        if spec.name != "leaves":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.WhichOneof("version_choice") == "version" and spec.version.value not in self.versions:
            text = f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            context.abort(grpc.StatusCode.NOT_FOUND, text)
        return spec.version.value if spec.HasField("version") else max(self.versions)

    def _predict(self, request, context):
        version = self._version(request.model_spec, context)
        reply = predict_pb2.PredictResponse()
        reply.model_spec.name, reply.model_spec.version.value = request.model_spec.name, version
        reply.model_spec.signature_name = request.model_spec.signature_name
        inputs = {name: to_array(tensor) for name, tensor in request.inputs.items()}
        try:
            outputs = self.answer(inputs, request.model_spec.signature_name)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if isinstance(outputs, bytes):
            return outputs
        for name, value in outputs.items():
            if not request.output_filter or name in request.output_filter:
                reply.outputs[name].CopyFrom(to_tensor(value))
        return reply

    def _metadata(self, request, context):
        reply = predict_pb2.GetModelMetadataResponse()
        reply.model_spec.name = request.model_spec.name
        reply.model_spec.version.value = self._version(request.model_spec, context)
        signatures = predict_pb2.SignatureDefMap()
        signature = signatures.signature_def["serving_default"]
        signature.method_name = "tensorflow/serving/predict"
        image = signature.inputs["image"]
        image.name, image.dtype = "image:0", 7
        image.tensor_shape.dim.add(size=-1)
        signature.outputs["label"].dtype = 7
        packed = reply.metadata["signature_def"]
        packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        packed.value = signatures.SerializeToString()
        return reply

    def _status(self, request, context):
        if request.model_spec.name != "leaves":
            text = f"Could not find any versions of model {request.model_spec.name}"
            context.abort(grpc.StatusCode.NOT_FOUND, text)
        if self.status is not None:
            return manage_pb2.GetModelStatusResponse(model_version_status=self.status)
        available = manage_pb2.ModelVersionStatus.AVAILABLE
        found = [manage_pb2.ModelVersionStatus(version=v, state=available) for v in self.versions]
        return manage_pb2.GetModelStatusResponse(model_version_status=found)

    def _reload(self, request, context):
        reply = manage_pb2.ReloadConfigResponse()
        reply.status.error_code, reply.status.error_message = self.reload_error
        return reply


def main(words: list[str]) -> None:
    """As a child process with TF-Serving's flags: one request at a time without --enable_batching."""
    flags = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
    one_at_a_time = threading.Lock()

    def slowly(inputs, signature):
        with one_at_a_time:
            time.sleep(0.02)
        return {"y": np.zeros(1, np.float32)}

    def at_once(inputs, signature):
        return {"y": np.zeros(1, np.float32)}

    batched = "batching_parameters_file" in flags
    if batched and "max_batch_size { value:" not in Path(flags["batching_parameters_file"]).read_text():
        raise SystemExit("the batching file cannot be read")
    with ScriptedServer(at_once if batched else slowly, address=f"127.0.0.1:{flags['port']}"):
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1:])
