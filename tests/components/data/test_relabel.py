"""relabel.csv: written, edited by a person or a spreadsheet, read back, applied."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.label_errors import Suspect
from components.data.relabel import REMOVE, apply_relabel, read_relabel, write_relabel
from components.errors import InputError

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


def test_apply_relabel_corrects_every_copy_and_removes():
    rows = pd.DataFrame({"id": ["a", "b", "a", "c"], "label": ["x", "x", "y", "y"], "path": list("1234")})
    found = apply_relabel(rows, {"a": "z", "b": None, "gone": "x"})
    assert found.to_dict("list") == {"id": ["a", "a", "c"], "label": ["z", "z", "y"], "path": list("134")}
    assert rows["label"].tolist() == ["x", "x", "y", "y"]
    assert len(apply_relabel(rows.iloc[:0], {"a": "z"})) == 0


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
        ("id,new_label\nabc,oak\nabc,maple\n", "line 3: picture abc.* two corrections"),
        ("id,new_label\n,oak\n", "line 2: 'oak' belongs to no picture"),
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
