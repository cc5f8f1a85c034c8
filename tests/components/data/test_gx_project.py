"""Suites of Great Expectations in and out, and a workspace's project, which its own package reads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.checks.validate import CHECKS, run_checks
from pergola.components.data.expectations import infer, rules, suite
from pergola.components.data.expectations.great_expectations import Checker, quiet
from pergola.components.data.gx_project import project
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.images import jpeg, pixels, png, write_folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Of 48 images; one is blank, one a copy, and one file is no image."""
    work = tmp_path_factory.mktemp("gx")
    root = write_folder(work / "p", classes=2, per_class=22, size=32)
    (root / "class_1/blank.png").write_bytes(png(np.full((32, 32), 255, np.uint8)))
    (root / "class_1/large.jpg").write_bytes(jpeg(pixels(1, 90, size=200)))
    (root / "class_1/text.jpg").write_bytes(b"hello")
    shutil.copy(root / "class_0/001.png", root / "class_0/zz copy.png")
    scan(open_source(root, ScanSettings(), work / "scratch"), work / "m", ScanSettings())
    return work / "m"


def suite_of(tmp_path: Path, *expectations: dict) -> Path:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps({"name": "theirs", "expectations": list(expectations), "meta": {}}))
    return file


def test_built_in_rules_survive_a_suite_and_a_toml_file(tmp_path):
    default = rules.load(rules.DEFAULT)
    for name, text in (("s.json", suite.write(default)), ("e.toml", rules.to_toml(default))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert rules.load(tmp_path / name) == default


def test_inferred_rules_survive_a_suite(tmp_path, manifest):
    (tmp_path / "e.toml").write_text(infer.to_toml(infer.infer(manifest)), encoding="utf-8")
    wanted = rules.load(tmp_path / "e.toml")
    assert any(rule.tolerate for rule in wanted.images) and wanted.shares
    (tmp_path / "s.json").write_text(suite.write(wanted), encoding="utf-8")
    assert rules.load(tmp_path / "s.json") == wanted


def test_a_suite_made_with_great_expectations_is_checked_as_there(tmp_path, manifest):
    with quiet() as gx:
        import great_expectations.expectations as gxe

    theirs = gx.ExpectationSuite(
        name="theirs",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(column="width", max_value=100, severity="warning",
                                              description="Images are small."),
            gxe.ExpectColumnValuesToBeInSet(column="format", value_set=["PNG"], mostly=0.9, severity="info"),
            gxe.ExpectColumnMeanToBeBetween(column="brightness", max_value=1, severity="warning"),
            gxe.ExpectTableRowCountToBeBetween(min_value=1000),
            gxe.ExpectColumnValuesToBeUnique(column="path"),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="width", column_B="height", or_equal=True),
        ],
    )  # fmt: skip
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(theirs.to_json_dict()))
    found = run_checks(manifest, ValidateSettings(expectations=str(file)))
    findings = {finding.check: finding for finding in found.report.findings}
    assert set(findings) == {
        "column_values_to_be_between(width)", "column_mean_to_be_between(brightness)",
        "table_row_count_to_be_between",
    }  # fmt: skip
    small = findings["column_values_to_be_between(width)"]
    assert (small.severity, small.count, small.paths) == ("warning", 1, ("class_1/large.jpg",))
    assert small.message == ("1 of 48 do not meet 'Images are small.', such as 'class_1/large.jpg'.")
    rows = findings["table_row_count_to_be_between"]
    assert rows.severity == "critical" and not found.report.ok
    assert "min_value 1000" in rows.message and "Observed: 48." in rows.message


def test_mostly_is_a_share_of_the_values_that_are_there(tmp_path, manifest):
    """One of 48 files has no format: 46 of 47 values are PNG, 97.9%."""
    for mostly, violated in ((0.978, False), (0.979, True)):
        row = {"type": "expect_column_values_to_be_in_set",
               "kwargs": {"column": "format", "value_set": ["PNG"], "mostly": mostly}}  # fmt: skip
        file = suite_of(tmp_path, row)
        report = run_checks(manifest, ValidateSettings(expectations=str(file))).report
        assert bool(report.findings) == violated


