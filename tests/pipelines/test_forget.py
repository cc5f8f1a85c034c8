"""`pergola forget`: nothing of an image is left in a workspace, and everything still works."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pergola.components import settings as config
from pergola.components.artifacts.data import Split
from pergola.components.evaluation import thumbnails
from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.drift import DriftSettings
from pergola.components.release import champions
from pergola.components.store.checksums import CHECKSUMS, verify
from pergola.components.store.model_store import open_store
from pergola.components.training import warmup
from pergola.components.workspace import Workspace
from pergola.pipelines.commands.cli import pergola
from pergola.pipelines.forget import forget as front
from pergola.pipelines.forget.evidence import evidence_of
from pergola.pipelines.forget.removals import removals
from pergola.pipelines.local import run as local
from pergola.pipelines.local.progress import SilentDisplay
from pergola.pipelines.monitoring import drift, feedback
from pergola.pipelines.serve.session import logging_config
from pergola.serving.client.client import Client
from pergola.serving.wire import prediction_log
from tests.support import images as image_files
from tests.support import released, servers

SMALL = ("train.epochs=8", "model.architecture=cnn_pool", "gate.min_accuracy=0", "gate.min_recall=0",
         "gate.max_gap=1", "gate.max_loss=1", "gate.max_drop=1")  # fmt: skip


def id_of(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def forget(workspace: Workspace, *arguments: object):
    given = ["forget", *map(str, arguments), "--workspace", str(workspace.root), "--json"]
    answer = CliRunner().invoke(pergola, given)
    return answer.exit_code, json.loads(answer.stdout)


def files_with(root: Path, image: bytes) -> set[str]:
    """Files below `root` with the bytes of an image, as they are or in base64, or one of its thumbnails."""
    import pandas as pd

    wanted = [image, base64.b64encode(image), thumbnails.thumbnail(image).encode()]
    found = set()
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        data, name = path.read_bytes(), path.relative_to(root).as_posix()
        if any(one in data for one in wanted):
            found.add(name)
        if path.name == "manifest.parquet" and id_of(image) in set(pd.read_parquet(path)["id"]):
            found.add(name)
    return found


def as_warmup_requests(path: Path, *images: bytes) -> None:
    """What pergola 0.1.0 wrote: requests with images of the data set."""
    entry = prediction_log.message()()
    entry.predict_log.request.inputs["image"].dtype = 7
    entry.predict_log.request.inputs["image"].string_val.extend(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(prediction_log.frame(entry.SerializeToString()))


@pytest.mark.slow
def test_nothing_of_two_images_is_left_after_a_run_requests_feedback_and_a_drift_check(tmp_path):
    dataset = image_files.write_folder(tmp_path / "shapes", classes=3, per_class=40, size=16)
    workspace = Workspace(tmp_path / "work")
    settings = config.load(None, SMALL)
    first = local.run(dataset, settings, workspace, show=SilentDisplay())
    assert first.version == 1
    split = Split.table(workspace.state("shapes") / next(workspace.state("shapes").glob("split-*")).name)
    report = Path(first.report).read_text()
    tests = [dataset / path for path in split[split["split"] == "test"]["path"]]
    shown = [path for path in tests if thumbnails.thumbnail(path.read_bytes()) in report]
    tested, trained = (shown or tests)[0], dataset / split[split["split"] == "train"]["path"].iloc[0]
    both = [trained.read_bytes(), tested.read_bytes()]
    other = next(path for path in sorted(dataset.rglob("*.png")) if path not in (trained, tested))

    champions.write_models_config(workspace, lambda name: logging_config(workspace.request_log(name), 1.0))
    with servers.in_process(f"--model_config_file={workspace.models_config}") as server:
        with Client(f"localhost:{server.grpc_port}", model="shapes") as client:
            for image in (*both, *[other.read_bytes()] * 10):
                client.classify_images([image])
        servers.until(lambda: _logged(workspace) == 12)
        store = feedback.FeedbackStore.of(workspace, None, None)
        labels = tmp_path / "labels.csv"
        labels.write_text("".join(["image,label\n", *(f"{p},class_0\n" for p in (trained, tested, other))]))
        feedback.add_labels(store, labels)
        drift.drift(workspace, None, DriftSettings(min_requests=10), show=SilentDisplay())

        held = set().union(*(files_with(workspace.root, image) for image in both))
        kinds = {name.split("/")[0] if name[:5] != "steps" else name.split("/")[1] for name in held}
        assert {"scan", "shards", "evaluate", "requests", "feedback"} <= kinds
        assert not shown or {"runs", "report", "mlartifacts"} <= kinds
        assert "models" not in kinds and "export" not in kinds

        status, listed = forget(workspace, trained, id_of(both[1]), "--dry-run")
        assert status == 0 and set().union(*(files_with(workspace.root, image) for image in both)) == held
        status, done = forget(workspace, trained, id_of(both[1]))
        assert (status, done["removed"]) == (0, listed["removed"])
        with Client(f"localhost:{server.grpc_port}", model="shapes") as client:
            client.classify_images([other.read_bytes()])
        servers.until(lambda: _logged(workspace) == 11)

    assert not set().union(*(files_with(workspace.root, image) for image in both))
    (version,) = done["versions"]
    assert (version["model"], version["version"], version["source"]) == ("shapes", 1, str(dataset))
    assert {file["path"]: file["split"] for file in version["files"]} == {
        trained.relative_to(dataset).as_posix(): "train",
        tested.relative_to(dataset).as_posix(): "test",
    }
    assert done["images"] == [id_of(image) for image in both] and done["published"] == []
    assert feedback.feedback(store).num_images == 1
    verify(workspace.models / "shapes" / "1")
    status, again = forget(workspace, trained, tested)
    assert again["removed"] == [] and again["versions"] == done["versions"]

    trained.unlink()
    tested.unlink()
    second = local.run(dataset, settings, workspace, show=SilentDisplay())
    assert second.counts["images"] == 118 and second.decision in ("accepted", "rejected", "held")
    status, again = forget(workspace, *done["images"])
    assert again["removed"] == []  # the outputs of the new run are known to be without them


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Workspace]:
    """A data set and a workspace with its scan, checks, split and shards, unpacked from an archive."""
    folder = tmp_path_factory.mktemp("prepared")
    dataset = image_files.write_folder(folder / "shapes", classes=2, per_class=12, size=8)
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in dataset.rglob("*.png")}
    archive = image_files.write_tar(folder / "shapes.tar.gz", members)
    workspace = Workspace(folder / "work")
    with local.prepared(archive, config.load(None, []), workspace, SilentDisplay()):
        pass
    return dataset / "class_0" / "003.png", workspace


@pytest.mark.parametrize("done", range(6))
def test_a_removal_that_was_killed_continues(prepared, tmp_path, done):
    image, made = prepared[0].read_bytes(), prepared[1]
    shutil.copytree(made.root, tmp_path / "work")
    workspace = Workspace(tmp_path / "work")
    assert {name.split("/")[1] for name in files_with(workspace.root, image)} == {
        "scan",
        "shards",
        "unpacked",
    }
    todo = list(removals(workspace, evidence_of(workspace, [id_of(image)])))
    assert len(todo) == 5  # what was unpacked, three other outputs, and the scan
    for one in todo[:done]:
        one.do()
    for one in todo[done : done + 1]:  # killed in the midst of this one
        next(path for path in sorted(Path(one.place).rglob("*")) if path.is_file()).unlink()
    status, _ = forget(workspace, id_of(image))
    assert status == 0 and not files_with(workspace.root, image)
    assert not list(workspace.steps.glob("*/*/*"))
    assert forget(workspace, id_of(image))[1]["removed"] == []


def _logged(workspace: Workspace) -> int:
    try:
        return request_log.span_of(request_log.log_files(workspace.request_log("shapes"))).count
    except ValueError:
        return 0


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Workspace:
    """A workspace with a published version, and a log of six requests for six images."""
    workspace = released.workspace(tmp_path_factory.mktemp("forget") / "work")
    released.write_log(workspace, [released.image_of(number) for number in range(6)])
    return workspace


@pytest.fixture
def copied(served, tmp_path) -> Workspace:
    shutil.copytree(served.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def test_only_requests_with_the_image_leave_the_log(copied):
    status, done = forget(copied, id_of(released.image_of(3)))
    assert status == 0 and [one["kind"] for one in done["removed"]] == ["request log"]
    left = request_log.read_log(request_log.log_files(copied.request_log(released.MODEL)))
    assert [one.image for one in left] == [released.image_of(number) for number in (0, 1, 2, 4, 5)]
    assert done["versions"] == done["published"] == []


def test_the_last_image_of_feedback_leaves_no_empty_data_set(copied, tmp_path):
    store = feedback.FeedbackStore.of(copied, None, None)
    (tmp_path / "labels.csv").write_text(f"id,label\n{id_of(released.image_of(3))},bright\n")
    feedback.add_labels(store, tmp_path / "labels.csv")
    assert files_with(store.folder, released.image_of(3))
    forget(copied, id_of(released.image_of(3)))
    assert not files_with(copied.root, released.image_of(3))
    assert feedback.feedback(store).num_images == 0 and not (store.folder / feedback.LIST).exists()


def test_models_with_the_image_as_a_warmup_request_are_listed_and_not_changed(copied, tmp_path):
    image = released.image_of(50)
    model = copied.models / released.MODEL / "1"
    as_warmup_requests(model / warmup.EXTRA / warmup.FILE, released.image_of(51), image)
    (model / CHECKSUMS).unlink()
    store = tmp_path / "store"
    store.mkdir()
    open_store(store).put(model, "old", 4)
    before = {path: path.read_bytes() for path in copied.models.rglob("*") if path.is_file()}
    status, done = forget(copied, id_of(image), "--store", store)
    assert status == 0
    assert done["published"] == [
        {"model": released.MODEL, "version": 1, "place": str(model)},
        {"model": "old", "version": 4, "place": f"{store}/old/4"},
    ]
    assert before == {path: path.read_bytes() for path in copied.models.rglob("*") if path.is_file()}
    text = front.forget(copied, [id_of(image)]).summary()
    assert str(model) in text and "A published version never changes" in text


@pytest.mark.parametrize("text", ["abc", "0" * 63, "g" * 64, "gone.png", "3"])
def test_what_is_no_hash_and_no_image_is_refused(copied, text):
    status, answer = forget(copied, text)
    assert status == 2 and answer["error"].startswith(f"'{text}' is neither the SHA-256 of an image, 64")


def test_a_workspace_in_use_or_missing_is_refused(copied, tmp_path):
    with copied.lock("a run"):
        status, answer = forget(copied, "0" * 64)
    assert status == 2 and "is in use by a run" in answer["error"]
    status, answer = forget(Workspace(tmp_path / "none"), "0" * 64)
    assert status == 2 and "There is no workspace" in answer["error"]
