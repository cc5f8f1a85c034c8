"""Real photographs from a killed training to serving and replacement under load."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from pergola.serving.client import Client
from tests.support.command import kill_when, pergola_json, serving

LEAVES = Path(__file__).parents[3] / "shared" / "data" / "leaves"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the leaf photographs in ../shared/data/leaves"),
]


def test_leaves_are_killed_finished_served_and_replaced_under_load(tmp_path):
    workspace = tmp_path / "work"
    run = ("run", LEAVES, "--workspace", workspace)

    kill_when((*run, "--json"), lambda: _has_checkpoint(workspace))
    first = pergola_json(*run, timeout_s=1500)
    assert (first["decision"], first["version"], first["model"]) == ("accepted", 1, "leaves")
    assert {"scan", "validate", "split", "shards", "augment"} <= set(first["reused"])
    assert first["metrics"]["accuracy"] >= 0.85
    assert first["counts"]["images"] == 1744
    assert Path(first["model_path"], "saved_model.pb").is_file() and Path(first["report"]).is_file()

    again = pergola_json(*run)
    assert again["version"] == 1 and set(again["reused"]) == set(again["seconds"])

    with serving(workspace) as place:
        _answers_over_grpc_and_rest(workspace, place)
        with Load(place["grpc"], _images()[0]) as load:
            second = pergola_json(
                *run, "--set", "train.seed=1", "--set", "train.epochs=6", "--set", "gate.max_loss=1",
                "--set", "gate.min_accuracy=0", "--set", "gate.min_recall=0", "--set", "gate.max_drop=1",
                timeout_s=1500,
            )  # fmt: skip
            assert second["version"] == 2
            load.wait_for_version(2)
    assert load.failures == []
    assert set(load.versions) == {1, 2}


def _has_checkpoint(workspace: Path) -> bool:
    return any(p.is_file() for p in workspace.glob("steps/train/*.partial/**/*"))


def _images() -> list[Path]:
    return [
        next(iter(sorted(folder.glob("*.jpg")))) for folder in sorted(LEAVES.iterdir()) if folder.is_dir()
    ]


def _answers_over_grpc_and_rest(workspace: Path, place: dict[str, str]) -> None:
    answers = pergola_json("predict", *_images(), "--workspace", workspace)
    assert {answer["version"] for answer in answers} == {1}
    right = sum(Path(answer["path"]).parent.name == answer["label"] for answer in answers)
    assert right >= 7
    image = base64.b64encode(_images()[0].read_bytes()).decode()
    body = json.dumps({"instances": [{"b64": image}]}).encode()
    request = urllib.request.Request(f"{place['rest']}/v1/models/leaves:predict", body)
    with urllib.request.urlopen(request, timeout=30) as reply:
        prediction = json.load(reply)["predictions"][0]
    assert prediction["label"] == answers[0]["label"]
    assert prediction["probability"] == pytest.approx(answers[0]["probability"], abs=1e-4)


class Load:
    """Sends requests from four threads without pause, and counts versions and failures."""

    def __init__(self, address: str, image: Path) -> None:
        self.versions: Counter[int] = Counter()
        self.failures: list[str] = []
        self._client = Client(address, model="leaves")
        self._image = image
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._send) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def wait_for_version(self, version: int, timeout_s: float = 60) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.versions[version] > 20, timeout_s), self.versions

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                version = self._client.classify_images([self._image]).version
            except Exception as error:
                self.failures.append(repr(error))
                return
            with self._changed:
                self.versions[version] += 1
                self._changed.notify_all()
            self._stop.wait(0.02)
