"""Ends a process when its parent dies, however the parent dies. Run by process.py as a script.

    python -I -S watchdog.py FOLDER

Standard input is a pipe that the parent holds open; the kernel closes it when the parent dies, kill -9
included. The only line that comes through it is the number of the process to end. FOLDER is deleted
afterwards; "" is none.
"""

import contextlib
import os
import select
import shutil
import signal
import sys

GRACE_S = 10.0


def main() -> None:
    """Wait for the end of the parent, then end the process and delete the folder."""
    line = sys.stdin.readline()
    if line:
        # A descriptor names this very process: its number may belong to another one by then.
        descriptor = os.pidfd_open(int(line))
        sys.stdin.read()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not select.select([descriptor], [], [], GRACE_S)[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], GRACE_S)
    if folder := sys.argv[1]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
