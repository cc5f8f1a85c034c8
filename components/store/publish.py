"""Publish a SavedModel to the folder that servers watch: <base>/<model>/<version>/.

A server must never see an incomplete version: it is written under a name that is not a number (which
TF-Serving ignores), flushed, verified and renamed. A published version never changes; its checksum list, in
sha256sum's format, shows whether it is still intact.

A version whose files changed is set aside, in <base>/../quarantine/<model>/, which no server watches.

The notes of a release (the drift reference) are stored with the version in assets.extra/pergola/, which
TF-Serving ignores, so they are copied wherever the version is. They do not count when models are compared.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pergola.components import digest, records
from pergola.components.artifacts.release import Publication
from pergola.components.disk import explained
from pergola.components.errors import InputError, StepError
from pergola.components.store.checksums import (
    CHECKSUMS,
    NOTES,
    format_checksums,
    of_model,
    parse_checksums,
    verify,
)
from pergola.components.store.store_errors import ChecksumError, MissingVersion
from pergola.serving.wire.signature import SIGNATURE, is_signed, sign

QUARANTINE = "quarantine"

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def publish(
    saved_model: Path,
    base: Path,
    model: str,
    version: int,
    *,
    notes: Path | None = None,
    registered: str = "",
    signing_key: Path | None = None,
) -> Publication:
    """Publish a SavedModel. Publishing it again changes nothing, unless the published one is damaged.

    base: the folder of all models of a server, created if missing.  version: at least 1.
    notes: a folder whose files are stored with the version, see `notes_of`.
    registered: SHA-256 of the SavedModel that has this number in the registry; "": not compared. Where it is
    known, a published version that is damaged is set aside, and published again.
    signing_key: a private key in PEM; the version is signed with it. One that was published unsigned is, too.
    Raises StepError if another model has this number or the disk is full, InputError for a folder that is
    not a SavedModel, an invalid model name, or a folder without write permission.
    """
    folder = _folder(base, model, version)
    sources = _sources(saved_model, notes)
    sums = {name: digest.of_file(path) for name, path in sources.items()}
    publication = Publication(model=model, version=version, sha256=_sha256(sums))
    if registered and publication.sha256 != registered:
        raise StepError(
            f"{saved_model} is not the model that was registered as version {version} of '{model}': its "
            f"SHA-256 is {publication.sha256[:12]}…, {registered[:12]}… was registered. Run the pipeline "
            "again, which exports it anew."
        )
    with explained(base):
        if registered and folder.exists() and (problem := damage_of(folder)):
            aside = set_aside(base, model, version)
            log.warning("version %d of '%s' was damaged and is published again: %s It is kept in %s.",
                        version, model, problem, aside)  # fmt: skip
        if folder.exists():
            _check_same(folder, sums)
            if signing_key and not is_signed(folder):
                _sign(folder, signing_key)
            return publication
        partial = folder.with_name(f".{version}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for name, source in sources.items():
                _copy(source, partial / name)
            _write(partial / CHECKSUMS, format_checksums(sums))
            verify(partial)
            if signing_key:
                _sign(partial, signing_key)
            _sync_folders(partial)
            os.rename(partial, folder)
            _sync(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return publication


def withdraw(base: Path, model: str, version: int) -> bool:
    """Remove a version from the served folder. Returns whether it was there.

    It is renamed before it is deleted, so that no server loads an incomplete version.
    """
    folder = _folder(base, model, version)
    gone = folder.with_name(f".{version}.withdrawn")
    with explained(base):
        shutil.rmtree(gone, ignore_errors=True)
        try:
            os.rename(folder, gone)
        except FileNotFoundError:
            return False
        _sync(folder.parent)
        shutil.rmtree(gone)
    return True


def damage_of(folder: Path, sha256: str = "") -> str:
    """What is wrong with a published version, in a sentence; empty if nothing is. All its files are read.

    sha256: of the SavedModel that should be there; "": not compared.
    """
    try:
        sums = verify(folder)
    except (ChecksumError, MissingVersion) as error:
        return str(error)
    if sha256 and (found := _sha256(sums)) != sha256:
        return f"{folder} has a model with SHA-256 {found[:12]}…, {sha256[:12]}… was published."
    return ""


def set_aside(base: Path, model: str, version: int) -> Path | None:
    """Move a damaged version out of the served folder, atomically. Gives its place; None if it was gone."""
    folder = _folder(base, model, version)
    place = base.parent / QUARANTINE / model
    with explained(base):
        place.mkdir(parents=True, exist_ok=True)
        taken = (place / (f"{version}-{count}" if count else f"{version}") for count in itertools.count())
        target = next(path for path in taken if not path.exists())
        try:
            os.rename(folder, target)
        except FileNotFoundError:
            return None
        _sync(folder.parent)
    return target


def published(base: Path, model: str) -> list[int]:
    """The versions that servers can see, ascending; empty for an unknown model."""
    try:
        entries = list(os.scandir(base / model))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(e.name) for e in entries if e.is_dir() and e.name.isdecimal() and int(e.name) > 0)


def notes_of(folder: Path) -> Path:
    """The folder of the notes of a published version's release."""
    return folder / NOTES


