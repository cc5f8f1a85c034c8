"""What can go wrong in a model server, and which status that is on the wire.

    ServingError
    ├── RuntimeFailure          TensorFlow's own error, which brings its code with it
    └── one class a situation   carries facts; its text is the stock server's

Domain code raises these and knows no transport. `CODES` maps class to canonical code and `HTTP` maps
code to HTTP status: the only two places where that is written down. Texts and codes are those of
TensorFlow Serving 2.20 (predict_util.cc, server_core.cc, get_model_status_impl.cc and others).
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class Code(enum.IntEnum):
    """Canonical status codes, numbered as gRPC and absl number them."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """A request or a model that cannot be served. `facts`: what came and what was expected."""

    TEXT: ClassVar[str] = "{message}"

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.TEXT.format_map(facts))


class RuntimeFailure(ServingError):
    """TensorFlow refused to run or to load. facts: code, message."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code=code, message=message)


class ServableNotFound(ServingError):
    """No such model or version is loaded. facts: request, "Latest(m)" or "Specific(m, 7)"."""

    TEXT = "Servable not found for request: {request}"

    def __init__(self, model: str, version: int | None) -> None:
        super().__init__(request=f"Latest({model})" if version is None else f"Specific({model}, {version})")


class UnknownLabel(ServingError):
    """A version label that no version has. facts: label."""

    TEXT = "Unrecognized servable version label: {label}"


class VersionAndLabel(ServingError):
    """A REST request gave both. facts: version, label."""

    TEXT = (
        "Both model version ({version}) and model version label ({label}) cannot be supplied."  # as upstream
    )


class MissingModelSpec(ServingError):
    """A request without model_spec."""

    TEXT = "Missing ModelSpec"


class MissingModelName(ServingError):
    """A model_spec without a name."""

    TEXT = "ModelSpec has no name specified."


class NoVersionsOfModel(ServingError):
    """Status of an unknown model. facts: model."""

    TEXT = "Could not find any versions of model {model}"


class NoSuchVersionOfModel(ServingError):
    """Status of an unknown version. facts: model, version."""

    TEXT = "Could not find version {version} of model {model}"


class SignatureNotFound(ServingError):
    """Predict asked for an unknown signature. facts: signature."""

    TEXT = 'Serving signature key "{signature}" not found.'


class RestSignatureNotFound(ServingError):
    """The same over REST, which looks it up before it reads the tensors. facts: signature."""

    TEXT = 'Serving signature name: "{signature}" not found in signature def'


class ExampleSignatureNotFound(ServingError):
    """Classify or Regress asked for an unknown signature. facts: signature."""

    TEXT = "No signature was found with the name: {signature}"


class InferenceSignatureNotFound(ServingError):
    """MultiInference asked for an unknown signature. facts: signature."""

    TEXT = "Requested signature not found in model graph: {signature}"


class WrongMethodName(ServingError):
    """The signature serves another API. facts: kind, expected, got."""

    TEXT = "Expected {kind} signature method_name to be {expected}. Was: {got}"


class WrongPredictMethodName(ServingError):
    """Only with --enable_signature_method_name_check. facts: expected, got."""

    TEXT = "Expected prediction signature method_name to be one of {{{expected}}}. Was: {got}"


class InputsDoNotMatch(ServingError):
    """Too many or too few inputs. facts: got, expected, extra, missing (sorted names)."""

    def __init__(self, got: list[str], expected: list[str]) -> None:
        extra, missing = sorted(set(got) - set(expected)), sorted(set(expected) - set(got))
        super().__init__(
            got=got,
            expected=expected,
            extra=extra,
            missing=missing,
            message=f"input size does not match signature: {len(got)}!={len(expected)} "
            f"len({{{','.join(sorted(got))}}}) != len({{{','.join(sorted(expected))}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
        )


class InputNotFound(ServingError):
    """The right number of inputs, but one under another name. facts: alias, feed, got, defaults."""

    TEXT = (
        "Signature input alias: {alias}(feed name: {feed}) not found in request and no default value "
        "provided. Inputs expected to be in the request {{{got}}}, or default input alias set: {defaults}"
    )


class TensorParsingError(ServingError):
    """A TensorProto whose parts contradict each other. facts: alias."""

    TEXT = "tensor parsing error: {alias}"


class OutputNotFound(ServingError):
    """output_filter names an output that the signature does not have. facts: alias, outputs."""

    TEXT = (
        "output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{outputs}}}."
    )


class DuplicateOutput(ServingError):
    """output_filter names one output twice. facts: alias."""

    TEXT = "duplicate output tensor alias: {alias}"


class EmptyInput(ServingError):
    """Classify, Regress or MultiInference without an example."""

    TEXT = "Input is empty."


class BadRequest(ServingError):
    """A request that is malformed in another way. facts: message."""


class BadModel(ServingError):
    """A signature that cannot serve this API. facts: message."""


class MalformedPath(ServingError):
    """An unknown REST path. facts: method, path."""

    TEXT = "Malformed request: {method} {path}"


class NotImplementedHere(ServingError):
    """An API or a type that is not supported. facts: message."""


class ReloadTypeNotSupported(ServingError):
    """HandleReloadConfigRequest with anything but a model_config_list."""

    TEXT = (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
        "currently supported"
    )


class LabelNotAvailable(ServingError):
    """A label for a version that is not loaded. facts: model, version."""

    TEXT = (
        "Request to assign label to version {version} of model {model}, which is not currently available for "
        "inference"
    )


class BadConfig(ServingError):
    """An invalid configuration. facts: message."""


