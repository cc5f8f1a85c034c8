import pytest

from pergola.components.errors import StepError
from pergola.pipelines.kubeflow import failures


def publish(error):
    """A step."""
    with failures.recorded("publish"):
        if error:
            raise error
        return 3


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PERGOLA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PERGOLA_RUN_ID", "run-1")
    return str(tmp_path)


def test_the_error_of_a_step_is_kept_for_its_run(workspace):
    assert publish(None) == 3 and failures.read("run-1", workspace) == ""
    with pytest.raises(StepError):
        publish(StepError("The disk is full."))
    assert failures.read("run-1", workspace) == "publish failed: The disk is full."
    assert failures.read("run-2", workspace) == ""
    with pytest.raises(KeyError):
        publish(KeyError("x"))
    assert failures.read("run-1", workspace) == "publish failed: KeyError: 'x'"


def test_a_refusal_is_recorded_under_the_step_that_refused(workspace):
    with pytest.raises(failures.RefusedError, match="too few"):
        publish(failures.RefusedError("split", "There are too few images."))
    assert failures.read("run-1", workspace) == "split failed: There are too few images."


def test_a_record_that_cannot_be_written_hides_no_error(workspace, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for name, value in (("PERGOLA_WORKSPACE", str(tmp_path / "file")), ("PERGOLA_RUN_ID", "../../x"),
                        ("PERGOLA_RUN_ID", "")):  # fmt: skip
        monkeypatch.setenv(name, value)
        with pytest.raises(StepError, match="full"):
            publish(StepError("full"))
    assert [path.name for path in tmp_path.rglob("*.txt")] == []
