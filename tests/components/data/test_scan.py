"""scan: a row a file, the same rows however they are read, and every fault a reason."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pergola.components.artifacts.data import Manifest
from pergola.components.data.manifest import image_metadata
from pergola.components.data.manifest.image_metadata import ImageLimits, inspect
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError, StepError
from tests.support import images as image_files
from tests.support.images import encoded, jpeg, pixels, png, turned_jpeg, write_folder

LIMITS = ImageLimits(max_pixels=10**8, max_side=30_000, max_bytes=10**9)


def scanned(root: Path, out: Path, *, previous: Path | None = None, source=None, **settings) -> Manifest:
    chosen = ScanSettings(**settings)
    source = source or open_source(root, chosen, out.parent / "scratch")
    return scan(source, out, chosen, previous=previous)


class Counting:
    """A real source that notes what is read from it."""

    def __init__(self, source):
        self.source, self.reads = source, []
        self.kind, self.scratch, self.columns = source.kind, source.scratch, source.columns
        self.findings = source.findings
        self.entries = source.entries

    def read(self, path):
        self.reads.append(path)
        return self.source.read(path)


def test_scan_gives_a_row_a_file_with_its_content(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=3, size=24)
    (root / "class_0/photo.JPG").write_bytes(turned_jpeg(pixels(0, 5, size=40)[:24], 6))
    manifest = scanned(root, tmp_path / "m")
    assert (manifest.kind, manifest.num_rows, manifest.num_unreadable) == ("folder", 7, 0)
    assert manifest.labels == ("class_0", "class_1")
    assert Manifest.load(tmp_path / "m") == manifest
    table = Manifest.table(tmp_path / "m")
    assert table["path"].is_monotonic_increasing and table["reason"].isna().all()
    row = table.set_index("path").loc["class_0/photo.JPG"]
    assert (row["format"], row["mode"], row["width"], row["height"]) == ("JPEG", "RGB", 40, 24)
    assert (row["orientation"], row["bytes"]) == (6, (root / "class_0/photo.JPG").stat().st_size)
    grey = np.asarray(Image.fromarray(pixels(0, 5, size=40)[:24]).convert("L"))
    assert row["brightness"] == pytest.approx(grey.mean(), abs=1)
    assert row["contrast"] == pytest.approx(grey.std(), abs=1)
    assert len(row["thumbnail"]) == image_metadata.THUMBNAIL_SIDE**2


def test_scan_turns_every_fault_into_a_reason(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=2)
    faults = {
        "empty.jpg": (b"", "it is empty"),
        "text.jpg": (b"hello", "it is not an image that can be read"),
        "cut.jpg": (image_files.truncated(jpeg(pixels(0, 1, size=64)), 0.9), "it cannot be decoded: image "
        "file is truncated"),
        "cut.png": (image_files.truncated(png(pixels(0, 1, size=64)), 0.9), "it cannot be decoded"),
        "bomb.png": (image_files.bomb(), "it has 60000 x 60000 pixels, more than the limit"),
        "wide.png": (png(np.zeros((1, 40_000), np.uint8)), "it is 40000 x 1 pixels, and scan.max_side is "
        "smaller"),
        "large.bmp": (encoded(pixels(0, 0, size=200), "BMP"), "it has 120054 bytes, more than "
        "scan.max_bytes"),
        "float.tif": (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "it cannot be "
        "decoded: its pixels"),
    }  # fmt: skip
    for name, (data, _) in faults.items():
        (root / "class_0" / name).write_bytes(data)
    manifest = scanned(root, tmp_path / "m", max_bytes=100_000)
    assert manifest.num_unreadable == len(faults)
    found = Manifest.table(tmp_path / "m").set_index("path")["reason"].dropna()
    assert len(found) == len(faults)
    for name, (_, reason) in faults.items():
        assert found[f"class_0/{name}"].startswith(reason), name


def test_scan_notices_a_jpeg_that_lost_only_its_end(tmp_path):
    whole = jpeg(pixels(0, 0, size=256))
    assert inspect(whole, LIMITS).reason is None
    for share in (0.3, 0.6, 0.9, 0.99):
        assert "truncated" in inspect(image_files.truncated(whole, share), LIMITS).reason


def test_scan_is_the_same_however_many_processes_read(tmp_path):
    root = write_folder(tmp_path / "p", classes=3, per_class=60, size=8)
    one = scanned(root, tmp_path / "one", workers=1)
    two = scanned(root, tmp_path / "two", workers=2)
    assert one == two
    assert (tmp_path / "one/manifest.parquet").read_bytes() == (
        tmp_path / "two/manifest.parquet"
    ).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["manifest.json", "manifest.parquet"]


def test_scan_reads_only_what_changed(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=4)
    scanned(root, tmp_path / "m1")
    (root / "class_0/001.png").write_bytes(png(pixels(0, 77)))
    (root / "class_1/new.png").write_bytes(png(pixels(1, 78)))
    (root / "class_1/003.png").unlink()
    source = Counting(open_source(root, ScanSettings(), tmp_path / "scratch"))
    again = scanned(root, tmp_path / "m2", previous=tmp_path / "m1", source=source, workers=1)
    assert source.reads == ["class_0/001.png", "class_1/new.png"]
    assert again == scanned(root, tmp_path / "fresh")
    assert (tmp_path / "m2/manifest.parquet").read_bytes() == (
        tmp_path / "fresh/manifest.parquet"
    ).read_bytes()


def test_scan_reads_all_again_when_a_limit_or_the_memory_changed(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=2)
    scanned(root, tmp_path / "m")
    for spoil in (
        lambda: None,
        lambda: (tmp_path / "scratch/stamps.parquet").write_bytes(b"broken"),
        lambda: (tmp_path / "scratch/stamps.parquet").unlink(),
    ):
        spoil()
        limit = 1000 if spoil.__code__.co_names == () else 10**8
        source = Counting(open_source(root, ScanSettings(), tmp_path / "scratch"))
        scanned(root, tmp_path / "n", previous=tmp_path / "m", source=source, workers=1, max_pixels=limit)
        assert len(source.reads) == 4


def test_scan_moves_labels_without_reading(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=2)
    (root / "list.csv").write_text("path,label\nclass_0/000.png,a\nclass_1/000.png,b\n")
    scanned(root / "list.csv", tmp_path / "m1")
    (root / "list.csv").write_text("path,label\nclass_0/000.png,b\nclass_1/000.png,c\n")
    source = Counting(open_source(root / "list.csv", ScanSettings(), tmp_path / "scratch"))
    manifest = scanned(root, tmp_path / "m2", previous=tmp_path / "m1", source=source)
    assert source.reads == [] and manifest.labels == ("b", "c")


def test_scan_keeps_further_columns_of_a_list(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=1)
    (root / "list.csv").write_text("Camera,path,label,night\nA,class_0/000.png,a,1\n,class_1/000.png,b,0\n")
    scanned(root / "list.csv", tmp_path / "m")
    table = Manifest.table(tmp_path / "m")
    assert table["list.camera"].tolist() == ["A", ""] and table["list.night"].tolist() == ["1", "0"]


def test_scan_of_arrays_and_archives(tmp_path):
    images = np.stack([pixels(n % 3, n, size=12, channels=1) for n in range(9)])
    image_files.write_idx(tmp_path / "idx", "train", images, np.arange(9) % 3)
    manifest = scanned(tmp_path / "idx", tmp_path / "m")
    assert (manifest.kind, manifest.num_rows, manifest.labels) == ("idx", 9, ("0", "1", "2"))
    assert set(Manifest.table(tmp_path / "m")["mode"]) == {"L"}


def test_scan_refuses_a_single_class_and_leaves_nothing(tmp_path):
    root = write_folder(tmp_path / "p", classes=1, per_class=3)
    with pytest.raises(InputError, match="single class, 'class_0'"):
        scanned(root, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_scan_says_when_it_may_not_write(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=1)
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, StepError, NotADirectoryError)):
        scanned(root, tmp_path / "file" / "m")
    full = Path("/dev/full")
    if full.exists():
        (tmp_path / "m").mkdir()
        (tmp_path / "m/.manifest.parquet.partial").symlink_to(full)
        with pytest.raises(StepError, match="full"):
            scanned(root, tmp_path / "m")
        assert not (tmp_path / "m/manifest.parquet").exists()


def test_scan_tells_of_a_file_that_may_not_be_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    root = write_folder(tmp_path / "p", classes=2, per_class=1)
    (root / "class_0/000.png").chmod(0)
    scanned(root, tmp_path / "m")
    assert "Permission denied" in Manifest.table(tmp_path / "m")["reason"][0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_inspect_sees_the_image_upright(orientation):
    image = pixels(0, 3, size=64)[:40]
    plain, turned = inspect(png(image), LIMITS), inspect(turned_jpeg(image, orientation), LIMITS)
    assert (turned.width, turned.height, turned.orientation) == (64, 40, orientation)
    near = np.frombuffer(plain.thumbnail, np.uint8).astype(int)
    assert np.abs(near - np.frombuffer(turned.thumbnail, np.uint8)).mean() < 4


def test_inspect_measures_brightness_contrast_and_sharpness():
    flat = inspect(png(np.full((30, 30), 100, np.uint8)), LIMITS)
    assert (flat.brightness, flat.contrast, flat.sharpness) == (100.0, 0.0, 0.0)
    half = np.zeros((30, 30), np.uint8)
    half[:, 15:] = 200
    split = inspect(png(half), LIMITS)
    assert (split.brightness, split.contrast) == (100.0, 100.0)
    # The Laplacian is 200 and -200 beside the edge and 0 elsewhere: 28 columns, 2 of them not 0.
    assert split.sharpness == pytest.approx(2 * 200**2 / 28)
    assert inspect(png(np.zeros((2, 2), np.uint8)), LIMITS).sharpness == 0.0


def test_image_metadata_needs_neither_pandas_nor_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys, pergola.components.data.manifest.image_metadata; "
        "print([m for m in sys.modules if m.split('.')[0] in ('pandas', 'pyarrow', 'tensorflow', 'scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scan_says_which_files_a_reader_died_on(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=70, size=8)
    source = Deadly(open_source(root, ScanSettings(), tmp_path / "scratch"))
    with pytest.raises(StepError, match=r"died at one of 'class_0/064.png' to 'class_1/"):
        scanned(root, tmp_path / "m", source=source, workers=2)
    assert list((tmp_path / "m").iterdir()) == []
    shutil.rmtree(root)


class Deadly(Counting):
    """Ends the process that reads a certain file, as a decoder's crash does."""

    def __init__(self, source):
        super().__init__(source)
        self.pid = os.getpid()

    def read(self, path):
        if os.getpid() != self.pid:
            os._exit(1)
        return self.source.read(path)
