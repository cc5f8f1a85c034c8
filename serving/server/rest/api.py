"""TF-Serving's REST API: a method, a path and a body in; a status and a body out. No sockets here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from pergola.serving.server.config.errors import (
    HTTP,
    BadRequest,
    Code,
    MalformedPath,
    ServingError,
    code_of,
)
from pergola.serving.server.core import requests
from pergola.serving.server.core.predictor import Predictor, PredictResult, RequestLimits, Target
from pergola.serving.server.rest import json_examples, json_metadata, json_outputs, json_tensors, json_text
from pergola.serving.server.telemetry.metrics import Monitor
from pergola.serving.server.telemetry.request_log import CLASSIFY, PREDICT, REGRESS, RequestLog
from pergola.serving.wire import tensors

_MODEL = r"/v1/models/(?P<model>[^/:?]+)"
_CHOICE = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:?]+)))?"
_CALL = re.compile(rf"(?i){_MODEL}{_CHOICE}:(?P<method>classify|regress|predict)")
_STATUS = re.compile(rf"(?i)/v1/models(?:/(?P<model>[^/:?]+))?{_CHOICE}(?:/(?P<part>metadata))?")

MAX_VERSION = 2**63 - 1


class Reply(NamedTuple):
    """A response: HTTP status, body, content type."""

    status: int
    body: bytes
    content_type: str = "application/json"


class RestApi:
    """Serves REST requests with a Predictor."""

    def __init__(
        self, predictor: Predictor, monitor: Monitor, request_log: RequestLog, *, timeout_ms: int = 0
    ) -> None:
        self._predictor = predictor
        self._monitor = monitor
        self._log = request_log
        self._limits = RequestLimits(timeout_ms / 1000 if timeout_ms > 0 else None, max(0, timeout_ms))
        self._calls: Mapping[str, Callable[[Target, bytes], bytes]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    def answer(self, method: str, path: str, body: bytes) -> Reply:
        """Handle one request whose path starts with /v1/. Never raises."""
        try:
            if method == "POST" and (found := _CALL.fullmatch(path)):
                return self._call(found, body)
            if method == "GET" and (found := _STATUS.fullmatch(path)):
                return Reply(200, self._look(found))
            raise MalformedPath(method=method, path=path)
        except Exception as error:
            return failure(error)

    def _call(self, found: re.Match[str], body: bytes) -> Reply:
        target, api = _target(found), found["method"].lower()
        with self._monitor.request(target.model, api, "REST") as outcome:
            try:
                return Reply(200, self._calls[api](target, body))
            except Exception as error:
                outcome.code = code_of(error)
                return failure(error)

    def _look(self, found: re.Match[str]) -> bytes:
        if not found["model"]:
            raise BadRequest(message="Missing model name in request.")
        target = _target(found)
        if found["part"]:
            return json_metadata.metadata(target.model, self._predictor.metadata(target, ["signature_def"]))
        return json_metadata.statuses(self._predictor.statuses(target.model, target.version))

    def _predict(self, target: Target, body: bytes) -> bytes:
        def types(signature: str) -> Mapping[str, int]:
            return self._predictor.input_types(target._replace(signature=signature))

        request = json_tensors.read_predict(body, types)
        target = target._replace(signature=request.signature)
        found = self._predictor.predict(target, request.inputs, (), self._limits)
        if self._log.should_log(target.model):
            self._log_prediction(target, request.inputs, found)
        return json_outputs.write_predict(found.outputs, request.form)

    def _classify(self, target: Target, body: bytes) -> bytes:
        request = json_examples.read(body)
        target = target._replace(signature=request.signature)
        found = self._predictor.classify(target, request.serialized, self._limits)
        if self._log.should_log(target.model):
            from pergola.serving.server.core import responses

            response = responses.classification(target.model, found)
            message = json_examples.message("Classification", target, request)
            self._log.add(target.model, found.version, found.signature, CLASSIFY, message, response)
        return json_examples.write_classification(found)

    def _regress(self, target: Target, body: bytes) -> bytes:
        request = json_examples.read(body)
        target = target._replace(signature=request.signature)
        found = self._predictor.regress(target, request.serialized, self._limits)
        if self._log.should_log(target.model):
            from pergola.serving.server.core import responses

            response = responses.regression(target.model, found)
            message = json_examples.message("Regression", target, request)
            self._log.add(target.model, found.version, found.signature, REGRESS, message, response)
        return json_examples.write_regression(found)

    def _log_prediction(self, target: Target, inputs: Mapping[str, Any], found: PredictResult) -> None:
        from tensorflow_serving.apis import predict_pb2

        from pergola.serving.server.core import responses

        message = predict_pb2.PredictRequest()
        requests.fill_spec(message.model_spec, target)
        for alias, array in inputs.items():
            tensors.to_proto(array, message.inputs[alias])
        response = responses.prediction(target.model, found)
        self._log.add(target.model, found.version, found.signature, PREDICT, message, response)


def failure(error: Exception) -> Reply:
    """The reply for an error."""
    if not isinstance(error, ServingError):
        import logging

        logging.getLogger(__name__).exception("request failed", exc_info=error)
    code = code_of(error)
    return Reply(HTTP.get(code, HTTP[Code.INTERNAL]), json_text.error_body(_text(error)))


def _text(error: Exception) -> str:
    """The text of an error with at most 256 bytes of each fact."""
    if not isinstance(error, ServingError):
        return str(error)
    facts = {
        name: json_text.quote(fact) if isinstance(fact, str) and name != "message" else fact
        for name, fact in error.facts.items()
    }
    return error.TEXT.format_map(facts)


def _target(found: re.Match[str]) -> Target:
    version = found["version"]
    if version and int(version) > MAX_VERSION:
        raise BadRequest(message=f"Failed to convert version: {json_text.quote(version)} to numeric.")
    return Target(
        unquote(found["model"]),
        int(version) if version else None,
        unquote(found["label"]) if found["label"] else None,
    )
