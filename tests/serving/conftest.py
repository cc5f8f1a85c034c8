"""Small models that several tests of the server share; built once."""

import pytest

from tests.support import models
from tests.support.in_loop import TRANSPORTS


@pytest.fixture(scope="session", params=TRANSPORTS, ids=["threads", "asyncio"])
def connect(request):
    """The class of the client: both have the same methods here."""
    return request.param


@pytest.fixture(scope="session")
def half(tmp_path_factory):
    """Base path of x / 2 + 2, version 1. Not to be changed."""
    base = tmp_path_factory.mktemp("half")
    models.half_plus_two(base)
    return base


@pytest.fixture(scope="session")
def slow(tmp_path_factory):
    """Base path of a model that takes 0.3 s a run. Not to be changed."""
    base = tmp_path_factory.mktemp("slow")
    models.slow(base, ms=300)
    return base
