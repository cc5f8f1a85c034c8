"""Data sets that went wrong, each as one example of its kind: what scan and validate say of them now."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pergola.components.artifacts.data import Manifest
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.checks.validate import validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from pergola.components.settings import Settings
from pergola.components.steps.context import Context
from pergola.components.steps.data import listing
from pergola.components.workspace import Workspace
from tests.support import images as image_files
from tests.support.images import pixels, png
from tests.support.layouts import CLASSES, found, listed, many

SIDE = 32


def picture(label: str, number: int, side: int = SIDE) -> Image.Image:
    """Smooth and different from any other, also turned or mirrored."""
    rng = np.random.default_rng((CLASSES.split().index(label), number))
    small = Image.fromarray(rng.integers(40, 216, (6, 6, 3), np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def put(folder: Path, label: str, numbers: range, change=lambda image: image, name: str = "{k}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(k=number)).write_bytes(png(change(picture(label, number))))


def sixteen_bits(image: Image.Image, factor: int) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * factor)


def put_split(root: Path, train: str = CLASSES, test: str = CLASSES, count: int = 8) -> Path:
    for label in train.split():
        put(root / "train" / label, label, range(count))
    for label in test.split():
        put(root / "test" / label, label, range(count, 2 * count))
    return root


@pytest.fixture
def checked(tmp_path):
    """Scans and checks a data set: whether it can be used, and its findings by check."""

    def check(location: Path, **settings):
        chosen = ScanSettings(workers=1, **settings)
        scan(open_source(location, chosen, tmp_path / "scratch"), tmp_path / "m", chosen)
        report = validate(tmp_path / "m", ValidateSettings(max_quarantined=1.0))
        return report.ok, {finding.check: finding for finding in report.findings}

    return check


def test_a_class_without_test_images_is_a_warning(tmp_path, checked):
    ok, findings = checked(put_split(tmp_path / "d", test="ash elm", count=12))
    assert ok and findings["untested_class"].severity == "warning"
    assert "The test split that the data bring has no image of 1 of 3 classes, such as 'oak'" in (
        findings["untested_class"].message
    )
    assert "tiny_split" not in findings


def test_a_class_with_test_images_only_is_critical(tmp_path, checked):
    ok, findings = checked(put_split(tmp_path / "d", train="ash elm"))
    assert not ok and "1 of 3 classes, such as 'oak'" in findings["untrained_class"].message


def test_a_folder_that_is_a_class_in_validation_and_test_only_is_critical(tmp_path, checked):
    root = tmp_path / "tiny-imagenet"
    for label in CLASSES.split():
        put(root / "train" / label / "images", label, range(4))
        put(root / "val/images", label, range(4, 6), name=label + "{k}.png")
    ok, findings = checked(root)
    assert not ok and "such as 'images', have images for validation and test only" in (
        findings["untrained_class"].message
    )


def test_a_tiny_split_is_a_warning(tmp_path, checked):
    _, findings = checked(put_split(tmp_path / "d", count=4))
    assert findings["tiny_split"].message.startswith("The test split that the data bring has 12 images")


def test_turned_and_mirrored_copies_in_two_splits_are_found(tmp_path, checked):
    root = put_split(tmp_path / "d", test="")
    turns = list(Image.Transpose)
    for label in CLASSES.split():
        for number, turn in enumerate(turns):
            put(
                root / "test" / label,
                label,
                range(number, number + 1),
                lambda image, t=turn: image.transpose(t),
            )
    _, findings = checked(root)
    assert findings["split_leak"].count == 2 * len(turns) * 3


def test_other_images_are_no_turned_copies(tmp_path, checked):
    _, findings = checked(put_split(tmp_path / "d", count=12))
    assert not {"split_leak", "near_duplicate"} & findings.keys()


def test_images_outside_of_class_folders_have_that_reason(tmp_path, checked):
    root = put_split(tmp_path / "d")
    put(root / "train", "ash", range(90, 92))
    (root / "train/ash/cut.heic").write_bytes(b"0000ftypheic")
    (root / "train/ash/text.png").write_bytes(b"text")
    _, findings = checked(root)
    assert findings["unlabelled"].message.startswith(
        "2 of 52 images lie in no class folder, such as 'train/90.png'"
    )
    assert findings["unreadable"].count == 2
    assert "Reasons: 1: .heic files are not read" in findings["unreadable"].message
    assert "1: it is not an image that can be read" in findings["unreadable"].message


def test_a_file_is_judged_by_its_first_bytes(tmp_path, checked):
    root = put_split(tmp_path / "d")
    shutil.copy(root / "train/ash/0.png", root / "train/ash/phone.heic")
    (root / "train/elm/photo.psd").write_bytes(b"8BPS\0\1")
    (root / "train/elm/scan.bin").write_bytes(bytes(128) + b"DICM")
    (root / "train/elm/BMW.txt").write_bytes(b"BMW and RIFF are no images")
    (root / "train/elm/sound").write_bytes(b"RIFF0000WAVEfmt ")
    _, findings = checked(root)
    table = Manifest.table(tmp_path / "m").set_index("path")
    assert table.loc["train/ash/phone.heic", "format"] == "PNG"
    assert "psd files are not read" in table.loc["train/elm/photo.psd", "reason"]
    assert "DICOM files are not read" in table.loc["train/elm/scan.bin", "reason"]
    assert findings["left_out"].count == 2 and findings["left_out"].paths == (
        "train/elm/BMW.txt",
        "train/elm/sound",
    )


def test_a_label_like_a_missing_value_is_a_warning(tmp_path, checked):
    for number, label in enumerate(("ash", "nan", "oak")):
        put(tmp_path / "d" / label, CLASSES.split()[number], range(3))
    _, findings = checked(tmp_path / "d")
    assert (
        findings["label_text"].severity == "warning" and "The class 'nan'" in findings["label_text"].message
    )


def test_twelve_bits_in_sixteen_are_a_warning_with_what_happens(tmp_path, checked):
    for label in CLASSES.split():
        put(tmp_path / "d" / label, label, range(4), lambda image: sixteen_bits(image, 16))
    _, findings = checked(tmp_path / "d")
    assert findings["shallow"].count == 12 and "Multiply their values by 16" in findings["shallow"].message
    assert not {"blank", "dark", "blurred"} & findings.keys()


def test_sixteen_bits_that_are_used_are_no_warning(tmp_path, checked):
    for label in CLASSES.split():
        put(tmp_path / "d" / label, label, range(4), lambda image: sixteen_bits(image, 256))
    assert "shallow" not in checked(tmp_path / "d")[1]


def test_a_scan_is_repeated_when_only_what_is_left_out_has_changed(tmp_path):
    root = put_split(tmp_path / "d", count=1)
    context = Context(root, "d", Settings(), Workspace(tmp_path / "w"))
    plain = listing(context)
    (root / "notes.txt").write_text("text")
    assert listing(context) != plain
    (root / "notes.txt").unlink()
    assert listing(context) == plain


# Labels of two sources


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("Ash", "ash", "upper and lower case"),
        ("red oak", "red  oak", "blanks"),
        ("red oak", "red\u00a0oak", "blanks"),
        ("café", "cafe\u0301", "how their accents are encoded"),
        ("ash", "ash", ""),
    ],
)
def test_labels_of_two_sources_are_checked_like_those_of_one(tmp_path, checked, first, second, says):
    root = tmp_path / "d"
    put(root / "one" / first, "ash", range(2))
    put(root / "one/elm", "elm", range(2))
    put(root, "oak", range(2))
    (root / "two.csv").write_text(f"path,label\n0.png,{second}\n1.png,elm\n", encoding="utf-8")
    both = {"location": root / "one", "also": str(root / "two.csv")}
    if not says:
        assert not [check for check in checked(**both)[1] if check in ("layout", "label_text")]
        return
    with pytest.raises(InputError, match=f"together with scan.also' has two classes .* only in {says}"):
        checked(**both)


# Lists


def write_images(root: Path) -> tuple[str, ...]:
    paths = many("img/{c}{k}.png")
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(pixels(0, number, size=8)))
    return paths


def labels_of(source) -> set[str]:
    return {entry.label for entry in source.entries()}


@pytest.mark.parametrize(
    ("encoding", "warned"),
    [("utf-8", 0), ("utf-8-sig", 0), ("utf-16", 0), ("utf-16-be-bom", 0), ("cp1252", 1)],
)
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_list_may_have_any_usual_encoding_and_delimiter(tmp_path, encoding, warned, delimiter):
    paths = write_images(tmp_path)
    text = (
        "\ufeff" * encoding.endswith("bom")
        + f'path{delimiter}"label"\n'
        + "".join(f"{path}{delimiter}Érable {path[4:7]}\n" for path in paths)
    )
    (tmp_path / "l.csv").write_bytes(text.encode(encoding.removesuffix("-bom")))
    source = open_source(tmp_path / "l.csv", ScanSettings(), tmp_path / "scratch")
    assert labels_of(source) == {"Érable ash", "Érable elm", "Érable oak"}
    assert [f.check for f in source.findings] == ["list_encoding"] * warned


def test_columns_of_lists_are_passed_over_with_a_finding(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    paths = write_images(tmp_path)
    table = {"path": paths, "label": [f"0{n % 3}" for n in range(6)], "boxes": [[1, 2]] * 6}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "l.parquet")
    source = open_source(tmp_path / "l.parquet", ScanSettings(), tmp_path / "scratch")
    assert labels_of(source) == {"00", "01", "02"} and source.columns == ()
    assert [f.message for f in source.findings] == [
        "'l.parquet' has 1 column without single values, such as 'boxes': left out."
    ]


def write_parquet(file: Path, first: int, label: str = "label", count: int = 4) -> None:
    """Images in the form of Hugging Face's data sets, with the names of the classes in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    images = [{"bytes": png(pixels(0, first + n, size=8)), "path": None} for n in range(count)]
    table = pa.table({"image": images, label: [n % 2 for n in range(count)]})
    features = {"features": {label: {"names": ["ash", "=oak"], "_type": "ClassLabel"}}}
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": features})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), file)


