import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pergola.components import digest
from pergola.components.errors import InputError, StepError
from pergola.components.store.publish import notes_of, publish, published, sha256_of, withdraw


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph" * 100)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(os.urandom(5000))
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"")
    return folder


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_publish_puts_a_whole_version_in_its_place(model, tmp_path):
    base = tmp_path / "models"
    publication = publish(model, base, "leaves", 3)
    assert (publication.model, publication.version) == ("leaves", 3)
    assert publication.sha256 == digest.of_folder(model)
    assert files_below(base / "leaves") == sorted(
        f"3/{name}" for name in [*files_below(model), "checksums.sha256"]
    )
    assert published(base, "leaves") == [3]
    assert sha256_of(base / "leaves" / "3") == publication.sha256


def test_publish_leaves_a_list_that_sha256sum_checks(model, tmp_path):
    publish(model, tmp_path / "models", "leaves", 1)
    folder = tmp_path / "models" / "leaves" / "1"
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "checksums.sha256"], cwd=folder, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_publish_keeps_notes_with_the_version_that_do_not_change_what_it_is(model, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "reference.json").write_bytes(b"{}")
    with_notes = publish(model, tmp_path / "models", "leaves", 1, notes=notes)
    folder = tmp_path / "models" / "leaves" / "1"
    assert (notes_of(folder) / "reference.json").read_bytes() == b"{}"
    assert with_notes.sha256 == digest.of_folder(model) == sha256_of(folder)
    assert "assets.extra/pergola/reference.json" in (folder / "checksums.sha256").read_text()
    (notes / "reference.json").write_bytes(b"[]")
    assert publish(model, tmp_path / "models", "leaves", 1, notes=notes) == with_notes
    assert (notes_of(folder) / "reference.json").read_bytes() == b"{}"


def test_publish_again_changes_nothing(model, tmp_path):
    publish(model, tmp_path, "leaves", 1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "leaves").rglob("*")}
    publish(model, tmp_path, "leaves", 1)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "leaves").rglob("*")} == before


def test_publish_refuses_another_model_under_the_same_number(model, tmp_path):
    publish(model, tmp_path, "leaves", 1)
    (model / "saved_model.pb").write_bytes(b"another")
    with pytest.raises(StepError, match="is another model"):
        publish(model, tmp_path, "leaves", 1)
    assert (tmp_path / "leaves" / "1" / "saved_model.pb").read_bytes() == b"graph" * 100


def test_publish_refuses_a_version_that_has_rotted(model, tmp_path):
    publish(model, tmp_path, "leaves", 1)
    (tmp_path / "leaves" / "1" / "variables" / "variables.index").write_bytes(b"rot")
    with pytest.raises(StepError, match=r"variables\.index"):
        publish(model, tmp_path, "leaves", 1)


def test_publish_refuses_a_folder_that_it_did_not_write(model, tmp_path):
    (tmp_path / "leaves" / "1").mkdir(parents=True)
    with pytest.raises(StepError, match="not published by pergola"):
        publish(model, tmp_path, "leaves", 1)


def test_publish_clears_what_a_killed_run_left(model, tmp_path):
    left = tmp_path / "leaves" / ".2.partial"
    left.mkdir(parents=True)
    (left / "junk").write_text("half")
    publish(model, tmp_path, "leaves", 2)
    assert os.listdir(tmp_path / "leaves") == ["2"]
    assert not (tmp_path / "leaves" / "2" / "junk").exists()


@pytest.mark.parametrize(("name", "version"), [("../x", 1), (".hidden", 1), ("", 1), ("a/b", 1), ("ok", 0)])
def test_publish_refuses_names_and_numbers_that_lead_elsewhere(model, tmp_path, name, version):
    with pytest.raises(InputError, match="Got"):
        publish(model, tmp_path, name, version)


def test_publish_refuses_what_is_no_saved_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no saved_model\.pb"):
        publish(tmp_path / "empty", tmp_path / "models", "leaves", 1)
    assert not (tmp_path / "models").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from pergola.components.store.publish import publish
publish(Path(sys.argv[1]), Path(sys.argv[2]), "leaves", 1)
"""


def test_publish_leaves_nothing_half_written_when_the_disk_refuses(model, tmp_path):
    base = tmp_path / "models"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(model), str(base)], capture_output=True)
    assert done.returncode != 0
    assert b"File too large" in done.stderr
    assert files_below(base) == []
    assert published(base, "leaves") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_publish_says_that_the_disk_is_full(model, tmp_path):
    (tmp_path / "models" / "leaves").mkdir(parents=True)
    (model / "saved_model.pb").unlink()
    (model / "saved_model.pb").write_bytes(b"x")
    if not _tmpfs(tmp_path / "small"):
        pytest.skip("may not mount a small file system here")
    try:
        (model / "variables" / "variables.data-00000-of-00001").write_bytes(os.urandom(300_000))
        with pytest.raises(StepError, match="is full: free some space"):
            publish(model, tmp_path / "small", "leaves", 1)
        assert files_below(tmp_path / "small") == []
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def _tmpfs(folder):
    folder.mkdir()
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
        ).returncode
        == 0
    )


def test_withdraw_takes_a_version_away(model, tmp_path):
    publish(model, tmp_path, "leaves", 1)
    publish(model, tmp_path, "leaves", 2)
    assert withdraw(tmp_path, "leaves", 2)
    assert os.listdir(tmp_path / "leaves") == ["1"]
    assert not withdraw(tmp_path, "leaves", 2)


def test_published_passes_over_what_is_no_version(tmp_path):
    for name in ("1", "10", "2", ".3.partial", "0", "notes"):
        (tmp_path / "leaves" / name).mkdir(parents=True)
    (tmp_path / "leaves" / "7").write_text("a file")
    assert published(tmp_path, "leaves") == [1, 2, 10]
    assert published(tmp_path, "none") == []


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Z0-9._]{1,8}(/[a-z.]{1,5}x)?", fullmatch=True), st.binary(max_size=9)
    )
)
def test_publication_has_the_digest_of_the_folder(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    source = folder / "model"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")
    for name, data in content.items():
        path = source / name
        if ".." in path.parts or path.exists() or any(p.is_file() for p in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert publish(source, folder / "base", "m", 1).sha256 == digest.of_folder(source)


def test_publish_refuses_a_model_that_is_not_the_registered_one(model, tmp_path):
    registered = digest.of_folder(model)
    assert publish(model, tmp_path / "models", "leaves", 1, registered=registered).sha256 == registered
    weights = model / "variables" / "variables.index"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    message = r"is not the model that was registered as version 2 of 'leaves': its SHA-256 is"
    with pytest.raises(StepError, match=message):
        publish(model, tmp_path / "models", "leaves", 2, registered=registered)
    assert published(tmp_path / "models", "leaves") == [1]
    assert os.listdir(tmp_path / "models" / "leaves") == ["1"]
