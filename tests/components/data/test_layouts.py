"""Every form of data set in tests/support/layouts.py: read as expected, reported, or refused."""

from __future__ import annotations

import pytest

from pergola.components.data.manifest.scan import ScanSettings
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.layouts import CASES, FOLDERS, PAGE, Case, found, page


@pytest.mark.parametrize("case", CASES, ids=[case.shape for case in CASES])
def test_layout_is_read_reported_or_refused(tmp_path, case: Case):
    location = case.write(tmp_path / "data")
    settings = ScanSettings(**case.settings)
    if case.refused:
        with pytest.raises(InputError) as refusal:
            open_source(location, settings, tmp_path / "scratch")
        assert case.refused in str(refusal.value)
        return
    source = open_source(location, settings, tmp_path / "scratch")
    entries = list(source.entries())
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    assert found(entries) == case.rows
    assert all(source.read(entry.path) for entry in entries)
    for check, severity, message in case.findings:
        assert any(
            (f.check, f.severity) == (check, severity) and message in f.message for f in source.findings
        ), [(f.check, f.severity, f.message) for f in source.findings]
    wanted = {severity for _, severity, _ in case.findings}
    assert "critical" in wanted or not [f for f in source.findings if f.severity == "critical"]


def test_the_tables_of_the_page_are_those_of_today():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text and FOLDERS[0].shape in text
