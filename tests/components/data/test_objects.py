"""Images of one object, as a column of the list says, are one group."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.manifest.series import merge_groups
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split
from pergola.components.errors import InputError
from tests.support.images import write_folder


def listed(root: Path, part=lambda number: "") -> Path:
    """60 images that look different; each three in a row show one leaf, and the last three none."""
    dataset = write_folder(root / "dataset", classes=2, per_class=30, size=16)
    with open(root / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split", "leaf"])
        for number, path in enumerate(sorted(dataset.rglob("*.png"))):
            leaf = "" if number >= 57 else f"leaf {number // 3}"
            rows.writerow([path.relative_to(root), path.parent.name, part(number), leaf])
    return root / "list.csv"


def checked(data: Path, work: Path, column: str = "leaf") -> ValidationReport:
    scan(open_source(data, ScanSettings(), work / "scratch"), work / "m", ScanSettings())
    return validate(work / "m", ValidateSettings(group_by=column))


def test_images_of_one_object_go_to_one_part(tmp_path):
    report = checked(listed(tmp_path), tmp_path)
    assert not report.groups.keys() - set(Manifest.table(tmp_path / "m", ["id"])["id"])
    split(tmp_path / "m", report, tmp_path / "s", SplitSettings())
    parts = Split.table(tmp_path / "s").set_index("id")["split"]
    of_leaf: dict[str, set[str]] = {}
    for id, leaf in Manifest.table(tmp_path / "m", ["id", "list.leaf"]).itertuples(index=False):
        of_leaf.setdefault(leaf or id, set()).add(parts[id])
    assert len(of_leaf) == 19 + 3
    assert all(len(found) == 1 for found in of_leaf.values())
    assert set(parts) == {"train", "validation", "test"}


def test_objects_in_several_given_splits_are_a_finding(tmp_path):
    parts = {0: "train", 1: "test", 2: "train", 3: "test", 4: "test"}
    report = checked(listed(tmp_path, lambda number: parts.get(number, "train")), tmp_path)
    (finding,) = (finding for finding in report.findings if finding.check == "object_split_leak")
    assert finding.severity == "warning" and finding.count == 6  # leaf 1 has two in test and one in train
    assert "2 objects ('leaf') have images in several splits of the given split" in finding.message


def test_a_column_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no further column 'leave' in the list\. Did you mean 'leaf'\?"):
        checked(listed(tmp_path), tmp_path, "leave")
    with pytest.raises(InputError, match="The data have none: give a list"):
        checked(tmp_path / "dataset", tmp_path / "of a folder")


def test_merged_groups_have_their_smallest_id():
    assert merge_groups({"b": "b", "c": "b"}, [("c", "a"), ("x", "y")]) == {
        "a": "a", "b": "a", "c": "a", "x": "x", "y": "x",
    }  # fmt: skip
    assert merge_groups({"b": "a", "a": "a"}, []) == {"a": "a", "b": "a"}
