"""split: no copy on two sides, nothing moves when data are added, every class in every part."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pergola.components.artifacts.data import SPLITS, Split, ValidationReport
from pergola.components.data.manifest.scan import schema
from pergola.components.data.split import SplitSettings, split
from pergola.components.errors import InputError

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def manifest(folder: Path, rows: list[tuple]) -> Path:
    """A manifest of (number of the image, label[, given split[, reason]]) rows."""
    folder.mkdir(parents=True, exist_ok=True)
    filled = []
    for place, (number, label, *more) in enumerate(rows):
        given_split, reason = [*more, None, None][:2]
        filled.append({"path": f"{label}/{place:05}.png", "label": label, "given_split": given_split,
                       "id": name(number), "reason": reason})  # fmt: skip
    table = pa.Table.from_pylist(sorted(filled, key=lambda row: row["path"]), schema=schema())
    pyarrow.parquet.write_table(table, folder / "manifest.parquet")
    return folder


def report(
    groups: dict[int, int] | None = None, quarantined: dict[str, str] | None = None
) -> ValidationReport:
    named = {name(number): name(group) for number, group in (groups or {}).items()}
    return ValidationReport(True, (), quarantined or {}, 0, {}, named)


def parts(folder: Path) -> dict[str, str]:
    return dict(Split.table(folder)[["id", "split"]].itertuples(index=False))


def cut(root: Path, rows, groups=None, *, previous=None, name="s", **options) -> Split:
    return split(
        manifest(root / "m", rows), report(groups), root / name, SplitSettings(**options), previous=previous
    )


def test_split_gives_about_the_wanted_shares(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(4000)]
    counts = cut(tmp_path, rows, validation=0.1, test=0.2).counts
    assert sum(counts.values()) == 4000
    assert counts["validation"] == pytest.approx(400, abs=60)
    assert counts["test"] == pytest.approx(800, abs=80)


def test_split_writes_a_row_a_distinct_image(tmp_path):
    rows = (
        [(n % 20, "a") for n in range(30)]
        + [(100 + n, "b") for n in range(9)]
        + [(7, "a", None, "it is empty")]
    )
    result = cut(tmp_path, rows)
    table = Split.table(tmp_path / "s")
    assert list(table.columns) == ["id", "path", "label", "split", "group"]
    assert len(table) == 29 and table["id"].is_unique
    assert table["path"][0] == "a/00000.png"
    assert Split.load(tmp_path / "s") == result
    assert (
        result.by_label["train"]["a"] + result.by_label["validation"]["a"] + result.by_label["test"]["a"]
        == 20
    )


def test_split_leaves_out_what_is_quarantined(tmp_path):
    folder = manifest(tmp_path / "m", [(n, "ab"[n % 2]) for n in range(40)])
    out = {"a/00000.png": "label_conflict", "b/00001.png": "unreadable"}
    split(folder, report(quarantined=out), tmp_path / "s", SplitSettings())
    assert not set(out) & set(Split.table(tmp_path / "s")["path"])


def test_split_depends_on_the_seed_and_on_nothing_else(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(200)]
    first = cut(tmp_path, rows, name="a")
    assert cut(tmp_path / "other", rows, name="b") == first
    assert (tmp_path / "a/split.parquet").read_bytes() == (tmp_path / "other/b/split.parquet").read_bytes()
    assert cut(tmp_path, rows, name="c", seed=1).fingerprint != first.fingerprint


images_of_classes = st.lists(st.tuples(st.integers(0, 400), st.sampled_from("abc")), max_size=150)


@st.composite
def data_sets(draw):
    """Rows with enough groups in every class, and groups of near-duplicates among them."""
    rows = [(1000 + 10 * place + n, label) for place, label in enumerate("abc") for n in range(3)]
    labels: dict[int, str] = {}
    for number, label in draw(images_of_classes):
        rows.append((number, labels.setdefault(number, label)))
    numbers = sorted(labels)
    groups = {}
    if numbers:
        for root in draw(st.lists(st.sampled_from(numbers), max_size=10)):
            for member in draw(st.lists(st.sampled_from(numbers), max_size=4)):
                if root not in groups and member not in groups:
                    groups[root] = groups[member] = root
    return rows, groups


@given(data_sets())
@QUICK
def test_split_keeps_groups_together_and_fills_every_part(data):
    rows, groups = data
    with tempfile.TemporaryDirectory() as folder:
        result = cut(Path(folder), rows, groups)
        found = parts(Path(folder) / "s")
    assert set(found) == {name(number) for number, _ in rows}
    for member, root in groups.items():
        assert found[name(member)] == found[name(root)]
    for part in SPLITS:
        assert set(result.by_label[part]) == {"a", "b", "c"}


@given(data_sets(), st.lists(st.integers(500, 900), unique=True, max_size=60), st.data())
@QUICK
def test_split_never_moves_old_images(data, added, draw):
    rows, groups = data
    more = [(number, draw.draw(st.sampled_from("abcd"))) for number in added]
    more += [(2000 + n, "d") for n in range(3)] if any(label == "d" for _, label in more) else []
    old = sorted({number for number, _ in rows})
    joined = dict(groups)
    for number in added[:5]:
        # A new image that is near to two old ones, and so joins their groups under a new name.
        first, second = (draw.draw(st.sampled_from(old)) for _ in range(2))
        roots = {joined.get(first, first), joined.get(second, second)}
        for member in [*(m for m, r in joined.items() if r in roots), *roots, first, second, number]:
            joined[member] = number
    with tempfile.TemporaryDirectory() as folder:
        cut(Path(folder), rows, groups, name="old")
        cut(Path(folder), rows + more, joined, name="new", previous=Path(folder) / "old")
        before, after = parts(Path(folder) / "old"), parts(Path(folder) / "new")
    assert {id: after[id] for id in before} == before
    for number in added[:5]:
        like = {after[name(m)] for m, r in joined.items() if r == joined[number] and name(m) in before}
        assert after[name(number)] == (
            "train" if "train" in like else "validation" if "validation" in like else "test"
        )


def by_label(folder: Path, label: str) -> dict[str, int]:
    table = Split.table(folder)
    return table[table["label"] == label]["split"].value_counts().to_dict()


@pytest.mark.parametrize(("per_class", "wanted"), [(100, 15), (12, 2), (20, 3), (5, 1), (3, 1)])
def test_split_gives_every_class_its_share(tmp_path, per_class, wanted):
    rows = [(1000 * place + n, label) for place, label in enumerate("abcde") for n in range(per_class)]
    result = cut(tmp_path, rows)
    for label in "abcde":
        assert result.by_label["test"][label] == result.by_label["validation"][label] == wanted


def test_new_images_of_a_class_fall_by_its_thresholds_and_a_new_class_gets_its_own(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(200)]
    first = cut(tmp_path, rows, name="old")
    assert set(first.thresholds) == {"a", "b"}
    more = [(n, "ab"[n % 2]) for n in range(200, 4000)] + [(10_000 + n, "c") for n in range(40)]
    second = cut(tmp_path, rows + more, name="new", previous=tmp_path / "old")
    assert {label: second.thresholds[label] for label in "ab"} == first.thresholds
    assert second.by_label["test"]["c"] == second.by_label["validation"]["c"] == 6
    table = Split.table(tmp_path / "new")
    for label in "ab":
        limits = first.thresholds[label]
        added = table[(table["label"] == label) & ~table["id"].isin(parts(tmp_path / "old"))]
        share = (added["split"] == "test").mean()
        assert share == pytest.approx(limits["test"], abs=0.03)
        assert (added["split"] == "validation").mean() == pytest.approx(
            limits["validation"] - limits["test"], abs=0.03
        )


def test_an_image_that_comes_back_is_where_it_was(tmp_path):
    """Whatever its hash: a group of near-duplicates that is larger than a test split is trained on."""
    rows = [(n, "ab"[n % 2]) for n in range(60)]
    groups = {n: 0 for n in range(0, 40, 2)}
    cut(tmp_path, rows, groups, name="1")
    before = parts(tmp_path / "1")
    assert {before[name(n)] for n in groups} == {"train"}
    cut(tmp_path, rows[40:], name="2", previous=tmp_path / "1")
    cut(tmp_path, [*rows[40:], (99, "a")], name="3", previous=tmp_path / "2")
    cut(tmp_path, rows, groups, name="4", previous=tmp_path / "3")
    assert parts(tmp_path / "4") == before
    assert (tmp_path / "3/earlier.parquet").is_file()
    table = pa.parquet.read_table(tmp_path / "4/earlier.parquet").to_pydict()
    assert table["id"] == [name(99)]


def test_a_class_without_test_images_gets_only_new_ones(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(40)]
    cut(tmp_path, rows, name="old")
    before = parts(tmp_path / "old")
    left = [row for row in rows if row[1] == "a" or before[name(row[0])] != "test"]
    second = cut(tmp_path, left, name="new", previous=tmp_path / "old")
    assert "b" not in second.by_label["test"]
    after = parts(tmp_path / "new")
    assert all(after[id] == before[id] for id in after)
    third = cut(tmp_path, [*left, (77, "b")], name="3", previous=tmp_path / "new")
    assert third.by_label["test"]["b"] == 1 and parts(tmp_path / "3")[name(77)] == "test"


def test_a_class_without_an_image_to_train_on_is_named(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(40)]
    cut(tmp_path, rows, name="old")
    before = parts(tmp_path / "old")
    left = [row for row in rows if row[1] == "a" or before[name(row[0])] != "train"]
    with pytest.raises(InputError, match=r"Class 'b' has no image to train on: .* split\.seed"):
        cut(tmp_path, left, name="new", previous=tmp_path / "old")
    assert cut(tmp_path, left, name="new", previous=tmp_path / "old", seed=1).by_label["train"]["b"]


def test_images_of_a_split_without_thresholds_stay(tmp_path):
    """Workspaces from before thresholds have none in split.json."""
    rows = [(n, "ab"[n % 2]) for n in range(100)]
    cut(tmp_path, rows, name="old")
    file = tmp_path / "old/split.json"
    record = json.loads(file.read_text())
    del record["thresholds"]
    file.write_text(json.dumps(record))
    before = parts(tmp_path / "old")
    more = [(n, "ab"[n % 2]) for n in range(100, 300)]
    result = cut(tmp_path, rows + more, name="new", previous=tmp_path / "old")
    after = parts(tmp_path / "new")
    assert {id: after[id] for id in before} == before and set(result.thresholds) == {"a", "b"}


def test_split_forgets_the_earlier_one_when_the_shares_change(tmp_path):
    rows = [(n, "ab"[n % 2]) for n in range(300)]
    cut(tmp_path, rows, name="old", test=0.1)
    fresh = cut(tmp_path, rows, name="fresh", test=0.4)
    assert cut(tmp_path, rows, name="new", test=0.4, previous=tmp_path / "old") == fresh


def given_rows(*names: str | None) -> list[tuple]:
    return [(1000 * place + n, "ab"[n % 2], split) for place, split in enumerate(names) for n in range(100)]


def test_split_respects_a_given_one(tmp_path):
    result = cut(tmp_path, given_rows("train", "validation", "test"))
    assert result.counts == {"train": 100, "validation": 100, "test": 100}


@pytest.mark.parametrize(
    ("names", "kept", "missing"),
    [(("train", "test"), "test", "validation"), (("train", "validation"), "validation", "test")],
)
def test_split_cuts_what_is_missing_from_training(tmp_path, names, kept, missing):
    result = cut(tmp_path, given_rows(*names))
    assert result.counts[kept] == 100
    assert 2 <= result.counts[missing] <= 40
    assert result.counts["train"] + result.counts[missing] == 100
    assert set(result.by_label[missing]) == {"a", "b"}


def test_split_cuts_both_when_only_training_is_given(tmp_path):
    result = cut(tmp_path, given_rows("train", None))
    assert sum(result.counts.values()) == 200 and min(result.counts.values()) > 10


def test_split_puts_a_copy_of_a_test_image_out_of_training(tmp_path):
    rows = [*given_rows("train", "test"), (0, "a", "test")]
    cut(tmp_path, rows)
    assert parts(tmp_path / "s")[name(0)] == "test"


@pytest.mark.parametrize("groups", [{}, {50: 50, 51: 50, 52: 50}])
def test_split_says_which_class_is_too_small(tmp_path, groups):
    small = 2 if not groups else 3
    rows = [(n, "a") for n in range(20)] + [(50 + n, "tiny") for n in range(small)]
    with pytest.raises(
        InputError, match=f"Class 'tiny' has too few images to split: {2 if not groups else 1} "
    ):
        cut(tmp_path, rows, groups)
    assert not (tmp_path / "s").exists()


def test_split_says_when_nothing_is_left(tmp_path):
    with pytest.raises(InputError, match="The checks excluded all images"):
        cut(tmp_path, [(1, "a", None, "it is empty")])
