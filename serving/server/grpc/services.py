"""TensorFlow Serving's gRPC services in front of a Predictor. Translation only.

The messages are those of tensorflow-serving-api, which import TensorFlow: import this module only in a
server process.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from tensorflow_serving.apis import model_management_pb2, model_service_pb2, prediction_service_pb2

from pergola.serving.server.config.errors import Code, ServingError, code_of, shortened
from pergola.serving.server.core import requests, responses
from pergola.serving.server.core.examples import Task
from pergola.serving.server.core.predictor import UNLIMITED, Predictor, RequestLimits
from pergola.serving.server.grpc.methods import Allows, methods_of
from pergola.serving.server.grpc.methods import service as methods_handler
from pergola.serving.server.telemetry import request_log
from pergola.serving.server.telemetry.metrics import Monitor, RequestOutcome
from pergola.serving.server.telemetry.request_log import RequestLog

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 24 * 3600.0

STATUS = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class GrpcSettings:
    """How the gRPC server listens. addresses are "0.0.0.0:8500" or "unix:/path"."""

    addresses: tuple[str, ...]
    num_threads: int
    channel_arguments: tuple[tuple[str, str | int], ...] = ()


class Service:
    """The calls of PredictionService and ModelService."""

    def __init__(
        self,
        predictor: Predictor,
        reload: Callable[[Any, float | None], None],
        monitor: Monitor,
        request_log: RequestLog,
        *,
        as_content: bool = False,
    ) -> None:
        self._predictor = predictor
        self._reload = reload
        self._monitor = monitor
        self._log = request_log
        self._as_content = as_content

    def Predict(self, request: Any, context: Any) -> Any:
        """PredictionService.Predict."""
        name = request.model_spec.name
        with self._monitor.request(name, "Predict", "GRPC") as outcome:
            try:
                target, inputs = requests.target(request), requests.ProtoInputs(request.inputs)
                found = self._predictor.predict(target, inputs, request.output_filter, _limits(context))
                response = responses.prediction(name, found, as_content=self._as_content)
                if self._log.should_log(name):
                    kind = request_log.PREDICT
                    self._log.add(name, found.version, found.signature, kind, request, response)
                return response
            except Exception as error:
                return _fail(context, outcome, error)

    def Classify(self, request: Any, context: Any) -> Any:
        """PredictionService.Classify."""
        name = request.model_spec.name
        with self._monitor.request(name, "Classify", "GRPC") as outcome:
            try:
                target, examples = requests.target(request), requests.serialized(request.input)
                found = self._predictor.classify(target, examples, _limits(context))
                response = responses.classification(name, found)
                if self._log.should_log(name):
                    kind = request_log.CLASSIFY
                    self._log.add(name, found.version, found.signature, kind, request, response)
                return response
            except Exception as error:
                return _fail(context, outcome, error)

    def Regress(self, request: Any, context: Any) -> Any:
        """PredictionService.Regress."""
        name = request.model_spec.name
        with self._monitor.request(name, "Regress", "GRPC") as outcome:
            try:
                target, examples = requests.target(request), requests.serialized(request.input)
                found = self._predictor.regress(target, examples, _limits(context))
                response = responses.regression(name, found)
                if self._log.should_log(name):
                    kind = request_log.REGRESS
                    self._log.add(name, found.version, found.signature, kind, request, response)
                return response
            except Exception as error:
                return _fail(context, outcome, error)

    def MultiInference(self, request: Any, context: Any) -> Any:
        """PredictionService.MultiInference."""
        names = [task.model_spec.name for task in request.tasks]
        name = names[0] if names else ""
        with self._monitor.request(name, "MultiInference", "GRPC") as outcome:
            try:
                tasks = [
                    Task(requests.target_of(task.model_spec), task.method_name) for task in request.tasks
                ]
                examples = requests.serialized(request.input)
                answers = self._predictor.infer(tasks, examples, _limits(context))
                response = responses.inference(names, answers)
                if answers and self._log.should_log(name):
                    kind = request_log.MULTI_INFERENCE
                    self._log.add(name, answers[0].version, "", kind, request, response)
                return response
            except Exception as error:
                return _fail(context, outcome, error)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """PredictionService.GetModelMetadata."""
        try:
            found = self._predictor.metadata(requests.target(request), list(request.metadata_field))
            return responses.metadata(request.model_spec.name, found)
        except Exception as error:
            return _fail(context, None, error)

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        """ModelService.GetModelStatus. A label is ignored, as by the stock server."""
        try:
            target = requests.target(request)
            return responses.statuses(self._predictor.statuses(target.model, target.version))
        except Exception as error:
            return _fail(context, None, error)

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        """ModelService.HandleReloadConfigRequest. Waits for the new models, at most for the deadline."""
        response = model_management_pb2.ReloadConfigResponse()
        try:
            self._reload(request.config, _limits(context).wait_s)
            response.status.SetInParent()
        except Exception as error:
            code, text = _describe(error)
            response.status.error_code, response.status.error_message = int(code), text
            context.set_code(STATUS[int(code)])
            context.set_details(text)
        return response


def handlers(service: Service, allows: Allows, *, reloads: bool = True) -> tuple[Any, ...]:
    """The generic RPC handlers of PredictionService and ModelService.

    allows: who may call them.  reloads: whether there is HandleReloadConfigRequest.
    """
    found = []
    for file, name in ((prediction_service_pb2, "PredictionService"), (model_service_pb2, "ModelService")):
        descriptor = file.DESCRIPTOR.services_by_name[name]
        methods = methods_of(descriptor, service)
        if not reloads:
            methods.pop("HandleReloadConfigRequest", None)
        found.append(methods_handler(descriptor.full_name, methods, allows))
    return tuple(found)


def build(
    settings: GrpcSettings, handlers: Sequence[Any], credentials: Any = None
) -> tuple[grpc.Server, int | None]:
    """A gRPC server that is bound but not started, and its TCP port. Raises OSError when one is taken.

    credentials: grpc.ServerCredentials, for TLS. handlers: generic RPC handlers.
    """
    options: dict[str, str | int] = {  # gRPC would take the first of two with the same name
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,  # otherwise two servers could silently share a port
        **dict(settings.channel_arguments),
    }
    server = grpc.server(
        ThreadPoolExecutor(settings.num_threads, "grpc"),
        options=list(options.items()),
        maximum_concurrent_rpcs=settings.num_threads,
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    port = None
    for address in settings.addresses:
        bound = _bind(server, address, credentials)
        port = port if address.startswith("unix:") else bound
    return server, port


def _limits(context: Any) -> RequestLimits:
    """The caller's deadline, which also stops TensorFlow: nobody waits for the result after it."""
    left = context.time_remaining()
    # Without a deadline gRPC reports three hundred years, which no lock can wait for.
    if left is None or left >= LONGEST_WAIT_S:
        return UNLIMITED
    return RequestLimits(wait_s=left, run_ms=max(1, math.ceil(left * 1000)))


def _fail(context: Any, outcome: RequestOutcome | None, error: Exception) -> None:
    """Set the error of the call, which has no answer then."""
    code, text = _describe(error)
    if outcome is not None:
        outcome.code = code
    context.set_code(STATUS[int(code)])
    context.set_details(text)


def _describe(error: Exception) -> tuple[Code, str]:
    if not isinstance(error, ServingError):
        log.error("request failed", exc_info=error)
    return code_of(error), shortened(str(error))


def _bind(server: grpc.Server, address: str, credentials: Any) -> int:
    try:
        if credentials is None:
            port: int = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        reason = str(error)
        if credentials is not None and _is_free(address):
            reason = "its certificate and key cannot be used. Give PEM texts that belong together"
        elif "Failed to bind" in reason:
            reason = "the address is in use or may not be used. Stop the other server or choose another one"
        raise OSError(f"Cannot listen for gRPC on {address}: {reason}") from error
    return port


def _is_free(address: str) -> bool:
    """Whether the address can be listened on, as far as can be checked."""
    if address.startswith("unix:"):
        return True
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True
