"""The model store, in a folder and on real object stores."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from pergola.components.errors import InputError, StepError
from pergola.components.store import checksums, release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.store_errors import ChecksumError, MissingVersion, StoreError, WriteConflict
from tests.support.s3_server import BUCKET, TOOLS, free_port, program, s3_server
from tests.support.versions import saved_model


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    if program() is None:
        pytest.skip("no S3 server: scripts/kustomize-tools installs versitygw into .tools")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    """(address, folder in which its files can be seen)."""
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return str(tmp_path / "store"), tmp_path / "store"
    server = request.getfixturevalue("s3")
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    prefix = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    return f"s3://{BUCKET}/{prefix}", server.buckets / BUCKET / prefix


@pytest.fixture
def target(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "1"


def test_put_and_fetch_bring_back_every_byte(place, tmp_path, target):
    models = open_store(place[0])
    source = saved_model(tmp_path / "model")
    models.put(source, "leaves", 1)
    seen = []
    models.fetch("leaves", 1, target, seen.append)
    assert {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()} == {
        *seen,
        checksums.CHECKSUMS,
    }
    for name in seen:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert (models.models(), models.versions("leaves")) == (["leaves"], [1])
    checksums.verify(target)


def test_put_writes_a_list_that_sha256sum_checks(place, tmp_path):
    open_store(place[0]).put(saved_model(tmp_path / "model"), "leaves", 1)
    folder = place[1] / "leaves" / "1"
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", checksums.CHECKSUMS], cwd=folder, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_put_again_is_no_error_and_another_model_is_one(place, tmp_path):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "one"), "leaves", 1)
    models.put(tmp_path / "one", "leaves", 1)
    with pytest.raises((InputError, StepError), match="Published versions never change"):
        models.put(saved_model(tmp_path / "two", "two"), "leaves", 1)
    with pytest.raises(InputError, match="holds no SavedModel"):
        models.put(tmp_path, "leaves", 2)


def test_a_version_without_its_list_does_not_exist(place, tmp_path, target):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    (place[1] / "leaves" / "1" / checksums.CHECKSUMS).unlink()
    assert models.versions("leaves") == []
    with pytest.raises(MissingVersion, match="no version 1 of 'leaves'"):
        models.fetch("leaves", 1, target)


def test_fetch_leaves_nothing_behind_when_a_checksum_fails(place, tmp_path, target):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    _overwrite(f"{place[0]}/leaves/1/variables/variables.index", b"rotten")
    with pytest.raises(ChecksumError, match=r"variables\.index has SHA-256"):
        models.fetch("leaves", 1, target)
    assert os.listdir(target.parent) == []


def test_fetch_says_when_a_listed_file_is_gone(place, tmp_path, target):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    (place[1] / "leaves" / "1" / "saved_model.pb").unlink()
    with pytest.raises(MissingVersion, match=r"saved_model\.pb is on the checksum list"):
        models.fetch("leaves", 1, target)
    assert os.listdir(target.parent) == []


def test_change_keeps_the_record_and_counts_generations(place, tmp_path):
    models = open_store(place[0])
    for version, content in ((1, "one"), (2, "two")):
        models.put(saved_model(tmp_path / content, content), "leaves", version)
    assert models.guarded
    assert models.release("leaves").generation == 0
    models.change("leaves", lambda release: release_record.make_stable(release, 1))
    models.change("leaves", lambda release: release_record.make_canary(release, 2, 0.1))
    release = open_store(place[0]).release("leaves")
    assert (release.stable, release.canary, release.share, release.generation) == (1, 2, 0.1, 2)


def test_change_refuses_a_version_that_is_not_there(place, tmp_path):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    with pytest.raises(InputError, match=r"no version 7 of 'leaves'\. Published: 1"):
        models.change("leaves", lambda release: release_record.make_stable(release, 7))


def test_change_loses_nothing_with_many_writers_at_once(place, tmp_path):
    models = open_store(place[0])
    for version in (1, 2):
        models.put(saved_model(tmp_path / str(version), str(version)), "leaves", version)
    assert models.guarded

    def write(number):
        for i in range(2):
            version = 1 + (number + i) % 2
            open_store(place[0]).change("leaves", lambda r, v=version: _counted(r, v), attempts=200)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models.release("leaves").generation == 6


def _overwrite(address, content):
    """As someone would who has the right to write there."""
    import fsspec

    fsspec.url_to_fs(address, skip_instance_cache=True)[0].pipe_file(address, content)


def _counted(release, version):
    """A change that always is one."""
    return release_record.Release(stable=version, generation=release.generation + 1)


def test_a_stale_write_is_a_conflict(place, tmp_path):
    models = open_store(place[0])
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    models.change("leaves", lambda release: release_record.make_stable(release, 1))

    def overtaken(release):
        other = open_store(place[0])
        other.change("leaves", lambda r: _counted(r, 1))
        return _counted(release, 1)

    with pytest.raises(WriteConflict, match="changed by others 2 times"):
        models.change("leaves", overtaken, attempts=2)


def test_remove_refuses_a_version_in_use(place, tmp_path):
    models = open_store(place[0])
    for version in (1, 2):
        models.put(saved_model(tmp_path / str(version), str(version)), "leaves", version)
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    with pytest.raises(InputError, match="Version 2 of 'leaves' is in use"):
        models.remove("leaves", 2)
    models.remove("leaves", 1)
    models.remove("leaves", 1)
    assert models.versions("leaves") == [2]


def test_two_publishers_of_one_number_never_give_a_mixed_model(place, tmp_path, target):
    contents = ("one", "two", "three")
    sources = {content: saved_model(tmp_path / content, content, 200_000) for content in contents}
    errors = []

    def put(content):
        try:
            open_store(place[0]).put(sources[content], "leaves", 1)
        except (StepError, InputError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=put, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    try:
        open_store(place[0]).fetch("leaves", 1, target)
    except ChecksumError:
        return  # a bucket cannot rename: what two publishers mixed is refused
    names = [
        p.relative_to(target) for p in target.rglob("*") if p.is_file() and p.name != checksums.CHECKSUMS
    ]
    assert any(
        all((target / name).read_bytes() == (source / name).read_bytes() for name in names)
        for source in sources.values()
    )


def test_s3_store_says_what_is_wrong(s3, monkeypatch):
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(StoreError, match="no bucket for s3://nobucket/x"):
        open_store("s3://nobucket/x").models()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="No permission to use the model store"):
        open_store(f"s3://{BUCKET}/x").models()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(f"s3://{BUCKET}/x").release("leaves")


def test_s3_put_sends_the_list_last(s3, tmp_path, monkeypatch):
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    source = saved_model(tmp_path / "model")
    (source / "saved_model.pb").unlink()
    (source / "saved_model.pb").symlink_to(tmp_path / "nowhere")
    (source / "saved_model.pbtxt").write_text("graph")
    models = open_store(f"s3://{BUCKET}/order")
    models.put(source, "leaves", 1)
    folder = s3.buckets / BUCKET / "order" / "leaves" / "1"
    times = {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert sorted(times, key=times.__getitem__)[-2:] == ["saved_model.pbtxt", checksums.CHECKSUMS]


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "gs:///"])
def test_open_store_refuses_addresses_it_does_not_know(uri):
    with pytest.raises(InputError, match="A model store is a folder"):
        open_store(uri)


def test_a_folder_store_that_is_not_mounted_says_so(tmp_path):
    models = open_store(tmp_path / "absent")
    with pytest.raises(StoreError, match="not mounted"):
        models.models()
    with pytest.raises(StoreError, match="not mounted"):
        models.release("leaves")


@pytest.mark.parametrize("name", ["../leaves", "", ".hidden", "a/b", "x" * 200])
def test_a_models_name_cannot_lead_out(tmp_path, name):
    with pytest.raises(InputError, match="A model's name is letters"):
        open_store(tmp_path).versions(name)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "abc  saved_model.pb",
        f"{'0' * 64}  ../x",
        f"{'0' * 64}  /etc/passwd",
        f"{'0' * 64}  a/./b",
        f"{'0' * 64} a\\..\\b",
    ],
)
def test_a_bad_checksum_list_is_refused(line):
    good = f"{'1' * 64}  saved_model.pb\n"
    with pytest.raises(ChecksumError, match="here has a line"):
        checksums.parse_checksums(f"{good}{line}\n".encode(), "here")


def test_a_checksum_list_must_name_a_model():
    with pytest.raises(ChecksumError, match="lists no model"):
        checksums.parse_checksums(f"{'1' * 64}  readme.txt\n".encode(), "here")


def test_a_link_in_a_folder_store_is_not_followed(tmp_path, target):
    models = open_store(tmp_path / "store")
    (tmp_path / "store").mkdir()
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    path = tmp_path / "store" / "leaves" / "1" / "saved_model.pb"
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="is a link"):
        models.fetch("leaves", 1, target)


@pytest.fixture
def gs(monkeypatch):
    """The address of an empty bucket in a stand-in for Google's storage."""
    found = shutil.which("fake-gcs-server", path=str(TOOLS)) or shutil.which("fake-gcs-server")
    if found is None:
        pytest.skip("no fake-gcs-server: scripts/kustomize-tools builds one")
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    flags = ["-scheme", "http", "-host", host, "-port", port, "-public-host", address, "-backend", "memory"]
    process = subprocess.Popen([found, *flags, "-log-level", "error"], stderr=subprocess.DEVNULL)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
    try:
        for _ in range(200):
            try:
                body = json.dumps({"name": "models"}).encode()
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(f"http://{address}/storage/v1/b", body, headers)
                urllib.request.urlopen(request, timeout=2).close()
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        yield "gs://models/store"
    finally:
        process.terminate()
        process.wait(10)


def test_gs_store_keeps_versions_and_refuses_a_stale_write(gs, tmp_path, target):
    models = open_store(gs)
    assert models.guarded
    models.put(saved_model(tmp_path / "model"), "leaves", 1)
    models.fetch("leaves", 1, target)
    checksums.verify(target)
    assert (models.models(), models.versions("leaves")) == (["leaves"], [1])
    models.change("leaves", lambda release: release_record.make_stable(release, 1))

    def overtaken(release):
        open_store(gs).change("leaves", lambda r: _counted(r, 1))
        return _counted(release, 1)

    with pytest.raises(WriteConflict, match="changed by others 2 times"):
        models.change("leaves", overtaken, attempts=2)
    models.change("leaves", lambda release: release_record.Release(generation=release.generation + 1))
    models.remove("leaves", 1)
    assert models.versions("leaves") == []
