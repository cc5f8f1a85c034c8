"""The model store: where published versions and the release record of each model lie.

    <store>/<model>/<version>/…                 a SavedModel
    <store>/<model>/<version>/checksums.sha256  SHA-256 of its files in sha256sum's format; written last
    <store>/<model>/<version>/assets.extra/pergola/  notes of its release, see publish.py
    <store>/<model>/release.json                which version is stable, which is canary (release_record.py)

A store is a folder (a PVC) or an fsspec address (s3://, gs://). A version without its checksum list does not
exist: its upload is in progress or was interrupted.

    store = open_store("s3://models/pergola")
    store.put(Path("out/leaves/3"), "leaves", 3)
    store.change("leaves", lambda release: release_record.make_stable(release, 3))
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pergola.components import digest
from pergola.components.errors import InputError
from pergola.components.store import release_record
from pergola.components.store.checksums import CHECKSUMS, GRAPHS, format_checksums, of_model, parse_checksums
from pergola.components.store.local_store import FolderFiles
from pergola.components.store.release_record import Release
from pergola.components.store.store_errors import ChecksumError, MissingVersion, WriteConflict

RELEASE = "release.json"
_MAX_LIST_BYTES = 16 << 20
_MAX_RECORD_BYTES = 16 << 20  # a change takes about 250 bytes of history
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Files(Protocol):
    """The storage operations of a store. Keys are relative, separated by "/".

    All raise FileNotFoundError for a missing key and StoreError for every other failure.
    """

    @property
    def uri(self) -> str: ...
    @property
    def guarded(self) -> bool: ...  # whether `replace` refuses a stale tag

    def folders(self, key: str) -> list[str]: ...  # names of the subfolders; empty if it is missing
    def read(self, key: str, limit: int) -> tuple[bytes, Any]: ...  # content, and a tag of this content
    def replace(
        self, key: str, content: bytes, tag: Any
    ) -> None: ...  # tag None: only if missing; else WriteConflict
    def download(self, key: str, path: Path) -> None: ...
    def publish(self, folder: Path, model: str, version: int, sums: Mapping[str, str]) -> None: ...
    def remove(self, key: str) -> None: ...  # a folder; does nothing if it is missing


class Store:
    """Versions and release records of any number of models."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @property
    def uri(self) -> str:
        """Its address."""
        return self._files.uri

    @property
    def guarded(self) -> bool:
        """Whether concurrent writes of a release record are detected. If not, the last one wins."""
        return self._files.guarded

    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return sorted(name for name in self._files.folders("") if _MODEL.fullmatch(name))

    def versions(self, model: str) -> list[int]:
        """Complete versions, ascending."""
        numbers = (
            int(name) for name in self._files.folders(_checked(model)) if name.isdecimal() and int(name) > 0
        )
        return sorted(number for number in numbers if self._has(model, number))

    def checksums(self, model: str, version: int) -> dict[str, str]:
        """Path -> SHA-256 of every file of a version. Raises MissingVersion, ChecksumError."""
        key = f"{_checked(model)}/{version}/{CHECKSUMS}"
        try:
            content, _ = self._files.read(key, _MAX_LIST_BYTES)
        except FileNotFoundError:
            raise MissingVersion(f"{self.uri} has no version {version} of '{model}'.") from None
        return parse_checksums(content, f"{self.uri}/{key}")

    def put(self, folder: Path, model: str, version: int) -> None:
        """Publish the SavedModel in `folder`, or do nothing if it is there. Its number cannot be reused.

        It appears atomically: a folder is renamed into place, a bucket gets the checksum list last.
        """
        sums = _sums_of(folder)
        if self._has(model, version):
            if of_model(self.checksums(model, version)) == of_model(sums):
                return
            raise InputError(
                f"{self.uri} already has another version {version} of '{model}'. "
                f"Published versions never change: use a new number, or remove it first."
            )
        self._files.publish(folder, model, version, sums)

    def fetch(
        self,
        model: str,
        version: int,
        folder: Path,
        on_file: Callable[[str], None] = lambda name: None,
        check: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """Copy a version to `folder`, which appears only if every checksum matches.

        on_file: called with each name before it is copied.  check: called with the whole copy before it
        appears; what it raises is raised.
        Raises MissingVersion, ChecksumError, StoreError, and OSError of the local disk.
        """
        sums = self.checksums(model, version)
        incoming = folder.parent / f".incoming-{folder.name}-{os.getpid()}"
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            for name, wanted in sums.items():
                on_file(name)
                self._fetch_file(f"{model}/{version}/{name}", incoming / name, wanted)
            (incoming / CHECKSUMS).write_bytes(format_checksums(sums))
            check(incoming)
            os.rename(incoming, folder)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise

    def fetch_file(self, model: str, version: int, name: str, path: Path) -> bool:
        """Copy one file of a version to `path`; returns whether there is one. Raises as `fetch` does."""
        wanted = self.checksums(model, version).get(name)
        if wanted is not None:
            self._fetch_file(f"{model}/{version}/{name}", path, wanted)
        return wanted is not None

    def remove(self, model: str, version: int) -> None:
        """Delete a version. Raises InputError if it is stable, canary or the target of a rollback."""
        release = self.release(model)
        if version in (release.stable, release.canary, release.previous):
            raise InputError(
                f"Version {version} of '{model}' is in use: pergola release withdraw {version} first."
            )
        self._files.remove(f"{_checked(model)}/{version}")

    def release(self, model: str) -> Release:
        """The release record; an empty one (generation 0) if there is none yet."""
        return self._release(model)[0]

    def change(
        self,
        model: str,
        change: Callable[[Release], Release],
        attempts: int = 5,
        anew: bool = False,
        *,
        why: str = "",
        clock: Callable[[], float] = time.time,
    ) -> Release:
        """Apply `change` to the release record; on a concurrent write, read it again and retry.

        anew: a record that cannot be read counts as empty.  why: for its history.
        Raises InputError for a version that is not in the store, WriteConflict if every
        attempt conflicts.
        """
        for _ in range(attempts):
            release, tag = self._release(model, anew)
            changed = change(release)
            if changed == release:
                return release
            self._check_present(model, changed)
            who = release_record.current_user()
            changed = release_record.with_event(release, changed, who=who, why=why, at_s=clock())
            try:
                self._files.replace(f"{model}/{RELEASE}", release_record.to_json(changed), tag)
                return changed
            except WriteConflict:
                continue
        raise WriteConflict(
            f"{self.uri}/{model}/{RELEASE} was changed by others {attempts} times. "
            "Find out by whom, then try again."
        )

    def _release(self, model: str, anew: bool = False) -> tuple[Release, Any]:
        key = f"{_checked(model)}/{RELEASE}"
        try:
            content, tag = self._files.read(key, _MAX_RECORD_BYTES)
        except FileNotFoundError:
            return Release(), None
        try:
            return release_record.from_json(content, f"{self.uri}/{key}"), tag
        except release_record.Unreadable:
            if not anew:
                raise
            return Release(), tag

    def _check_present(self, model: str, release: Release) -> None:
        for version in (release.stable, release.canary):
            if version is not None and not self._has(model, version):
                known = ", ".join(map(str, self.versions(model))) or "none"
                raise InputError(f"{self.uri} has no version {version} of '{model}'. Published: {known}.")

    def _has(self, model: str, version: int) -> bool:
        try:
            self._files.read(f"{_checked(model)}/{version}/{CHECKSUMS}", _MAX_LIST_BYTES)
        except FileNotFoundError:
            return False
        return True

    def _fetch_file(self, key: str, path: Path, wanted: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._files.download(key, path)
        except FileNotFoundError:
            raise MissingVersion(
                f"{self.uri}/{key} is on the checksum list but not in the store. Publish the version again."
            ) from None
        got = digest.of_file(path)
        if got != wanted:
            raise ChecksumError(
                f"{self.uri}/{key} has SHA-256 {got[:12]}…, expected {wanted[:12]}…. "
                f"Publish the version again."
            )


def open_store(uri: str | Path) -> Store:
    """The store at a folder or an fsspec address (s3://bucket/prefix, gs://bucket/prefix)."""
    text = str(uri)
    if "://" in text and not text.startswith("file://"):
        from pergola.components.store.object_store import ObjectFiles

        return Store(ObjectFiles(text))
    return Store(FolderFiles(Path(text.removeprefix("file://"))))


def _sums_of(folder: Path) -> dict[str, str]:
    names: Iterable[str] = (
        p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()
    )
    sums = {name: digest.of_file(folder / name) for name in names if name != CHECKSUMS}
    if not any(name in sums for name in GRAPHS):
        raise InputError(f"{folder} holds no SavedModel: expected {' or '.join(GRAPHS)} in it.")
    return sums


def _checked(model: str) -> str:
    if not _MODEL.fullmatch(model):
        raise InputError(
            f"A model's name is letters, digits, '.', '_' and '-' and starts with a letter or digit. "
            f"Got {model!r}."
        )
    return model