def test_parquet_with_the_images_themselves_is_unpacked(tmp_path):
    write_parquet(tmp_path / "d/data/train-00000-of-00001.parquet", 0)
    write_parquet(tmp_path / "d/data/test-00000-of-00001.parquet", 10)
    source = open_source(tmp_path / "d", ScanSettings(), tmp_path / "scratch")
    assert found(source.entries()) == {
        (split, label): 2 for split in ("train", "test") for label in ("ash", "=oak")
    }
    assert all(source.read(entry.path).startswith(b"\x89PNG") for entry in source.entries())
    alone = tmp_path / "d/data/train-00000-of-00001.parquet"
    one = open_source(alone, ScanSettings(), tmp_path / "other")
    assert found(one.entries()) == {(None, "ash"): 2, (None, "=oak"): 2}
    with pytest.raises(InputError, match="unpacks to too many bytes"):
        open_source(alone, ScanSettings(max_archive_bytes=9), tmp_path / "third")


def test_parquet_with_images_needs_a_column_of_labels(tmp_path):
    write_parquet(tmp_path / "p.parquet", 0, "tree")
    with pytest.raises(InputError, match="has no column 'label', only image, tree"):
        open_source(tmp_path / "p.parquet", ScanSettings(), tmp_path / "scratch")
    named = open_source(tmp_path / "p.parquet", ScanSettings(label_column="tree"), tmp_path / "scratch")
    assert labels_of(named) == {"ash", "=oak"}


