"""`pergola feedback` on a small real model's log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pergola.components.data.manifest.scan import ScanSettings
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from pergola.components.workspace import Workspace
from pergola.pipelines.commands.cli import pergola
from pergola.pipelines.monitoring import feedback as front
from tests.support import released

NUM = 10


def true_label(number: int) -> str:
    return ("dark", "bright")[number % 2]


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> Path:
    """Images that were sent: even ones are dark, odd ones bright, and 11 is as dark as 10."""
    folder = tmp_path_factory.mktemp("sent")
    for number in range(NUM):
        (folder / f"{number}.png").write_bytes(released.image_of(number))
    (folder / "11.png").write_bytes(released.image_of(10))
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory, sent) -> Workspace:
    """A workspace that was asked about each image, about the first one three times."""
    workspace = released.workspace(tmp_path_factory.mktemp("feedback") / "work")
    encoded = [path.read_bytes() for path in sorted(sent.glob("*.png"))]
    released.write_log(workspace, [*encoded, encoded[0], encoded[0]])
    return workspace


@pytest.fixture
def store(asked, tmp_path) -> front.FeedbackStore:
    """Fresh feedback on the one log."""
    log = asked.request_log(released.MODEL)
    workspace = Workspace(tmp_path / "work")
    workspace.create()
    (workspace.models / released.MODEL).parent.mkdir(exist_ok=True)
    (workspace.models / released.MODEL).symlink_to(asked.models / released.MODEL)
    return front.FeedbackStore.of(workspace, None, log)


def listed(path: Path, *rows: str, header: str = "image,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def every(sent: Path) -> list[str]:
    rows = [f"{number}.png,{true_label(number)}" for number in range(NUM)]
    return [*rows, "11.png,bright"]


def test_feedback_gives_live_accuracy_and_counts_an_image_once(store, sent):
    found = front.add_labels(store, listed(sent / "all.csv", *every(sent)))
    assert (found.taken, found.known, found.unmatched, found.num_images) == (11, 0, (), 11)
    (live,) = found.versions
    assert (live.version, live.num_images, live.num_right) == (1, 11, 10)
    assert live.interval == pytest.approx((0.6226, 0.9838), abs=1e-3)  # Wilson 1927, by hand
    assert {one.label: (one.num_right, one.num_images) for one in live.classes} == {
        "bright": (5, 6), "dark": (5, 5)}  # fmt: skip
    assert found.tested[1] > 0.9
    again = front.add_labels(store, sent / "all.csv")
    assert (again.taken, again.known, again.num_images) == (0, 11, 11)
    assert again.versions == found.versions == front.feedback(store).versions


def test_feedback_takes_ids_and_reports_what_is_not_in_the_log(store, sent):
    id = hashlib.sha256((sent / "2.png").read_bytes()).hexdigest()
    path = listed(sent / "ids.csv", f"{id};dark", f"{'0' * 64};bright", f"{'1' * 64};", header="id;label")
    found = front.add_labels(store, path)
    assert (found.taken, found.unmatched) == (1, ("0" * 64,))
    with pytest.raises(InputError, match=r"None of the 1 labelled images in .* matches a logged request"):
        front.add_labels(store, listed(sent / "none.csv", f"{'0' * 64},bright", header="id,label"))


def test_feedback_refuses_conflicts_as_a_whole(store, sent):
    both = listed(sent / "both.csv", "1.png,bright", "0.png,dark", "1.png,dark")
    with pytest.raises(InputError, match=r"1\.png is 'bright' in line 2 and 'dark' in line 4"):
        front.add_labels(store, both)
    assert front.feedback(store).num_images == 0
    front.add_labels(store, listed(sent / "one.csv", "1.png,bright"))
    other = listed(sent / "other.csv", "1.png,dark", "0.png,dark")
    with pytest.raises(InputError, match=r"1 images have another label .* 'dark', was 'bright'"):
        front.add_labels(store, other)
    assert front.feedback(store).num_images == 1
    replaced = front.add_labels(store, other, replace=True)
    assert (replaced.num_images, replaced.taken, replaced.versions[0].num_right) == (2, 2, 1)


@pytest.mark.parametrize(
    ("header", "row", "error"),
    [
        ("image,label", "1.png,brigth", r"line 2: 'brigth' is not a class .* Did you mean 'bright'\?"),
        ("image,label", "gone.png,dark", r"line 2: 'gone\.png' cannot be read"),
        ("id,label", "abc,dark", "'abc' is not an id"),
        ("image,label", "1.png,", "has no row with a label"),
        ("image,class", "1.png,dark", "has the columns image, class: its first line must name 'label'"),
        ("image,label", ",dark", "has no image"),
    ],
)
def test_feedback_refuses_a_list_that_cannot_be_used(store, sent, header, row, error):
    with pytest.raises(InputError, match=error):
        front.add_labels(store, listed(sent / "bad.csv", row, header=header))
    assert front.feedback(store).num_images == 0


def test_a_class_that_is_really_new_can_be_named(store, sent):
    path = listed(sent / "new.csv", "1.png,striped")
    found = front.add_labels(store, path, new_classes=["striped"])
    assert (found.versions[0].classes[0].label, found.versions[0].num_right) == ("striped", 0)


def test_sample_prints_the_command_that_adds_the_labels(asked, tmp_path):
    todo = tmp_path / "todo"
    command = ["feedback", "--sample", str(todo), "--count", "1", "--workspace", str(asked.root)]
    result = CliRunner().invoke(pergola, command)
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("1 image. ")
    assert second.split() == ["pergola", "feedback", f"{todo}/labels.csv", "--workspace", str(asked.root)]


def test_sample_writes_images_to_label_and_reads_the_list_back(store, sent, tmp_path):
    front.add_labels(store, listed(sent / "one.csv", "1.png,bright"))
    assert front.sample(store, tmp_path / "todo", 6) == 6
    path = tmp_path / "todo" / front.LIST
    text = path.read_text()
    assert len(list((tmp_path / "todo" / "images").iterdir())) == 6 and "images/" in text
    with pytest.raises(InputError, match="may hold labels"):
        front.sample(store, tmp_path / "todo", 6)
    path.write_text(text.replace(",,", ",dark,"))
    assert front.add_labels(store, path).num_images == 7
    assert front.sample(store, tmp_path / "rest", 100) == 4


def test_labelled_images_join_the_next_data_set(store, sent, tmp_path):
    from tests.support.images import write_folder

    found = front.add_labels(store, listed(sent / "all.csv", *every(sent)))
    dataset = write_folder(tmp_path / "dataset", classes=2, per_class=3)
    source = open_source(dataset, ScanSettings(also=found.data_set), tmp_path / "scratch")
    entries = list(source.entries())
    assert len(entries) == 6 + 11 and [e.path for e in entries] == sorted(e.path for e in entries)
    also = [entry for entry in entries if entry.path.startswith("also:")]
    assert {entry.label for entry in also} == {"dark", "bright"}
    wanted = {released.image_of(number) for number in range(NUM)} | {released.image_of(10)}
    assert {source.read(entry.path) for entry in also} == wanted
    assert source.read("class_0/000.png") == (dataset / "class_0" / "000.png").read_bytes()
    (dataset / "also:x").mkdir()
    (dataset / "also:x" / "1.png").write_bytes(released.image_of(1))
    with pytest.raises(InputError, match="rename it"):
        list(open_source(dataset, ScanSettings(also=found.data_set), tmp_path / "scratch").entries())


def test_export_copies_into_a_folder_a_class_once(store, sent, tmp_path):
    front.add_labels(store, listed(sent / "all.csv", *every(sent)))
    assert front.export(store, tmp_path / "out") == 11
    assert len(list((tmp_path / "out" / "dark").glob("*.png"))) == 5
    assert front.export(store, tmp_path / "out") == 0


def test_feedback_command_prints_text_and_json(store, sent):
    path = listed(sent / "all.csv", *every(sent))
    options = ["--workspace", str(store.workspace.root)]
    done = CliRunner().invoke(pergola, ["feedback", str(path), "--log", store.log, *options])
    assert done.exit_code == 0 and "version 1: accuracy 90.9% (62.3% to 98.4%) of 11" in done.output
    printed = CliRunner().invoke(pergola, ["feedback", "--json", *options])
    assert json.loads(printed.stdout)["num_images"] == 11
    both = CliRunner().invoke(pergola, ["feedback", str(path), "--sample", "x", *options])
    assert both.exit_code == 2


def test_live_accuracy_is_that_of_each_version():
    from pergola.components.evaluation.drift.feedback import Feedback, answered, live_accuracy, merge
    from pergola.components.evaluation.drift.request_log import Logged

    images = [b"a", b"b", b"c"]
    labels = {hashlib.sha256(image).hexdigest(): "dark" for image in images}
    logged = [Logged(version, 5, image, np.array([p, 1 - p], np.float32))
              for version, p in ((1, 0.9), (2, 0.2)) for image in images]  # fmt: skip
    rows = answered([*logged, logged[0]], labels, lambda version: ("dark", "bright"))
    found = live_accuracy(merge(Feedback(), rows))
    assert [(one.version, one.num_right, one.num_images) for one in found] == [(2, 0, 3), (1, 3, 3)]
    assert answered(logged, labels, lambda version: None) == []
