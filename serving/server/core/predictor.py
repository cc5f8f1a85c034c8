"""What a model server answers, without a transport: predict, classify, regress, metadata, status.

gRPC and REST translate their requests into calls of `Predictor` and its answers back. The order of the
checks and their texts are the stock server's (predict_util.cc, classifier.cc, regressor.cc,
multi_inference.cc).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pergola.serving.server.config.errors import (
    BadRequest,
    DuplicateOutput,
    EmptyInput,
    InputNotFound,
    InputsDoNotMatch,
    MissingModelName,
    OutputNotFound,
    RestSignatureNotFound,
    SignatureNotFound,
    WrongPredictMethodName,
)
from pergola.serving.server.core import examples
from pergola.serving.server.core.examples import ClassificationResult, RegressionResult, Task
from pergola.serving.server.core.limiter import Limiter
from pergola.serving.server.core.model import CLASSIFY, DEFAULT_SIGNATURE, PREDICT, REGRESS, Signature
from pergola.serving.server.core.servable import Servable, ServableStatus
from pergola.serving.wire.tensors import Array


class Target(NamedTuple):
    """Which model a request is for. At most one of version and label; "" is the default signature."""

    model: str
    version: int | None = None
    label: str | None = None
    signature: str = ""


class RequestLimits(NamedTuple):
    """How long a request may take: seconds until its caller gives up, and TensorFlow's own limit."""

    wait_s: float | None = None
    run_ms: int = 0


class PredictResult(NamedTuple):
    """An answer: which version and signature gave which outputs."""

    version: int
    signature: str
    outputs: dict[str, Array]


class ExamplesResult(NamedTuple):
    """What classify and regress give: one result, or for multi-inference one a task."""

    version: int
    signature: str
    result: ClassificationResult | RegressionResult


class ModelMetadata(NamedTuple):
    """The SignatureDef messages of a version, by name."""

    version: int
    signature_defs: Mapping[str, Any]


class Servables(Protocol):
    """Who has the loaded models: serving/server/core/manager.py, or a warm-up's one model."""

    def acquire(self, model: str, version: int | None = None, label: str | None = None) -> Servable: ...
    def statuses(self, model: str, version: int | None = None) -> list[ServableStatus]: ...


class Observer(Protocol):
    """Who counts: runtime of the model in seconds, and examples a request."""

    def ran(self, model: str, version: int, api: str, seconds: float) -> None: ...
    def examples(self, model: str, count: int) -> None: ...


UNLIMITED = RequestLimits()


