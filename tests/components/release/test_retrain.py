"""When it is time to train anew."""

import numpy as np
import pandas as pd
import pytest

from pergola.components.release.retrain import RetrainInputs, RetrainSettings, due, num_changed, rows_of

QUIET = RetrainInputs(0, hours_since_run=48.0, age_days=3.0)


def changed(**facts) -> RetrainInputs:
    return RetrainInputs(**{**vars(QUIET), **facts})


def test_nothing_changed_means_nothing_is_done():
    found = due(QUIET, RetrainSettings())
    assert not found.fire and found.reason.startswith("Nothing changed")


@pytest.mark.parametrize(
    ("inputs", "settings", "reason"),
    [
        (RetrainInputs(None), {}, "There is no run"),
        (changed(num_changed=1), {}, "1 image changed since the last run."),
        (changed(num_changed=1200), {"min_images": 1000}, "1,200 images changed since the last run."),
        (changed(settings_changed=True), {}, "The settings changed"),
        (changed(drifted_checks=1), {}, "The last check of requests found drift. Images and settings are"),
        (changed(drifted_checks=3), {"drift_checks": 2}, "The last 3 checks of requests found drift."),
        (changed(age_days=31.0), {"max_age_days": 30}, "The model is 31.0 days old; the limit is 30."),
        (changed(num_changed=2, drifted_checks=1), {"min_images": 9}, "The last check of requests found"),
        (changed(num_changed=2, newest_minutes=30.0), {"quiet_minutes": 10}, "2 images changed"),
    ],
)
def test_a_reason_to_train_is_given(inputs, settings, reason):
    found = due(inputs, RetrainSettings(**settings))
    assert found.fire and found.reason.startswith(reason)


def test_a_class_that_came_or_went_is_named():
    inputs = changed(num_changed=30, classes_before=("a", "b"), classes_now=("b", "c"))
    reason = due(inputs, RetrainSettings()).reason
    assert "New classes: c." in reason
    assert "Classes that are gone: a. The gate rejects a model without them" in reason
    same = changed(num_changed=30, classes_before=("a", "b"), classes_now=("a", "b"))
    assert due(same, RetrainSettings()).reason == "30 images changed since the last run."


@pytest.mark.parametrize(
    ("inputs", "settings", "reason"),
    [
        (
            changed(num_changed=9),
            {"min_images": 10},
            "9 images changed since the last run; at least 10 are needed",
        ),
        (changed(num_changed=9, newest_minutes=2.0), {"quiet_minutes": 10}, "the last 2 minutes ago"),
        (changed(drifted_checks=1), {"drift_checks": 2}, "Nothing changed"),
        (
            changed(drifted_checks=1, hours_since_run=0.5),
            {},
            "The last run was 0.5 hours ago; at least 1 must pass.",
        ),
        (changed(age_days=400.0), {}, "Nothing changed"),
        (
            changed(age_days=400.0, hours_since_run=1.0),
            {"max_age_days": 30, "min_hours": 24},
            "at least 24 must pass",
        ),
    ],
)
def test_haste_waits(inputs, settings, reason):
    found = due(inputs, RetrainSettings(**settings))
    assert not found.fire and reason in found.reason


def test_unchanged_images_are_said_to_give_the_same_model():
    assert "the same one" in due(changed(drifted_checks=1), RetrainSettings()).reason
    assert "the same one" not in due(changed(drifted_checks=1, num_changed=1), RetrainSettings()).reason


def test_num_changed_counts_images(tmp_path):
    rows = [(f"a/{i}.png", "a", None, f"{i:064x}") for i in range(10)]

    def manifest(rows):
        columns = ["path", "label", "given_split", "id"]
        pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "manifest.parquet")
        return rows_of(tmp_path)

    before = manifest(rows)
    assert num_changed(before, manifest(rows)) == 0
    assert num_changed(before, manifest(rows[:8])) == 2
    assert num_changed(before, manifest([*rows[1:], ("b/0.png", "b", None, f"{0:064x}")])) == 1
    assert num_changed(before, manifest([*rows, ("b/9.png", "b", "test", "f" * 64)])) == 1
    assert num_changed(np.array([], np.uint64), before) == 10
