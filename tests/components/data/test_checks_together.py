"""All checks on one data set with planted faults: the same findings in the same order."""

from __future__ import annotations

import shutil

import numpy as np

from pergola.components.data.checks.facts import ImageAccess
from pergola.components.data.checks.validate import ValidateSettings, run_checks
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from tests.support.images import jpeg, pixels, png, truncated, write_folder


def test_checks_report_planted_faults_in_a_fixed_order(tmp_path):
    root = write_folder(tmp_path / "p", classes=3, per_class=40, size=32)
    (root / "class_0/text.jpg").write_bytes(b"hello")
    (root / "class_0/cut.jpg").write_bytes(truncated(jpeg(pixels(0, 90, size=64))))
    shutil.copy(root / "class_0/001.png", root / "class_0/zz copy.png")
    shutil.copy(root / "class_0/002.png", root / "class_1/zz conflict.png")
    (root / "class_2/blank.png").write_bytes(png(np.full((32, 32), 255, np.uint8)))
    (root / "class_2/near.png").write_bytes(png((pixels(2, 5, size=32) * 0.8).astype(np.uint8)))
    (root / "class_1/long.png").write_bytes(png(pixels(1, 91, size=64)[:10]))
    for number in range(40):
        image = pixels(2, number, size=32)
        image[:2], image[-2:], image[:, :2], image[:, -2:] = ((200, 10, 20),) * 4
        (root / f"class_2/{number:03}.png").write_bytes(png(image))
    source = open_source(root, ScanSettings(), tmp_path / "scratch")
    scan(source, tmp_path / "m", ScanSettings(workers=1))
    settings = ValidateSettings(max_quarantined=0.01, max_inspected=110)
    validation = run_checks(tmp_path / "m", settings, ImageAccess(source))
    found = [(finding.severity, finding.check) for finding in validation.report.findings]
    assert found == [
        ("critical", "quarantine"),
        ("warning", "unreadable"),
        ("warning", "label_conflict"),
        ("warning", "exact_duplicate"),
        ("warning", "blank"),
        ("warning", "shortcut"),
        ("warning", "shortcut"),
        ("warning", "shortcut"),
        ("warning", "metadata"),
        ("info", "bright"),
        ("info", "blurred"),
        ("info", "odd_shape"),
        ("info", "label_error"),
        ("info", "grey_among_colour"),
        ("info", "sampled"),
    ]
    assert not validation.report.ok
    assert [type(record).__name__ for record in validation.records] == ["LabelErrors", "Shortcuts"]
