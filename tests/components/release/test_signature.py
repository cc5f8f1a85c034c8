"""Versions signed with a key: whose signature counts, and what refuses a version without it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pergola.components.errors import InputError
from pergola.components.store import release_record
from pergola.components.store.checksums import verify, verify_signature
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import publish
from pergola.components.store.store_errors import SignatureError
from pergola.components.store.sync import Sync, SyncSettings
from pergola.serving.wire.signature import is_signed
from tests.support.command import pergola
from tests.support.damage import flip
from tests.support.versions import saved_model

pytest.importorskip("model_signing")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write_keys(folder, name, password=None):
    """(private, public), PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return write_keys(folder, "ours"), write_keys(folder, "theirs")


@pytest.fixture
def model(tmp_path):
    return saved_model(tmp_path / "model")


def test_a_signature_is_beside_the_model_and_not_in_its_digest(keys, model, tmp_path):
    (private, public), (_, other) = keys
    unsigned = publish(model, tmp_path / "a", "leaves", 1)
    signed = publish(model, tmp_path / "b", "leaves", 1, signing_key=private)
    assert signed.sha256 == unsigned.sha256
    folder = tmp_path / "b" / "leaves" / "1"
    assert is_signed(folder) and "assets.extra/pergola/model.sig" in verify(folder)
    verify_signature(folder, public)
    with pytest.raises(SignatureError, match=r"is not what .*theirs\.pub signed: Key mismatch"):
        verify_signature(folder, other)
    with pytest.raises(SignatureError, match=r"is not signed, and a signature by .*ours\.pub is required"):
        verify_signature(tmp_path / "a" / "leaves" / "1", public)


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "assets.extra/pergola/model.sig"]
)
def test_another_file_is_not_what_was_signed(keys, model, tmp_path, file):
    (private, public), _ = keys
    publish(model, tmp_path, "leaves", 1, signing_key=private)
    flip(tmp_path / "leaves" / "1" / file)
    with pytest.raises(SignatureError, match=r"is not (what .* signed|signed by)"):
        verify_signature(tmp_path / "leaves" / "1", public)


def test_a_file_that_was_added_is_not_what_was_signed(keys, model, tmp_path):
    (private, public), _ = keys
    publish(model, tmp_path, "leaves", 1, signing_key=private)
    (tmp_path / "leaves" / "1" / "model.tflite").write_text("more")
    with pytest.raises(SignatureError, match="Extra files"):
        verify_signature(tmp_path / "leaves" / "1", public)


def test_an_unsigned_version_is_signed_when_it_is_published_again(keys, model, tmp_path):
    (private, public), _ = keys
    publish(model, tmp_path, "leaves", 1)
    publish(model, tmp_path, "leaves", 1, signing_key=private)
    verify(tmp_path / "leaves" / "1")
    verify_signature(tmp_path / "leaves" / "1", public)


def test_a_key_with_a_password_takes_it_from_the_environment(model, tmp_path, monkeypatch):
    private, public = write_keys(tmp_path, "locked", password="open sesame")
    with pytest.raises(InputError, match=r"locked\.pem cannot sign a model: .*PERGOLA_SIGNING_PASSWORD"):
        publish(model, tmp_path / "models", "leaves", 1, signing_key=private)
    assert not (tmp_path / "models" / "leaves" / "1").exists()
    monkeypatch.setenv("PERGOLA_SIGNING_PASSWORD", "open sesame")
    publish(model, tmp_path / "models", "leaves", 1, signing_key=private)
    verify_signature(tmp_path / "models" / "leaves" / "1", public)


def test_what_is_no_key_is_refused(model, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(InputError, match=r"release\.signing_key: .*key\.pem cannot sign a model"):
        publish(model, tmp_path / "models", "leaves", 1, signing_key=tmp_path / "key.pem")


def test_sync_takes_signed_versions_only(keys, tmp_path):
    (private, public), (their_private, _) = keys
    (tmp_path / "store").mkdir()
    store = open_store(tmp_path / "store")
    for number, key in ((1, private), (2, None), (3, their_private)):
        folder = saved_model(tmp_path / f"model-{number}", f"v{number}")
        publish(folder, tmp_path / "published", "leaves", number, signing_key=key)
        store.put(tmp_path / "published" / "leaves" / str(number), "leaves", number)
    settings = SyncSettings(interval_s=0.05, public_key=str(public))
    with Sync(store, tmp_path / "served", settings) as sync:
        for number in (1, 2, 3):
            store.change("leaves", lambda release, n=number: release_record.make_stable(release, n))
            sync.settle()
            rejected = sync.status().models["leaves"].rejected
            assert {v: r.kind for v, r in rejected.items()} == ({number: "signature"} if number > 1 else {})
            assert sync.status().models["leaves"].labels == {"stable": 1}
    assert not (tmp_path / "served" / "leaves" / "2").exists()


def test_restart_of_sync_drops_what_is_not_signed(keys, tmp_path):
    (_, public), _ = keys
    (tmp_path / "store").mkdir()
    store = open_store(tmp_path / "store")
    store.put(saved_model(tmp_path / "model"), "leaves", 1)
    store.change("leaves", lambda release: release_record.make_stable(release, 1))
    with Sync(store, tmp_path / "served", SyncSettings(interval_s=0.05)) as sync:
        sync.settle()
    assert (tmp_path / "served" / "leaves" / "1").is_dir()
    with Sync(store, tmp_path / "served", SyncSettings(interval_s=0.05, public_key=str(public))):
        assert not (tmp_path / "served" / "leaves" / "1").exists()


def test_sync_without_the_key_file_is_refused(tmp_path):
    done = pergola("sync", tmp_path, tmp_path / "out", "--require-signature", tmp_path / "none.pub")
    assert done.returncode == 2 and "there is no public key at" in done.stderr
