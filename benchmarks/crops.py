"""Crops: how many windows cut out of photographs are found, and what else is called one.

scripts/bench crops [--dataset ../shared/data/leaves] [--windows 200] [--smallest 0.75] [--json]

Each window keeps between --smallest and 95% of the sides, lies anywhere and is written as JPEG of quality 88.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pergola.components.imaging.crop_matching import crop_pairs
from pergola.components.imaging.keypoints import Keypoints, detect_keypoints
from pergola.components.stats.metrics import wilson_interval

DATASET = Path("../shared/data/leaves")
LARGEST = 0.95


def measure(dataset: Path, windows: int, smallest: float, seed: int = 1) -> dict[str, Any]:
    """Found windows by their size, pairs of the photographs as they are, and seconds of CPU."""
    files = sorted(path for path in dataset.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    rng = np.random.default_rng(seed)
    begin = time.process_time()
    rows = [detect_keypoints(_opened(path.read_bytes())) for path in files]
    scales = rng.uniform(smallest, LARGEST, windows)
    originals = rng.choice(len(files), windows, replace=False)
    for original, scale in zip(originals, scales, strict=True):
        rows.append(detect_keypoints(_window(_opened(files[original].read_bytes()), scale, rng)))
    looked = time.process_time() - begin
    pairs = {tuple(pair) for pair in crop_pairs(Keypoints.of(rows)).tolist()}
    planted = [(int(original), len(files) + place) for place, original in enumerate(originals)]
    found = np.array([pair in pairs for pair in planted])
    edges = np.linspace(smallest, LARGEST, 5)
    others = sorted(pair for pair in pairs if pair[1] < len(files))
    return {
        "dataset": dataset.name,
        "images": len(files),
        "windows": windows,
        "found": int(found.sum()),
        "interval": wilson_interval(int(found.sum()), windows),
        "by_size": {
            f"{low:.2f}-{high:.2f}": [int(found[some].sum()), int(some.sum())]
            for low, high in itertools.pairwise(edges)
            for some in [(scales >= low) & (scales < high)]
        },
        "other_pairs": [[files[a].name, files[b].name] for a, b in others],
        "points_cpu_s": round(looked, 1),
        "pairs_cpu_s": round(time.process_time() - begin - looked, 1),
    }


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _window(image: Image.Image, scale: float, rng: np.random.Generator) -> Image.Image:
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    written = io.BytesIO()
    image.crop((left, top, left + width, top + height)).save(written, "JPEG", quality=88)
    return _opened(written.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench crops", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, default=DATASET)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--smallest", type=float, default=0.75)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.dataset, asked.windows, asked.smallest)
    if asked.json:
        print(json.dumps(found))
        return
    low, high = found["interval"]
    print(
        f"{found['found']} of {found['windows']} windows found ({low:.1%} to {high:.1%}), by share of sides:"
    )
    print("  " + ", ".join(f"{size}: {some} of {all}" for size, (some, all) in found["by_size"].items()))
    print(f"pairs of the {found['images']:,} photographs as they are: {found['other_pairs']}")
    print(f"{found['points_cpu_s']} s of CPU to find keypoints, {found['pairs_cpu_s']} s to find pairs")


if __name__ == "__main__":
    main()
