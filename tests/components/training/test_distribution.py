import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.training import Augmentation, Training
from pergola.components.errors import InputError
from pergola.components.training import distribution
from pergola.components.training.worker import main
from tests.components.training.conftest import write_shards

ROOT = Path(__file__).parents[3]
TRAIN = {"epochs": 2, "batch_size": 12, "precision": "float32", "learning_rate": 0.01, "seed": 3}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ('{"cluster": []}', "cannot be read"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}', "task 2 of 2"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "'chief' or 'worker'"),
    ],
)
def test_an_invalid_tf_config_is_rejected(config, message):
    with pytest.raises(InputError, match=message):
        distribution.find(config)


def test_a_worker_alone_is_the_chief_of_one_device():
    alone = distribution.find(
        '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}'
    )
    assert (alone.count, alone.parallel, alone.is_chief) == (1, 1, True) and alone.gather(2.5) == (2.5,)
    assert distribution.find("") == distribution.find("  ")


def test_worker_rejects_invalid_settings(capsys):
    assert main(["s", "a", "o", "--train", "{"]) == 2 and "expected JSON" in capsys.readouterr().err
    assert main(["s", "a", "o", "--model", '{"architectur": "mlp"}']) == 2
    assert "Did you mean 'architecture'" in capsys.readouterr().err


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def workers(folder: Path, out: Path, count: int, model: dict) -> list[str]:
    """Run so many workers to their end; gives what each wrote to standard output."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        folders = [folder / "shards", folder / "plain", out]
        command = [sys.executable, "-m", "pergola.components.training.worker", *folders,
                   "--train", json.dumps(TRAIN), "--model", json.dumps(model)]  # fmt: skip
        environment = {**os.environ, "TF_CONFIG": json.dumps(config) if count > 1 else ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    answers = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, answers[0][1][-2000:]
    return [answer[0] for answer in answers]


@pytest.mark.slow
def test_two_workers_give_the_result_of_one(tmp_path):
    write_shards(tmp_path / "shards")
    Augmentation({}).save(tmp_path / "plain")
    model = {"architecture": "mlp"}
    together = workers(tmp_path, tmp_path / "two", 2, model)
    alone = workers(tmp_path, tmp_path / "one", 1, model)
    assert together[1] == "" and len(together[0].splitlines()) == 2  # only the chief reports
    two, one = Training.load(tmp_path / "two"), Training.load(tmp_path / "one")
    for mine, theirs in zip(two.history, one.history, strict=True):
        assert dict(mine) == pytest.approx(dict(theirs), abs=2e-5)
    assert [json.loads(line)["loss"] for line in together[0].splitlines()] == [m["loss"] for m in two.history]
    assert len(alone[0].splitlines()) == 2
    for first, second in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["model.keras", "training.json"]


@pytest.mark.slow
def test_two_workers_train_networks_with_batch_normalisation(tmp_path):
    write_shards(tmp_path / "shards")
    Augmentation({"rotation_degrees": 5.0}).save(tmp_path / "plain")
    workers(tmp_path, tmp_path / "two", 2, {"architecture": "resnet_fast", "width": 8})
    history = Training.load(tmp_path / "two").history
    assert history[1]["loss"] < history[0]["loss"]


TWO_DEVICES = """
import json, sys
from pathlib import Path
import tensorflow as tf
from pergola.components.training import distribution
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.fit import TrainSettings, fit

shards, plain, out = map(Path, sys.argv[1:4])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
workers = distribution.Workers(strategy, replicas=strategy.num_replicas_in_sync)
assert workers.parallel == 2
settings = TrainSettings(**json.loads(sys.argv[4]))
fit(shards, plain, out, ModelSettings(architecture="mlp"), settings, workers=workers)
"""


@pytest.mark.slow
def test_two_devices_of_a_machine_give_the_result_of_one(tmp_path):
    write_shards(tmp_path / "shards")
    Augmentation({}).save(tmp_path / "plain")
    arguments = [tmp_path / "shards", tmp_path / "plain", tmp_path / "two", json.dumps(TRAIN)]
    command = [sys.executable, "-c", TWO_DEVICES, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    workers(tmp_path, tmp_path / "one", 1, {"architecture": "mlp"})
    two, one = Training.load(tmp_path / "two"), Training.load(tmp_path / "one")
    for mine, theirs in zip(two.history, one.history, strict=True):
        assert dict(mine) == pytest.approx(dict(theirs), abs=2e-5)


def weights(folder: Path) -> list:
    import keras

    return keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