def sha256_of(folder: Path) -> str:
    """SHA-256 of the SavedModel that was published, computed from the checksum list.

    The files are not read. Raises what `pergola.components.store.checksums.parse_checksums` raises.
    """
    return _sha256(parse_checksums((folder / CHECKSUMS).read_bytes(), str(folder / CHECKSUMS)))


def model_sha256(folder: Path) -> str:
    """SHA-256 of the SavedModel in a published folder, from its files and not from its list."""
    return _sha256({name: digest.of_file(path) for name, path in _below(folder).items() if name != CHECKSUMS})


def sound_notes(folder: Path, target: Path) -> list[str]:
    """Copy the notes of a damaged version's release that match its checksum list; names of the others."""
    text = (folder / CHECKSUMS).read_text("utf-8", errors="replace") if (folder / CHECKSUMS).is_file() else ""
    lost = []
    for name, path in sorted(_below(folder / NOTES).items()):
        if f"{digest.of_file(path)}  {NOTES}/{name}\n" in text:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
        else:
            lost.append(name)
    return lost


def verify_published(base: Path, publication: Publication) -> None:
    """Check that a published version is there, undamaged, and the model that was published.

    All its files are read. Raises ChecksumError, MissingVersion.
    """
    folder = _folder(base, publication.model, publication.version)
    if problem := damage_of(folder, publication.sha256):
        raise (ChecksumError if folder.is_dir() else MissingVersion)(problem)


def _folder(base: Path, model: str, version: int) -> Path:
    if not _NAME.fullmatch(model):
        raise InputError(
            f"A model's name is letters, digits, '.', '_' and '-', a letter or digit first. Got {model!r}."
        )
    if version < 1:
        raise InputError(f"A version is an integer of at least 1. Got {version}.")
    return base / model / str(version)


def _sources(saved_model: Path, notes: Path | None) -> dict[str, Path]:
    """Path in the published folder -> source file."""
    if not (saved_model / "saved_model.pb").is_file():
        raise InputError(f"{saved_model} is not a SavedModel: it has no saved_model.pb.")
    sources = _below(saved_model)
    sources.pop(CHECKSUMS, None)
    if notes is not None:
        sources |= {f"{NOTES}/{name}": path for name, path in _below(notes).items()}
    return sources


def _below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _sha256(sums: Mapping[str, str]) -> str:
    """The digest that `digest.of_folder` gives for the model's files without the checksum list."""
    ordered = sorted(of_model(sums), key=PurePosixPath)
    return digest.of_rows((f"{name}", sums[name]) for name in ordered)


def _check_same(folder: Path, sums: Mapping[str, str]) -> None:
    what = f"Version {folder.name} of '{folder.parent.name}' in {folder.parent.parent}"
    try:
        listed = parse_checksums((folder / CHECKSUMS).read_bytes(), str(folder / CHECKSUMS))
    except FileNotFoundError:
        raise StepError(
            f"{what} was not published by pergola (no {CHECKSUMS}). Move {folder} away."
        ) from None
    if of_model(listed) != of_model(sums):
        raise StepError(
            f"{what} is another model. Published versions never change: publish with a new number."
        )
    verify(folder)


def _sign(folder: Path, key: Path) -> None:
    """Sign a version that is sound; the signature goes onto its checksum list."""
    try:
        sign(folder, key, os.environ.get("PERGOLA_SIGNING_PASSWORD"))
    except ValueError as error:
        raise InputError(f"release.signing_key: {error}") from None
    sums = parse_checksums((folder / CHECKSUMS).read_bytes(), str(folder / CHECKSUMS))
    signed = {**sums, SIGNATURE: digest.of_file(folder / SIGNATURE)}
    records.write_atomic(folder / CHECKSUMS, format_checksums(signed))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 4 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(folder: Path) -> None:
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        _sync(path)


def _sync(folder: Path) -> None:
    """Flush a folder's directory entries to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
