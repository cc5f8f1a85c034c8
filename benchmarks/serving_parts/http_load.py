"""HTTP POSTs in a closed loop, from a process of its own: what serving/tools/load_test.py is for gRPC.

python -m benchmarks.serving_parts.http_load HOST PORT PATH CONCURRENCY SECONDS < BODY -> one JSON object
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARMUP_S = 0.5


def measure(port: int, path: str, body: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """requests_per_s, p50_ms, p99_ms, failures."""
    words = [sys.executable, "-m", "benchmarks.serving_parts.http_load"]
    words += ["127.0.0.1", str(port), path, str(concurrency), str(seconds)]
    done = subprocess.run(words, input=body, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main(host: str, port: int, path: str, body: str, concurrency: int, seconds: float) -> None:
    begin = time.time() + WARMUP_S
    end = begin + seconds
    latencies: list[float] = []
    failures: list[str] = []

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        ask = _asker(connection, path, body)
        while time.time() < end:
            clock = time.perf_counter()
            status = ask()
            took = time.perf_counter() - clock
            if begin <= time.time() <= end:
                latencies.append(took) if status == 200 else failures.append(str(status))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = {
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": float(np.percentile(latencies, 50) * 1000) if latencies else None,
        "p99_ms": float(np.percentile(latencies, 99) * 1000) if latencies else None,
        "failures": len(failures),
    }
    print(json.dumps(result))


def _asker(connection: http.client.HTTPConnection, path: str, body: str) -> Callable[[], int]:
    def ask() -> int:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        with connection.getresponse() as reply:
            reply.read()
            return reply.status

    return ask


if __name__ == "__main__":
    _, host, port, path, concurrency, seconds = sys.argv
    main(host, int(port), path, sys.stdin.read(), int(concurrency), float(seconds))
