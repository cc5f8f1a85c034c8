"""pergola expectations: infer, review, diff, check; and the list of labels that validate hands out."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from pergola.components import settings as config
from pergola.components.data.expectations import rules
from pergola.components.errors import InputError
from pergola.components.workspace import Workspace
from pergola.pipelines.commands.expectations import act
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import SilentDisplay
from tests.support.images import write_folder


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("first") / "p", classes=2, per_class=40)


def done(action: str, dataset: Path, work: Path, file: Path | None, fail_on: str = "critical"):
    return act(action, dataset, file, config.load(), Workspace(work), show=SilentDisplay(), fail_on=fail_on)


@pytest.mark.slow
def test_expectations_go_from_a_first_data_set_to_a_later_one(first, tmp_path):
    file = tmp_path / "expectations.toml"
    assert "9 images" not in done("infer", first, tmp_path / "w", file).text
    with pytest.raises(InputError, match="already exists and may have been edited"):
        done("infer", first, tmp_path / "w", file)
    same = done("check", first, tmp_path / "w", file)
    assert (same.status, same.json["met"]) == (0, True) and "The data set meets the expectations" in same.text
    assert "No significant difference" in done("diff", first, tmp_path / "w", file).text
    later = tmp_path / "later"
    shutil.copytree(first, later)
    shutil.copytree(
        write_folder(tmp_path / "new", classes=1, per_class=25, seed=9) / "class_0", later / "class_new"
    )
    wrong = done("check", later, tmp_path / "w", file)
    assert wrong.status == 3 and not wrong.json["met"] and "'class_new: 25'" in wrong.text
    assert "class_new" in Path(wrong.json["page"]).read_text()
    assert "class class_new" in done("diff", later, tmp_path / "w", file).text


def test_expectations_say_what_cannot_be(first, tmp_path):
    with pytest.raises(InputError, match=r"none\.toml' cannot be read"):
        done("check", first, tmp_path / "w", tmp_path / "none.toml")
    few = write_folder(tmp_path / "few", classes=2, per_class=3)
    with pytest.raises(InputError, match="has 6 readable images, too few"):
        done("infer", few, tmp_path / "w", tmp_path / "e.toml")
    assert not (tmp_path / "e.toml").exists()


def test_validate_hands_out_the_labels_and_takes_them_back(first, tmp_path):
    workspace, file = Workspace(tmp_path / "w"), tmp_path / "relabel.csv"
    result = run.validate(first, config.load(), workspace, show=SilentDisplay(), relabel=file)
    assert result.relabel == str(file) and "Labels, most suspicious first" in result.summary()
    with open(file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    rows[0]["new_label"], rows[1]["new_label"] = "(remove)", rows[1]["label"]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match="may hold corrections"):
        run.validate(first, config.load(), workspace, show=SilentDisplay(), relabel=file)
    settings = config.load(None, [f"scan.relabel={file}"])
    again = run.validate(first, settings, workspace, show=SilentDisplay())
    assert again.counts["quarantined"] == {"taken_out": 1}
    listed = Path(again.relabel).read_text()
    assert rows[0]["id"] not in listed and rows[1]["id"] not in listed and rows[2]["id"] in listed
    with run.prepared(first, settings, workspace, SilentDisplay()) as engine:  # an experiment has no run
        assert not engine.output("shards").reused


def test_built_in_expectations_go_to_a_suite_and_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = done("export", Path("suite.json"), tmp_path / "w", None)
    assert "suite.json: a suite of Great Expectations with the 21 built-in expectations." in out.text
    with pytest.raises(InputError, match="already exists and may have been edited"):
        done("export", Path("suite.json"), tmp_path / "w", None)
    assert (
        "expectations.toml: 21 expectations" in done("import", Path("suite.json"), tmp_path / "w", None).text
    )
    assert rules.load(tmp_path / "expectations.toml") == rules.load(rules.DEFAULT)
    file = tmp_path / "expectations.toml"
    file.write_text(file.read_text().split("\n\n")[0] + "\n")
    again = done("export", Path("again.json"), tmp_path / "w", None)
    assert again.json == {"file": "again.json", "expectations": 1}
    assert "with 1 expectation of expectations.toml" in again.text
    with pytest.raises(InputError, match=r"a file that ends in \.json"):
        done("import", file, tmp_path / "w", None)
    with pytest.raises(InputError, match=r"none\.toml' cannot be read"):
        done("export", Path("new.json"), tmp_path / "w", tmp_path / "none.toml")
    assert not Path("new.json").exists() and not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_run_with_a_suite_keeps_a_project_of_great_expectations(first, tmp_path):
    done("export", tmp_path / "suite.json", tmp_path / "w", None)
    result = done("check", first, tmp_path / "w", tmp_path / "suite.json")
    assert result.json["met"] and (tmp_path / "w/gx/checkpoints/pergola.json").is_file()
    page = (tmp_path / "w/gx/uncommitted/data_docs/local_site/index.html").read_text()
    assert "pergola_images" in page and "pergola_checks" in page
