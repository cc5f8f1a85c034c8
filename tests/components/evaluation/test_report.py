import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.artifacts import (
    Augmentation,
    Export,
    Finding,
    Rehearsal,
    Training,
    ValidationReport,
)
from components.evaluation import charts
from components.evaluation.calibration import reliability
from components.evaluation.compare import compare_evaluations
from components.evaluation.evaluate import EvaluateSettings, evaluate
from components.evaluation.gate import Facts, GateSettings, decide
from components.evaluation.report import MAX_BYTES, About, Parts, write_report
from tests.components.evaluation.conftest import LABELS, by_brightness

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def run(walk, tmp_path_factory):
    """All artifacts of a run, with a name that would be markup if it were let."""
    root = tmp_path_factory.mktemp("run")
    settings = EvaluateSettings()
    found = evaluate(by_brightness((40, 195, 210)), walk.shards, walk.split, root / "evaluation", settings)
    evaluate(by_brightness(), walk.shards, walk.split, root / "champion", settings, with_train=False)
    rehearsal = Rehearsal(True, "", 9, 1e-7)
    rehearsal.save(root / "rehearsal")
    pair = compare_evaluations(root / "evaluation", root / "champion")
    decide(Facts(found, rehearsal, pair, 3), GateSettings(min_accuracy=0.99)).save(root / "gate")
    finding = Finding("unreadable", "warning", 1, (EVIL,), f"1 file cannot be read: {EVIL}.")
    ValidationReport(True, (finding,), {EVIL: "unreadable"}, 70, {}).save(root / "validation")
    history = tuple(
        {"loss": 1 / e, "val_loss": 1.2 / e, "accuracy": 0.5, "val_accuracy": 0.4} for e in (1, 2, 3)
    )
    Training("tiny", "Few pictures.", LABELS, 8, 8, 1, 99, 3, 2, history, "float32", 0).save(
        root / "training"
    )
    Augmentation({"rotation_degrees": 10.0, "cutout": 0.0}).save(root / "augmentation")
    Image.new("RGB", (64, 32), "red").save(root / "augmentation" / "preview.png")
    Export(LABELS, 8, 8, 1, 1000, "e" * 64).save(root / "export")
    return Parts(
        evaluation=root / "evaluation",
        gate=root / "gate",
        shards=walk.shards,
        validation=root / "validation",
        split=walk.split,
        augmentation=root / "augmentation",
        training=root / "training",
        export=root / "export",
        rehearsal=root / "rehearsal",
        champion=root / "champion",
    )


ABOUT = About("leaves", f"pergola run '{EVIL}'", "[train]\nepochs = 3\n", "0.1", {"data": "d" * 64})


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write_report(run, ABOUT, tmp_path_factory.mktemp("report"))


class Tags(HTMLParser):
    """Every address in the page, and whether tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.scripts = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "action")
        ]
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_is_one_small_file_that_asks_no_host(page):
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert len(text.encode()) < MAX_BYTES
    assert "default-src 'none'" in text


def test_report_shows_names_as_text(page):
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.scripts == 1
    assert html.escape(EVIL, quote=True).replace("&#x27;", "&#39;") in page.read_text()


def test_report_says_the_verdict_first_and_why(page):
    text = page.read_text()
    assert (
        text.index("Rejected")
        < text.index('id="why"')
        < text.index('id="data"')
        < text.index('id="confusion"')
    )
    assert "its lower end must reach 99.0%" in text
    assert "champion (version 3)" in text
    assert "pergola run" in text and "epochs = 3" in text and "d" * 64 in text


def test_report_counts_errors_as_the_predictions_do(run, page):
    rows = pd.read_parquet(run.evaluation / "predictions.parquet")
    wrong = rows[rows["label"] != rows["predicted"]]
    assert len(wrong) > 0
    text = page.read_text()
    assert f"{len(wrong)} wrong, 3 classes" in text
    assert all(path in text for path in wrong["path"])


def test_report_twice_gives_the_same_bytes(run, page, tmp_path):
    assert write_report(run, ABOUT, tmp_path).read_bytes() == page.read_bytes()


def test_report_makes_do_with_what_there_is(run, tmp_path):
    parts = Parts(evaluation=run.evaluation, gate=run.gate, shards=run.shards)
    text = write_report(parts, About("leaves"), tmp_path).read_text()
    assert "There was no champion" in text
    assert 'id="training"' not in text


def browse(page, script, tmp_path):
    """What Chromium makes of the page after `script`: its document, and its console."""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--enable-logging=stderr", "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'user'}",
            "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium to show the page")
def test_report_filters_the_pictures_behind_a_cell(page, tmp_path):
    script = (
        "const b=[...document.querySelectorAll('.matrix button')].find(b=>b.dataset.cell==='1-0');b.click();"
        "const on=[...document.querySelectorAll('#gallery li')].filter(l=>!l.hidden);"
        "document.title=JSON.stringify({count:+b.textContent,shown:on.length,"
        "cells:[...new Set(on.map(l=>l.dataset.cell))],pressed:b.ariaPressed,"
        "loaded:on.every(l=>l.querySelector('img').naturalWidth>0),"
        "asked:performance.getEntriesByType('resource').map(r=>r.name)});"
    )
    script = f"addEventListener('load',()=>setTimeout(()=>{{{script}}},200))"
    document, console = browse(page, script, tmp_path)
    assert console == []
    title = html.unescape(re.search(r"<title>(.*?)</title>", document)[1])
    seen = json.loads(title)
    assert seen["count"] == seen["shown"] > 0
    assert seen["cells"] == ["1-0"]
    assert seen["pressed"] == "true"
    assert seen["loaded"]
    assert [name for name in seen["asked"] if not name.startswith("data:")] == []


def test_thumbnail_keeps_the_shape_and_refuses_what_is_no_picture(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (300, 100), "green").save(path)
    address = charts.thumbnail(path.read_bytes(), 96)
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as small:
        assert small.size == (96, 32)
    assert charts.thumbnail(b"no picture") == ""


def test_curves_take_the_colour_of_the_page():
    svg = charts.curves(({"loss": 1.0, "accuracy": 0.5},), 1)
    assert "currentColor" in svg and "#010203" not in svg
    assert svg == charts.curves(({"loss": 1.0, "accuracy": 0.5},), 1)
    assert charts.curves((), 0) == ""


def test_reliability_draws_a_point_a_bin():
    probabilities = np.array([[0.95, 0.05]] * 7 + [[0.4, 0.6]] * 5)
    bins = reliability(probabilities, np.array([0] * 7 + [1] * 5), num_bins=2)
    svg = charts.reliability(bins)
    assert svg.startswith("<svg") and "confidence" in svg
    assert svg == charts.reliability(bins)
