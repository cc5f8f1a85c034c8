"""How tests are spread over processes: those of a file stay together, for the fixtures that they share."""

from __future__ import annotations

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What asks the contract suite's one server stays together."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "contract" if "/contract/test_" in file else file

    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None