class ModelsNotAvailable(ServingError):
    """Models of a configuration failed to load. facts: reasons, one text per model version."""

    def __init__(self, reasons: list[str]) -> None:
        listing = ", ".join(f"{{{reason}}}" for reason in reasons)
        text = f"{len(reasons)} servable(s) did not become available: {{{listing}}}"
        super().__init__(reasons=reasons, message=text)


class TaskTooLarge(ServingError):
    """A request larger than a batch may be. facts: size, limit."""

    TEXT = "Task size {size} is larger than maximum input batch size {limit}"


class BatchQueueFull(ServingError):
    """The batching queue is full. facts: enqueued, limit."""

    TEXT = (
        "The batch scheduling queue to which this task was submitted is full; currently {enqueued} batches "
        "enqueued and max_enqueued_batches is {limit}"
    )


class NoRoomInBatchQueue(ServingError):
    """The same where large requests are split. facts: rows, capacity, enqueued, limit, open, largest."""

    TEXT = (
        "The batch scheduling queue to which this task was submitted is full; task size is {rows} but "
        "scheduling capacity is only {capacity} (num_enqueued_batches={enqueued}, "
        "max_enqueued_batches={limit}, open_batch_size={open}, max_execution_batch_size={largest})"
    )


class LateForBatch(ServingError):
    """The deadlines of all callers of a batch had passed before it ran."""

    TEXT = "Run() timeout exceeded while waiting in batching queue"


class ShapesDiffer(ServingError):
    """Requests of one batch disagree and padding is off. facts: name."""

    TEXT = (
        "Tensors with name '{name}' from different tasks have different shapes and padding is turned off. "
        "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
        "dimensions starting with the first dim."
    )


class Overloaded(ServingError):
    """More concurrent requests than the server accepts."""

    TEXT = "Server Threadpool Exhausted"


class DeadlineExpired(ServingError):
    """The caller's deadline passed before there was a result."""

    TEXT = "Deadline Exceeded"


class Unauthenticated(ServingError):
    """A caller without a token that is accepted. facts: message."""


class ShuttingDown(ServingError):
    """The server is draining."""

    TEXT = "The server is shutting down"


class Superseded(ServingError):
    """A newer configuration arrived while this one waited for its models."""

    TEXT = "A newer model configuration has replaced this one"


class LoadFailed(ServingError):
    """A version folder without a loadable model. facts: message."""


class VersionDamaged(ServingError):
    """A version whose files are not those of its checksum list. facts: message."""


class VersionNotTrusted(ServingError):
    """A version that is not signed by the key that is required. facts: message."""


CODES: dict[type[ServingError], Code] = {
    ServableNotFound: Code.NOT_FOUND,
    NoVersionsOfModel: Code.NOT_FOUND,
    NoSuchVersionOfModel: Code.NOT_FOUND,
    LoadFailed: Code.NOT_FOUND,
    VersionDamaged: Code.DATA_LOSS,
    VersionNotTrusted: Code.PERMISSION_DENIED,
    Superseded: Code.ABORTED,
    UnknownLabel: Code.INVALID_ARGUMENT,
    VersionAndLabel: Code.INVALID_ARGUMENT,
    MissingModelSpec: Code.INVALID_ARGUMENT,
    MissingModelName: Code.INVALID_ARGUMENT,
    SignatureNotFound: Code.FAILED_PRECONDITION,
    RestSignatureNotFound: Code.INVALID_ARGUMENT,
    ExampleSignatureNotFound: Code.INVALID_ARGUMENT,
    InferenceSignatureNotFound: Code.INVALID_ARGUMENT,
    WrongMethodName: Code.INVALID_ARGUMENT,
    WrongPredictMethodName: Code.INTERNAL,
    InputsDoNotMatch: Code.INVALID_ARGUMENT,
    InputNotFound: Code.INVALID_ARGUMENT,
    TensorParsingError: Code.INVALID_ARGUMENT,
    OutputNotFound: Code.INVALID_ARGUMENT,
    DuplicateOutput: Code.INVALID_ARGUMENT,
    EmptyInput: Code.INVALID_ARGUMENT,
    BadRequest: Code.INVALID_ARGUMENT,
    BadModel: Code.FAILED_PRECONDITION,
    MalformedPath: Code.INVALID_ARGUMENT,
    NotImplementedHere: Code.UNIMPLEMENTED,
    ReloadTypeNotSupported: Code.INVALID_ARGUMENT,
    LabelNotAvailable: Code.FAILED_PRECONDITION,
    BadConfig: Code.INVALID_ARGUMENT,
    ModelsNotAvailable: Code.UNKNOWN,
    TaskTooLarge: Code.INVALID_ARGUMENT,
    BatchQueueFull: Code.UNAVAILABLE,
    NoRoomInBatchQueue: Code.UNAVAILABLE,
    LateForBatch: Code.RESOURCE_EXHAUSTED,
    ShapesDiffer: Code.FAILED_PRECONDITION,
    Overloaded: Code.RESOURCE_EXHAUSTED,
    DeadlineExpired: Code.DEADLINE_EXCEEDED,
    ShuttingDown: Code.UNAVAILABLE,
    Unauthenticated: Code.UNAUTHENTICATED,
}

HTTP: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


MAX_TEXT = 1024  # bytes of an error's text on the wire


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """The text, cut as the stock server cuts it."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[:limit].decode("utf-8", "ignore") + "...TRUNCATED"


def code_of(error: BaseException) -> Code:
    """The canonical code of any error; INTERNAL for errors that are not ours."""
    if isinstance(error, RuntimeFailure):
        return Code(error.facts["code"])
    return CODES.get(type(error), Code.INTERNAL) if isinstance(error, ServingError) else Code.INTERNAL