class Predictor:
    """Answers requests from the models that a manager keeps loaded."""

    def __init__(
        self,
        servables: Servables,
        limiter: Limiter,
        observer: Observer,
        *,
        check_method_names: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._servables = servables
        self._limiter = limiter
        self._observer = observer
        self._check_method_names = check_method_names
        self._clock = clock

    def predict(
        self,
        target: Target,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        limits: RequestLimits = UNLIMITED,
    ) -> PredictResult:
        """Run a signature.

        inputs: alias -> array; a mapping that makes its arrays when asked may raise while it does.
        output_filter: aliases of the outputs to return; empty: all.
        """
        with self._servable(target) as servable:
            name = target.signature or DEFAULT_SIGNATURE
            signature = servable.model.signatures.get(name)
            if signature is None:
                raise SignatureNotFound(signature=name)
            if self._check_method_names and signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
                raise WrongPredictMethodName(
                    expected=", ".join((PREDICT, CLASSIFY, REGRESS)), got=signature.method_name
                )
            feeds = _feeds(signature, inputs)
            aliases = _outputs(signature, output_filter)
            values = self._run(servable, "Predict", feeds, [signature.outputs[a] for a in aliases], limits)
            return PredictResult(servable.version, name, dict(zip(aliases, values, strict=True)))

    def classify(
        self, target: Target, serialized: list[bytes], limits: RequestLimits = UNLIMITED
    ) -> ExamplesResult:
        """Classes and scores for serialised tf.train.Examples."""
        return self._on_examples(target, CLASSIFY, serialized, limits)

    def regress(
        self, target: Target, serialized: list[bytes], limits: RequestLimits = UNLIMITED
    ) -> ExamplesResult:
        """A value for each of some serialised tf.train.Examples."""
        return self._on_examples(target, REGRESS, serialized, limits)

    def infer(
        self, tasks: list[Task], serialized: list[bytes], limits: RequestLimits = UNLIMITED
    ) -> list[ExamplesResult]:
        """Several classifications and regressions of the same examples, in one run of the model.

        tasks: (target, method name); all for one model.
        """
        first = tasks[0].target if tasks else Target("")
        with self._servable(first) as servable:
            steps = examples.plan_tasks(servable.model.signatures, tasks, self._check_method_names)
            fetches = sorted({tensor for step in steps for tensor in step.fetches})
            feeds = dict.fromkeys([step.feed for step in steps], self._batch(first.model, serialized))
            values = self._run(servable, "MultiInference", feeds, fetches, limits)
            by_name = dict(zip(fetches, values, strict=True))
            return [
                ExamplesResult(
                    servable.version,
                    task.target.signature or DEFAULT_SIGNATURE,
                    step.read([by_name[tensor] for tensor in step.fetches], len(serialized)),
                )
                for task, step in zip(tasks, steps, strict=True)
            ]

    def session_run(
        self,
        target: Target,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        limits: RequestLimits = UNLIMITED,
    ) -> list[Array]:
        """The values of `fetches`, by tensor names and without a signature; for warm-up records."""
        with self._servable(target) as servable:
            return self._run(servable, "SessionRun", feeds, fetches, limits)

    def metadata(self, target: Target, fields: Sequence[str]) -> ModelMetadata:
        """The signatures of a version."""
        if not fields:
            raise BadRequest(message="GetModelMetadataRequest must specify at least one metadata_field")
        for field in fields:
            if field != "signature_def":
                # The stock server forgets to format its text, and this is that text.
                raise BadRequest(message=f"Metadata field %s is not supported{field}")
        with self._servable(target) as servable:
            return ModelMetadata(servable.version, servable.model.signature_defs)

    def statuses(self, model: str, version: int | None) -> list[ServableStatus]:
        """The states of a model's versions, newest first."""
        return self._servables.statuses(model, version)

    def input_types(self, target: Target) -> Mapping[str, int]:
        """DataTypes of a signature's inputs, by alias: what REST needs to read JSON."""
        with self._servable(target) as servable:
            name = target.signature or DEFAULT_SIGNATURE
            signature = servable.model.signatures.get(name)
            if signature is None:
                raise RestSignatureNotFound(signature=name)
            return signature.dtypes

    def _servable(self, target: Target) -> Servable:
        if not target.model:
            raise MissingModelName()
        return self._servables.acquire(target.model, target.version, target.label)

    def _on_examples(
        self, target: Target, method: str, serialized: list[bytes], limits: RequestLimits
    ) -> ExamplesResult:
        with self._servable(target) as servable:
            name = target.signature or DEFAULT_SIGNATURE
            step = examples.plan(servable.model.signatures, name, method, self._check_method_names)
            feeds = {step.feed: self._batch(target.model, serialized)}
            api = "Classify" if method == CLASSIFY else "Regress"
            values = self._run(servable, api, feeds, step.fetches, limits)
            return ExamplesResult(servable.version, name, step.read(values, len(serialized)))

    def _batch(self, model: str, serialized: list[bytes]) -> Array:
        if not serialized:
            raise EmptyInput()
        self._observer.examples(model, len(serialized))
        return examples.batch(serialized)

    def _run(
        self,
        servable: Servable,
        api: str,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        limits: RequestLimits,
    ) -> list[Array]:
        with self._limiter.slot(limits.wait_s):
            started = self._clock()
            values = servable.model.run(feeds, fetches, limits.run_ms)
            self._observer.ran(servable.name, servable.version, api, self._clock() - started)
            return values


def _feeds(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Tensor name -> array, checked as the stock server checks it."""
    expected = signature.inputs
    if len(inputs) > len(expected) or (len(inputs) < len(expected) and not signature.defaults):
        raise InputsDoNotMatch(list(inputs), list(expected))
    feeds = {}
    used = []
    for alias, tensor in expected.items():
        if alias in inputs:
            feeds[tensor] = inputs[alias]
            used.append(alias)
        elif alias in signature.defaults:
            feeds[tensor] = signature.defaults[alias]
        else:
            raise InputNotFound(
                alias=alias,
                feed=tensor,
                got=",".join(sorted(inputs)),
                defaults=",".join(sorted(signature.defaults)),
            )
    if len(used) != len(inputs):
        raise BadRequest(
            message=f"Inputs contains invalid name. Used request inputs: {','.join(sorted(used))}, "
            f"request input: {','.join(sorted(inputs))}"
        )
    return feeds


def _outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise OutputNotFound(alias=alias, outputs=",".join(sorted(signature.outputs)))
        if alias in seen:
            raise DuplicateOutput(alias=alias)
        seen.append(alias)
    return seen or list(signature.outputs)
