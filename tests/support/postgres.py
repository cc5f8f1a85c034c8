"""A real PostgreSQL of Debian's package, on a free port, gone afterwards."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.s3_server import free_port


def binaries() -> Path | None:
    """Where initdb and pg_ctl are, newest first; None when PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    return next((path for path in found if (path / "initdb").exists()), None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database, as SQLAlchemy takes it.

    PostgreSQL refuses to run as root, who lends it a user; its files lie where that user may look.
    """
    where = binaries()
    assert where is not None
    folder = Path(tempfile.mkdtemp(prefix="pergola-postgres-"))
    port, data, password = free_port(), folder / "data", folder / "password"
    password.write_text("for-tests")
    as_user: list[str] = []
    if getpass.getuser() == "root":
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")
    control = [*as_user, str(where / "pg_ctl"), "--pgdata", str(data), "--silent"]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    initdb = [
        *as_user,
        str(where / "initdb"),
        f"--pgdata={data}",
        "--username=mlflow",
        f"--pwfile={password}",
    ]
    start = [*control, "--wait", "--log", str(folder / "log"), "--options", options, "start"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", "check": True}
    try:
        subprocess.run([*initdb, "--auth=scram-sha-256"], **quiet)
        subprocess.run(start, **quiet)
        try:
            yield f"postgresql://mlflow:for-tests@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "--mode", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder)
