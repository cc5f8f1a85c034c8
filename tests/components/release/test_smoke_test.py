import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.evaluation import GoldenRequest, GoldenRequests
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.errors import InputError, StepError
from pergola.components.release.registry.registry import Registry
from pergola.components.release.server_process import ServerProcess
from pergola.components.release.smoke_test import SmokeTestServer, SmokeTestSettings
from pergola.components.store.publish import publish, published
from tests.support import models, registries
from tests.support.confirming import confirm_with

pytestmark = pytest.mark.slow  # servers

ROOT = Path(__file__).parents[3]
LEVELS = (20, 90, 150, 240)


def golden_of(tilt=0.0):
    """What models.classifier answers, worked out by hand."""
    requests = []
    for level in LEVELS:
        logits = np.array([-8.0, 8.0]) * level / 255 + [4.0, -4.0 + tilt]
        answer = np.exp(logits) / np.exp(logits).sum()
        image = base64.b64encode(models.image_bytes(level)).decode()
        requests.append(GoldenRequest(image, tuple(answer), models.LABELS[int(answer.argmax())]))
    return GoldenRequests(models.LABELS, tuple(requests))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """SavedModels: two classifiers, one that is tilted."""
    base = tmp_path_factory.mktemp("built")
    return {"good": models.classifier(base, 1), "tilted": models.classifier(base, 2, tilt=1.0)}


@pytest.fixture(scope="module")
def smoke_test_server():
    """One server process for all tests here, as one serves all smoke tests of a run."""
    with SmokeTestServer(SmokeTestSettings(timeout_s=90, rounds=2)) as found:
        begin = time.perf_counter()
        found.start()
        assert time.perf_counter() - begin < 1
        yield found


def test_smoke_test_of_a_good_model(smoke_test_server, built, tmp_path):
    timing = tmp_path / "latency.json"
    result = smoke_test_server.smoke_test(built["good"], golden_of(), tmp_path / "out", timing=timing)
    assert (result.ok, result.reason, result.num_requests) == (True, "", 9)
    assert result.max_difference < 1e-5
    assert SmokeTest.load(tmp_path / "out") == result
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["smoke_test.json"]
    figures = json.loads(timing.read_text())
    assert figures["requests"] == result.num_timed == 7  # of 8 the first opened the connection
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["max_ms"]


def test_smoke_test_measures_how_far_the_answers_are(smoke_test_server, built, tmp_path):
    result = smoke_test_server.smoke_test(built["tilted"], golden_of(), tmp_path)
    wanted = max(
        abs(a.probabilities[1] - b.probabilities[1])
        for a, b in zip(golden_of().requests, golden_of(1.0).requests, strict=True)
    )
    assert result.ok
    assert result.max_difference == pytest.approx(wanted, abs=1e-4)


def test_smoke_test_of_a_model_that_does_not_load(smoke_test_server, tmp_path):
    broken = tmp_path / "saved_model"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no graph at all")
    result = smoke_test_server.smoke_test(broken, golden_of(), tmp_path / "out")
    assert not result.ok
    assert str(tmp_path) not in result.reason and "/tmp" not in result.reason
    assert result.reason


def test_smoke_test_of_a_model_with_another_signature(smoke_test_server, tmp_path):
    result = smoke_test_server.smoke_test(models.half_plus_two(tmp_path / "m"), golden_of(), tmp_path / "out")
    assert not result.ok
    assert "image" in result.reason


def test_smoke_test_after_a_bad_model_is_good_again(smoke_test_server, built, tmp_path):
    assert smoke_test_server.smoke_test(built["good"], golden_of(), tmp_path).ok


def test_smoke_test_of_a_model_with_other_classes(smoke_test_server, built, tmp_path):
    golden = golden_of()
    three = GoldenRequests(
        ("a", "b", "c"), tuple(GoldenRequest(r.image, (0.2, 0.3, 0.5), "c") for r in golden.requests)
    )
    result = smoke_test_server.smoke_test(built["good"], three, tmp_path)
    assert not result.ok
    assert "expected (1, 3)" in result.reason


