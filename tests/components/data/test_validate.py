"""validate: what Great Expectations finds, what stays out, what stops the run, and the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pergola.components.artifacts.data import Finding, Manifest, ValidationReport
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.expectations import rules
from pergola.components.data.expectations.great_expectations import Checker
from pergola.components.data.expectations.own_rules import OwnChecker
from pergola.components.data.manifest.index import build_index
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.page import write_page
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.images import jpeg, pixels, png, truncated, write_folder
from tests.support.many_rows import path_of, write_manifest


def checked(root: Path, work: Path, **settings) -> tuple[ValidationReport, dict[str, Finding]]:
    scan(open_source(root, ScanSettings(), work / "scratch"), work / "m", ScanSettings())
    report = validate(work / "m", ValidateSettings(**settings))
    return report, {finding.check: finding for finding in report.findings}


@pytest.fixture
def root(tmp_path) -> Path:
    return write_folder(tmp_path / "p", classes=3, per_class=22, size=32)


def test_validate_finds_nothing_in_clean_data(tmp_path, root):
    report, findings = checked(root, tmp_path)
    assert report.ok and not findings and not report.quarantined and not report.groups
    assert report.counts == {"class_0": 22, "class_1": 22, "class_2": 22}
    assert report.num_images == 66


def test_validate_finds_planted_faults(tmp_path, root):
    (root / "class_0/text.jpg").write_bytes(b"hello")
    (root / "class_0/cut.jpg").write_bytes(truncated(jpeg(pixels(0, 90, size=64))))
    shutil.copy(root / "class_0/001.png", root / "class_0/zz copy.png")
    shutil.copy(root / "class_0/002.png", root / "class_1/zz conflict.png")
    (root / "class_2/blank.png").write_bytes(png(np.full((32, 32), 255, np.uint8)))
    (root / "class_2/near.png").write_bytes(png((pixels(2, 5, size=32) * 0.8).astype(np.uint8)))
    (root / "class_1/other.png").write_bytes(png((pixels(2, 7, size=32)[:, ::-1] * 0.9).astype(np.uint8)))
    (root / "class_1/long.png").write_bytes(png(pixels(1, 91, size=64)[:10]))
    (root / "class_1/huge.png").write_bytes(png(pixels(1, 92, size=330)))
    report, findings = checked(root, tmp_path)
    assert report.ok
    assert report.quarantined == {
        "class_0/cut.jpg": "unreadable",
        "class_0/text.jpg": "unreadable",
        "class_0/zz copy.png": "exact_duplicate",
        "class_0/002.png": "label_conflict",
        "class_1/zz conflict.png": "label_conflict",
    }
    assert findings["near_duplicate"].paths == (
        "class_1/other.png", "class_2/005.png", "class_2/007.png", "class_2/near.png",
    )  # fmt: skip
    assert findings["near_label_conflict"].paths == ("class_1/other.png", "class_2/007.png")
    assert findings["blank"].paths == ("class_2/blank.png",)
    assert findings["odd_shape"].paths == ("class_1/long.png",)
    assert findings["odd_scale"].paths == ("class_1/huge.png",)
    assert findings["unreadable"].severity == "warning"
    assert "2 of 75 files cannot be read, such as 'class_0/cut.jpg'" in findings["unreadable"].message
    assert report.counts == {"class_0": 21, "class_1": 25, "class_2": 24}
    table = Manifest.table(tmp_path / "m", ["path", "id"]).set_index("path")["id"]
    groups = [
        {table["class_2/005.png"], table["class_2/near.png"]},
        {table["class_2/007.png"], table["class_1/other.png"]},
    ]
    assert report.groups == {id: min(group) for group in groups for id in group}


def test_validate_sees_leaks_across_a_given_split(tmp_path):
    write_folder(tmp_path / "p/train", classes=2, per_class=22, size=32)
    write_folder(tmp_path / "p/test", classes=2, per_class=22, size=32, seed=1)
    shutil.copy(tmp_path / "p/train/class_0/003.png", tmp_path / "p/test/class_0/copy.png")
    (tmp_path / "p/test/class_1/near.png").write_bytes(
        png((pixels(1, 4, classes=2, size=32) * 0.9).astype(np.uint8))
    )
    report, findings = checked(tmp_path / "p", tmp_path)
    assert findings["split_leak"].paths == (
        "test/class_0/copy.png", "test/class_1/near.png", "train/class_0/003.png", "train/class_1/004.png",
    )  # fmt: skip
    # Of equal files the one for testing counts.
    assert report.quarantined == {"train/class_0/003.png": "exact_duplicate"}


def test_validate_stops_at_classes_that_are_too_small(tmp_path, root):
    (root / "rare").mkdir()
    for number in range(2):
        (root / f"rare/{number}.png").write_bytes(png(pixels(1, 300 + number, size=32)))
    shutil.copy(root / "rare/0.png", root / "rare/copy.png")
    report, findings = checked(root, tmp_path)
    assert not report.ok
    assert findings["too_few"].severity == "critical" and "'rare: 2'" in findings["too_few"].message
    assert findings["imbalance"].severity == "warning"
    assert (
        "an image of 'rare' counts 11.0 times one of 'class_0' in training" in findings["imbalance"].message
    )
    assert report.findings[0].severity == "critical"


def test_validate_stops_when_too_much_would_be_left_out(tmp_path, root):
    for number in range(20):
        (root / f"class_0/bad{number}.jpg").write_bytes(b"no image %d" % number)
    report, findings = checked(root, tmp_path)
    assert not report.ok and findings["quarantine"].count == 20
    report, findings = checked(root, tmp_path, max_quarantined=0.5)
    assert report.ok and "quarantine" not in findings


def test_validate_does_not_count_copies_as_lost(tmp_path, root):
    for number in range(22):
        shutil.copy(root / f"class_0/{number:03}.png", root / f"class_0/copy {number}.png")
    report, findings = checked(root, tmp_path, max_quarantined=0.0)
    assert report.ok and findings["exact_duplicate"].count == 22


def test_validate_stops_when_everything_is_corrupt(tmp_path):
    for label in "ab":
        (tmp_path / "p" / label).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "p" / label / f"{number}.jpg").write_bytes(f"{label}{number}".encode())
    report, findings = checked(tmp_path / "p", tmp_path)
    assert not report.ok and findings["unreadable"].count == 10
    assert report.counts == {"a": 0, "b": 0}


def test_validate_report_survives_saving(tmp_path, root):
    report, _ = checked(root, tmp_path)
    report.save(tmp_path / "v")
    assert ValidationReport.load(tmp_path / "v") == report


@pytest.mark.slow
def test_validate_finds_rows_beyond_the_first_block(tmp_path):
    rows = 25_040
    folder = write_manifest(tmp_path / "m", rows, copies={25_030: 20}, unreadable=[25_010])
    report = validate(folder, ValidateSettings())
    assert report.quarantined == {path_of(25_010): "unreadable", path_of(25_030): "exact_duplicate"}
    assert {finding.check: finding.paths for finding in report.findings} == {
        "unreadable": (path_of(25_010),),
        "exact_duplicate": (path_of(25_030),),
    }
    assert sum(report.counts.values()) == rows - 2


RULES = """
[[images]]
check = "small"
expect = "expect_column_values_to_be_between"
column = "bytes"
min_value = 5000
severity = "critical"
tolerate = 0.5
message = "{count} of {total} files are small, such as {names}."
"""


def test_validate_runs_the_rules_of_a_file(tmp_path, root):
    (tmp_path / "r.toml").write_text(RULES.replace("5000", "1000"))
    (root / "class_0/small.png").write_bytes(png(pixels(0, 80, size=8)))
    report, findings = checked(root, tmp_path, expectations=str(tmp_path / "r.toml"))
    assert report.ok and not findings  # fewer than half are small
    (tmp_path / "r.toml").write_text(RULES.replace("5000", "1000").replace("0.5", "0.001"))
    report = validate(tmp_path / "m", ValidateSettings(expectations=str(tmp_path / "r.toml")))
    assert not report.ok
    assert report.findings[0].message == "1 of 67 files are small, such as 'class_0/small.png'."


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bytes", "kilobytes", r"'small' on column 'kilobytes' could not be run: .*does not exist"),
        ("expect_column_values_to_be_between", "expect_nothing", "has no 'expect_nothing'"),
        (
            "expect_column_values_to_be_between",
            'expect_column_max_to_be_between"\nquarantine = true\n#"',
            "does not check each value",
        ),
        ("min_value = 5000", 'minimum = "x"', "does not accept these arguments"),
        ("critical", "grave", "severity 'grave' is not one of"),
        ("[[images]]", "[[image]]", "unknown table 'image'. Did you mean 'images'"),
        ('column = "bytes"', "", "does not accept these arguments"),
        ('column = "bytes"', "column = 5", "expected a text for 'column'"),
        ("tolerate = 0.5", "mostly = 0.9", "tolerate = 0.1 instead"),
        ("message =", "message", "are not valid TOML"),
    ],
)
def test_checker_says_which_rule_is_wrong(tmp_path, old, new, says):
    (tmp_path / "r.toml").write_text(RULES.replace(old, new))
    with pytest.raises(InputError, match=says):
        Checker(rules.load(tmp_path / "r.toml").images).outcomes(pd.DataFrame({"bytes": [1, 9000]}))


def test_validate_says_when_the_rules_are_missing(tmp_path, root):
    with pytest.raises(InputError, match=r"no\.toml' cannot be read"):
        checked(root, tmp_path, expectations=str(tmp_path / "no.toml"))


def test_validate_finds_noise_and_blanks_and_nothing_odd_in_digits(tmp_path):
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    for number, image in enumerate(load_digits().images[:120]):
        path = tmp_path / "p" / str(number % 2) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((image * 15.9).astype(np.uint8)))
    (tmp_path / "p/0/noise.jpg").write_bytes(jpeg(rng.integers(0, 256, (200, 300, 3), np.uint8), quality=80))
    (tmp_path / "p/1/grey noise.png").write_bytes(
        png(rng.normal(128, 30, (64, 64)).clip(0, 255).astype(np.uint8))
    )
    (tmp_path / "p/1/blank.png").write_bytes(png(np.full((64, 64), 200, np.uint8)))
    _, findings = checked(tmp_path / "p", tmp_path)
    assert set(findings["noise"].paths) == {"0/noise.jpg", "1/grey noise.png"}
    assert findings["blank"].paths == ("1/blank.png",)


def test_default_rules_load_and_name_known_checks():
    names = {
        rule.check
        for table in (rules.load(rules.DEFAULT).images, rules.load(rules.DEFAULT).classes)
        for rule in table
    }
    assert {
        "unreadable",
        "exact_duplicate",
        "near_duplicate",
        "label_conflict",
        "imbalance",
        "too_few",
    } <= names


def test_own_checker_finds_the_rows_that_great_expectations_finds():
    wanted = rules.load(rules.DEFAULT)
    rng = np.random.default_rng(0)
    for some in (wanted.images, wanted.classes):
        numbers = {rule.column: rng.choice([0, 1, 2, 8, 15.0, 40, 240, np.nan], 400) for rule in some}
        table = pd.DataFrame(numbers)
        if "reason" in table:
            table["reason"] = rng.choice(["cut off", None], 400)
        found = OwnChecker(some).outcomes(table)
        assert found == Checker(some).outcomes(table)
        assert all(0 < len(outcome.rows) < 400 for outcome in found)


def test_validate_module_imports_no_great_expectations():
    code = (
        "import sys, pergola.components.data.checks.validate; "
        "print([m for m in sys.modules if m.split('.')[0] in ('great_expectations', 'tensorflow', 'pandas')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_manifest_index_counts_copies_and_labels(tmp_path, root):
    shutil.copy(root / "class_0/002.png", root / "class_1/000 first.png")
    checked(root, tmp_path)
    index = build_index(tmp_path / "m")
    table = Manifest.table(tmp_path / "m", ["path", "id"])
    assert len(index.first) == table["id"].nunique() == 66
    assert (np.diff(index.first) > 0).all()
    double = index.image[table.index[table["path"] == "class_0/002.png"][0]]
    assert index.labels[double] == 2 and (np.delete(index.labels, double) == 1).all()


# The page


class Outside(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action") and not str(value).startswith("data:"):
                self.found.append((tag, value))
        if tag in ("script", "link", "iframe"):
            self.found.append((tag, ""))


def test_page_shows_findings_with_images_and_needs_nothing_from_outside(tmp_path, root):
    name = "<b>&'\"x.png"
    shutil.copy(root / "class_0/002.png", root / "class_1" / name)
    (root / "class_0/text.jpg").write_bytes(b"hello")
    report, _ = checked(root, tmp_path)
    source = open_source(root, ScanSettings(), tmp_path / "scratch")
    page = write_page(report, tmp_path / "m", source, tmp_path / "v")
    assert page == tmp_path / "v/index.html"
    html = page.read_text(encoding="utf-8")
    assert "The data can be used" in html and "it is not an image" in html
    assert "<b>&'" not in html and "&lt;b&gt;&amp;" in html
    assert html.count("data:image/jpeg;base64,") == 2
    parser = Outside()
    parser.feed(html)
    assert parser.found == []
    assert not re.search(r"https?://|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html
    assert page.read_text() == write_page(report, tmp_path / "m", source, tmp_path / "w").read_text()


def test_page_of_a_refusal_says_so_first(tmp_path, root):
    report, _ = checked(root, tmp_path)
    critical = Finding("too_few", "critical", 1, (), "One class has too few images.")
    refused = ValidationReport(False, (critical,), {}, report.num_images, report.counts)
    source = open_source(root, ScanSettings(), tmp_path / "scratch")
    os.remove(root / "class_0/000.png")
    html = write_page(refused, tmp_path / "m", source, tmp_path / "v").read_text()
    assert html.index("The data cannot be used as it is") < html.index("One class has too few images.")