def test_expectations_that_compare_rows_see_the_whole_table():
    rule = {"check": "c", "severity": "info", "message": "m"}
    wanted = rules.Expectation(expect="expect_column_values_to_be_unique", column="a", arguments={}, **rule)
    each = rules.Expectation(expect="expect_column_values_to_be_null", column="a", arguments={}, **rule)
    mean = rules.Expectation(
        expect="expect_column_mean_to_be_between", column="a", arguments={"max_value": 1}, **rule
    )
    assert [Checker([one]).whole for one in (wanted, each, mean)] == [True, False, True]
    outcome = Checker([mean]).outcomes(pd.DataFrame({"a": [1.0, 3.0]}))[0]
    assert outcome.observed == "2.0" and mean.is_violated(outcome)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "has no list 'expectations'"),
        ('{"expectations": [{"type": "expect_x"}]}', "expected 'type' and 'kwargs'"),
        ('{"expectations": [{"type": "x", "kwargs": {}, "severity": "bad"}]}', "'bad' is not one of"),
        ('{"expectations": [{"type": "x", "kwargs": {"mostly": 5}}]}', "from 0 to 1 for 'mostly', got 5"),
        ('{"expectations": [{"type": "x", "kwargs": {"a": {"$PARAMETER": "b"}}}]}', "'a' is a suite param"),
        ('{"expectations": [{"type": "x", "kwargs": {}, "meta": {"pergola": {"table": "checks"}}}]}',
         "the table 'checks', not one of images, classes"),
        ('{"expectations": [{"type": "x", "kwargs": {"column": 5}}]}', "a text for 'column', got 5"),
        ('{"expectations": [{"type": "x", "kwargs": {}, "meta": {"pergola": {"check": 5}}}]}',
         "a text for 'check', got 5"),
        ('{"expectations": [], "meta": {"pergola": 3}}', "expected a table for meta.pergola, got 3"),
    ],
)  # fmt: skip
def test_a_damaged_suite_is_one_sentence(tmp_path, text, says):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=says.replace("$", r"\$")):
        rules.load(tmp_path / "s.json")


def test_an_expectation_that_nobody_knows_is_named(tmp_path, manifest):
    file = suite_of(tmp_path, {"type": "expect_the_unexpected", "kwargs": {}})
    with pytest.raises(InputError, match="Great Expectations has no 'expect_the_unexpected'"):
        run_checks(manifest, ValidateSettings(expectations=str(file)))


@pytest.mark.slow
def test_a_project_is_one_of_great_expectations(tmp_path, manifest):
    """A process that knows the project alone runs its checkpoint: it finds what ours finds."""
    validation = run_checks(manifest, ValidateSettings())
    page = project.record(tmp_path, validation, "run-1")
    assert "pergola_images" in page.read_text()
    code = (
        "import sys, json, great_expectations as gx\n"
        "context = gx.get_context(mode='file', project_root_dir=sys.argv[1])\n"
        "runs = context.checkpoints.get('pergola').run().run_results.values()\n"
        "rows = [row for run in runs for row in run.results]\n"
        "print(json.dumps([[row.expectation_config.meta['pergola']['check'], row.expectation_config.type,\n"
        "    row.success, [one['name'] for one in row.result.get('partial_unexpected_index_list') or ()]]\n"
        "    for row in rows]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd="/"
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    failing = {check: names for check, _, success, names in found if not success}
    assert failing["blank"] == ["class_1/blank.png"] and failing["exact_duplicate"] == ["class_0/zz copy.png"]
    assert failing.keys() == {f.check for f in validation.report.findings}
    types = {check: kind for check, kind, _, _ in found}
    assert types["blank"] == "expect_check_blank_to_find_nothing"
    manifest_alone = {check.name for check in CHECKS if check.meaning and check.name in validation.found}
    assert {"source", "label_texts", "given_split", "quarantine"} == manifest_alone <= types.keys()


@pytest.mark.slow
def test_a_project_keeps_all_results_and_a_persons_changes(tmp_path, manifest):
    validation = run_checks(manifest, ValidateSettings())
    project.record(tmp_path, validation, "first")
    with quiet() as gx:
        pass
    context = gx.get_context(mode="file", project_root_dir=tmp_path)
    checkpoint = context.checkpoints.get("pergola")
    checkpoint.result_format = "BOOLEAN_ONLY"
    asset = context.data_sources.get("pergola").get_asset("images")
    own = context.suites.add(gx.ExpectationSuite(name="own"))
    checkpoint.validation_definitions.append(
        context.validation_definitions.add(
            gx.ValidationDefinition(name="own", data=asset.get_batch_definition("whole"), suite=own)
        )
    )
    checkpoint.save()
    project.record(tmp_path, validation, "second")
    again = gx.get_context(mode="file", project_root_dir=tmp_path).checkpoints.get("pergola")
    names = [definition.name for definition in again.validation_definitions]
    assert names == ["pergola_images", "pergola_classes", "pergola_checks", "own"]
    assert again.result_format == "BOOLEAN_ONLY"
    results = tmp_path / "gx/uncommitted/validations"
    assert {file.parts[-3] for file in results.rglob("pergola_images/*/*/*.json")} == {"first", "second"}


def test_a_damaged_project_is_one_sentence(tmp_path, manifest):
    (tmp_path / "gx").mkdir()
    (tmp_path / "gx/great_expectations.yml").write_text("stores: 5\n")
    with pytest.raises(InputError, match=r"cannot be brought up to date .* move the folder away"):
        project.record(tmp_path, run_checks(manifest, ValidateSettings()), "run")
