"""The second look at images: what is planted is found and said, what is not looked for is not."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.checks.content_checks import Network, examine, nothing
from pergola.components.data.checks.image_features import look
from pergola.components.data.checks.label_errors import LabelErrors
from pergola.components.data.checks.shortcuts import Shortcuts
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.page import write_page
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.images import pixels, png, write_folder

CLASSES, PER_CLASS, SIZE = 3, 60, 32
FLIPPED = ("class_0/003.png", "class_1/007.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Stripes with two labels exchanged, a class in a red frame, two grey ones: source, manifest, report."""
    root = write_folder(
        tmp_path_factory.mktemp("second") / "p", classes=CLASSES, per_class=PER_CLASS, size=SIZE
    )
    for number in range(PER_CLASS):
        image = pixels(2, number, size=SIZE)
        image[:2], image[-2:], image[:, :2], image[:, -2:] = ((200, 10, 20),) * 4
        (root / f"class_2/{number:03}.png").write_bytes(png(image))
    for number in (11, 12):
        (root / f"class_0/{number:03}.png").write_bytes(png(pixels(0, number, size=SIZE, channels=1)))
    one, other = (root / path for path in FLIPPED)
    shutil.move(one, root / "kept.png")
    shutil.move(other, one)
    shutil.move(root / "kept.png", other)
    work = root.parent
    source = open_source(root, ScanSettings(), work / "scratch")
    scan(source, work / "m", ScanSettings())
    return source, work / "m", validate(work / "m", ValidateSettings())


def seen(data, relabel="", **settings):
    source, manifest, report = data
    return examine(source, manifest, report, ValidateSettings(**settings), Network(), relabel)


@pytest.fixture(scope="module")
def found(data):
    return seen(data)


def test_second_look_finds_what_was_planted(found):
    findings = {finding.check: finding for finding in found.findings}
    assert {*findings} >= {"label_error", "shortcut", "grey_among_colour"}
    assert {suspect.path for suspect in found.label_errors.suspects[:2]} == set(FLIPPED)
    assert set(FLIPPED) <= set(findings["label_error"].paths)
    assert (
        findings["label_error"].notes[findings["label_error"].paths.index(FLIPPED[0])] == "looks like class_1"
    )
    given_away = [finding.message for finding in found.findings if finding.check == "shortcut"]
    assert any("'class_2' can be told by its border alone" in message for message in given_away)
    assert all(finding.paths for finding in found.findings if finding.check == "shortcut")
    assert findings["grey_among_colour"].paths == ("class_0/011.png", "class_0/012.png")
    assert all(finding.severity != "critical" for finding in found.findings)
    assert "plain features of shape and colour" in findings["label_error"].message
    assert found.outliers is None  # plain features cannot tell


def test_second_look_leaves_a_list_to_copy_and_a_page(found, data, tmp_path):
    source, manifest, report = data
    found.save(tmp_path)
    with open(tmp_path / "relabel.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == CLASSES * PER_CLASS and {row["path"] for row in rows[:2]} == set(FLIPPED)
    assert not (tmp_path / "relabel.csv").stat().st_mode & 0o222
    assert LabelErrors.load(tmp_path) == found.label_errors and Shortcuts.load(tmp_path) == found.shortcuts
    both = found.added_to(report)
    assert both.ok and [f.severity for f in both.findings] == sorted(
        (f.severity for f in both.findings), key=("critical", "warning", "info").index
    )
    html = write_page(both, manifest, source, tmp_path).read_text()
    assert "looks like class_1" in html and "Grey among colour" in html


def test_second_look_does_not_ask_twice(data, tmp_path, found):
    first = found.label_errors.suspects[0]
    (tmp_path / "r.csv").write_text(f"id,new_label\n{first.id},{first.label}\n")
    again = seen(data, str(tmp_path / "r.csv"), shortcuts=False, outliers=False)
    assert first.id not in {suspect.id for suspect in again.label_errors.suspects}
    assert again.shortcuts is None and {f.check for f in again.findings} == {"label_error"}


def test_second_look_is_switched_off(data):
    assert seen(data, max_looked_at=0) == nothing(data[2])
    assert seen(data, label_errors=False, outliers=False, shortcuts=False, crops=False) == nothing(data[2])


def test_second_look_says_when_it_looked_at_a_part(data):
    some = seen(data, max_looked_at=100, label_errors=False)
    (told,) = [finding for finding in some.findings if finding.check == "looked_at"]
    assert "in 100 of 180 images, drawn by chance" in told.message


def test_second_look_refuses_corrections_of_other_images(data, tmp_path):
    (tmp_path / "r.csv").write_text(f"id,new_label\n{'0' * 64},class_0\n")
    with pytest.raises(InputError, match=r"none of the 1 corrections in .* belongs to an image of this data"):
        seen(data, str(tmp_path / "r.csv"))


def test_second_look_refuses_weights_that_are_not_there(data, tmp_path):
    source, manifest, report = data
    with pytest.raises(InputError, match=r"model\.weights: '.*no\.h5' is no file"):
        examine(source, manifest, report, ValidateSettings(), Network("auto", str(tmp_path / "no.h5")))


def test_look_passes_over_what_is_gone_and_what_is_kept_out(data, tmp_path):
    source, manifest, _ = data
    root = tmp_path / "p"
    shutil.copytree(Path(source.root), root)  # type: ignore[attr-defined]
    (root / "class_0/000.png").unlink()
    (root / "class_0/001.png").write_bytes(b"no image any more")
    less = ValidationReport(True, (), {"class_0/002.png": "exact_duplicate"}, 180, {})
    seen = look(open_source(root, ScanSettings(), tmp_path / "s"), manifest, less, max_images=1000)
    assert len(seen.ids) == len(seen.rows) == len(seen.vectors) == len(seen.borders) == 177
    assert seen.num_usable == 179 and seen.paths[0] == "class_0/003.png"
    assert seen.labels[-1] == "class_2" and np.isfinite(seen.vectors).all()