def test_files_beside_images_are_opened_only_if_they_are_files(tmp_path):
    for number, path in enumerate(("train/1.png", "test/2.png", os.fsdecode(b"test/\xff.png"))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(png(pixels(0, number, size=8)))
    for name in ("a.csv", "b.xml", "c.parquet", "d.json", "train/e.jsonl", "f"):
        os.mkfifo(tmp_path / name)  # whoever opens one waits
    with pytest.raises(InputError, match="no class folders"):
        open_source(tmp_path, ScanSettings(), tmp_path / "scratch")
    (tmp_path / "l.csv").write_text("path,label\ntrain/1.png,a\ntest/2.png,b\n")
    source = open_source(tmp_path, ScanSettings(), tmp_path / "scratch")
    left_out = [f.paths for f in source.findings if f.check == "left_out"]
    assert left_out == [("test/\\xff.png",), ("a.csv", "b.xml", "c.parquet", "d.json", "f", "train/e.jsonl")]


def test_a_list_may_have_backslashes(tmp_path):
    paths = write_images(tmp_path)
    (tmp_path / "l.csv").write_text(listed(path.replace("/", "\\") for path in paths))
    assert (
        len({e.path for e in open_source(tmp_path / "l.csv", ScanSettings(), tmp_path / "s").entries()}) == 6
    )


def test_a_file_that_two_paths_may_mean_is_asked_for(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png(pixels(0, 0, size=8)))
    (tmp_path / "l.csv").write_text("id,label\n1,x\n")
    with pytest.raises(InputError, match=r"names '1', which may be 'a/1.png' or 'b/1.png'"):
        open_source(tmp_path / "l.csv", ScanSettings(), tmp_path / "scratch")


def test_coco_leaves_out_images_without_an_annotation(tmp_path):
    paths = write_images(tmp_path)
    names = [{"id": 7, "name": "ash"}, {"id": 9, "name": "oak"}]
    images = [{"id": n, "file_name": path} for n, path in enumerate(paths)]
    annotations = [{"image_id": n, "category_id": 7 + 2 * (n % 2)} for n in (0, 1, 2, 2)]
    data = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "c.json").write_text(json.dumps(data))
    source = open_source(tmp_path / "c.json", ScanSettings(), tmp_path / "scratch")
    assert [entry.label for entry in source.entries()] == ["ash", "oak", "ash"]
    assert [(f.check, f.count) for f in source.findings] == [("left_out", 3)]


