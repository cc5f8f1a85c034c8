"""A Python module as a process that ends when its parent does, however the parent dies.

    python -m components.release.tether serving.server --port=0 …

The parent holds the other end of this process's standard input. When it dies, kill -9 included, the
kernel closes that end; a thread here sees it and asks the process to stop, then makes it. TensorFlow
is loaded at once, so that a model is soon up when it is named.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 10.0


def main() -> None:
    """Become the module that the first argument names; the others are its own."""
    threading.Thread(target=_watch, name="tether", daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    import tensorflow  # noqa: F401

    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
