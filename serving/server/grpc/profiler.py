"""TensorFlow's ProfilerService, on the gRPC port as in the stock server, for TensorBoard and other clients.

Like there, a caller chooses the folder that a profile is written to: disable it with
--noenable_profiler where callers are not trusted.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc

from pergola.serving.server.config import text_protos
from pergola.serving.server.config.errors import BadRequest, Code, ServingError, code_of
from pergola.serving.server.grpc.methods import Allows, Method, service

MAX_SECONDS = 600


class Profiler:
    """The calls of tensorflow.ProfilerService. One profile at a time."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._end = threading.Event()
        self._session = ""

    def handler(self, allows: Allows) -> Any:
        """The generic RPC handler for a gRPC server. allows: who may call it."""
        calls = {"Profile": self.profile, "Terminate": self.terminate, "Monitor": _monitor}
        methods = {
            name: Method(call, text_protos.message_class(f"{name}Request")) for name, call in calls.items()
        }
        return service("tensorflow.ProfilerService", methods, allows)

    def profile(self, request: Any, context: Any) -> Any:
        """Trace for duration_ms and write <repository_root>/<session_id>/<host_name>.xplane.pb."""
        if not self._busy.acquire(blocking=False):
            return _fail(context, Code.ABORTED, "Another profiler session is active.")
        try:
            self._session = request.session_id
            self._end.clear()
            return text_protos.message_class("ProfileResponse")(empty_trace=not self._trace(request))
        except ServingError as error:
            return _fail(context, code_of(error), str(error))
        except Exception as error:
            return _fail(context, Code.INTERNAL, f"The profile failed: {error}")
        finally:
            self._busy.release()

    def terminate(self, request: Any, context: Any) -> Any:
        """End the profile of a session before its time."""
        if request.session_id == self._session:
            self._end.set()
        return text_protos.message_class("TerminateResponse")()

    def _trace(self, request: Any) -> bool:
        import tensorflow as tf

        target = _target(request)
        with tempfile.TemporaryDirectory() as scratch:
            tf.profiler.experimental.start(scratch)
            self._end.wait(min(request.duration_ms / 1000, MAX_SECONDS))
            tf.profiler.experimental.stop()
            for trace in Path(scratch).rglob("*.xplane.pb"):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(trace, target)
                return True
        return False


def _target(request: Any) -> Path:
    root = Path(request.repository_root)
    if not root.is_absolute():
        raise BadRequest(
            message=f"repository_root must be an absolute folder, got '{request.repository_root}'"
        )
    host = request.host_name.replace(":", "_") or "localhost"
    for name in (request.session_id, host):
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise BadRequest(message=f"session_id and host_name must be plain names, got '{name}'")
    return root / request.session_id / f"{host}.xplane.pb"


def _monitor(request: Any, context: Any) -> None:
    """The stock server does not implement it either."""
    _fail(context, Code.UNIMPLEMENTED, "unimplemented.")


def _fail(context: Any, code: Code, text: str) -> None:
    context.set_code(grpc.StatusCode[code.name])
    context.set_details(text)
