"""How tests are spread over processes: those of a file stay together, for the fixtures that they share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """What is there before a file's tests, TensorFlow above all, is left out of garbage collections.

    Each model that a server unloads is a full one, which took a second or two in a process of many tests.
    """
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What asks the contract suite's one server stays together."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "contract" if "/contract/test_" in file else file

    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None
