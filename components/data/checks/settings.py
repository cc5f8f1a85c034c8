"""The [validate] settings: which checks run, and how much of the data they may exclude."""

from __future__ import annotations

from dataclasses import dataclass

from pergola.components.records import setting


@dataclass(frozen=True)
class ValidateSettings:
    """Which expectations the data must meet, and how much of it may be excluded."""

    expectations: str = setting(
        "",
        "file with the expectations: TOML, or a suite of Great Expectations (.json); empty: those that come "
        "with pergola",
        file=True,
    )
    gx_project: bool = setting(
        False,
        "write checks and results into the workspace's project of Great Expectations, gx/; with expectations "
        "of your own this is always done",
    )
    max_quarantined: float = setting(
        0.2, "share of the files that checks may exclude before the run stops", low=0.0, high=1.0
    )
    group_by: str = setting(
        "", "extra column of a list whose equal values are one object, which stays in one split; empty: none"
    )
    label_errors: bool = setting(True, "look for wrong labels, and rank them in relabel.csv")
    outliers: bool = setting(True, "look for images unlike any other; needs pretrained weights")
    crops: bool = setting(True, "look for images that are a part of another one")
    shortcuts: bool = setting(True, "look for classes that metadata or the border alone give away")
    embedding: str = setting(
        "auto",
        "how images are compared: auto, by the network of model.weights if it is set; plain, by shape and "
        "colour",
        choices=("auto", "plain"),
    )
    max_inspected: int = setting(
        20_000,
        "images that these checks read, drawn at random; 0: none",
        low=0,
        high=1_000_000,
        was="max_looked_at",
    )
