import subprocess
import sys
import time

import pytest

from pergola.components.errors import InputError, StepError
from pergola.components.release.registry.lookup import champion_of
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.tracker import Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A real SQLite store, made once; each test uses models and runs of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('workspace') / 'mlflow.db'}"


@pytest.fixture
def registry(uri):
    return Registry(uri)


@pytest.fixture
def saved_model(tmp_path):
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_run_is_found_again_by_its_key(registry):
    first = registry.runs.open("walk-1", "leaves")
    assert registry.runs.open("walk-1") == first
    assert registry.runs.open("walk-2") != first


def test_log_twice_leaves_one_of_each(registry, uri, tmp_path):
    (tmp_path / "report.html").write_text("<html>")
    run = registry.runs.open("log-twice")
    for _ in range(2):
        registry.runs.log(
            run,
            params={"train.epochs": 5, "long": "x" * 9000},
            metrics={"accuracy": 0.97, "train_accuracy": None},
            tags={"pergola.decision": "accepted"},
            files=[tmp_path / "report.html"],
        )
    data = registry._client.get_run(run).data
    assert data.params["train.epochs"] == "5"
    assert data.metrics == {"accuracy": 0.97}
    assert data.tags["pergola.decision"] == "accepted"
    assert len(registry._client.get_metric_history(run, "accuracy")) == 1
    assert [f.path for f in registry._client.list_artifacts(run)] == ["report.html"]


def test_log_takes_more_than_one_batch(registry):
    run = registry.runs.open("many")
    registry.runs.log(
        run,
        params={f"p{i}": i for i in range(230)},
        metrics={f"m{i}": i for i in range(40)},
        tags={f"t{i}": "x" for i in range(120)},
    )
    data = registry._client.get_run(run).data
    assert len(data.params) == 230 and len(data.metrics) == 40
    assert sum(tag.startswith("t") for tag in data.tags) == 120


def test_epochs_are_noted_once_each_after_a_restart(registry):
    run = registry.runs.open("epochs")
    history = [{"loss": 1.0 / step, "accuracy": 0.1 * step} for step in range(1, 6)]
    registry.runs.log_epochs(run, history[:3])
    registry.runs.log_epochs(run, history)
    noted = registry._client.get_metric_history(run, "loss")
    assert [(m.step, m.value) for m in noted] == [(i, pytest.approx(1 / i)) for i in range(1, 6)]


def test_register_twice_gives_the_same_version(registry, saved_model):
    run = registry.runs.open("register")
    first = registry.register("ferns", run, saved_model, sha256="a" * 64, export_key="k1")
    again = registry.register("ferns", run, saved_model, sha256="a" * 64, export_key="k1")
    other = registry.register("ferns", run, saved_model, sha256="b" * 64)
    assert (first.version, again, other.version) == (1, first, 2)
    assert (first.sha256, first.export_key, first.status, first.champion) == (
        "a" * 64,
        "k1",
        "registered",
        False,
    )


def test_register_keeps_the_saved_model_as_it_is(registry, saved_model, uri):
    run = registry.runs.open("stored")
    registry.register("stored", run, saved_model, sha256="a" * 64)
    found = registry._client.get_model_version("stored", "1")
    from pathlib import Path

    stored = Path(found.source)
    assert (stored / "saved_model.pb").read_bytes() == b"graph"
    assert (stored / "variables" / "variables.index").read_bytes() == b"index"
    assert stored.is_relative_to(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")


def three_versions(registry, saved_model, name):
    run = registry.runs.open(name)
    for letter in "abc":
        registry.register(name, run, saved_model, sha256=letter * 64)


def test_promote_moves_the_alias_and_remembers_the_one_before(registry, saved_model):
    three_versions(registry, saved_model, "roses")
    assert registry.champion("roses") is None
    assert registry.promote("roses", 1) is None
    assert registry.promote("roses", 3) == 1
    assert registry.promote("roses", 3) == 1  # said again: nothing moves
    champion = registry.champion("roses")
    assert (champion.version, champion.previous, champion.sha256) == (3, 1, "c" * 64)
    assert [v.version for v in registry.versions("roses")] == [3, 2, 1]


def test_withdraw_hands_the_alias_back(registry, saved_model):
    three_versions(registry, saved_model, "mosses")
    registry.promote("mosses", 1)
    registry.promote("mosses", 2)
    assert registry.withdraw("mosses", 3) == 2
    assert registry.withdraw("mosses", 2) == 1
    assert registry.champion("mosses").version == 1
    assert registry.withdraw("mosses", 1) is None
    assert registry.champion("mosses") is None
    assert {v.status for v in registry.versions("mosses")} == {"withdrawn"}


def test_champion_of_says_what_mlflow_says(registry, saved_model, uri):
    three_versions(registry, saved_model, "palms")
    assert champion_of(uri, "palms") is None
    registry.promote("palms", 1)
    registry.promote("palms", 2)
    assert champion_of(uri, "palms") == registry.champion("palms")


def test_champion_of_needs_no_mlflow(uri, registry, saved_model):
    three_versions(registry, saved_model, "pines")
    registry.promote("pines", 2)
    code = (
        "import sys; from pergola.components.release.registry.lookup import champion_of;"
        f"assert champion_of({uri!r}, 'pines').version == 2; assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_champion_of_a_store_that_does_not_exist_is_none_and_makes_none(tmp_path):
    assert champion_of(f"sqlite:///{tmp_path / 'mlflow.db'}", "leaves") is None
    assert list(tmp_path.iterdir()) == []


def test_versions_of_an_unknown_model_are_none(registry):
    assert registry.versions("nothing") == ()


def test_models_lists_what_is_registered(registry, saved_model):
    three_versions(registry, saved_model, "zinnias")
    assert "zinnias" in registry.models()


def test_registry_refuses_a_kind_of_store_that_it_does_not_know():
    with pytest.raises(InputError, match="sqlite:////absolute"):
        Registry("file:///tmp/mlruns")


def test_registry_says_that_the_database_is_broken(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StepError, match="registry"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_tracker_notes_epochs_without_holding_up_training(registry, uri):
    with Tracker(uri, "tracked") as tracker:
        begin = time.perf_counter()
        for step in range(1, 4):
            tracker.epoch(step, {"loss": 1.0 / step})
        assert time.perf_counter() - begin < 0.2
    assert tracker.problem == ""
    noted = registry._client.get_metric_history(registry.runs.open("tracked"), "loss")
    assert [m.step for m in noted] == [1, 2, 3]


def test_tracker_keeps_a_problem_to_itself_until_asked(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "run") as tracker:
        tracker.epoch(1, {"loss": 1.0})
    assert "registry" in tracker.problem


@pytest.mark.slow
def test_several_processes_may_make_the_store_at_once(tmp_path):
    code = f"from pergola.components.release.registry.registry import Registry; print(Registry('sqlite:///{tmp_path}/mlflow.db').runs.open('one'))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    done = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert all(done)
