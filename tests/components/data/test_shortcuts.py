"""Shortcuts: planted ones are found and named, chance and real differences are not."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pergola.components.artifacts.data import Finding
from pergola.components.data.checks import shortcuts
from pergola.components.data.checks.image_features import border_of
from pergola.components.data.checks.shortcuts import ShortcutSettings, find_shortcuts
from pergola.components.data.manifest import image_metadata
from tests.support import images

LEAVES = Path("../shared/data/leaves")


def rows(count: int = 300, classes: int = 3, seed: int = 0) -> pd.DataFrame:
    """A manifest in which nothing tells the classes."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"{i:04}" for i in range(count)],
            "label": [f"class_{i % classes}" for i in range(count)],
            "brightness": rng.normal(120, 30, count),
            "contrast": rng.normal(50, 10, count),
            "sharpness": rng.gamma(2, 100, count),
            "width": rng.choice([640, 800], count),
            "height": rng.choice([480, 600], count),
            "bytes": rng.integers(20_000, 90_000, count),
            "format": rng.choice(["JPEG", "PNG"], count),
            "mode": "RGB",
            "orientation": 1,
        }
    )


def told(found: shortcuts.Shortcuts) -> list[Finding]:
    """Findings of classes that are given away."""
    return [finding for finding in shortcuts.findings(found) if finding.check == "shortcut"]


def test_find_shortcuts_are_silent_about_chance():
    found = find_shortcuts(rows())
    assert shortcuts.findings(found) == () and found.interval[0] < 0.4 < 0.5 > found.interval[1] - 0.1
    assert all(abs(one.informedness) < 0.25 for one in found.fields)
    assert len(found.fields) == 18 and found.majority == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("field", "column", "value"),
    [("format", "format", "WEBP"), ("size", "width", 1024), ("brightness", "brightness", 250.0)],
)
def test_find_shortcuts_name_the_field_and_the_class(field, column, value):
    table = rows()
    table.loc[table["label"] == "class_1", column] = value
    found = find_shortcuts(table)
    (finding,) = told(found)
    best = found.fields[0]
    assert (best.field, best.label, best.found) == (field, "class_1", 1.0) and best.mistaken < 0.02
    assert f"'class_1' can be predicted by its {field} alone: 100% of its images" in finding.message
    assert found.accuracy > 0.5
    (metadata,) = [f for f in shortcuts.findings(found) if f.check == "metadata"]
    assert metadata.severity == "info" and f"{found.accuracy:.0%} of 300 images" in metadata.message


def test_find_shortcuts_do_not_call_a_tendency_a_shortcut():
    table = rows()
    table.loc[table["label"] == "class_1", "brightness"] += 60
    found = find_shortcuts(table)
    assert told(found) == [] and found.fields[0].informedness > 0.4


def test_find_shortcuts_see_a_border():
    rng = np.random.default_rng(0)
    edges = rng.normal(200, 15, (300, 4))
    edges[1::3] = [250, 10, 10, 2]
    found = find_shortcuts(rows(), edges)
    assert [one.field for one in found.fields if one.gives_away] == ["border"]


def test_find_shortcuts_need_more_than_copies():
    """Ten images copied thirty times are told by their bytes, unless copies stay together."""
    table = rows(300)
    table["bytes"] = np.arange(300) % 10
    table["label"] = ["ABAABABBAB"[value] for value in table["bytes"]]
    groups = {id: str(value) for id, value in zip(table["id"], table["bytes"], strict=True)}
    alone = [one.informedness for one in find_shortcuts(table, None, groups).fields if one.field == "bytes"]
    leaked = [one.informedness for one in find_shortcuts(table).fields if one.field == "bytes"]
    assert max(alone) < 0.5 < max(leaked)


def test_find_shortcuts_take_a_manifest_with_one_class_or_none():
    table = rows(40, classes=1)
    assert find_shortcuts(table).fields == ()
    assert find_shortcuts(table.iloc[:0]).fields == ()
    assert find_shortcuts(rows(6)).fields == ()


def test_find_shortcuts_look_at_a_bounded_number():
    found = find_shortcuts(rows(400), None, None, ShortcutSettings(max_images=100))
    assert found.num_images == 100


def test_border_is_the_outermost_pixels():
    image = np.full((300, 500, 3), 9, np.uint8)
    image[:3], image[-3:], image[:, :5], image[:, -5:] = ((255, 0, 0),) * 4
    assert border_of(image) == (255, 0, 0, 0)
    red, green, blue, spread = border_of(decoded(images.jpeg(image)))
    assert red > 230 and max(green, blue) < 25 and spread < 12
    one = border_of(np.full((1, 1, 3), 7, np.uint8))
    assert one == (7, 7, 7, 0)


@pytest.mark.slow
@pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the photographs in ../shared/data")
def test_find_shortcuts_in_leaves_finds_a_planted_border_and_nothing_else():
    files = sorted(LEAVES.rglob("*.jpg"))
    encoded = [file.read_bytes() for file in files]
    limits = image_metadata.ImageLimits(1 << 28, 1 << 20, 1 << 30)

    def table() -> pd.DataFrame:
        inspected = pd.DataFrame([image_metadata.inspect(data, limits) for data in encoded])
        return inspected.assign(label=[file.parent.name for file in files])

    assert told(find_shortcuts(table(), borders(encoded))) == []
    for i, file in enumerate(files):
        if file.parent.name == "ilex_opaca":
            encoded[i] = framed(encoded[i])
    found = told(find_shortcuts(table(), borders(encoded)))
    assert len(found) == 1 and "'ilex_opaca' can be predicted by its border alone" in found[0].message


def borders(encoded: list[bytes]) -> np.ndarray:
    return np.array([border_of(decoded(data)) for data in encoded], np.float32)


def decoded(data: bytes) -> np.ndarray:
    """Pixels at the reduced size at which features are extracted."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (128, 128))
    return np.asarray(image.convert("RGB"))


def framed(data: bytes) -> bytes:
    """A JPEG with a blue frame of 4 pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy()
    pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = ((30, 60, 220),) * 4
    return images.jpeg(pixels, quality=90)
