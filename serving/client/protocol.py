"""What a client of one served model asks and how it reads the answers, as flows that a transport runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pergola.serving.client.channel import Connection, channel_opener, target_of
from pergola.serving.client.effects import Flow, Pause, Work
from pergola.serving.client.errors import (
    CallInfo,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    ServerError,
    TooLarge,
    Unavailable,
)
from pergola.serving.client.results import Metadata, Prediction, ServedModel, VersionStatus
from pergola.serving.client.retry import Retry
from pergola.serving.client.rpc import Caller, Method
from pergola.serving.wire.protos import manage_pb2, predict_pb2
from pergola.serving.wire.tensors import TensorError, describe
from pergola.serving.wire.values import to_tensor

if TYPE_CHECKING:
    from pergola.serving.client.request_log import ClientLog

_PREDICT = Method("/tensorflow.serving.PredictionService/Predict", predict_pb2.PredictResponse)
_METADATA = Method(
    "/tensorflow.serving.PredictionService/GetModelMetadata", predict_pb2.GetModelMetadataResponse
)
_STATUS = Method("/tensorflow.serving.ModelService/GetModelStatus", manage_pb2.GetModelStatusResponse)
_RELOAD = Method(
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    manage_pb2.ReloadConfigResponse,
    idempotent=False,
)


class ModelProtocol:
    """The calls of a client, without the client's I/O. Arguments are those of Client."""

    def __init__(
        self,
        address: str | Sequence[str],
        model: str,
        version: int | None,
        label: str | None,
        timeout_s: float,
        retry: Retry | None,
        connection: Connection | None,
        log: ClientLog | None,
        token: str | Callable[[], str] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        connection = connection or Connection()
        if token is not None:
            connection = replace(connection, token=token)
        self._target = target_of(address)
        self._model, self._version, self._label = _checked_spec(model, version, label)
        self._timeout_s = _checked_timeout(timeout_s)
        self.open_channel = channel_opener(self._target, connection, self._timeout_s)
        self._caller = Caller(connection, retry or Retry(), clock)
        self._log, self._clock = log, clock
        self.class_names: dict[tuple[str, int], tuple[str, ...]] = {}  # of (model, version)

    def at(self, model: str | None = None, version: int | None = None, label: str | None = None) -> Self:
        """The same for another model, version or label; closing either closes both."""
        other = copy.copy(self)
        other._model, other._version, other._label = _checked_spec(model or self._model, version, label)
        return other

    def close(self) -> None:
        """Raise Cancelled for every call from now on."""
        self._caller.closed = True

    def predict(
        self, inputs: Mapping[str, Any], signature: str, outputs: Iterable[str], timeout_s: float | None
    ) -> Flow[Prediction]:
        """See Client.predict. A request that cannot be built raises at once."""
        return self.explained(self.predict_briefly(inputs, signature, outputs, timeout_s), signature)

    def predict_briefly(
        self, inputs: Mapping[str, Any], signature: str, outputs: Iterable[str], timeout_s: float | None
    ) -> Flow[Prediction]:
        """The same, with errors that do not say what the signature takes, for which the server is asked."""
        request = self._request(inputs, signature, outputs)
        call_info = self._call_info("Predict", timeout_s, partial(_described, request))
        return self._predict(request, self._caller.call(_PREDICT, request, call_info))

    def explained(self, flow: Flow[Prediction], signature: str) -> Flow[Prediction]:
        """The flow with errors that say what the server accepts, if that can be looked up quickly."""
        try:
            return (yield from flow)
        except (InvalidInput, NotFound) as error:
            raise (yield from self._explained(error, signature)) from None

    def status(self, timeout_s: float | None) -> Flow[tuple[VersionStatus, ...]]:
        """See Client.status."""
        spec = predict_pb2.ModelSpec(name=self._model)
        if self._version is not None:
            spec.version.value = self._version
        request = manage_pb2.GetModelStatusRequest(model_spec=spec)
        call_info = self._call_info("GetModelStatus", timeout_s)
        return VersionStatus.of((yield from self._caller.call(_STATUS, request, call_info)))

    def metadata(self, timeout_s: float | None) -> Flow[Metadata]:
        """See Client.metadata."""
        request = predict_pb2.GetModelMetadataRequest(
            model_spec=self._spec(""), metadata_field=["signature_def"]
        )
        call_info = self._call_info("GetModelMetadata", timeout_s)
        return Metadata.of((yield from self._caller.call(_METADATA, request, call_info)))

    def reload(self, models: Iterable[ServedModel], timeout_s: float | None) -> Flow[None]:
        """See Client.reload."""
        configs = manage_pb2.ModelConfigList(config=[model.message() for model in models])
        request = manage_pb2.ReloadConfigRequest(
            config=manage_pb2.ModelServerConfig(model_config_list=configs)
        )
        call_info = self._call_info("HandleReloadConfigRequest", timeout_s)
        status = (yield from self._caller.call(_RELOAD, request, call_info)).status
        if status.error_code:
            raise InvalidInput(
                f"{self._target} rejected the models: {status.error_message}", status.error_message
            )

    def wait_until_available(self, timeout_s: float | None, poll_s: float) -> Flow[int]:
        """See Client.wait_until_available."""
        allowed = _checked_timeout(self._timeout_s if timeout_s is None else timeout_s)
        ends, last = self._clock() + allowed, ""
        while (left := ends - self._clock()) > 0:
            try:
                versions = yield from self.status(left)
                if available := [v.version for v in versions if v.available]:
                    return available[0]
                last = ", ".join(f"version {v.version} {v.state} {v.error}".strip() for v in versions)
                if self._version is not None and any(v.state == "END" and v.error for v in versions):
                    raise ServerError(f"{self._named()} did not load on {self._target}: {last}", last)
            except (NotFound, Unavailable) as error:
                last = str(error)
            except DeadlineExceeded as error:
                last = last or str(error)
            yield Pause(min(poll_s, max(ends - self._clock(), 0.0)))
        raise DeadlineExceeded(
            f"{self._named()} is not available on {self._target} after {allowed:g} s: {last}"
        )

    def _predict(
        self, request: predict_pb2.PredictRequest, call: Flow[predict_pb2.PredictResponse]
    ) -> Flow[Prediction]:
        response = yield from call
        if self._log is not None:
            yield Work(partial(self._log.add, request, response))
        return Prediction.of(response)

    def _request(
        self, inputs: Mapping[str, Any], signature: str, outputs: Iterable[str]
    ) -> predict_pb2.PredictRequest:
        if not isinstance(inputs, Mapping):
            raise InvalidInput(
                f"Got inputs of type {type(inputs).__name__}. Expected a mapping of input names to values, "
                "such as {'image': images}; metadata() lists the names."
            )
        names = output_names(outputs)
        request = predict_pb2.PredictRequest(model_spec=self._spec(signature), output_filter=names)
        for name, value in inputs.items():
            try:
                request.inputs[name].CopyFrom(to_tensor(value))
            except TensorError as error:
                raise InvalidInput(f"Input '{name}': {error}") from error
        return request

    def _spec(self, signature: str) -> predict_pb2.ModelSpec:
        spec = predict_pb2.ModelSpec(name=self._model, signature_name=signature)
        if self._version is not None:
            spec.version.value = self._version
        if self._label is not None:
            spec.version_label = self._label
        return spec

    def _named(self) -> str:
        if self._label is not None:
            return f"{self._model} label '{self._label}'"
        return self._model if self._version is None else f"{self._model} version {self._version}"

    def _call_info(self, call: str, timeout_s: float | None, sent: Callable[[], str] = str) -> CallInfo:
        allowed = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        return CallInfo(call, self._target, self._named(), sent, allowed)

    def _explained(self, error: InvalidInput | NotFound, signature: str) -> Flow[ClientError]:
        if isinstance(error, TooLarge) or not error.details:
            return error
        try:
            asked = self._served() if isinstance(error, NotFound) else self._expected(signature)
            expected = yield from asked
        except ClientError:
            return error
        return type(error)(f"{error} {expected}", error.details)

    def _served(self) -> Flow[str]:
        versions = yield from self.at().status(2.0)
        return f"It has {', '.join(f'version {v.version} ({v.state})' for v in versions)}."

    def _expected(self, signature: str) -> Flow[str]:
        known = (yield from self.metadata(2.0)).signatures
        if signature not in known:
            return f"It has the signatures {', '.join(known)}."
        spec = known[signature]
        takes = ", ".join(f"{name}: {tensor}" for name, tensor in spec.inputs.items())
        return f"Signature '{signature}' takes {takes} and gives {', '.join(spec.outputs)}."


def _described(request: predict_pb2.PredictRequest) -> str:
    """ "image: string (2,)"."""
    return ", ".join(f"{name}: {describe(request.inputs[name])}" for name in sorted(request.inputs))


def _checked_spec(model: str, version: int | None, label: str | None) -> tuple[str, int | None, str | None]:
    if not model:
        raise InvalidInput(
            "The name of the model is empty. Expected the name under which the server serves it."
        )
    if version is not None and label is not None:
        raise InvalidInput(f"Got version {version} and label '{label}'. Pin one of them, or neither.")
    if version is not None and version < 0:
        raise InvalidInput(f"Version {version} is negative. Versions are numbered from 0.")
    return model, version, label


def _checked_timeout(timeout_s: float) -> float:
    if not 0 < timeout_s < 1e6:
        raise InvalidInput(
            f"timeout_s is {timeout_s}, expected a number of seconds above 0 and below a million."
        )
    return timeout_s


def output_names(outputs: Iterable[str]) -> tuple[str, ...]:
    """The names of outputs. Raises InvalidInput for a text, which would be a name for each letter."""
    if isinstance(outputs, str):
        raise InvalidInput(f"outputs is the text '{outputs}', expected a list of names: ['{outputs}'].")
    return tuple(outputs)
