"""A model store in a bucket: s3:// and gs:// through fsspec. EDGE: nothing else here imports fsspec.

Credentials come from where the cloud's own tools find them: environment, files, the pod's identity.
AWS_ENDPOINT_URL points s3:// to another server, STORAGE_EMULATOR_HOST points gs:// to one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pergola.components.errors import InputError
from pergola.components.store.model_store import CHECKSUMS, GRAPHS, Conflict, StoreError, format_checksums

_log = logging.getLogger(__name__)
_KINDS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
_TIMEOUT_S = 20


class ObjectFiles:
    """`Files` in a bucket. Objects appear whole; folders are what their keys share."""

    def __init__(self, uri: str) -> None:
        kind, _, path = uri.partition("://")
        if kind not in _KINDS or not path.strip("/"):
            raise InputError(
                f"A model store is a folder, s3://bucket/prefix or gs://bucket/prefix. Got {uri!r}."
            )
        self.uri = uri.rstrip("/")
        self._kind = "gs" if kind == "gcs" else kind
        self._root = ("/" if kind == "memory" else "") + path.strip("/")
        self._fs = _filesystem(kind)
        self._probed: bool | None = None
        self._has_bucket = kind == "memory"

    @property
    def guarded(self) -> bool:
        """Whether the server refuses a conditional write whose condition does not hold: it is tried once."""
        if self._probed is None:
            self._probed = self._kind != "memory" and self._refuses_second_create()
        return self._probed

    def folders(self, key: str) -> list[str]:
        with self._said():
            try:
                entries = self._fs.ls(self._at(key), detail=True, refresh=True)
            except FileNotFoundError:
                self._require_bucket()
                return []
        return [str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"]

    def read(self, key: str, limit: int) -> tuple[bytes, Any]:
        """The tag is taken first: if the object changes in between, a write with the tag is refused."""
        with self._said():
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self._at(key))
            except FileNotFoundError:
                self._require_bucket()
                raise
            if info["type"] == "directory":
                raise FileNotFoundError(key)
            if int(info["size"] or 0) > limit:
                raise StoreError(
                    f"{self.uri}/{key} is larger than {limit:,} bytes. It was not written by pergola."
                )
            content: bytes = self._fs.cat_file(self._at(key))
        return content, info.get("ETag") if self._kind == "s3" else info.get("generation")

    def replace(self, key: str, content: bytes, tag: Any) -> None:
        if not self.guarded:
            _log.warning(
                "store=%s cannot refuse a stale write; of two writers at once the last one wins", self.uri
            )
            with self._said():
                self._fs.pipe_file(self._at(key), content)
            return
        self._write_if(key, content, tag)

    def download(self, key: str, path: Path) -> None:
        with self._said():
            self._fs.get_file(self._at(key), str(path))

    def publish(self, folder: Path, model: str, version: int, sums: Mapping[str, str]) -> None:
        """The graph after the variables, the list last; what was sent before a failure is harmless."""
        key = f"{model}/{version}"
        for name in sorted(sums, key=lambda name: (name in GRAPHS, name)):
            with self._said():
                self._require_bucket()
                self._fs.put_file(str(folder / name), f"{self._at(key)}/{name}")
        try:
            self.replace(f"{key}/{CHECKSUMS}", format_checksums(sums), None)
        except Conflict:
            raise Conflict(f"Someone else publishes version {version} of '{model}' to {self.uri}.") from None

    def remove(self, key: str) -> None:
        """The checksum list goes first: from then on the version does not exist."""
        with self._said(), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            paths = sorted(self._fs.find(self._at(key)), key=lambda path: not path.endswith(".sha256"))
            for path in paths:
                self._fs.rm_file(path)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _require_bucket(self) -> None:
        """A missing bucket is a mistake in the address; a missing key in it is no news."""
        if self._has_bucket:
            return
        try:
            self._fs.ls(self._root.split("/")[0])
        except FileNotFoundError:
            raise StoreError(f"There is no bucket for {self.uri}: make it, or correct the address.") from None
        self._has_bucket = True

    def _write_if(self, key: str, content: bytes, tag: Any) -> None:
        """Write if the object still has this tag (None: if it does not exist). Raises Conflict otherwise."""
        try:
            with self._said():
                if self._kind == "s3":
                    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
                    self._fs.pipe_file(self._at(key), content, **condition)
                else:
                    self._write_generation(key, content, int(tag or 0))
        except StoreError as error:
            if _is_refusal(error.__cause__):
                raise Conflict(f"{self.uri}/{key} was changed by someone else in between.") from None
            raise

    def _write_generation(self, key: str, content: bytes, generation: int) -> None:
        bucket, name, _ = self._fs.split_path(self._at(key))
        self._fs.call(
            "POST",
            f"{self._fs._location}/upload/storage/v1/b/{bucket}/o",
            uploadType="media",
            name=name,
            ifGenerationMatch=str(generation),
            data=content,
            headers={"Content-Type": "application/json"},
        )

    def _refuses_second_create(self) -> bool:
        key = f".guard-{secrets.token_hex(6)}"
        try:
            self._write_if(key, b"1", None)
            self._write_if(key, b"2", None)
        except Conflict:
            return True
        finally:
            with self._said(), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._at(key))
        return False

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except PermissionError as error:
            raise StoreError(
                f"No right to use the model store {self.uri}: {_words(error)}. Check its credentials."
            ) from error
        except Exception as error:  # each cloud has a hierarchy of its own
            raise StoreError(f"The model store {self.uri} cannot be used: {_words(error)}.") from error


def _filesystem(kind: str) -> Any:
    # A look at the bucket's layout by gRPC, with credentials of its own, that a store has no use for.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if kind == "s3":
            limits = {
                "connect_timeout": _TIMEOUT_S,
                "read_timeout": _TIMEOUT_S,
                "retries": {"max_attempts": 3},
            }
            options |= {"config_kwargs": limits}
        return fsspec.filesystem(kind, **options)
    except ImportError as error:
        raise InputError(
            f"A {kind}:// store needs {_KINDS[kind]}, which is not installed ({error}). "
            'Install it: pip install "pergola-ml[sync]"'
        ) from None


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a server said 412 Precondition Failed, or 409 since another conditional write was under way."""
    while error is not None:
        response = getattr(error, "response", None)
        code = (
            response.get("Error", {}).get("Code")
            if isinstance(response, dict)
            else getattr(error, "code", None)
        )
        if str(code) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409") or isinstance(
            error, FileExistsError
        ):
            return True
        error = error.__cause__
    return False


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")[:300]
