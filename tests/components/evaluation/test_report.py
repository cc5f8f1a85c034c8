import base64
import dataclasses
import html
import io
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pergola.components.artifacts.data import Finding, ValidationReport
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.artifacts.release import Champion
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.data.page import Images, Shown
from pergola.components.data.shard_reader import read_images
from pergola.components.evaluation import charts, thumbnails
from pergola.components.evaluation.calibration import reliability
from pergola.components.evaluation.evaluate import EvaluateSettings, evaluate
from pergola.components.evaluation.export_notes import ExportNotes
from pergola.components.evaluation.gate.gate import GateInputs, GateSettings, decide
from pergola.components.evaluation.report.report import MAX_BYTES, About, ReportInputs, with_run, write_report
from pergola.components.evaluation.saliency import HeatMap, overlay
from pergola.components.stats.costs import Costs
from tests.components.evaluation.conftest import LABELS, by_brightness, saliency

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>alert('x')</script>"


SUSPECTS = tuple(f"grey/{number}.png" for number in range(30))
COSTS = Costs(LABELS, (*LABELS, "ask a person"), ((0, 1, 1, 0.2), (1, 0, 9, 0.2), (1, 1, 0, 0.2)))


@pytest.fixture(scope="module")
def run(walk, tmp_path_factory):
    """All artifacts of a run, with a name that would be markup if it were let."""
    root = tmp_path_factory.mktemp("run")
    settings = EvaluateSettings()
    evaluate(by_brightness((40, 195, 210)), walk.shards, walk.split, root / "evaluation", settings,
             notes=ExportNotes(1.5, COSTS), manifest_folder=walk.manifest, explain=saliency)  # fmt: skip
    evaluate(by_brightness(), walk.shards, walk.split, root / "champion", settings, with_train=False)
    smoke_test = SmokeTest(True, "", 9, 1e-7, 12.0, (9.0, 30.0), 24, 2_000_000)
    smoke_test.save(root / "smoke_test")
    findings = (
        Finding("unreadable", "warning", 1, (EVIL,), f"1 file cannot be read: {EVIL}."),
        Finding("exact_duplicate", "info", 2, ("a.png", "b.png"), "2 files are equal."),
        Finding("label_error", "warning", 40, SUSPECTS, "40 of 70 labels look wrong."),
    )
    ValidationReport(True, findings, {EVIL: "unreadable"}, 70, {}).save(root / "validation")
    Champion(3).save(root / "champion-version")
    inputs = GateInputs.of(root / "evaluation", root / "champion-version", root / "champion",
                           root / "smoke_test", root / "validation")  # fmt: skip
    decide(inputs, GateSettings(min_accuracy=0.99)).save(root / "gate")
    inputs.costs.save(root / "gate")
    found = next(read_images(walk.shards, "train")).image
    like = Shown("a.png", "grey", base64.b64encode(found).decode(), "")
    suspects = tuple((Shown(path, "grey", like.data, "", "looks like dark"),) for path in SUSPECTS)
    Images((((Shown(EVIL, "dark", "", "it is cut off"),),), ((like, like),), suspects)).save(
        root / "validation"
    )
    history = tuple(
        {"loss": 1 / e, "val_loss": 1.2 / e, "accuracy": 0.5, "val_accuracy": 0.4} for e in (1, 2, 3)
    )
    Training("tiny", "Few images.", LABELS, 8, 8, 1, 99, 3, 2, history, "float32", 0).save(root / "training")
    Augmentation({"rotation_degrees": 10.0, "cutout": 0.0}).save(root / "augmentation")
    Image.new("RGB", (64, 32), "red").save(root / "augmentation" / "preview.png")
    Export(LABELS, 8, 8, 1, 1000, "e" * 64).save(root / "export")
    return ReportInputs(
        evaluation=root / "evaluation",
        gate=root / "gate",
        shards=walk.shards,
        validation=root / "validation",
        split=walk.split,
        augmentation=root / "augmentation",
        training=root / "training",
        export=root / "export",
        smoke_test=root / "smoke_test",
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


def test_report_shows_the_verdict_first_and_the_rules(page):
    text = page.read_text()
    assert (
        text.index("Rejected")
        < text.index('id="gate"')
        < text.index('id="data"')
        < text.index('id="confusion"')
    )
    assert "its lower end must be at least 99.0%" in text
    assert "champion (version 3)" in text
    assert "pergola run" in text and "epochs = 3" in text and "d" * 64 in text


def test_report_counts_errors_as_the_predictions_do(run, page):
    rows = pd.read_parquet(run.evaluation / "predictions.parquet")
    wrong = rows[rows["label"] != rows["predicted"]]
    assert len(wrong) > 0
    text = page.read_text()
    assert f"{len(wrong)} wrong, 3 classes" in text
    assert all(path in text for path in wrong["path"])
    assert "<dt>Top 3</dt>" not in text  # of three classes it is always 100%


def test_report_shows_findings_slices_costs_and_where_the_model_looked(page):
    text = page.read_text()
    assert text.count("<figure>") == 3 + 24
    assert text.count("looks like dark") == 24 and "16 further images not shown" in text
    assert "it is cut off" in text and "camera" in text and "too small to judge" in text
    assert "without temperature" in text and "as served" in text
    assert "cheapest decision" in text and "ask a person" in text and "Grad-CAM" in text
    assert text.count('class="pair"') > 0 and "champion: correct" in text


def test_report_twice_gives_the_same_bytes(run, page, tmp_path):
    assert write_report(run, ABOUT, tmp_path).read_bytes() == page.read_bytes()


def test_report_of_a_run_names_model_version_run_and_date(page):
    text = page.read_text()
    run = {"run": "20261130-140502-7f", "date": "2026-11-30 14:05 UTC"}
    released = with_run(text, model="leaves", version=4, **run)
    title = "<title>leaves version 4: rejected. Run 20261130-140502-7f, 2026-11-30 14:05 UTC</title>"
    assert "<title>leaves: rejected</title>" in text and title in released
    assert "Version 4. Run 20261130-140502-7f, 2026-11-30 14:05 UTC</p>" in released
    unreleased = with_run(text, model="leaves", **run)
    assert "<title>leaves: rejected. Run 2026" in unreleased and "Version" not in unreleased[:9000]
    assert "<b>" not in with_run("<title>a: accepted</title>", model="<b>", run="\\1", date="")


def test_report_makes_do_with_what_there_is(run, tmp_path):
    parts = ReportInputs(evaluation=run.evaluation, gate=run.gate, shards=run.shards)
    text = write_report(parts, About("leaves"), tmp_path).read_text()
    assert "There was no champion" in text
    assert 'id="training"' not in text


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium to show the page: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


class Seen:
    """The page in a browser, with all that it said and asked for."""

    def __init__(self, browser, path, **look):
        self.context = browser.new_context(**look)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


@pytest.mark.slow
def test_report_in_a_browser_filters_images_and_asks_no_host(page, browser):
    with Seen(browser, page) as seen:
        button = seen.page.locator(".matrix button[data-cell='1-0']")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        shown = seen.page.locator("#gallery li:visible")
        assert shown.count() == int(button.inner_text()) > 0
        assert {shown.nth(i).get_attribute("data-cell") for i in range(shown.count())} == {"1-0"}
        loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
        seen.page.wait_for_function(
            "() => [...document.querySelectorAll('#gallery li:not([hidden]) img')].every(i => i.complete)"
        )
        assert shown.locator("img").evaluate_all(loaded)
        seen.page.get_by_role("button", name="Back to all errors").click()
        worst = {shown.nth(i).get_attribute("data-worst") for i in range(shown.count())}
        assert worst == {"1"} and button.get_attribute("aria-pressed") == "false"
        suspects = seen.page.locator("figure:visible", has_text="looks like dark")
        assert suspects.count() == 8
        seen.page.get_by_text("16 more").click()
        assert suspects.count() == 24
        for link in seen.page.locator("nav a").all():
            assert seen.page.locator(link.get_attribute("href")).count() == 1
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("data:")] == [page.as_uri()]


