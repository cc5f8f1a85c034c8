from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pergola.components import code

ROOT = Path(__file__).parents[2]


def test_reached_follows_imports_inside_functions():
    assert {
        "pergola.components.data.manifest.scan",
        "pergola.components.data.sources.source",
        "pergola.serving.wire.images",
    } <= code.reached("scan") | code.reached("shards")
    assert "pergola.components.training.fit" in code.reached("train")


@pytest.mark.parametrize("step", ["scan", "split", "gate"])
def test_reached_stays_within_a_steps_own_room(step):
    assert not [module for module in code.reached(step) if module.startswith("pergola.components.training")]


def test_validate_reaches_the_networks_that_compare_images_and_no_more_of_training():
    reached = [
        module for module in code.reached("validate") if module.startswith("pergola.components.training")
    ]
    assert reached == ["pergola.components.imaging.pretrained"]


def test_of_step_changes_with_the_code_it_reaches_and_with_no_other(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for package in ("components", "serving"):
        subprocess.run(["cp", "-r", str(ROOT / package), str(copy / package)], check=True)
    before = _keys(copy)
    file = copy / "components" / "training" / "fit.py"
    file.write_text(file.read_text() + "\n# changed\n")
    after = _keys(copy)
    assert before["train"] != after["train"]
    assert before["scan"] == after["scan"] and before["gate"] == after["gate"]


def _keys(folder: Path) -> dict[str, str]:
    program = (
        "from components import code; print(*(f'{s}={code.of_step(s)}' for s in ('scan', 'train', 'gate')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return dict(item.split("=") for item in done.stdout.split())
