import pytest

from pergola.components.errors import StepError
from pergola.pipelines.kubeflow import failures, pod_data, pod_model, pod_release


@failures.noted
def publish(error):
    """A step."""
    if error:
        raise error
    return 3


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PERGOLA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PERGOLA_RUN_ID", "run-1")
    return str(tmp_path)


def test_a_failing_step_leaves_its_words_for_its_run(workspace):
    assert publish(None) == 3 and failures.read("run-1", workspace) == ""
    with pytest.raises(StepError):
        publish(StepError("The disk is full."))
    assert failures.read("run-1", workspace) == "publish failed: The disk is full."
    assert failures.read("run-2", workspace) == ""
    with pytest.raises(KeyError):
        publish(KeyError("x"))
    assert failures.read("run-1", workspace) == "publish failed: KeyError: 'x'"


def test_a_note_that_cannot_be_written_hides_no_error(workspace, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for name, value in (("PERGOLA_WORKSPACE", str(tmp_path / "file")), ("PERGOLA_RUN_ID", "../../x"),
                        ("PERGOLA_RUN_ID", "")):  # fmt: skip
        monkeypatch.setenv(name, value)
        with pytest.raises(StepError, match="full"):
            publish(StepError("full"))
    assert [path.name for path in tmp_path.rglob("*.txt")] == []


def test_every_step_of_a_pod_is_noted(workspace):
    with pytest.raises(Exception, match="none"):
        pod_model.gate("none", "none", "none", workspace + "/out", {})
    assert failures.read("run-1", workspace).startswith("gate failed: ")
    modules = (pod_data, pod_model, pod_release)
    for step in (
        "scan",
        "validate",
        "split",
        "shards",
        "tune",
        "train",
        "champion",
        "gate",
        "publish",
        "confirm",
    ):
        (function,) = (vars(module)[step] for module in modules if step in vars(module))
        assert hasattr(function, "__wrapped__"), step