def test_report_fits_on_paper(page, browser):
    with Seen(browser, page, viewport={"width": 718, "height": 1047}) as seen:  # A4 less its margins
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        bar = seen.page.locator(".range").first
        assert bar.evaluate("bar => getComputedStyle(bar).printColorAdjust") == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_on_a_phone_is_readable(page, browser, scheme):
    """Contrast, headings, names and roles by axe-core; nothing is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with Seen(browser, page, color_scheme=scheme, viewport={"width": 390, "height": 844}) as seen:
        wide = seen.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        found = axe.Axe().run(seen.page)
        checked = {rule["id"] for rule in found.response["passes"]}
        assert {"color-contrast", "heading-order", "image-alt", "region"} <= checked
        assert found.violations_count == 0, found.generate_report()
        assert seen.said == []


def test_overlay_lies_where_the_network_looked():
    heat = HeatMap.of(np.array([[1.0, 0.0], [0.0, 0.0]], np.float32))
    grey = Image.new("RGB", (80, 40), (90, 90, 90))
    for aspect, bright in (("stretch", (5, 5)), ("crop", (25, 5))):
        pixels = np.asarray(overlay(grey, heat, aspect, (16, 16))).astype(int)
        assert pixels[bright[1], bright[0]].sum() > pixels[35, 75].sum() + 100
        assert tuple(pixels[35, 75]) == (90, 90, 90)
    padded = np.asarray(overlay(grey, heat, "pad", (16, 16))).astype(int)  # the top of the map is a bar
    assert padded[2, 2].sum() > padded[38, 70].sum()


def test_thumbnail_keeps_the_shape_and_refuses_what_is_no_image(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (300, 100), "green").save(path)
    address = thumbnails.thumbnail(path.read_bytes(), 96)
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as small:
        assert small.size == (96, 32)
    assert thumbnails.thumbnail(b"no image") == ""


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


def test_a_class_without_a_test_image_is_not_tested(run, tmp_path):
    shutil.copytree(run.evaluation, tmp_path / "evaluation")
    found = Evaluation.load(run.evaluation)
    none = ClassScore(LABELS[0], None, None, None, 0)
    dataclasses.replace(found, per_class=(none, *found.per_class[1:])).save(tmp_path / "evaluation")
    inputs = dataclasses.replace(run, evaluation=tmp_path / "evaluation")
    text = write_report(inputs, About("leaves"), tmp_path).read_text()
    row = text[text.index(f'<tr><th scope="row">{LABELS[0]}</th><td class="n">0<') :]
    assert (
        "not tested: no test image" in row[: row.index("</tr>")] and "0.0%" not in row[: row.index("</tr>")]
    )


def test_open_warnings_stand_beside_the_verdict(run, tmp_path):
    text = write_report(run, About("leaves"), tmp_path).read_text()
    assert text.index("open warnings about the data") < text.index('id="gate"')
    assert "label error: 40 of 70 labels look wrong." in text
