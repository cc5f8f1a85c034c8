"""`pergola drift` on a small real model, whose requests a real server logged."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pergola.components.errors import InputError
from pergola.components.evaluation.drift.drift import DriftSettings
from pergola.components.evaluation.drift.history import DriftHistory
from pergola.components.workspace import Workspace
from pergola.pipelines.commands.cli import pergola
from pergola.pipelines.local.progress import SilentDisplay
from pergola.pipelines.monitoring import drift as front
from pergola.pipelines.release.resolve import resolve_version
from pergola.pipelines.serve import predict
from pergola.serving.client import Client
from tests.support import released
from tests.support.command import serving

pytestmark = pytest.mark.slow  # a pipeline's run, and a server

FEW = DriftSettings(min_requests=40, num_permutations=99)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """With a released version of "shades"."""
    return released.workspace(tmp_path_factory.mktemp("drift") / "work")


@pytest.fixture(scope="module")
def checks(workspace) -> list[front.DriftResult]:
    """A check after each 60 requests."""
    found = []
    image = workspace.root.parent / "asked.png"
    image.write_bytes(released.image_of(0))
    with serving(workspace.root, "--log-requests", "1") as place:
        for shift in (0, -60):
            time.sleep(1.1)  # the last second of a check is not covered by the next one
            with Client(place["grpc"], model="shades") as client:
                client.wait_until_available(timeout_s=60)
                for batch in np.array_split(np.arange(60), 4):
                    client.classify_images([released.image_of(int(i) + 1000, shift) for i in batch])
            released.wait_for_log(workspace, 60 * (len(found) + 1))
            found.append(front.drift(workspace, None, FEW, show=SilentDisplay()))
        (answer,) = predict.predict(workspace, [image])
    assert answer["id"] == hashlib.sha256(image.read_bytes()).hexdigest()
    return found


def test_drift_finds_none_in_requests_like_the_test_split(checks):
    first = checks[0]
    assert (first.model, first.version, first.look, first.num_live, first.status) == ("shades", 1, 1, 60, 0)
    assert {"prior", "confidence", "brightness", "embedding"} <= {test.name for test in first.tests}
    assert first.summary().startswith("No drift: shades version 1, 60 requests (20")


def test_drift_reports_what_drifted_and_covers_new_requests_only(checks):
    second = checks[1]
    assert (second.look, second.num_live, second.status) == (2, 60, 3)
    assert any("the median of brightness is" in reason for reason in second.reasons)
    assert second.summary().startswith("DRIFT: shades version 1")
    page = Path(second.page).read_text()
    assert "Drift detected" in page and "brightness: drift" in page
    assert page.count("<img ") == 12 and page.count("<svg ") >= 3 and 'src="http' not in page


def test_drift_keeps_a_history_of_its_checks(checks, workspace):
    kept = DriftHistory.of(workspace.drift("shades", 1))
    assert [check.drifted for check in kept.checks] == [False, True] and kept.drifted == 1
    with pytest.raises(
        InputError, match=r"The log has [01] requests to version 1 of 'shades' since the last check"
    ):
        front.drift(workspace, "shades/1", FEW, show=SilentDisplay())
    assert DriftHistory.of(workspace.drift("shades", 1)) == kept


def test_drift_command_ends_with_status_3_and_json(checks, workspace):
    done = CliRunner().invoke(pergola, ["drift", "--last", "--json", "--workspace", str(workspace.root)])
    assert done.exit_code == 3
    assert json.loads(done.stdout)["reasons"] == list(checks[1].reasons)


def test_drift_reports_what_is_missing(tmp_path):
    empty = released.workspace(tmp_path / "work")
    with pytest.raises(InputError, match=r"There is no request log .*pergola serve --log-requests 1"):
        front.drift(empty, None, FEW, show=SilentDisplay())
    with pytest.raises(InputError, match="There has been no drift check of version 1 of 'shades' yet"):
        front.last_check(empty, None)
    (empty.models / "shades" / "2").mkdir()
    with pytest.raises(InputError, match=r"There is no drift reference in .*2: version 2 of 'shades'"):
        front.drift(empty, "2", FEW, show=SilentDisplay())


@pytest.mark.parametrize(("text", "found"), [(None, 1), ("shades", 1), ("1", 1), ("shades/1", 1)])
def test_resolve_version_takes_a_model_a_version_or_both(checks, workspace, text, found):
    assert resolve_version(workspace, text).version == found


@pytest.mark.parametrize(
    ("text", "error"),
    [("shade", "There is no model 'shade' .* Did you mean 'shades'"),
     ("7", "No version 7 of 'shades' is in"),
     ("shades/x", "is not a version")],
)  # fmt: skip
def test_resolve_version_refuses_an_unknown_one(workspace, text, error):
    with pytest.raises(InputError, match=error):
        resolve_version(workspace, text)