def test_smoke_test_refuses_what_is_no_saved_model(smoke_test_server, tmp_path):
    with pytest.raises(InputError, match=r"no saved_model\.pb"):
        smoke_test_server.smoke_test(tmp_path, golden_of(), tmp_path / "out")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return Registry(registries.put_empty(tmp_path_factory.mktemp("workspace")))


def release(registry, base, name, model, version):
    run = registry.runs.open(f"{name}-{version}")
    made = registry.register(name, run, model, sha256=str(version) * 64)
    assert made.version == version
    return publish(model, base, name, version)


def test_confirm_moves_the_alias_when_the_server_gives_the_golden_answers(
    smoke_test_server, registry, built, tmp_path
):
    for version, kind, tilt in ((1, "good", 0.0), (2, "tilted", 1.0)):
        publication = release(registry, tmp_path, "leaves", built[kind], version)
        with smoke_test_server.serve(tmp_path, "leaves", version) as client:
            result = confirm_with(
                client, golden_of(tilt), publication, tmp_path, registry, max_difference=0.01
            )
        assert (result.version, result.previous) == (version, version - 1 or None)
        assert result.max_difference < 1e-5
        assert registry.champion("leaves").version == version


def test_confirm_withdraws_what_answers_otherwise(smoke_test_server, registry, built, tmp_path):
    first = release(registry, tmp_path, "ferns", built["good"], 1)
    with smoke_test_server.serve(tmp_path, "ferns", 1) as client:
        confirm_with(client, golden_of(), first, tmp_path, registry, max_difference=0.01)
    second = release(registry, tmp_path, "ferns", built["tilted"], 2)
    with (
        smoke_test_server.serve(tmp_path, "ferns", 2) as client,
        pytest.raises(StepError, match=r"withdrawn: its probabilities.*Version 1 remains the champion"),
    ):
        confirm_with(client, golden_of(), second, tmp_path, registry, max_difference=0.01)
    assert published(tmp_path, "ferns") == [1]
    assert registry.champion("ferns").version == 1
    assert registry.versions("ferns")[0].status == "withdrawn"


def test_confirm_never_withdraws_the_champion(smoke_test_server, registry, built, tmp_path):
    publication = release(registry, tmp_path, "palms", built["good"], 1)
    with smoke_test_server.serve(tmp_path, "palms", 1) as client:
        confirm_with(client, golden_of(), publication, tmp_path, registry, max_difference=0.01)
        again = confirm_with(client, golden_of(), publication, tmp_path, registry, max_difference=0.01)
        assert (again.version, again.previous) == (1, None)
        with pytest.raises(StepError, match="is the champion and remains it"):
            confirm_with(client, golden_of(1.0), publication, tmp_path, registry, max_difference=0.01)
    assert published(tmp_path, "palms") == [1]
    assert registry.champion("palms").version == 1


def test_confirm_withdraws_what_no_server_has(smoke_test_server, registry, built, tmp_path):
    publication = release(registry, tmp_path, "mosses", built["good"], 1)
    with (
        smoke_test_server.serve(tmp_path, "mosses", 1) as client,
        pytest.raises(StepError, match="There is no champion"),
    ):
        other = client.at(model="unknown")
        confirm_with(other, golden_of(), publication, tmp_path, registry, max_difference=0.01, timeout_s=1)
    assert published(tmp_path, "mosses") == []


def test_server_process_that_cannot_start_tells_its_last_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no Python starts with this
    with ServerProcess() as server, pytest.raises(StepError, match=r"(?s)ended with status 1.*encodings"):
        server.client("m")


def is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at processes through /proc")
def test_server_process_ends_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import time; from pergola.components.release.server_process import ServerProcess;"
        "s = ServerProcess(); s.start(); print(s._process.pid, s.folder, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    pid, folder = parent.stdout.readline().split()
    time.sleep(0.5)
    assert is_running(int(pid))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until = time.monotonic() + 30
    while (is_running(int(pid)) or Path(folder).exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(int(pid))
    assert not Path(folder).exists()


def test_server_process_stops_and_clears_its_folder():
    server = ServerProcess()
    server.start()
    pid, folder = server._process.pid, server.folder
    server.stop()
    assert not is_running(pid)
    assert not folder.exists()
    server.stop()