# Archives and arrays


class Bare(zipfile.ZipInfo):
    """A member whose name is written in an encoding that it does not state, as Info-ZIP and others do."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits


def write_zip(path: Path, encoding: str, *labels: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, label in enumerate(labels):
            info = Bare(f"{label}/{number}.png")
            info.encoding = encoding
            archive.writestr(info, png(pixels(0, number, size=8)))
    return path


@pytest.mark.parametrize(
    ("encoding", "labels", "asked"),
    [
        ("utf-8", ("枫树", "Érable", "Übel"), ""),
        ("cp437", ("Übel", "erable", "mañana"), ""),
        ("cp932", ("楓", "樫"), "cp932"),
        ("cp1251", ("Клён", "Дуб"), "cp1251"),
    ],
)
def test_names_in_a_zip_have_their_true_encoding(tmp_path, encoding, labels, asked):
    archive = write_zip(tmp_path / "d.zip", encoding, *labels)
    if asked:
        with pytest.raises(InputError, match="in an encoding that it does not state: name it"):
            open_source(archive, ScanSettings(), tmp_path / "scratch")
    source = open_source(archive, ScanSettings(zip_encoding=asked), tmp_path / "scratch")
    assert labels_of(source) == set(labels)


def test_a_zip_may_have_backslashes_as_dos_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for number, label in enumerate(("ash", "oak")):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = f"{label}\\{number}.png", 0
            archive.writestr(info, png(pixels(0, number, size=8)))
    source = open_source(tmp_path / "d.zip", ScanSettings(), tmp_path / "scratch")
    assert labels_of(source) == {"ash", "oak"}


def test_an_unknown_encoding_of_a_zip_is_refused(tmp_path):
    archive = write_zip(tmp_path / "d.zip", "cp932", "楓", "樫")
    with pytest.raises(InputError, match="there is no encoding 'klingon'"):
        open_source(archive, ScanSettings(zip_encoding="klingon"), tmp_path / "scratch")


def test_a_named_idx_file_is_read_with_its_twin_alone(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5), np.uint8)
    for name, first in (("letters", 1), ("digits", 0)):
        for part in ("train", "test"):
            image_files.write_idx(tmp_path, f"emnist-{name}-{part}", images, np.arange(6) % 3 + first)
    file = tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"
    entries = list(open_source(file, ScanSettings(), tmp_path / "scratch").entries())
    assert {entry.path.split("-")[1] for entry in entries} == {"letters"}
    assert {entry.given_split for entry in entries} == {"train", "test"} and len(entries) == 12
    with pytest.raises(InputError, match=r"holds 2 data sets of IDX files.*emnist-digits-test-images"):
        open_source(tmp_path, ScanSettings(), tmp_path / "scratch")


def test_idx_files_that_are_packed_and_unpacked_are_read_once(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5), np.uint8)
    image_files.write_idx(tmp_path, "contest-train", images, np.arange(6) % 3)
    for file in list(tmp_path.glob("*.gz")):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    source = open_source(tmp_path, ScanSettings(), tmp_path / "scratch")
    assert {entry.given_split for entry in source.entries()} == {"train"} and len(list(source.entries())) == 6
    assert [f.paths for f in source.findings] == [("contest-train-images-idx3-ubyte.gz",)]


def test_a_folder_named_meta_is_no_cifar(tmp_path):
    root = put_split(tmp_path / "d", count=1)
    (root / "meta").mkdir()
    (root / "meta/README").write_text("text")
    source = open_source(root, ScanSettings(), tmp_path / "scratch")
    assert source.kind == "folder" and labels_of(source) == set(CLASSES.split())
