"""The one table of errors."""

import pytest

from pergola.serving.server.config import errors
from pergola.serving.server.config.errors import CODES, HTTP, Code, RuntimeFailure, ServingError, code_of


def test_codes_has_a_line_for_every_error():
    classes = set(ServingError.__subclasses__()) - {RuntimeFailure}
    assert classes == set(CODES)


def test_http_has_a_line_for_every_code():
    assert set(HTTP) == set(Code)


STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 504,
    "UNAVAILABLE": 503,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
}


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_http_status_is_the_stock_servers(code, status):
    assert HTTP[Code[code]] == status


def test_codes_are_grpcs():
    import grpc

    assert {code.name: int(code) for code in Code} == {c.name: c.value[0] for c in grpc.StatusCode}


def test_runtime_failure_brings_its_own_code():
    error = RuntimeFailure(Code.OUT_OF_RANGE, "beyond")
    assert (code_of(error), str(error)) == (Code.OUT_OF_RANGE, "beyond")


def test_what_is_not_ours_is_internal():
    assert code_of(ZeroDivisionError()) is Code.INTERNAL


def test_errors_carry_facts():
    error = errors.InputsDoNotMatch(["b", "a"], ["a", "c"])
    assert (error.facts["extra"], error.facts["missing"]) == (["b"], ["c"])
    assert (
        str(errors.TaskTooLarge(size=9, limit=4)) == "Task size 9 is larger than maximum input batch size 4"
    )
    assert str(errors.BatchQueueFull(enqueued=3, limit=2)) == (
        "The batch scheduling queue to which this task was submitted is full; "
        "currently 3 batches enqueued and max_enqueued_batches is 2"
    )
    assert str(errors.LabelNotAvailable(version=1, model="m")) == (
        "Request to assign label to version 1 of model m, which is not currently available for inference"
    )
    assert str(errors.ModelsNotAvailable(["a", "b"])) == "2 servable(s) did not become available: {{a}, {b}}"
