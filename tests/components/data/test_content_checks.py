"""Checks that read images: planted faults are reported, and nothing that is switched off."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.checks.facts import ImageAccess
from pergola.components.data.checks.image_features import extract_features
from pergola.components.data.checks.label_errors import LabelErrors
from pergola.components.data.checks.outliers import Outliers
from pergola.components.data.checks.shortcuts import Shortcuts
from pergola.components.data.checks.validate import (
    CHECKS,
    Needs,
    ValidateSettings,
    Validation,
    run_checks,
    validate,
)
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
        tmp_path_factory.mktemp("content") / "p", classes=CLASSES, per_class=PER_CLASS, size=SIZE
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


def checked(data, relabel="", weights="", **settings) -> Validation:
    source, manifest, _ = data
    images = ImageAccess(source, weights=weights, relabel=relabel)
    return run_checks(manifest, ValidateSettings(**settings), images)


def record(validation: Validation, kind: type):
    """The record of a kind; None where there is none."""
    return next((record for record in validation.records if isinstance(record, kind)), None)


@pytest.fixture(scope="module")
def found(data) -> Validation:
    return checked(data)


def test_content_checks_find_what_was_planted(found):
    findings = {finding.check: finding for finding in found.report.findings}
    assert {*findings} >= {"label_error", "shortcut", "grey_among_colour"}
    assert {suspect.path for suspect in record(found, LabelErrors).suspects[:2]} == set(FLIPPED)
    assert set(FLIPPED) <= set(findings["label_error"].paths)
    assert (
        findings["label_error"].notes[findings["label_error"].paths.index(FLIPPED[0])] == "looks like class_1"
    )
    given_away = [finding.message for finding in found.report.findings if finding.check == "shortcut"]
    assert any("'class_2' can be predicted by its border alone" in message for message in given_away)
    assert all(finding.paths for finding in found.report.findings if finding.check == "shortcut")
    assert findings["grey_among_colour"].paths == ("class_0/011.png", "class_0/012.png")
    assert all(finding.severity != "critical" for finding in found.report.findings)
    assert "plain features of shape and colour" in findings["label_error"].message
    assert record(found, Outliers) is None  # plain features cannot find them


def test_validation_writes_a_list_to_copy_and_a_page(found, data, tmp_path):
    source, manifest, report = data
    found.save(tmp_path)
    assert ValidationReport.load(tmp_path) == found.report
    with open(tmp_path / "relabel.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == CLASSES * PER_CLASS and {row["path"] for row in rows[:2]} == set(FLIPPED)
    assert not (tmp_path / "relabel.csv").stat().st_mode & 0o222
    assert LabelErrors.load(tmp_path) == record(found, LabelErrors)
    assert Shortcuts.load(tmp_path) == record(found, Shortcuts)
    both = found.report
    assert set(report.findings) <= set(both.findings)
    assert both.ok and [f.severity for f in both.findings] == sorted(
        (f.severity for f in both.findings), key=("critical", "warning", "info").index
    )
    html = write_page(both, manifest, source, tmp_path).read_text()
    assert "looks like class_1" in html and "Grey among colour" in html


def test_reviewed_labels_are_not_suspected_again(data, tmp_path, found):
    first = record(found, LabelErrors).suspects[0]
    (tmp_path / "r.csv").write_text(f"id,new_label\n{first.id},{first.label}\n")
    again = checked(data, str(tmp_path / "r.csv"), shortcuts=False, outliers=False)
    assert first.id not in {suspect.id for suspect in record(again, LabelErrors).suspects}
    assert record(again, Shortcuts) is None and {f.check for f in again.report.findings} == {"label_error"}


def test_content_checks_can_be_switched_off(data):
    off = {"label_errors": False, "outliers": False, "shortcuts": False, "crops": False}
    for settings in ({"max_inspected": 0}, off):
        found = checked(data, **settings)
        assert (found.report, found.records) == (data[2], ())


def test_content_checks_report_when_they_read_a_sample(data):
    sample = checked(data, max_inspected=100, label_errors=False)
    (told,) = [finding for finding in sample.report.findings if finding.check == "sampled"]
    assert "in 100 of 180 images, drawn at random" in told.message


def test_corrections_of_other_images_are_refused(data, tmp_path):
    (tmp_path / "r.csv").write_text(f"id,new_label\n{'0' * 64},class_0\n")
    with pytest.raises(InputError, match=r"none of the 1 corrections in .* belongs to an image of this data"):
        checked(data, str(tmp_path / "r.csv"))


def test_missing_weights_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"model\.weights: '.*no\.h5' is no file"):
        checked(data, weights=str(tmp_path / "no.h5"))


def test_extract_features_skips_missing_and_excluded_images(data, tmp_path):
    source, manifest, _ = data
    root = tmp_path / "p"
    shutil.copytree(Path(source.root), root)  # type: ignore[attr-defined]
    (root / "class_0/000.png").unlink()
    (root / "class_0/001.png").write_bytes(b"no image any more")
    excluded = {"class_0/002.png"}
    seen = extract_features(
        open_source(root, ScanSettings(), tmp_path / "s"), manifest, excluded, max_images=1000
    )
    assert len(seen.ids) == len(seen.rows) == len(seen.vectors) == len(seen.borders) == 177
    assert seen.num_usable == 179 and seen.paths[0] == "class_0/003.png"
    assert seen.labels[-1] == "class_2" and np.isfinite(seen.vectors).all()


def test_every_check_has_its_own_name_and_known_settings():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    known = ValidateSettings.__dataclass_fields__
    assert all(name in known for check in CHECKS for name in check.settings)
    assert all(check.settings for check in CHECKS if check.needs is not Needs.MANIFEST)
