"""Names of classes and files that would be commands to a terminal, a spreadsheet, Markdown or a browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.manifest.relabel import Suspect, read_relabel, write_relabel
from pergola.components.data.sources.settings import ScanSettings
from pergola.components.data.sources.source import open_source
from pergola.components.evaluation.drift.feedback_list import read_labels, write_list
from pergola.components.outside_text import cell, from_cell, markdown, visible, visible_json
from pergola.pipelines.kubeflow import visuals
from tests.support import images
from tests.support.command import pergola

NAMES = (
    "=cmd|' -C calc'!A0",
    "\x1b[31mred\x1b]0;title\x07",
    "oak\u202egnp",
    "<img src=x onerror=alert(1)>",
    "a](http:evil.example)[b",
    "@SUM(A1)",
    "'=1+1",
)
SEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

METADATA_ALONE = [f"--set=validate.{check}=false" for check in ("label_errors", "crops", "shortcuts")]


def strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from strings(one)


def pages_are_plain(folder: Path) -> int:
    """How many pages there are; none has a tag or a character that a name brought in."""
    pages = list(folder.rglob("*.html"))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<img src=x" not in text and not SEEN.search(text), page
    return len(pages)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A class for each name, with good files, copies and a broken file of that name too."""
    root = tmp_path_factory.mktemp("hostile") / "dataset"
    for label, name in enumerate(NAMES):
        folder = root / (name if name.isprintable() or "\u202e" in name else f"class {label}")
        folder.mkdir(parents=True)
        for number in range(8):
            image = images.png(images.pixels(label, number, classes=len(NAMES)))
            (folder / f"{name}{number}.png").write_bytes(image)
        (folder / f"{name}-broken.png").write_bytes(b"\x89PNG")
    for other in (NAMES[0], NAMES[3]):
        shutil.copy(root / "class 1" / f"{NAMES[1]}0.png", root / other / f"{other}-copy.png")
    return root


def test_validate_prints_nothing_that_steers_a_terminal(dataset, tmp_path):
    done = pergola("validate", dataset, "--workspace", tmp_path, *METADATA_ALONE)
    assert done.returncode in (0, 1), done.stderr
    assert not SEEN.search(done.stdout) and not SEEN.search(done.stderr)
    assert "\\x1b[31mred" in done.stdout + done.stderr
    assert pages_are_plain(tmp_path)
    reports = [ValidationReport.load(file.parent) for file in tmp_path.rglob("validation.json")]
    assert reports
    for report in reports:
        shown = visuals.findings(report)
        assert not SEEN.search(shown) and not re.search(r"(?<!\\)<img|(?<!\\)\]\(", shown)


def test_validate_gives_names_as_json_escapes_them(dataset, tmp_path):
    done = pergola("validate", dataset, "--workspace", tmp_path, "--json", *METADATA_ALONE)
    assert not SEEN.search(done.stdout) and not SEEN.search(done.stderr)
    texts = strings(json.loads(done.stdout))
    assert any(NAMES[1] in text for text in texts)


@pytest.mark.slow
def test_run_leaves_pages_and_messages_that_are_plain(dataset, tmp_path):
    small = ("--set=model.architecture=cnn_pool", "--set=train.epochs=1")
    done = pergola("run", dataset, "--workspace", tmp_path, *small, *METADATA_ALONE)
    assert done.returncode == 0, done.stderr
    assert not SEEN.search(done.stdout) and not SEEN.search(done.stderr)
    assert "\\x1b[31mred" in done.stdout
    assert pages_are_plain(tmp_path) >= 3  # of the step, of the run, and MLflow's copy
    texts = [file for ending in ("toml", "log", "csv") for file in tmp_path.rglob(f"*.{ending}")]
    assert texts
    for file in texts:
        assert not SEEN.search(file.read_text(encoding="utf-8")), file
    for file in (tmp_path / "runs").rglob("run.json"):
        assert any(NAMES[1] in text for text in strings(json.loads(file.read_text(encoding="utf-8"))))


def test_errors_that_name_a_file_print_no_control_characters(tmp_path):
    done = pergola("validate", tmp_path / NAMES[1], "--workspace", tmp_path / "work")
    assert done.returncode == 2 and "\\x1b[31mred" in done.stderr
    assert not SEEN.search(done.stderr)


@pytest.mark.parametrize("name", NAMES)
def test_lists_hold_no_formulas_and_give_names_back(tmp_path, name):
    suspects = [Suspect("a" * 64, f"{name}/1.png", name, name, 0.01, True)]
    write_relabel(suspects, tmp_path / "relabel.csv")
    with open(tmp_path / "relabel.csv", newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert not any(value.startswith(("=", "+", "-", "@")) for value in row.values())
    assert (from_cell(row["label"]), from_cell(row["path"])) == (name, f"{name}/1.png")
    row["new_label"] = row["label"]
    with open(tmp_path / "edited.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    assert read_relabel(tmp_path / "edited.csv", NAMES) == {"a" * 64: name}

    (tmp_path / f"{cell(name)[:3]}.png").write_bytes(images.png(images.pixels(0, 0)))
    rows = [{"image": f"{cell(name)[:3]}.png", "label": name}]
    write_list(["image", "label"], rows, tmp_path / "labels.csv")
    if name.isprintable():
        assert [one.label for one in read_labels(tmp_path / "labels.csv", NAMES)] == [name]


def test_lists_of_images_read_what_was_written(tmp_path):
    for number, name in enumerate(("=a", "@b")):
        (tmp_path / f"{name}.png").write_bytes(images.png(images.pixels(0, number)))
    rows = [{"path": f"{name}.png", "label": name} for name in ("=a", "@b")]
    write_list(["path", "label"], rows, tmp_path / "list.csv")
    source = open_source(tmp_path / "list.csv", ScanSettings(), tmp_path / "scratch")
    assert [(entry.path, entry.label) for entry in source.entries()] == [("=a.png", "=a"), ("@b.png", "@b")]


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_shown_as_they_are(name):
    assert not SEEN.search(visible(name)) and not SEEN.search(markdown(name))
    assert (
        from_cell(cell(name)) == name
        and json.loads(visible_json(json.dumps(name, ensure_ascii=False))) == name
    )
