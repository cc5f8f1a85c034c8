"""Cron expressions against the answers of robfig/cron 1.2.0, which is what Kubeflow runs.

robfig_cron.jsonl was written by that library: the four firing times after a moment, none when it
gives up. To write more, call cron.Parse(text).Next(t) of v1.2.0 in the time zone's location.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.components.errors import InputError
from pergola.pipelines.kubeflow.client import cron

CASES = [json.loads(line) for line in Path(__file__).with_name("robfig_cron.jsonl").read_text().splitlines()]
NOW = datetime(2026, 11, 21, tzinfo=UTC)  # a Saturday


def test_next_times_agree_with_robfig_cron():
    for case in CASES:
        if case["times"]:
            found = cron.next_times(
                cron.parse(case["cron"]), datetime.fromisoformat(case["after"]), ZoneInfo(case["zone"]), 4
            )
            assert [t.isoformat().replace("+00:00", "Z") for t in found] == case["times"], case
        else:
            with pytest.raises(InputError, match="never fires"):
                cron.parse(case["cron"])


def test_parse_reads_five_fields_as_crontab_does_and_sends_six():
    parsed = cron.parse("0 3 * * 1-5")
    assert parsed.text == "0 0 3 * * 1-5"
    times = cron.next_times(parsed, NOW, ZoneInfo("Europe/Berlin"))
    assert [t.isoformat() for t in times] == [
        "2026-11-23T03:00:00+01:00", "2026-11-24T03:00:00+01:00", "2026-11-25T03:00:00+01:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 fields"),
        ("0 3 * *", "has 4 fields"),
        ("@daily", "has 1 fields"),
        ("0 0 3 * * 1 2026", "has 7 fields"),
        ("0 60 * * *", "hour '60': 60 is out of bounds, expected 0 to 23"),
        ("0 3 * * 7", "Sunday is 0"),
        ("0 3 * * mo", "'mo' is not a number"),
        ("0 22-4 * * *", "runs backwards"),
        ("*/0 * * * *", "step"),
        ("0 3 1,, * *", "'' is not a number"),
        ("0 3 31 2 *", "never fires"),
        ("0 0 3 30 feb ?", "never fires"),
    ],
)
def test_parse_refuses(text, words):
    with pytest.raises(InputError) as error:
        cron.parse(text)
    assert words in str(error.value) and f"'{text}'" in str(error.value)


@given(st.text(alphabet="0123456789*/,-? monjaQ", max_size=30))
def test_parse_refuses_or_fires(text):
    try:
        parsed = cron.parse(text)
    except InputError:
        return
    assert cron.parse(parsed.text) == parsed
    first, second = cron.next_times(parsed, NOW, ZoneInfo("UTC"), 2)
    assert NOW < first < second


@pytest.mark.parametrize(
    ("text", "source", "target", "sent"),
    [
        ("0 3 * * *", "UTC", "UTC", "0 0 3 * * *"),
        ("0 3 * * *", "Europe/Berlin", "Europe/Paris", "0 0 3 * * *"),
        ("0 3 * * 1-5", "Asia/Tokyo", "UTC", "0 0 18 * * 0,1,2,3,4"),
        ("30 9 1 * *", "Asia/Kolkata", "UTC", "0 0 4 1 * *"),
        ("0 2,14 * * *", "Asia/Tokyo", "UTC", "0 0 5,17 * * *"),
    ],
)
def test_translate_keeps_the_moments(text, source, target, sent):
    parsed = cron.parse(text)
    moved = cron.translate(parsed, ZoneInfo(source), ZoneInfo(target), NOW)
    assert moved.text == sent
    assert [t.timestamp() for t in cron.next_times(moved, NOW, ZoneInfo(target), 20)] == [
        t.timestamp() for t in cron.next_times(parsed, NOW, ZoneInfo(source), 20)
    ]


@pytest.mark.parametrize(
    ("text", "source", "words"),
    [
        ("0 3 * * *", "Europe/Berlin", "daylight saving"),
        ("0 3 1 * *", "Asia/Tokyo", "cannot be written"),  # the last of a month in UTC
        ("0,30 0,5 * * 1", "Asia/Kolkata", "cannot be written"),  # two days in UTC
    ],
)
def test_translate_refuses_what_it_cannot_keep(text, source, words):
    with pytest.raises(InputError, match=words):
        cron.translate(cron.parse(text), ZoneInfo(source), ZoneInfo("UTC"), NOW)


def test_zone_refuses_an_unknown_name():
    for name in ("Mars/Olympus", "../etc/passwd", "", "CEST5"):
        with pytest.raises(InputError, match="is not a time zone"):
            cron.zone(name, "time_zone")
