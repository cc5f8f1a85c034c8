"""Mutated image files against scan, client, graph and server: no crash, no disagreement, bounded memory.

PERGOLA_FUZZ_COUNT and PERGOLA_FUZZ_SEED: for a longer run, or another one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from pergola.components.data.manifest.image_metadata import ImageLimits, inspect, pillow_without_limits
from pergola.serving.client import NO_RETRY, Client, InvalidInput
from pergola.serving.wire.images import PIXELS_OF_ANY_MODEL, prepare
from tests.support.exported import exported
from tests.support.mutations import mutations
from tests.support.servers import ROOT, ServerProcess

COUNT = int(os.environ.get("PERGOLA_FUZZ_COUNT", "3000"))
SEED = int(os.environ.get("PERGOLA_FUZZ_SEED", "1"))
LIMITS = ImageLimits(PIXELS_OF_ANY_MODEL, 1 << 16, 1 << 28)
EVERY = 3  # of them go to the server
MORE_MEMORY = 1 << 30  # bytes that a process may grow by
# Damage that TensorFlow's decoders overlook and Pillow does not: checksums of chunks besides a PNG's pixels,
# the end of a GIF's pixels, the bits of a WebP. Raw requests alone meet it, since the client refuses.
OVERLOOKED = 0.02

pytestmark = pytest.mark.slow

GRAPH = """
import json, resource, sys
import tensorflow as tf
from pergola.components.imaging import decode
from tests.support.mutations import mutations
from pergola.serving.wire.images import PIXELS_OF_ANY_MODEL, prepare
import warnings
warnings.simplefilter("ignore")
count, seed = map(int, sys.argv[1:3])
signature = [tf.TensorSpec((None,), tf.string)]
graph = tf.function(lambda x: decode.load_batch(x, 8, 8, 3, "stretch", PIXELS_OF_ANY_MODEL), signature)
def pixels(data):
    try:
        return graph(tf.constant([data])).numpy().ravel().tolist()
    except tf.errors.InvalidArgumentError:
        return None
answers = []
for number, (name, data) in enumerate(mutations(count, seed)):
    try:
        prepared = prepare(data, max_pixels=PIXELS_OF_ANY_MODEL)
    except ValueError:
        prepared = None
    if number == 200:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers.append((pixels(data), None if prepared is None else pixels(prepared)))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump({"answers": answers, "grown": (after - before) * 1024}, open(sys.argv[3], "w"))
"""


def read_by_graph(count: int, seed: int, target: Path) -> dict:
    """What the graph makes of raw and prepared files, 8 x 8 pixels or None, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", GRAPH, str(count), str(seed), str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(target.read_text())


@pytest.mark.filterwarnings("ignore")
def test_fuzzed_images_are_read_alike_by_scan_client_and_graph(tmp_path):
    graph = read_by_graph(COUNT, SEED, tmp_path / "answers.json")
    wrong, overlooked, before = [], 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = zip(mutations(COUNT, SEED), graph["answers"], strict=True)
    for number, ((name, data), (raw, prepared)) in enumerate(files):
        with pillow_without_limits(), warnings.catch_warnings():
            reason = inspect(data, LIMITS).reason
            try:
                sent, refused = prepare(data, max_pixels=PIXELS_OF_ANY_MODEL), ""
            except ValueError as error:
                sent, refused = None, str(error)
        if (reason is None) != (sent is not None):
            wrong.append((number, name, "scan and client", reason, refused))
        if (sent is None) != (prepared is None):
            wrong.append((number, name, "client and graph", refused, sent == data))
        overlooked += sent is None and raw is not None
        if raw and prepared and np.abs(np.subtract(raw, prepared)).max() > (12 if sent[:1] == b"\xff" else 2):
            wrong.append((number, name, "raw and prepared", refused, sent == data))
    assert not wrong, wrong[:20]
    assert overlooked <= OVERLOOKED * COUNT
    assert graph["grown"] < MORE_MEMORY
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MORE_MEMORY


@pytest.mark.filterwarnings("ignore")
def test_fuzzed_images_leave_a_server_alive(tmp_path):
    base = tmp_path / "m"
    exported(base)
    flags = ("--model_name=m", f"--model_base_path={base}")
    with ServerProcess(tmp_path / "logs", *flags) as server:
        client = Client(server.address, model="m", retry=NO_RETRY)
        with client:
            files = [data for _, data in mutations(COUNT, SEED)][::EVERY]
            before, answered = 0, 0
            for number, data in enumerate(files):
                if number == 100:
                    before = server.resident_bytes()
                try:
                    client.predict({"image": [data]})
                    answered += 1
                except InvalidInput:
                    pass
            assert 0 < answered < len(files)
            assert server.resident_bytes() - before < MORE_MEMORY
    assert server.process.returncode == 0
