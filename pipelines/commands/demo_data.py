"""1,797 real handwritten digits as a folder of PNGs, with a few files damaged on purpose.

From scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits" test set: 8x8 pixels,
17 grey levels, ten classes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

SPOILT = {
    "3/truncated.png": "truncated",
    "5/empty.png": "empty",
    "7/not-an-image.png": "a text file with the name of an image",
    "8/copy-of-a-one.png": "a copy with another label",
}


def write_digits(folder: Path) -> int:
    """Write `<folder>/<digit>/<number>.png` and the damaged files; returns the number of good images.

    A folder that is already complete is kept.
    """
    done = folder / ".complete"
    if done.exists():
        return int(done.read_text())
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    shutil.rmtree(folder, ignore_errors=True)
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{number:04}.png")
    _spoil(folder)
    done.write_text(str(len(images)))
    return len(images)


def _spoil(folder: Path) -> None:
    three = next(iter(sorted((folder / "3").glob("*.png"))))
    one = next(iter(sorted((folder / "1").glob("*.png"))))
    whole = three.read_bytes()
    (folder / "3" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5" / "empty.png").touch()
    (folder / "7" / "not-an-image.png").write_text("This is not an image.\n")
    shutil.copyfile(one, folder / "8" / "copy-of-a-one.png")
