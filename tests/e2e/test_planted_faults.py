"""Faults planted in real photographs are found and shown; without them there is no critical finding."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pergola.components.artifacts.data import Manifest, ValidationReport
from tests.support.command import pergola_json
from tests.support.images import jpeg, truncated

SHARED = Path(__file__).parents[3] / "shared" / "data"
LEAVES = SHARED / "leaves"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
FRAMED, REDUCED = "ilex_opaca", "ulmus_rubra"
COPIES, CROPS = 5, 6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the leaf photographs in ../shared/data/leaves"),
]


@dataclass
class Faults:
    """Where which fault was planted; paths relative to `root`."""

    root: Path
    copies: list[tuple[str, str]] = field(default_factory=list)  # in train/, in test/
    crops: list[tuple[str, str]] = field(default_factory=list)
    flipped: dict[str, str] = field(default_factory=dict)  # path -> class that it really is
    num_files: int = 0


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Faults:
    """The leaves below train/ and test/, with all faults at once."""
    found = Faults(tmp_path_factory.mktemp("planted") / "leaves")
    rng = np.random.default_rng(0)
    _two_splits(found.root)
    _frame_and_reduce(found.root, rng)
    _flip(found, rng)
    train = [path for path in sorted((found.root / "train").rglob("*.jpg")) if path.parent.name != FRAMED]
    chosen = rng.choice(len(train), COPIES + CROPS, replace=False)
    for number, place in enumerate(chosen):
        original = train[place]
        copy = found.root / "test" / original.parent.name / f"planted-{number}.jpg"
        data = original.read_bytes()
        copy.write_bytes(data if number < COPIES else _cropped(data, rng))
        pair = (original.relative_to(found.root).as_posix(), copy.relative_to(found.root).as_posix())
        (found.copies if number < COPIES else found.crops).append(pair)
    (found.root / "train/acer_rubrum/blank.jpg").write_bytes(jpeg(np.full((224, 224, 3), 200, np.uint8)))
    (found.root / "test/acer_rubrum/cut.jpg").write_bytes(truncated(train[0].read_bytes()))
    found.num_files = sum(1 for _ in found.root.rglob("*.jpg"))
    return found


@pytest.fixture(scope="module")
def answer(faults, tmp_path_factory):
    """The JSON output of `pergola validate` with pretrained weights."""
    work = tmp_path_factory.mktemp("answer")
    arguments = ("--relabel", work / "relabel.csv", "--set", f"model.weights={WEIGHTS}")
    return pergola_json("validate", faults.root, "--workspace", work / "work", *arguments)


def test_every_planted_fault_is_found(faults, answer):
    findings = {finding["check"]: finding for finding in answer["findings"]}
    report = ValidationReport.load(Path(answer["page"]).parent)
    assert findings["unreadable"]["paths"] == ["test/acer_rubrum/cut.jpg"]
    assert "train/acer_rubrum/blank.jpg" in findings["blank"]["paths"]
    copies = {path for pair in faults.copies for path in pair}
    crops = {path for pair in faults.crops for path in pair}
    assert copies <= set(findings["split_leak"]["paths"])
    # Of windows like these 91% are found, see docs/trust.md; what is found is what was planted.
    found = set(findings["crop_split_leak"]["paths"])
    assert len(crops & found) >= 2 * CROPS * 0.8
    quarantined = {path for path, check in report.quarantined.items() if check == "exact_duplicate"}
    assert {original for original, _ in faults.copies} <= quarantined  # the one for testing stays
    assert REDUCED in findings["imbalance"]["message"]
    assert any(
        f"'{FRAMED}' can be predicted by its border alone" in finding["message"]
        for finding in answer["findings"]
        if finding["check"] == "shortcut"
    )
    assert findings["label_error"]["severity"] == "warning"
    assert answer["counts"]["images"] == faults.num_files


def test_copies_and_crops_are_one_group(faults, answer):
    folder = Path(answer["page"]).parent
    groups = ValidationReport.load(folder).groups
    (manifest,) = (folder.parents[1] / "scan").glob("*/manifest.parquet")
    ids = Manifest.table(manifest.parent, ["path", "id"]).set_index("path")["id"]
    together = [groups.get(ids[one], "") == groups.get(ids[crop], "-") for one, crop in faults.crops]
    assert np.mean(together) >= 0.6


def test_flipped_labels_come_first_in_the_list(faults, answer):
    with open(answer["relabel"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = rows[: len(faults.flipped)]
    hits = [row["path"] in faults.flipped for row in first]
    assert np.mean(hits) >= 0.8
    right = [
        row["suggested"] == faults.flipped[row["path"]] for row in first if row["path"] in faults.flipped
    ]
    assert np.mean(right) >= 0.9


def test_every_planted_fault_is_shown(faults, answer):
    html = Path(answer["page"]).read_text(encoding="utf-8")
    captions = set(re.findall(r'<span class="soft">([^<]+)</span></figcaption>', html))
    copies = {path for pair in faults.copies for path in pair}
    assert copies | {"test/acer_rubrum/cut.jpg", "train/acer_rubrum/blank.jpg"} <= captions
    assert np.mean([crop in captions for _, crop in faults.crops]) >= 0.6
    assert len(captions & set(faults.flipped)) >= 45  # of a sheet of 60
    assert f"&#39;{FRAMED}&#39; can be predicted by its border" in html and f"&#39;{REDUCED}: " in html
    assert len(html) < 5_000_000


def test_clean_leaves_raise_nothing_critical(tmp_path):
    answer = pergola_json("validate", LEAVES, "--workspace", tmp_path / "work")
    assert answer["ok"] and not answer["counts"]["quarantined"]
    # Brightness, size and border alone do tell most species: the photographs were taken in a few places.
    warnings = {f["check"] for f in answer["findings"] if f["severity"] != "info"}
    assert warnings == {"metadata"}, json.dumps(answer["findings"])


def _two_splits(root: Path) -> None:
    for number, path in enumerate(sorted(LEAVES.rglob("*.jpg"))):
        part = "test" if number % 7 == 0 else "train"
        target = root / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def _frame_and_reduce(root: Path, rng: np.random.Generator) -> None:
    for path in root.glob(f"*/{FRAMED}/*.jpg"):
        pixels = np.asarray(Image.open(path).convert("RGB")).copy()
        pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = ((30, 60, 220),) * 4
        path.write_bytes(jpeg(pixels, quality=90))
    for split in ("train", "test"):
        files = sorted((root / split / REDUCED).glob("*.jpg"))
        for place in rng.permutation(len(files))[max(1, round(len(files) / 10)) :]:
            files[place].unlink()


def _flip(found: Faults, rng: np.random.Generator) -> None:
    """5% of all files go to the folder of another class of the same split."""
    classes = sorted(folder.name for folder in (found.root / "train").iterdir())
    files = sorted(found.root.rglob("*.jpg"))
    for place in rng.choice(len(files), round(0.05 * len(files)), replace=False):
        path = files[place]
        other = str(rng.choice([name for name in classes if name != path.parent.name]))
        target = path.parents[1] / other / f"from-elsewhere-{path.name}"
        found.flipped[target.relative_to(found.root).as_posix()] = path.parent.name
        path.rename(target)


def _cropped(data: bytes, rng: np.random.Generator) -> bytes:
    """A window of 75 to 92% of the sides, somewhere in the image, written as JPEG again."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = rng.uniform(0.75, 0.92)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return jpeg(image.crop((left, top, left + width, top + height)), quality=88)
