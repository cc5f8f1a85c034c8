"""A model store in a bucket: s3:// and gs:// through fsspec. EDGE: fsspec.

Credentials are found as by the cloud's own tools: environment, files, the pod's identity.
AWS_ENDPOINT_URL selects another S3 server, STORAGE_EMULATOR_HOST another GCS server.
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
from pergola.components.store.checksums import CHECKSUMS, GRAPHS, format_checksums
from pergola.components.store.store_errors import StoreError, WriteConflict

_log = logging.getLogger(__name__)
_KINDS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
_TIMEOUT_S = 20


class ObjectFiles:
    """`Files` in a bucket. Objects are written atomically; folders are common prefixes of their keys."""

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
        """Whether the server supports conditional writes. Tested once by writing a small object."""
        if self._probed is None:
            self._probed = self._kind != "memory" and self._refuses_second_create()
        return self._probed

    def folders(self, key: str) -> list[str]:
        with self._store_errors():
            try:
                entries = self._fs.ls(self._at(key), detail=True, refresh=True)
            except FileNotFoundError:
                self._require_bucket()
                return []
        return [str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"]

    def read(self, key: str, limit: int) -> tuple[bytes, Any]:
        """The tag is read first: if the object changes in between, a write with this tag is refused."""
        with self._store_errors():
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
                "store=%s does not support conditional writes; of two concurrent writers the last one wins",
                self.uri,
            )
            with self._store_errors():
                self._fs.pipe_file(self._at(key), content)
            return
        self._write_if(key, content, tag)

    def download(self, key: str, path: Path) -> None:
        with self._store_errors():
            self._fs.get_file(self._at(key), str(path))

    def publish(self, folder: Path, model: str, version: int, sums: Mapping[str, str]) -> None:
        """The graph after the variables, the checksum list last: a partial upload is not visible."""
        key = f"{model}/{version}"
        for name in sorted(sums, key=lambda name: (name in GRAPHS, name)):
            with self._store_errors():
                self._require_bucket()
                self._fs.put_file(str(folder / name), f"{self._at(key)}/{name}")
        try:
            self.replace(f"{key}/{CHECKSUMS}", format_checksums(sums), None)
        except WriteConflict:
            raise WriteConflict(
                f"Someone else is publishing version {version} of '{model}' to {self.uri}."
            ) from None

    def remove(self, key: str) -> None:
        """The checksum list is deleted first: from then on the version does not exist."""
        with self._store_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            paths = sorted(self._fs.find(self._at(key)), key=lambda path: not path.endswith(".sha256"))
            for path in paths:
                self._fs.rm_file(path)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _require_bucket(self) -> None:
        """A missing bucket is an error in the address; a missing key is not an error."""
        if self._has_bucket:
            return
        try:
            self._fs.ls(self._root.split("/")[0])
        except FileNotFoundError:
            raise StoreError(
                f"There is no bucket for {self.uri}. Create it, or correct the address."
            ) from None
        self._has_bucket = True

    def _write_if(self, key: str, content: bytes, tag: Any) -> None:
        """Write if the object still has this tag (None: does not exist). Raises WriteConflict otherwise."""
        try:
            with self._store_errors():
                if self._kind == "s3":
                    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
                    self._fs.pipe_file(self._at(key), content, **condition)
                else:
                    self._write_generation(key, content, int(tag or 0))
        except StoreError as error:
            if _is_refusal(error.__cause__):
                raise WriteConflict(
                    f"{self.uri}/{key} was changed by another writer in the meantime."
                ) from None
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
        except WriteConflict:
            return True
        finally:
            with self._store_errors(), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._at(key))
        return False

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except PermissionError as error:
            raise StoreError(
                f"No permission to use the model store {self.uri}: {_summary(error)}. Check its credentials."
            ) from error
        except Exception as error:  # each cloud has a hierarchy of its own
            raise StoreError(f"The model store {self.uri} cannot be used: {_summary(error)}.") from error


def _filesystem(kind: str) -> Any:
    # gcsfs would inspect the bucket's layout through gRPC, with separate credentials; not needed here.
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
    """Whether the server answered 412 Precondition Failed, or 409 for a concurrent conditional write."""
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


def _summary(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")[:300]
