"""TensorFlow Serving's gRPC services in front of a Predictor. Translates, and decides nothing.

The messages are those of tensorflow-serving-api, which import TensorFlow: import this module only in a
server process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from tensorflow.core.protobuf import meta_graph_pb2 as _  # noqa: F401  registers SignatureDef
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
    session_service_pb2,
)

from serving import tensors
from serving.errors import (
    BadConfig,
    Code,
    MissingModelSpec,
    NotImplementedHere,
    ServingError,
    TensorParsingError,
    code_of,
)
from serving.examples import Classification, Task
from serving.examples import Regression as Regression
from serving.monitoring import Monitor
from serving.predictor import Answer, Limits, Predictor, Target
from serving.request_log import RequestLog

log = logging.getLogger(__name__)

MAX_TEXT = 1024

STATUS = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class GrpcSettings:
    """How the gRPC server listens. addresses are "0.0.0.0:8500" or "unix:/path"."""

    addresses: tuple[str, ...]
    num_threads: int
    channel_arguments: tuple[tuple[str, str | int], ...] = ()
    as_content: bool = False


class ProtoInputs(Mapping[str, tensors.Array]):
    """A map of TensorProto as arrays, each made when it is asked for."""

    def __init__(self, protos: Mapping[str, Any]) -> None:
        self._protos = protos

    def __getitem__(self, alias: str) -> tensors.Array:
        try:
            return tensors.to_array(self._protos[alias])
        except tensors.TensorError as error:
            raise TensorParsingError(alias=alias) from error

    def __contains__(self, alias: object) -> bool:
        return alias in self._protos

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def __len__(self) -> int:
        return len(self._protos)


class Service:
    """The calls of PredictionService, ModelService and SessionService."""

    def __init__(
        self,
        predictor: Predictor,
        reload: Callable[[Any, float | None], None],
        monitor: Monitor,
        request_log: RequestLog,
        *,
        as_content: bool,
    ) -> None:
        self._predictor = predictor
        self._reload = reload
        self._monitor = monitor
        self._log = request_log
        self._as_content = as_content

    def Predict(self, request: Any, context: Any) -> Any:
        """PredictionService.Predict."""

        def answer() -> Any:
            prediction = self._predictor.predict(
                _target(request), ProtoInputs(request.inputs), request.output_filter, _limits(context)
            )
            response = predict_pb2.PredictResponse()
            _spec(response.model_spec, request.model_spec.name, prediction.version, prediction.signature)
            for alias, array in prediction.outputs.items():
                tensors.to_proto(array, response.outputs[alias], as_content=self._as_content)
            self._log.predict(request, response)
            return response

        return self._answer("Predict", request.model_spec.name, context, predict_pb2.PredictResponse, answer)

    def Classify(self, request: Any, context: Any) -> Any:
        """PredictionService.Classify."""

        def answer() -> Any:
            found = self._predictor.classify(_target(request), serialized(request.input), _limits(context))
            response = classification_pb2.ClassificationResponse()
            _spec(response.model_spec, request.model_spec.name, found.version, found.signature)
            fill_classification(response.result, found)
            self._log.classify(request, response)
            return response

        empty = classification_pb2.ClassificationResponse
        return self._answer("Classify", request.model_spec.name, context, empty, answer)

    def Regress(self, request: Any, context: Any) -> Any:
        """PredictionService.Regress."""

        def answer() -> Any:
            found = self._predictor.regress(_target(request), serialized(request.input), _limits(context))
            response = regression_pb2.RegressionResponse()
            _spec(response.model_spec, request.model_spec.name, found.version, found.signature)
            fill_regression(response.result, found)
            self._log.regress(request, response)
            return response

        empty = regression_pb2.RegressionResponse
        return self._answer("Regress", request.model_spec.name, context, empty, answer)

    def MultiInference(self, request: Any, context: Any) -> Any:
        """PredictionService.MultiInference."""

        def answer() -> Any:
            tasks = [Task(target_of(task.model_spec), task.method_name) for task in request.tasks]
            answers = self._predictor.infer(tasks, serialized(request.input), _limits(context))
            response = inference_pb2.MultiInferenceResponse()
            for task, found in zip(request.tasks, answers, strict=True):
                result = response.results.add()
                _spec(result.model_spec, task.model_spec.name, found.version, found.signature)
                if isinstance(found.result, Classification):
                    fill_classification(result.classification_result, found)
                else:
                    fill_regression(result.regression_result, found)
            self._log.infer(request, response)
            return response

        name = request.tasks[0].model_spec.name if request.tasks else ""
        return self._answer("MultiInference", name, context, inference_pb2.MultiInferenceResponse, answer)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """PredictionService.GetModelMetadata."""

        def answer() -> Any:
            metadata = self._predictor.metadata(_target(request), list(request.metadata_field))
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = metadata.version
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in metadata.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.metadata["signature_def"].Pack(signatures)
            return response

        empty = get_model_metadata_pb2.GetModelMetadataResponse
        return self._translate(context, empty, answer)

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        """ModelService.GetModelStatus. A label is ignored, as by the stock server."""

        def answer() -> Any:
            target = _target(request)
            response = get_model_status_pb2.GetModelStatusResponse()
            for status in self._predictor.statuses(target.model, target.version):
                entry = response.model_version_status.add(version=status.version, state=int(status.state))
                entry.status.error_code = int(status.code)
                entry.status.error_message = status.message
            return response

        return self._translate(context, get_model_status_pb2.GetModelStatusResponse, answer)

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        """ModelService.HandleReloadConfigRequest. Waits for the new models, at most for the deadline."""
        response = model_management_pb2.ReloadConfigResponse()
        try:
            if not request.HasField("config"):
                raise BadConfig(message="Invalid config: ModelServerConfig is empty")
            self._reload(request.config, context.time_remaining())
        except Exception as error:
            code, text = _describe(error)
            response.status.error_code, response.status.error_message = int(code), text
            context.set_code(STATUS[int(code)])
            context.set_details(text)
        else:
            response.status.SetInParent()
        return response

    def SessionRun(self, request: Any, context: Any) -> Any:
        """SessionService.SessionRun: feeds and fetches by tensor name."""

        def answer() -> Any:
            feeds = {feed.name: _feed(feed) for feed in request.feed}
            if request.target:
                raise NotImplementedHere(message="SessionRun with targets is not served; fetch tensors.")
            version, values = self._predictor.session_run(
                _target(request), feeds, list(request.fetch), _limits(context)
            )
            response = session_service_pb2.SessionRunResponse()
            _spec(response.model_spec, request.model_spec.name, version, request.model_spec.signature_name)
            for name, array in zip(request.fetch, values, strict=True):
                tensors.to_proto(array, response.tensor.add(name=name).tensor, as_content=self._as_content)
            self._log.session_run(request, response)
            return response

        empty = session_service_pb2.SessionRunResponse
        return self._answer("SessionRun", request.model_spec.name, context, empty, answer)

    def _answer(
        self, api: str, model: str, context: Any, empty: Callable[[], Any], answer: Callable[[], Any]
    ) -> Any:
        with self._monitor.request(model, api, "GRPC") as outcome:
            try:
                return answer()
            except Exception as error:
                outcome.code = _fail(context, error)
                return empty()

    def _translate(self, context: Any, empty: Callable[[], Any], answer: Callable[[], Any]) -> Any:
        try:
            return answer()
        except Exception as error:
            _fail(context, error)
            return empty()


def build(
    settings: GrpcSettings, service: Service, credentials: Any = None
) -> tuple[grpc.Server, int | None]:
    """A gRPC server that is bound but not started, and its TCP port. Raises OSError when one is taken.

    credentials: grpc.ServerCredentials, for TLS on TCP addresses.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # else two servers would share a port without a word
        *settings.channel_arguments,
    ]
    server = grpc.server(
        ThreadPoolExecutor(settings.num_threads, "grpc"),
        options=options,
        maximum_concurrent_rpcs=settings.num_threads,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    server.add_generic_rpc_handlers((_session_service(service),))
    port = None
    for address in settings.addresses:
        local = address.startswith("unix:")
        bound = _bind(server, address, None if local else credentials)
        port = port if local else bound
    return server, port


def serialized(source: Any) -> list[bytes]:
    """Serialised tf.train.Examples of an Input, each preceded by the context where there is one.

    A serialised message after another is their merge, so the example wins where both have a feature.
    """
    match source.WhichOneof("kind"):
        case "example_list":
            return [example.SerializeToString() for example in source.example_list.examples]
        case "example_list_with_context":
            context = source.example_list_with_context.context.SerializeToString()
            examples = source.example_list_with_context.examples
            return [context + example.SerializeToString() for example in examples]
    return []


def target_of(spec: Any) -> Target:
    """Which model a ModelSpec names."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return Target(spec.name, spec.version.value, "", spec.signature_name)
    return Target(spec.name, None, spec.version_label if choice else "", spec.signature_name)


def fill_classification(message: Any, answer: Answer) -> None:
    """Write a Classification into a ClassificationResult."""
    result = answer.result
    assert isinstance(result, Classification)
    labels = None if result.labels is None else result.labels.tolist()
    scores = None if result.scores is None else result.scores.tolist()
    for row in range(len(labels if labels is not None else scores or ())):
        entry = message.classifications.add()
        columns: Sequence[Any] = labels[row] if labels is not None else scores[row] if scores else ()
        for column in range(len(columns)):
            item = entry.classes.add()
            if labels is not None:
                item.label = _text(labels[row][column])
            if scores is not None:
                item.score = scores[row][column]


def fill_regression(message: Any, answer: Answer) -> None:
    """Write a Regression into a RegressionResult."""
    result = answer.result
    assert isinstance(result, Regression)
    for value in result.values.tolist():
        message.regressions.add(value=value)


def _text(label: bytes) -> str:
    return label.decode("utf-8", "replace")


def _target(request: Any) -> Target:
    if not request.HasField("model_spec"):
        raise MissingModelSpec()
    return target_of(request.model_spec)


def _limits(context: Any) -> Limits:
    return Limits(wait_s=context.time_remaining())


def _spec(spec: Any, name: str, version: int, signature: str) -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.value = version


def _feed(feed: Any) -> tensors.Array:
    try:
        return tensors.to_array(feed.tensor)
    except tensors.TensorError as error:
        raise TensorParsingError(alias=feed.name) from error


def _fail(context: Any, error: Exception) -> Code:
    code, text = _describe(error)
    context.set_code(STATUS[int(code)])
    context.set_details(text)
    return code


def _describe(error: Exception) -> tuple[Code, str]:
    if not isinstance(error, ServingError):
        log.exception("a request broke", exc_info=error)
    text = str(error)
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "...TRUNCATED"
    return code_of(error), text


def _session_service(service: Service) -> Any:
    """SessionService, for which tensorflow-serving-api has messages and no stub."""
    method = grpc.unary_unary_rpc_method_handler(
        service.SessionRun,
        request_deserializer=session_service_pb2.SessionRunRequest.FromString,
        response_serializer=session_service_pb2.SessionRunResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("tensorflow.serving.SessionService", {"SessionRun": method})


def _bind(server: grpc.Server, address: str, credentials: Any) -> int:
    try:
        if credentials is None:
            port: int = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"Cannot listen for gRPC on {address}: {_reason(error)}") from error
    if not port and not address.startswith("unix:"):
        raise OSError(f"Cannot listen for gRPC on {address}: is another server using it?")
    return port


def _reason(error: RuntimeError) -> str:
    text = str(error)
    return "is another server using it?" if "Failed to bind" in text else text
