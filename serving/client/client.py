"""A client of TensorFlow Serving that needs no TensorFlow.

    from pergola.serving.client import Client

    with Client("dns:///leaves.models.svc:8500", model="leaves") as client:
        answer = client.classify_images(["a.jpg", "b.png"])
        answer.labels, answer.probability, answer.version

Every call has a deadline. It is retried while time is left when the server is unreachable or overloaded, and
calls rotate over all addresses behind the name. See serving/client/errors.py for the errors.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from typing import Any, Self

from pergola.serving.client.channel import Connection, open_channel, target_of
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
from pergola.serving.client.request_log import ClientLog
from pergola.serving.client.results import (
    Classification,
    Metadata,
    Prediction,
    ServedModel,
    VersionStatus,
)
from pergola.serving.client.retry import Retry
from pergola.serving.client.rpc import Caller, Method
from pergola.serving.wire import contract
from pergola.serving.wire.protos import manage_pb2, predict_pb2
from pergola.serving.wire.tensors import TensorError, describe
from pergola.serving.wire.values import to_tensor

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


class Client:
    """A client of one served model. Thread-safe; close it, or use it in a `with` block.

    address: "host:8500", "dns:///name:8500" (all addresses of the name in turn), "unix:/path", or a
    list of IP addresses with ports.  version or label: the one to use instead of the newest.
    timeout_s: for a call with its retries; keepalive is derived from it, so allow for your longest call.
    log: where answered requests are recorded; closing the client does not close it.
    token: sent as "authorization: Bearer …"; a function is called for each request. Short for that of
    `connection`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        connection: Connection | None = None,
        log: ClientLog | None = None,
        token: str | Callable[[], str] | None = None,
    ) -> None:
        connection = connection or Connection()
        if token is not None:
            connection = replace(connection, token=token)
        self._target = target_of(address)
        self._model, self._version, self._label = _checked_spec(model, version, label)
        self._timeout_s = _checked_timeout(timeout_s)
        channel = open_channel(self._target, connection, self._timeout_s)
        self._caller = Caller(channel, connection, retry or Retry())
        self._classes: dict[tuple[str, int], tuple[str, ...]] = {}
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._caller.close()

    def at(self, *, model: str | None = None, version: int | None = None, label: str | None = None) -> Self:
        """The same client for another model, version or label, over the same connection.

        Closing either closes both.
        """
        other = copy.copy(self)
        other._model, other._version, other._label = _checked_spec(model or self._model, version, label)
        return other

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """The outputs of a signature for `inputs`: name -> array, number, bytes, text or nested lists.

        outputs: names of the outputs to return; all when empty. Raises ClientError; for a rejected input it
        lists what the signature takes.
        """
        request = self._request(inputs, signature, outputs)
        call_info = self._predicting(request, timeout_s)
        try:
            return self._answer(request, self._caller.call(_PREDICT, request, call_info))
        except (InvalidInput, NotFound) as error:
            raise self._explained(error, signature) from None

    def predict_async(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Future[Prediction]:
        """A future of the result of `predict`, with the same deadline and retries.

        It can be cancelled, and awaited with `asyncio.wrap_future`. Its callbacks run on gRPC's thread:
        keep them short.
        """
        request = self._request(inputs, signature, outputs)
        call_info = self._predicting(request, timeout_s)
        return self._caller.start(_PREDICT, request, call_info, partial(self._answer, request))

    def predict_many(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        in_flight: int = 16,
        timeout_s: float | None = None,
    ) -> Iterator[Prediction]:
        """The answers to many requests, in their order, with up to `in_flight` of them at a time.

        Requests are consumed as capacity allows, so they may come from a generator. The first one that
        fails raises when its turn comes, and the rest is cancelled.
        """
        outputs, waiting = tuple(outputs), list[Future[Prediction]]()
        try:
            for inputs in requests:
                _make_room(waiting, in_flight)
                waiting.append(
                    self.predict_async(inputs, signature=signature, outputs=outputs, timeout_s=timeout_s)
                )
                while waiting and (waiting[0].done() or len(waiting) >= 4 * in_flight):
                    yield self._result(waiting.pop(0), signature)
            while waiting:
                yield self._result(waiting.pop(0), signature)
        finally:
            for future in waiting:
                future.cancel()

    def classify_images(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 32,
        in_flight: int = 4,
        timeout_s: float | None = None,
    ) -> Classification:
        """The classes of images, all predicted by one version of the model.

        images: paths, bytes of image files, or uint8 arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        They are turned upright as their EXIF orientation says and sent encoded, `batch_size` at a time.
        """
        from pergola.serving.client.classify import classify

        return classify(self, images, batch_size, in_flight, timeout_s)

    def status(self, *, timeout_s: float | None = None) -> tuple[VersionStatus, ...]:
        """The versions that the server knows, newest first. TF-Serving ignores labels here."""
        spec = predict_pb2.ModelSpec(name=self._model)
        if self._version is not None:
            spec.version.value = self._version
        request = manage_pb2.GetModelStatusRequest(model_spec=spec)
        return VersionStatus.of(
            self._caller.call(_STATUS, request, self._call_info("GetModelStatus", timeout_s))
        )

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """The signatures of the served version, with the types and shapes of their tensors."""
        request = predict_pb2.GetModelMetadataRequest(
            model_spec=self._spec(""), metadata_field=["signature_def"]
        )
        return Metadata.of(
            self._caller.call(_METADATA, request, self._call_info("GetModelMetadata", timeout_s))
        )

    def reload(self, models: Iterable[ServedModel], *, timeout_s: float | None = None) -> None:
        """Make the server serve these models and no others. Returns when they are loaded.

        Retried only if the request certainly never reached the server. Raises InvalidInput when the
        server refuses the list.
        """
        configs = manage_pb2.ModelConfigList(config=[model.message() for model in models])
        request = manage_pb2.ReloadConfigRequest(
            config=manage_pb2.ModelServerConfig(model_config_list=configs)
        )
        call_info = self._call_info("HandleReloadConfigRequest", timeout_s)
        status = self._caller.call(_RELOAD, request, call_info).status
        if status.error_code:
            raise InvalidInput(
                f"{self._target} rejected the models: {status.error_message}", status.error_message
            )

    def wait_until_available(self, *, timeout_s: float | None = None, poll_s: float = 0.1) -> int:
        """Wait for the pinned version, or any version, to be available, and return its number.

        Raises ServerError when the pinned version failed to load, or DeadlineExceeded with the last state.
        """
        allowed = _checked_timeout(self._timeout_s if timeout_s is None else timeout_s)
        ends, last = time.monotonic() + allowed, ""
        while (left := ends - time.monotonic()) > 0:
            try:
                versions = self.status(timeout_s=left)
                if available := [v.version for v in versions if v.available]:
                    return available[0]
                last = ", ".join(f"version {v.version} {v.state} {v.error}".strip() for v in versions)
                if self._version is not None and any(v.state == "END" and v.error for v in versions):
                    raise ServerError(f"{self._named()} did not load on {self._target}: {last}", last)
            except (NotFound, Unavailable) as error:
                last = str(error)
            except DeadlineExceeded as error:
                last = last or str(error)
            time.sleep(min(poll_s, max(ends - time.monotonic(), 0.0)))
        raise DeadlineExceeded(
            f"{self._named()} is not available on {self._target} after {allowed:g} s: {last}"
        )

    def _answer(
        self, request: predict_pb2.PredictRequest, response: predict_pb2.PredictResponse
    ) -> Prediction:
        if self._log is not None:
            self._log.add(request, response)
        return Prediction.of(response)

    def _request(
        self, inputs: Mapping[str, Any], signature: str, outputs: Iterable[str]
    ) -> predict_pb2.PredictRequest:
        if not isinstance(inputs, Mapping):
            raise InvalidInput(
                f"Got inputs of type {type(inputs).__name__}. Expected a mapping of input names to values, "
                "such as {'image': images}; metadata() lists the names."
            )
        if isinstance(outputs, str):
            raise InvalidInput(f"outputs is the text '{outputs}', expected a list of names: ['{outputs}'].")
        request = predict_pb2.PredictRequest(model_spec=self._spec(signature), output_filter=outputs)
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

    def _predicting(self, request: predict_pb2.PredictRequest, timeout_s: float | None) -> CallInfo:
        return self._call_info("Predict", timeout_s, partial(_described, request))

    def _result(self, future: Future[Prediction], signature: str) -> Prediction:
        try:
            return future.result()
        except (InvalidInput, NotFound) as error:
            raise self._explained(error, signature) from None

    def _explained(self, error: InvalidInput | NotFound, signature: str) -> ClientError:
        """The error, extended by what the server accepts if that can be looked up quickly."""
        if isinstance(error, TooLarge) or not error.details:
            return error
        try:
            expected = self._served() if isinstance(error, NotFound) else self._expected(signature)
        except ClientError:
            return error
        return type(error)(f"{error} {expected}", error.details)

    def _served(self) -> str:
        versions = self.at().status(timeout_s=2.0)
        return f"It has {', '.join(f'version {v.version} ({v.state})' for v in versions)}."

    def _expected(self, signature: str) -> str:
        known = self.metadata(timeout_s=2.0).signatures
        if signature not in known:
            return f"It has the signatures {', '.join(known)}."
        spec = known[signature]
        takes = ", ".join(f"{name}: {tensor}" for name, tensor in spec.inputs.items())
        return f"Signature '{signature}' takes {takes} and gives {', '.join(spec.outputs)}."


def _described(request: predict_pb2.PredictRequest) -> str:
    """ "image: string (2,)"."""
    return ", ".join(f"{name}: {describe(request.inputs[name])}" for name in sorted(request.inputs))


def _make_room(waiting: Sequence[Future[Any]], in_flight: int) -> None:
    """Wait until fewer than `in_flight` are in flight."""
    if in_flight < 1:
        raise InvalidInput(f"in_flight is {in_flight}, expected at least 1.")
    while len(unfinished := [future for future in waiting if not future.done()]) >= in_flight:
        wait(unfinished, return_when=FIRST_COMPLETED)


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
