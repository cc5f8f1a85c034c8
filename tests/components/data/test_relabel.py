"""relabel.csv: written, edited by a person or a spreadsheet, read back, applied."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.components.artifacts.data import Manifest
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.manifest.relabel import REMOVE, TAKEN_OUT, Suspect, read_relabel, write_relabel
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.images import write_folder

LABELS = ("oak", "maple", 'elm, "wych"')
SUSPECTS = [
    Suspect("a" * 64, "oak/1.jpg", "oak", "maple", 0.01, True),
    Suspect("b" * 64, 'elm, "wych"/ü, 2.jpg', 'elm, "wych"', "oak", 0.02, True),
    Suspect("c" * 64, "maple/3.jpg", "maple", "maple", 0.4, False),
]


def edit(path, changes: dict[str, str]) -> None:
    """What a person does: fill the last column."""
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    table["new_label"] = [changes.get(id, "") for id in table["id"]]
    table.to_csv(path, index=False)


def test_relabel_comes_back_as_edited(tmp_path):
    path = tmp_path / "relabel.csv"
    assert write_relabel(SUSPECTS, path) == 3
    assert read_relabel(path, LABELS) == {}
    edit(path, {"a" * 64: 'elm, "wych"', "b" * 64: REMOVE})
    assert read_relabel(path, LABELS) == {"a" * 64: 'elm, "wych"', "b" * 64: None}


def scanned(root: Path, out: Path, corrections: str = "") -> tuple[Manifest, pd.DataFrame]:
    """A manifest and its rows by path. corrections: lines of id,new_label."""
    settings = ScanSettings()
    if corrections:
        out.mkdir()
        (out / "relabel.csv").write_text("id,new_label\n" + corrections)
        settings = ScanSettings(relabel=str(out / "relabel.csv"))
    manifest = scan(open_source(root, settings, out / "scratch"), out / "m", settings)
    return manifest, Manifest.table(out / "m", ["path", "id", "label", "reason"]).set_index("path")


def test_scan_corrects_every_copy_and_takes_out_what_is_to_be_removed(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=4)
    copy = root / "class_0/copy.png"
    copy.write_bytes((root / "class_0/001.png").read_bytes())
    before, rows = scanned(root, tmp_path / "before")
    wrong, gone, right = (
        rows["id"][path] for path in ("class_0/001.png", "class_1/002.png", "class_0/003.png")
    )
    lines = f"{wrong},class_1\n{gone},(remove)\n{right},class_0\n{'0' * 64},class_1\n"
    after, corrected = scanned(root, tmp_path / "after", lines)
    assert (after.num_rows, after.num_unreadable, after.num_taken_out) == (9, 0, 1)
    assert corrected["label"]["class_0/001.png"] == corrected["label"]["class_0/copy.png"] == "class_1"
    assert corrected["label"]["class_0/003.png"] == "class_0"
    assert corrected["reason"].dropna().to_dict() == {"class_1/002.png": TAKEN_OUT}
    assert before.num_taken_out == 0 and after.fingerprint != before.fingerprint
    report = validate(tmp_path / "after/m", ValidateSettings())
    assert report.quarantined["class_1/002.png"] == "taken_out"
    assert not {"unreadable"} & {finding.check for finding in report.findings}
    assert report.counts == {"class_0": 3, "class_1": 4}


def test_scan_refuses_a_class_that_there_is_not(tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=2)
    with pytest.raises(InputError, match=r"'class_9' is not a class .* Did you mean"):
        scanned(root, tmp_path / "v", f"{'0' * 64},class_9\n")


def test_write_relabel_keeps_somebodys_work(tmp_path):
    (tmp_path / "relabel.csv").write_text("work")
    with pytest.raises(InputError, match="may hold corrections"):
        write_relabel(SUSPECTS, tmp_path / "relabel.csv")


def test_read_relabel_understands_spreadsheets(tmp_path):
    path = tmp_path / "relabel.csv"
    path.write_bytes("\ufeffid;path;new_label\r\nabc;x, y.jpg;oak\r\nabd;z.jpg;\r\n".encode())
    assert read_relabel(path, LABELS) == {"abc": "oak"}
    path.write_text("path\tid\tnew_label\nx.jpg\tabc\t maple \n")
    assert read_relabel(path, LABELS) == {"abc": "maple"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,new_label\nabc,mapel\n", "line 2: 'mapel' is not a class .* Did you mean 'maple'"),
        ("id,new_label\nabc,oak\nabc,maple\n", "line 3: image abc.* two corrections"),
        ("id,new_label\n,oak\n", "line 2: 'oak' belongs to no image"),
        ("path,new_label\nabc,oak\n", "no column 'id'"),
        ("", "no column 'id'"),
        (b"id,new_label\n\xff\xfe,oak\n", "not UTF-8"),
    ],
)
def test_read_relabel_says_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "relabel.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        read_relabel(path, LABELS)


def test_read_relabel_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"relabel\.csv cannot be read: No such file"):
        read_relabel(tmp_path / "relabel.csv", LABELS)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=5))
def test_write_relabel_survives_any_path(tmp_path_factory, paths):
    path = tmp_path_factory.mktemp("relabel") / "relabel.csv"
    write_relabel([Suspect(f"{i:064}", p, "oak", "maple", 0.1, True) for i, p in enumerate(paths)], path)
    path.write_bytes(path.read_bytes().replace(b",0.1000,\r\n", b",0.1000,maple\r\n"))
    assert read_relabel(path, LABELS) == {f"{i:064}": "maple" for i in range(len(paths))}
