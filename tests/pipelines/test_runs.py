import pytest

from pergola.components.errors import InputError
from pergola.components.settings import Settings
from pergola.components.workspace import Workspace
from pergola.pipelines.local.runs import DONE, FAILED, Run, _new_id, listed


def test_ids_are_in_the_order_of_runs():
    """Two runs that begin within a second: the later one is the last."""
    ids = [_new_id(1_800_000_000 + i / 1000) for i in range(2000)]
    assert ids == sorted(ids) and len(set(ids)) == 2000
    assert ids[0].startswith("20270115-080000-0000")


def test_runs_of_a_workspace_are_listed_with_their_outcomes(tmp_path):
    workspace = Workspace(tmp_path / "work")
    workspace.create()
    ends = [
        (DONE, {"result": {"decision": "accepted", "model": "leaves", "version": 1}}),  # by 0.1.0
        (DONE, {"result": {"outcome": "held", "model": "leaves", "version": 2}}),
        (FAILED, {"error": "The disk is full."}),
    ]
    for number, (state, facts) in enumerate(ends):
        Run.begin(workspace, tmp_path, Settings(), f"run {number}").end(state, {}, **facts)
    rows, text = listed(workspace, 10)
    assert [(row["outcome"], row["version"]) for row in rows] == [(None, None), ("held", 2), ("accepted", 1)]
    assert [" ".join(line.split()[1:]) for line in text.splitlines()] == [
        "failed The disk is full.", "held leaves version 2", "accepted leaves version 1",
    ]  # fmt: skip
    assert len(listed(workspace, 1)[0]) == 1
    with pytest.raises(InputError, match="There is no workspace"):
        listed(Workspace(tmp_path / "none"), 1)
