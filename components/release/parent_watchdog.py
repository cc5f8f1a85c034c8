"""The `main` of a Python module as a process that ends when its parent does, however the parent dies.

    python -m pergola.components.release.parent_watchdog FOLDER pergola.serving.server.app --port=0 …

FOLDER is the parent's for this process; it is deleted when the parent can no longer do so. The parent
holds the other end of this process's standard input. When it dies, kill -9 included, the kernel closes
that end; a thread here sees it and asks the process to stop, then makes it. TensorFlow is loaded at
once, so that a model is soon up when it is named.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import threading
import time

GRACE_S = 10.0


def main() -> None:
    """Run `main` of the module that the second argument names; those after it are its own."""
    folder, module, *arguments = sys.argv[1:]
    threading.Thread(target=_watch, args=(folder,), name="tether", daemon=True).start()
    import tensorflow  # noqa: F401

    status = importlib.import_module(module).main(arguments)
    sys.stderr.flush()
    os._exit(status)  # TensorFlow's own tear-down takes a second and has nothing left to save


def _watch(folder: str) -> None:
    while os.read(0, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
