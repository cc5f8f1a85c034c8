"""docs/trust.md says of each check what it rests on, what it cannot see, and how to switch it off."""

import dataclasses
import re
from pathlib import Path

from pergola.components.settings import Settings

TEXT = Path("docs/trust.md").read_text(encoding="utf-8")
NO_CHECK = "Comparison with CleanVision"  # a measurement


def test_each_check_has_a_source_a_limit_and_a_switch():
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) > 12
    for section in sections:
        for part in ("*What.*", "*Source.*", "*Limit.*", "*Off.*"):
            assert section.startswith(NO_CHECK) or part in section, f"{section.splitlines()[0]}: no {part}"


def test_settings_that_are_named_exist():
    known = {
        f"{section.name}.{key.name}"
        for section in dataclasses.fields(Settings)
        for key in dataclasses.fields(section.default_factory)
    }
    sections = "|".join(section.name for section in dataclasses.fields(Settings))
    named = set(re.findall(rf"[`\s]((?:{sections})\.[a-z_]+)\b(?!\()", TEXT))
    assert len(named) > 25
    assert named <= known


def test_modules_that_are_named_exist():
    for path in re.findall(r"`(components/[a-z_/]+\.(?:py|toml))`", TEXT):
        assert Path(path).is_file(), path
