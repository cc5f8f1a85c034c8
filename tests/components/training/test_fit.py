import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pergola.components import digest
from pergola.components.artifacts.data import Shards
from pergola.components.artifacts.training import Augmentation, Training
from pergola.components.errors import InputError, StepError
from pergola.components.training import distribution, loop, validation
from pergola.components.training.fit import TrainSettings, fit
from pergola.components.training.hyperparameters import decide, learning_rate_at
from pergola.components.training.input.images import ImageShape, read_split
from pergola.components.training.input.training_data import class_weights
from pergola.components.training.models.architectures import ModelSettings
from tests.components.training.conftest import LABELS, write_shards

ROOT = Path(__file__).parents[3]
BRIEF = TrainSettings(epochs=8, batch_size=16, precision="float32")  # other settings: defaults


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    Augmentation({"flip_vertical": 0.0, "rotation_degrees": 5.0, "brightness": 0.05}).save(folder)
    return folder


@pytest.fixture
def mlp():
    """For tests that do not depend on the network."""
    return ModelSettings(architecture="mlp")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards_folder, policy_folder):
    """An uninterrupted training, the reference for others."""
    out = tmp_path_factory.mktemp("undisturbed")
    model = ModelSettings(architecture="resnet_fast", width=8)
    seen = []
    training = fit(
        shards_folder, policy_folder, out, model, BRIEF, on_epoch=lambda epoch, m: seen.append((epoch, m))
    )
    return training, out, seen


class Interrupted(Exception):
    pass


class StopsAfter:
    """A progress bar that interrupts training after so many steps."""

    def __init__(self, num_steps, error=Interrupted):
        self.left, self.error = num_steps, error

    def __call__(self, **options):
        self.options = options
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def set_postfix_str(self, text=""): ...

    def update(self, num):
        self.left -= 1
        if self.left < 0:
            raise self.error


def load(folder):
    import keras

    return keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)


