"""Shards: what TensorFlow reads from them is what went in, on equal bytes for equal input."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pergola.components.artifacts.data import SPLITS, Shards, Split, ValidationReport
from pergola.components.data import tfrecord
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.shards import ShardSettings, write_shards
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split
from pergola.components.errors import StepError
from tests.support import images as image_files
from tests.support.images import pixels, turned_jpeg, write_folder

NOTHING_FOUND = ValidationReport(True, (), {}, 0, {})


def prepared(root: Path, work: Path):
    """Manifest and split of a folder; gives its source."""
    source = open_source(root, ScanSettings(), work / "scratch")
    scan(source, work / "m", ScanSettings())
    split(work / "m", NOTHING_FOUND, work / "s", SplitSettings())
    return source


def written(root: Path, work: Path, out: str = "shards", **options) -> Shards:
    source = prepared(root, work)
    return write_shards(source, work / "m", work / "s", work / out, ShardSettings(**options))


def records(folder: Path, shards: Shards, part: str) -> list[tuple[str, int, bytes]]:
    """(id, label, image) as TensorFlow reads them."""
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "id": tf.io.FixedLenFeature([], tf.string),
    }
    files = [str(folder / name) for name in shards.splits[part].files]
    parsed = tf.data.TFRecordDataset(files).map(lambda record: tf.io.parse_single_example(record, features))
    return [(r["id"].decode(), int(r["label"]), r["image"]) for r in parsed.as_numpy_iterator()]


def test_shards_hold_each_image_once_as_tensorflow_reads_it(tmp_path):
    root = write_folder(tmp_path / "p", classes=3, per_class=8)
    shards = written(root, tmp_path)
    table = Split.table(tmp_path / "s").set_index("id")
    assert shards.labels == ("class_0", "class_1", "class_2")
    seen = []
    for part in SPLITS:
        found = records(tmp_path / "shards", shards, part)
        assert len(found) == shards.splits[part].num_images
        for id, label, image in found:
            row = table.loc[id]
            assert (row["split"], row["label"]) == (part, shards.labels[label])
            assert image == (root / row["path"]).read_bytes()
            seen.append(id)
    assert sorted(seen) == sorted(table.index)
    assert (shards.channels, shards.median_height, shards.min_side, shards.max_side) == (3, 24, 24, 24)
    assert Shards.load(tmp_path / "shards") == shards


def test_shards_hold_images_upright(tmp_path):
    import tensorflow as tf

    root = write_folder(tmp_path / "p", classes=2, per_class=3)
    image = pixels(0, 50, size=40)[:24]
    (root / "class_0/turned.jpg").write_bytes(turned_jpeg(image, 6))
    shards = written(root, tmp_path)
    id = hashlib.sha256((root / "class_0/turned.jpg").read_bytes()).hexdigest()
    [data] = [data for part in SPLITS for i, _, data in records(tmp_path / "shards", shards, part) if i == id]
    decoded = tf.io.decode_image(data, channels=3).numpy()
    assert decoded.shape == image.shape and np.abs(decoded.astype(int) - image).mean() < 5
    assert (shards.max_side, shards.min_side) == (40, 24)


def test_shards_are_the_same_bytes_however_they_are_written(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=30, size=8)
    one = written(root, tmp_path, "one", shard_images=7)
    again = written(root, tmp_path, "again", shard_images=7)
    assert one == again
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == sorted(["shards.json", *(f for split in one.splits.values() for f in split.files)])
    assert len(one.splits["train"].files) > 3
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.slow
def test_shards_written_by_processes_are_the_same_bytes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2100, 4, 4), np.uint8)
    image_files.write_idx(tmp_path / "p", "train", images, np.arange(2100) % 3)
    one = written(tmp_path / "p", tmp_path, "one", shard_images=500, workers=1)
    two = written(tmp_path / "p", tmp_path, "two", shard_images=500, workers=2)
    assert one == two
    for name in one.splits["train"].files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_shards_know_when_all_is_grey(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=4, channels=1)
    Image.fromarray(pixels(0, 90, channels=1)).convert("LA").save(root / "class_0/alpha.png")
    (root / "class_0/deep.png").write_bytes(image_files.png_16_bit(pixels(0, 91, channels=1)))
    assert written(root, tmp_path).channels == 1
    Image.fromarray(pixels(0, 92)).quantize(8).save(root / "class_0/palette.png")
    assert written(root, tmp_path / "again").channels == 3


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.write_bytes(b"other"), "has changed since it was scanned"),
        (lambda file: file.unlink(), "can no longer be read"),
    ],
)
def test_shards_of_data_that_changed_since_the_scan_are_refused(tmp_path, spoil, says):
    root = write_folder(tmp_path / "p", classes=2, per_class=4)
    source = prepared(root, tmp_path)
    spoil(root / "class_1/002.png")
    with pytest.raises(StepError, match=f"'class_1/002.png' {says}"):
        write_shards(source, tmp_path / "m", tmp_path / "s", tmp_path / "shards", ShardSettings())
    assert not [p for p in (tmp_path / "shards").iterdir() if p.name.startswith(".") or p.suffix == ".json"]


def test_shards_of_a_split_of_other_data_are_refused(tmp_path):
    source = prepared(write_folder(tmp_path / "p", classes=2, per_class=4), tmp_path)
    prepared(write_folder(tmp_path / "q", classes=3, per_class=5, seed=1), tmp_path / "other")
    with pytest.raises(StepError, match="does not belong to the manifest"):
        write_shards(source, tmp_path / "m", tmp_path / "other/s", tmp_path / "shards", ShardSettings())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_shards_on_a_full_disk_leave_nothing_half(tmp_path):
    source = prepared(write_folder(tmp_path / "p", classes=2, per_class=4), tmp_path)
    shards = write_shards(source, tmp_path / "m", tmp_path / "s", tmp_path / "shards", ShardSettings())
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "shards").mkdir()
    (tmp_path / f"shards/.{shards.splits['train'].files[0]}.partial").symlink_to("/dev/full")
    with pytest.raises(StepError, match="is full: free some space"):
        write_shards(source, tmp_path / "m", tmp_path / "s", tmp_path / "shards", ShardSettings())
    assert list((tmp_path / "shards").iterdir()) == []


@given(st.binary(max_size=300), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_example_is_what_protobuf_writes(image, label):
    import tensorflow as tf

    ours = tfrecord.example({"image": image, "label": label, "id": b"x"})
    theirs = tf.train.Example.FromString(ours)
    assert theirs.features.feature["image"].bytes_list.value[:] == [image]
    assert theirs.features.feature["label"].int64_list.value[:] == [label]
    assert theirs.SerializeToString(deterministic=True) == ours


def test_record_is_what_tensorflow_writes(tmp_path):
    import tensorflow as tf

    for data in (b"", b"x", bytes(range(256)) * 9):
        with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
            writer.write(data)
        assert tfrecord.record(data) == (tmp_path / "theirs").read_bytes()
