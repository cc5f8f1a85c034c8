"""Names that people give to the folders of a split. A name alone decides nothing, see layout.py."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pergola.components.artifacts.data import TEST, TRAIN, VALIDATION

UNLABELLED = "unlabelled"  # images to be predicted, or for training without labels

# What lists, arrays and folders call a split.
SPLIT_NAMES: Mapping[str, str] = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "testing": TEST,
    "eval": TEST,
    "evaluation": TEST,
    "holdout": TEST,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
}
FOLDER_NAMES: Mapping[str, str] = {
    **SPLIT_NAMES,
    **dict.fromkeys(("pred", "prediction", "predictions", "unlabeled", "unlabelled"), UNLABELLED),
}
_PREFIX = re.compile("(" + "|".join(sorted(FOLDER_NAMES, key=len, reverse=True)) + ")(.+)")


def exact_split(name: str) -> str | None:
    """The split that a folder's whole name is a word for, or UNLABELLED."""
    return FOLDER_NAMES.get(name.casefold())


def split_in(name: str) -> tuple[str | None, str]:
    """The split that a part of the name is a word for, and the name with a `*` in its place.

    >>> split_in("seg_train"), split_in("test_set"), split_in("train2017"), split_in("oak")
    (('train', 'seg_*'), ('test', '*_set'), ('train', '*2017'), (None, 'oak'))
    """
    folded = name.casefold()
    parts = re.split(r"([\s_.-]+)", folded)
    words = [place for place, part in enumerate(parts) if part in FOLDER_NAMES]
    if len(words) == 1:
        place = words[0]
        return FOLDER_NAMES[parts[place]], "".join([*parts[:place], "*", *parts[place + 1 :]])
    begins = _PREFIX.fullmatch(folded)
    return (FOLDER_NAMES[begins[1]], f"*{begins[2]}") if begins and not words else (None, folded)
