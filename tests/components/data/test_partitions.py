"""Parts of a data set, put together, are to the byte what one pass makes."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pergola.components import digest
from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.manifest.scan import (
    ManifestTotals,
    ScanSettings,
    finish,
    manifest_writer,
    scan,
)
from pergola.components.data.partitions import (
    Partition,
    merge_scans,
    merge_shards,
    scan_partition,
    write_partition,
)
from pergola.components.data.shards import ShardSettings, write_shards
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split
from pergola.components.errors import InputError, StepError
from tests.support.images import write_folder

SCAN, SHARDS = ScanSettings(workers=1), ShardSettings(shard_images=3, workers=1)
COUNTS = (1, 2, 5, 40)  # 40: more than there are images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two classes, a file that is no image, one that is there twice, and one that is left out."""
    folder = write_folder(tmp_path_factory.mktemp("dataset") / "p", classes=2, per_class=12)
    one = sorted(folder.glob("*/*"))[0]
    (one.parent / "broken.jpg").write_bytes(b"no image")
    shutil.copy(one, one.parent / f"zz-{one.name}")
    (folder / "notes.txt").write_text("text")
    return folder


@pytest.fixture(scope="module")
def one_pass(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    source = open_source(dataset, SCAN, folder / "scratch")
    scan(source, folder / "manifest", SCAN)
    split(folder / "manifest", ValidationReport(True, (), {}, 1, {}), folder / "split", SplitSettings())
    write_shards(source, folder / "manifest", folder / "split", folder / "shards", SHARDS)
    return folder


def same(one, other):
    return digest.of_folder(one) == digest.of_folder(other)


@pytest.mark.parametrize("count", COUNTS)
def test_parts_of_a_scan_make_the_same_manifest(dataset, one_pass, tmp_path, count):
    source = open_source(dataset, SCAN, tmp_path / "scratch")
    parts = [tmp_path / f"part-{index}" for index in range(count)]
    for index, part in enumerate(parts):
        scan_partition(source, part, SCAN, index, count)
    merged = merge_scans(parts[::-1], tmp_path / "merged")  # in whatever order they come
    assert merged.num_unreadable == 1 and merged.num_rows == 26
    assert same(tmp_path / "merged", one_pass / "manifest")


@pytest.mark.parametrize("count", COUNTS)
def test_parts_of_the_shards_make_the_same_shards(dataset, one_pass, tmp_path, count):
    source = open_source(dataset, SCAN, tmp_path / "scratch")
    inputs = (one_pass / "manifest", one_pass / "split")
    parts = [tmp_path / f"part-{index}" for index in range(count)]
    for index, part in enumerate(parts):
        write_partition(source, *inputs, part, SHARDS, index, count)
    merge_shards(parts, *inputs, tmp_path / "merged", SHARDS)
    assert same(tmp_path / "merged", one_pass / "shards")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 60),
    count=st.integers(1, 9),
    columns=st.sampled_from([(), ("site",)]),
    large=st.booleans(),
)
def test_rows_come_back_in_order_and_in_the_same_row_groups(tmp_path_factory, rows, count, columns, large):
    folder = tmp_path_factory.mktemp("rows")
    rows += 8192 * large  # more than a row group
    made = [_row(number, columns) for number in range(rows)]
    counted = ManifestTotals()
    counted.add((row[1] for row in made), (row[14] for row in made))
    _written(folder / "one", columns, made)
    wanted = finish("list", counted, folder / "one")
    parts = [folder / f"part-{index}" for index in range(count)]
    for index, part in enumerate(parts):
        _written(part, columns, made[index::count])
        Partition(index, count, "list").save(part)
    assert merge_scans(parts, folder / "merged") == wanted
    assert same(folder / "merged", folder / "one")
    shutil.rmtree(folder)


def _written(folder, columns, rows):
    with manifest_writer(folder, columns) as table:
        table.add(rows)


def _row(number, columns):
    look = (
        f"{number:064x}",
        "PNG",
        "RGB",
        8,
        9,
        100 + number,
        1,
        0.1 * number,
        0.2,
        0.3,
        b"t",
    )
    reason = "cut off" if number % 7 == 3 else None
    return (f"{number:06}.png", "ab"[number % 2], None, *look, reason, *(f"{number % 3}" for _ in columns))


def test_parts_of_different_data_are_refused(dataset, tmp_path):
    source = open_source(dataset, SCAN, tmp_path / "scratch")
    for index in range(3):
        scan_partition(source, tmp_path / str(index), SCAN, index, 3)
    parts = [tmp_path / str(index) for index in range(3)]
    with pytest.raises(StepError, match=r"Expected partitions 0 to 2 of one data set, got \[0, 1\]"):
        merge_scans(parts[:2], tmp_path / "m")
    with pytest.raises(StepError, match="Expected partitions 0 to 2"):
        merge_scans([*parts, parts[1]], tmp_path / "m")
    with pytest.raises(StepError, match="no partitions"):
        merge_scans([], tmp_path / "m")
    more = shutil.copytree(dataset, tmp_path / "more")
    for number in range(3):
        (more / "class_0" / f"new-{number}.jpg").write_bytes(b"no image")
    scan_partition(open_source(more, SCAN, tmp_path / "scratch"), parts[0], SCAN, 0, 3)
    with pytest.raises(StepError, match="the images changed"):
        merge_scans(parts, tmp_path / "m")
    assert not (tmp_path / "m" / "manifest.parquet").exists()


def test_too_few_classes_are_told_as_by_one_scan(tmp_path):
    dataset = write_folder(tmp_path / "p", classes=1, per_class=3)
    source = open_source(dataset, SCAN, tmp_path / "scratch")
    for index in range(2):
        scan_partition(source, tmp_path / str(index), SCAN, index, 2)
    with pytest.raises(InputError, match="a single class, 'class_0'"):
        merge_scans([tmp_path / "0", tmp_path / "1"], tmp_path / "m")
    assert not (tmp_path / "m" / "manifest.parquet").exists()


def test_a_shard_that_is_missing_is_named(dataset, one_pass, tmp_path):
    source = open_source(dataset, SCAN, tmp_path / "scratch")
    inputs = (one_pass / "manifest", one_pass / "split")
    for index in range(2):
        write_partition(source, *inputs, tmp_path / str(index), SHARDS, index, 2)
    missing = next(iter(sorted((tmp_path / "1").glob("*.tfrecord"))))
    missing.unlink()
    with pytest.raises(StepError, match=f"Partition 1 of the shards lacks {missing.name}"):
        merge_shards([tmp_path / "0", tmp_path / "1"], *inputs, tmp_path / "m", SHARDS)
