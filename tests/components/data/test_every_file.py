"""Whatever a folder holds: each file is used in a split, quarantined, or left out, and counted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, event, given, settings

from pergola.components.artifacts.data import Finding, Manifest, Split
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.checks.validate import validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.folders.tree import HIDDEN, is_image
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split
from pergola.components.errors import InputError
from tests.support.images import pixels, png
from tests.support.layouts import listed, many

LIST = "labels.csv"
BASES = (
    many("{c}/{k}.png", count=4),
    many("outer/{c}/{k}.png", count=4),
    many("train/{c}/{k}.png", "test/{c}/{k}.png", count=4),
    many("seg_train/seg_train/{c}/{k}.png", "seg_test/seg_test/{c}/{k}.png", "seg_pred/{c}{k}.png", count=4),
    many("{c}/train/{k}.png", "{c}/val/{k}.png", "{c}/unlabeled/{k}.png", count=4),
    many("train/{c}/{k}.png", "test/{c}{k}.png", count=4),
    many("images/{c}{k}.png", count=4),  # with a list
    (),
)
_FOLDERS = """ash oak yew train test val pred seg_pred train/ash test/oak ash/train outer outer/yew
    elm/deep/er .git @eaDir ash/@eaDir lost+found/x notes seg_train"""
_FILES = """new.png new.jpg_large new empty.png text.png phone.heic notes.txt clip.mp4 .DS_Store Thumbs.db
    link.png link.txt"""
FOLDERS, FILES = st.sampled_from(["", *_FOLDERS.split()]), st.sampled_from(_FILES.split())
LAYOUTS = st.sampled_from(("auto", "auto", "auto", "classes", "splits", "class-splits"))


def write(root: Path, base: tuple[str, ...], extra: set[tuple[str, str]]) -> None:
    paths = [*base, *(f"{folder}/{name}".lstrip("/") for folder, name in sorted(extra))]
    for number, path in enumerate(paths):
        file = root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        if file.is_dir():
            continue
        kind = file.name
        if kind.startswith("link"):
            file.symlink_to("nowhere")
        elif kind.endswith((".txt", ".mp4", ".db", ".heic", ".DS_Store")) or kind == "text.png":
            file.write_bytes(b"text" + bytes(number))
        else:
            file.write_bytes(b"" if kind == "empty.png" else png(pixels(0, number, size=16)))


def write_list(root: Path, base: tuple[str, ...]) -> None:
    if base and base[0].startswith("images"):
        (root / LIST).write_text(listed(base[:-2]))  # two images have no label


def accounted(root: Path, work: Path, layout: str) -> dict[str, list[str]]:
    """For each file what became of it, in one word for each time that it is accounted for."""
    chosen = ScanSettings(layout=layout, workers=1)
    source = open_source(root, chosen, work / "scratch")
    files = {str(file.relative_to(root)): file for file in sorted(root.rglob("*")) if not file.is_dir()}
    for used_list, _ in getattr(source, "lists", ()):
        del files[str(used_list.relative_to(root))]
    found: dict[str, list[str]] = {path: [] for path in files}
    for finding in (finding for finding in source.findings if finding.check == "left_out"):
        covered = [path for path, file in files.items() if covers(finding, path, file)]
        assert len(covered) == finding.count or "folder" in finding.message
        for path in covered:
            found[path].append("left out")
    scan(source, work / "m", chosen)
    inside = str(Path(source.root).relative_to(root))
    table = Manifest.table(work / "m")
    report = validate(work / "m", ValidateSettings(max_quarantined=1.0))
    used = in_split(work, report) if report.ok else set(table["id"])
    event("in a split" if report.ok else "critical")
    for path, id, readable in zip(table["path"], table["id"], table["reason"].isna(), strict=True):
        if path in report.quarantined:
            found[str(Path(inside, path))].append("quarantined")
        elif readable and id in used:
            found[str(Path(inside, path))].append("used")
    return found


def covers(finding: Finding, path: str, file: Path) -> bool:
    """Whether a finding speaks of this file, or of a folder of images that it is in, or of a hidden one."""
    above = any(path.startswith(name) for name in finding.paths if name.endswith("/"))
    return path in finding.paths or (above and (HIDDEN in finding.message or image(file)))


def in_split(work: Path, report) -> set[str]:
    try:
        split(work / "m", report, work / "s", SplitSettings())
    except InputError:  # too few images of a class
        return set(Manifest.table(work / "m")["id"])
    return set(Split.table(work / "s")["id"])


def image(file: Path) -> bool:
    with os.scandir(file.parent) as found:
        return is_image(next(entry for entry in found if entry.name == file.name))


@given(st.sampled_from(BASES), st.sets(st.tuples(FOLDERS, FILES), max_size=8), LAYOUTS)
@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if phase != Phase.explain],
)  # fmt: skip
def test_each_file_is_used_quarantined_or_left_out(base, extra, layout):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        root.mkdir()
        write(root, base, extra)
        write_list(root, base)
        try:
            found = accounted(root, Path(folder), layout)
        except InputError as error:  # nothing is read, and a sentence says why
            event("refused")
            assert str(error).endswith((".", ")"))
            return
        assert {path: words for path, words in found.items() if len(words) != 1} == {}
