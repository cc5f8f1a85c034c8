from __future__ import annotations

import hashlib

from pergola.components import digest


def test_of_folder_depends_on_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "b.txt").write_text("b")
        (tmp_path / name / "a.txt").write_text("a")
    assert digest.of_folder(tmp_path / "one") == digest.of_folder(tmp_path / "two")
    (tmp_path / "two" / "a.txt").rename(tmp_path / "two" / "c.txt")
    assert digest.of_folder(tmp_path / "one") != digest.of_folder(tmp_path / "two")


def test_of_file_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest.of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_of_data_ignores_the_order_of_keys():
    assert digest.of_data({"a": 1, "b": [2]}) == digest.of_data({"b": [2], "a": 1})
    assert digest.of_data({"a": 1}) != digest.of_data({"a": 2})