def test_fit_learns_and_records_what_it_did(undisturbed, shards_folder):
    training, out, seen = undisturbed
    assert training == Training.load(out)
    assert training.labels == LABELS and training.architecture == "resnet_fast"
    assert (training.height, training.width, training.channels) == (8, 8, 3)
    assert training.epochs == len(training.history) == 8 and 1 <= training.best_epoch <= 8
    assert [epoch for epoch, _ in seen] == list(range(1, 9))
    assert [{key: m[key] for key in training.history[0]} for _, m in seen] == list(training.history)
    assert seen[0][1]["seconds"] < seen[-1][1]["seconds"]
    assert all(m["images_per_s"] > 0 and 0 <= m["input_wait"] <= 1 for _, m in seen)
    assert set(training.history[0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert sorted(path.name for path in out.iterdir()) == ["model.keras", "training.json"]
    network = load(out)
    assert network.count_params() == training.num_parameters
    assert {layer.__class__.__module__.split(".")[0] for layer in network.layers} == {"keras"}
    test = read_split(
        shards_folder, Shards.load(shards_folder).splits["test"], ImageShape(8, 8, 3, "stretch")
    )
    assert validation.validate(validation.forward_of(network), *test, 16)["val_accuracy"] >= 0.9


@pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
def test_predict_answers_for_every_image_whatever_the_batches(undisturbed, shards_folder, batch_size):
    network = load(undisturbed[1])
    part, shape = Shards.load(shards_folder).splits["train"], ImageShape(8, 8, 3, "stretch")
    images, _ = read_split(shards_folder, part, shape, limit=9)
    wanted = np.asarray(network(images.astype(np.float32)))
    found = validation.predict(validation.forward_of(network), images, batch_size)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_fit_resumes_after_interruptions_with_the_same_result(
    undisturbed, shards_folder, policy_folder, tiny, tmp_path
):
    """Interrupted within an epoch and at the end of one; an epoch has three steps."""
    training, out, _ = undisturbed
    often = replace(BRIEF, checkpoint_s=0.0)
    done = 0
    for num_steps in (1, 5):
        bar = StopsAfter(num_steps)
        with pytest.raises(Interrupted):
            fit(shards_folder, policy_folder, tmp_path, tiny, often, progress=bar)
        assert bar.options["initial"] == done * 16
        done += num_steps
    assert not (tmp_path / "training.json").exists()
    new, rest = [], StopsAfter(100)
    resumed = fit(
        shards_folder, policy_folder, tmp_path, tiny, often, progress=rest,
        on_epoch=lambda epoch, metrics: new.append(epoch),
    )  # fmt: skip
    assert rest.options["initial"] == 6 * 16 and new == list(range(3, 9))
    assert resumed == training
    for mine, theirs in zip(load(tmp_path).get_weights(), load(out).get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert digest.of_folder(tmp_path) == digest.of_folder(out)


@pytest.mark.slow
def test_fit_does_not_resume_a_run_with_other_settings(shards_folder, policy_folder, mlp, short, tmp_path):
    with pytest.raises(Interrupted):
        fit(
            shards_folder, policy_folder, tmp_path, mlp, replace(short, checkpoint_s=0.0),
            progress=StopsAfter(2),
        )  # fmt: skip
    rest = StopsAfter(0)
    with pytest.raises(Interrupted):
        fit(shards_folder, policy_folder, tmp_path, mlp, replace(short, seed=9), progress=rest)
    assert rest.options["initial"] == 0


@pytest.mark.slow
def test_fit_restarts_when_the_checkpoint_is_damaged(shards_folder, policy_folder, mlp, short, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.npz").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert fit(shards_folder, policy_folder, tmp_path, mlp, replace(short, epochs=1)).epochs == 1


def test_fit_stops_when_the_loss_is_not_finite(shards_folder, policy_folder, short, tmp_path):
    model = ModelSettings(architecture="mlp")
    with pytest.raises(StepError, match=r"learning rate .* Try --set train\.learning_rate="):
        fit(
            shards_folder, policy_folder, tmp_path, model,
            replace(short, optimizer="sgd", learning_rate=10.0, warmup=0.0, epochs=400, weight_decay=10.0),
        )  # fmt: skip


class Memory:
    """A progress bar under which memory runs out when more than so many images are computed at once.

    TensorFlow's own error, at the place where a step that does not fit ends: in the middle of training.
    """

    def __init__(self, num_images):
        self.num_images, self.attempts = num_images, []

    def __call__(self, *, initial, **options):
        self.attempts.append(initial)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def set_postfix_str(self, text=""): ...

    def update(self, num):
        import tensorflow as tf

        if num > self.num_images:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


@pytest.mark.slow
def test_fit_splits_batches_that_do_not_fit_into_memory(shards_folder, tmp_path, short, caplog):
    Augmentation({}).save(tmp_path / "plain")
    model = ModelSettings(architecture="mlp", dropout=0.0)
    settings = replace(short, epochs=2, batch_size=12, average=0.0)
    whole = fit(shards_folder, tmp_path / "plain", tmp_path / "whole", model, settings)
    memory = Memory(5)
    cut = fit(shards_folder, tmp_path / "plain", tmp_path / "cut", model, settings, progress=memory)
    assert memory.attempts == [0, 0, 0]  # 12 at once, 6, then 4
    assert "12 images at once do not fit into memory: restarting with 6" in caplog.text
    for mine, theirs in zip(cut.history, whole.history, strict=True):
        assert dict(mine) == pytest.approx(dict(theirs), abs=1e-5)
    for mine, theirs in zip(load(tmp_path / "cut").get_weights(), load(tmp_path / "whole").get_weights(),
                            strict=True):  # fmt: skip
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.slow
def test_fit_says_what_to_do_when_not_one_image_fits(shards_folder, policy_folder, mlp, short, tmp_path):
    with pytest.raises(StepError, match=r"Memory ran out with 1 image at once\. Try a smaller"):
        fit(shards_folder, policy_folder, tmp_path, mlp, replace(short, batch_size=2), progress=Memory(0))


@pytest.mark.slow
def test_fit_compiled_by_xla_trains_as_uncompiled(shards_folder, tmp_path, tiny):
    Augmentation({}).save(tmp_path / "plain")
    brief = replace(BRIEF, epochs=1)
    plain, compiled = (
        fit(shards_folder, tmp_path / "plain", tmp_path / f"{xla}", replace(tiny, dropout=0.0),
            replace(brief, xla=xla)).history[0]
        for xla in (False, True)
    )  # fmt: skip
    assert compiled == pytest.approx(dict(plain), abs=1e-3)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_steps_are_compiled_where_it_is_asked_for(is_compiled):
    import keras

    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    step = loop.step_of(network, distribution.find(""), is_compiled=is_compiled)
    batch = np.ones((2, 4), np.float32), np.eye(3, dtype=np.float32)[:2]
    step(batch)
    if is_compiled:
        assert "HloModule" in step.experimental_get_compiler_ir(batch)(stage="hlo")
    else:
        with pytest.raises(ValueError, match="jit_compile"):
            step.experimental_get_compiler_ir(batch)


def test_fit_rejects_xla_for_several_devices(shards_folder, policy_folder, mlp, short, tmp_path):
    two = distribution.Workers(strategy=None, replicas=2)
    with pytest.raises(InputError, match="one device, but 2 devices train together"):
        fit(shards_folder, policy_folder, tmp_path, mlp, replace(short, xla=True), workers=two)


@pytest.mark.slow
def test_fit_streams_what_does_not_fit_into_memory(shards_folder, policy_folder, tiny, tmp_path):
    training = fit(shards_folder, policy_folder, tmp_path, tiny, replace(BRIEF, memory_mb=0))
    assert training.history[-1]["val_accuracy"] >= 0.9


@pytest.mark.slow
def test_fit_stops_early_without_improvement(shards_folder, policy_folder, mlp, short, tmp_path):
    settings = replace(short, epochs=50, patience=2, learning_rate=1e-9, average=0.0)
    training = fit(shards_folder, policy_folder, tmp_path, mlp, settings)
    assert training.epochs < 50 and training.epochs - training.best_epoch == 2


def test_fit_stops_at_its_time_limit(shards_folder, policy_folder, mlp, short, tmp_path):
    settings = replace(short, epochs=10_000, max_minutes=0.01, patience=10_000)
    assert fit(shards_folder, policy_folder, tmp_path, mlp, settings).epochs < 1000


@pytest.mark.slow
def test_fit_trains_on_offline_augmentation_too(tmp_path, mlp, short):
    from pergola.components.training.augmentation.augment import augment, no_augmentation

    write_shards(tmp_path / "shards")
    augment(tmp_path / "shards", tmp_path / "aug", replace(no_augmentation(), expand=1), seed=0)
    bar = StopsAfter(0)
    with pytest.raises(Interrupted):
        fit(tmp_path / "shards", tmp_path / "aug", tmp_path / "out", mlp, short, progress=bar)
    assert bar.options["total"] == 8 * (96 // 16) * 16


def test_fit_rejects_an_empty_training_split(tmp_path, policy_folder, tiny, short):
    counts = {"train": (0, 0, 0), "validation": (1, 1, 1), "test": (1, 1, 1)}
    write_shards(tmp_path / "shards", counts=counts)
    with pytest.raises(InputError, match="no training images"):
        fit(tmp_path / "shards", policy_folder, tmp_path / "out", tiny, short)


def test_class_weights_raise_rare_classes():
    assert class_weights("auto", [10, 12, 14]) == ()
    assert class_weights("off", [10, 100]) == ()
    weights = class_weights("auto", [10, 40, 0])
    assert weights == (2.5, 0.625, 1.0)
    assert 10 * weights[0] + 40 * weights[1] == pytest.approx(50)
    assert class_weights("on", [10, 10]) == (1.0, 1.0)


def test_decide_takes_the_optimiser_that_suits_the_architecture_unless_one_is_asked_for():
    facts = {"side": 32, "num_train": 50_000, "is_pretrained": False}
    own = decide(TrainSettings(), **facts, optimizer="muon")
    assert (own.optimizer, own.stages[0].learning_rate, own.batch_size) == ("muon", 0.12, 512)
    few = [
        decide(TrainSettings(), **{**facts, "num_train": n}, optimizer="muon").batch_size
        for n in (20, 10_000)
    ]
    assert few == [20, 128]
    asked = decide(TrainSettings(optimizer="sgd"), **facts, optimizer="muon")
    assert (asked.optimizer, asked.stages[0].learning_rate, asked.batch_size) == ("sgd", 0.1, 128)
    assert decide(TrainSettings(), **facts).optimizer == "adamw"


def test_learning_rate_rises_then_falls_to_zero():
    chosen = decide(
        TrainSettings(epochs=10, learning_rate=0.4, warmup=0.25), side=8, num_train=320, is_pretrained=False
    )
    rates = [learning_rate_at(chosen, step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 / 25) and max(rates) == rates[24] == rates[25] == 0.4
    constant = replace(chosen, schedule="constant", warmup=0.0)
    assert {learning_rate_at(constant, step, 10) for step in range(100)} == {0.4}
    assert rates[25:] == sorted(rates[25:], reverse=True) and rates[-1] < 0.001


def test_decide_trains_pretrained_networks_head_first():
    chosen = decide(TrainSettings(epochs=10), side=224, num_train=1000, is_pretrained=True)
    assert [(stage.epochs, stage.share) for stage in chosen.stages] == [(4, 0.0), (6, 0.3)]
    assert chosen.stages[1].learning_rate == pytest.approx(0.1 * chosen.stages[0].learning_rate)
    assert [chosen.stage_at(epoch)[1] for epoch in (0, 3, 4, 9)] == [0, 0, 4, 4]
    many = decide(TrainSettings(epochs=10), side=224, num_train=15_000, is_pretrained=True)
    assert [stage.epochs for stage in many.stages] == [2, 8]
    rates = [learning_rate_at(chosen, step, 31) for step in range(310)]
    assert rates[123] < 0.01 * rates[30] and rates[124] < rates[140] > rates[309]


def test_decide_follows_the_number_of_images_not_the_clock():
    def epochs(side, num_train, is_pretrained=False):
        chosen = decide(TrainSettings(), side=side, num_train=num_train, is_pretrained=is_pretrained)
        return chosen.epochs

    assert [epochs(8, 1257), epochs(128, 1220), epochs(28, 60_000), epochs(128, 100)] == [24, 49, 8, 60]
    assert [epochs(224, num, is_pretrained=True) for num in (100, 1220, 60_000)] == [20, 8, 5]


@pytest.mark.slow
def test_fit_of_a_pretrained_network_resumes_in_either_stage(tmp_path, policy_folder, short):
    import keras

    write_shards(tmp_path / "shards", side=32)
    source = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, input_shape=(32, 32, 3)
    )
    source.save_weights(tmp_path / "own.weights.h5")
    model = ModelSettings(architecture="mobilenet_025", weights=str(tmp_path / "own.weights.h5"))
    settings = replace(short, epochs=3, checkpoint_s=0.0)
    folders = tmp_path / "shards", policy_folder
    whole = fit(*folders, tmp_path / "whole", model, settings)
    for num_steps in (2, 1, 1, 2):  # the head is trained for three steps, then the last layers too
        with pytest.raises(Interrupted):
            fit(*folders, tmp_path / "broken", model, settings, progress=StopsAfter(num_steps))
    assert fit(*folders, tmp_path / "broken", model, settings) == whole
    trained = load(tmp_path / "broken")
    for mine, theirs in zip(load(tmp_path / "whole").get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    first, last = (trained.get_layer(name).get_weights()[0] for name in ("conv1", "conv_pw_13"))
    np.testing.assert_array_equal(first, source.get_layer("conv1").get_weights()[0])
    statistics = (net.get_layer("conv_pw_13_bn").get_weights() for net in (trained, source))
    for mine, theirs in zip(*statistics, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert whole.best_epoch == 1 or not np.array_equal(last, source.get_layer("conv_pw_13").get_weights()[0])


@pytest.mark.slow
def test_fit_gives_the_same_result_after_kill_9(undisturbed, shards_folder, policy_folder, tmp_path):
    """Killed three times, wherever it is, and started again."""
    script = """
import json, sys
from pathlib import Path
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.fit import TrainSettings, fit
shards, policy, out = map(Path, sys.argv[1:])
print("ready", flush=True)
settings = TrainSettings(epochs=8, batch_size=16, precision="float32", checkpoint_s=0.0)
fit(shards, policy, out, ModelSettings(architecture="resnet_fast", width=8), settings)
"""
    command = [sys.executable, "-c", script, str(shards_folder), str(policy_folder), str(tmp_path)]
    state = tmp_path / "checkpoint" / "state.npz"
    kills = 0
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(0.02 * kills)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    training, out, _ = undisturbed
    assert Training.load(tmp_path) == training
    assert digest.of_folder(tmp_path) == digest.of_folder(out)
    assert json.loads((tmp_path / "training.json").read_text())["seed"] == 0
