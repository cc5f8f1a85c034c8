"""A model store in a folder: a disk, or a volume that several pods mount."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pergola.components import records
from pergola.components.store import publish
from pergola.components.store.store_errors import StoreError, WriteConflict


class FolderFiles:
    """`Files` on a file system. A lock file and a hash of the content prevent conflicting writes."""

    guarded = True

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root

    def folders(self, key: str) -> list[str]:
        with self._store_errors():
            try:
                return [entry.name for entry in os.scandir(self._root / key) if entry.is_dir()]
            except FileNotFoundError:
                if not self._root.is_dir():
                    raise StoreError(
                        f"The model store {self.uri} does not exist or is not mounted."
                    ) from None
                return []

    def read(self, key: str, limit: int) -> tuple[bytes, str]:
        with self._store_errors():
            if not self._root.is_dir():
                raise StoreError(f"The model store {self.uri} does not exist or is not mounted.")
            with open(self._root / key, "rb") as file:
                content = file.read(limit + 1)
        if len(content) > limit:
            raise StoreError(
                f"{self.uri}/{key} is larger than {limit:,} bytes. It was not written by pergola."
            )
        return content, hashlib.sha256(content).hexdigest()

    def replace(self, key: str, content: bytes, tag: str | None) -> None:
        path = self._root / key
        with self._store_errors(), self._locked(path.parent):
            now = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            if now != tag:
                raise WriteConflict(f"{path} was changed by another writer in the meantime.")
            records.write_atomic(path, content)

    def download(self, key: str, path: Path) -> None:
        source = self._root / key
        with self._store_errors():
            if source.is_symlink():
                raise StoreError(
                    f"{source} is a link. A version contains plain files only: publish it again."
                )
            reader = open(source, "rb")  # noqa: SIM115 - closed below; errors of `path` are not the store's
        with reader, open(path, "wb") as writer:
            shutil.copyfileobj(reader, writer, 4 << 20)
            writer.flush()
            os.fsync(writer.fileno())

    def publish(self, folder: Path, model: str, version: int, sums: Mapping[str, str]) -> None:
        with self._store_errors(), self._locked(self._root / model):
            publish.publish(folder, self._root, model, version)

    def remove(self, key: str) -> None:
        target = self._root / key
        gone = target.parent / f".gone-{target.name}-{os.getpid()}"
        with self._store_errors(), contextlib.suppress(FileNotFoundError):
            os.rename(target, gone)
            shutil.rmtree(gone)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when its holder dies
            yield

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise StoreError(
                f"No permission to use the model store: {error}. Check the volume's owner and fsGroup."
            ) from None
        except OSError as error:
            raise StoreError(f"The model store {self.uri} cannot be used: {error}.") from None
