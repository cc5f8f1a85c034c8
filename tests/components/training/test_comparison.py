from dataclasses import replace

import pytest
from PIL import Image

from pergola.components.artifacts.training import Augmentation
from pergola.components.steps import experiments as steps
from pergola.components.training.fit import TrainSettings
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.search import comparison

NAMES = ("mlp", "cnn_pool")


@pytest.fixture(scope="module")
def run(shards_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    Augmentation({}).save(folder / "plain")
    settings = comparison.published(TrainSettings(), 1)
    seen = []

    def run(names=NAMES, settings=settings):
        return steps.ladder(
            shards_folder, folder / "plain", folder / "out", settings, model=ModelSettings(), names=names,
            on_row=lambda row, is_new: seen.append((row.name, is_new)),
        )  # fmt: skip

    return run, settings, folder / "out", seen


def test_comparison_trains_architectures_and_draws_a_chart(run):
    compare, _, out, seen = run
    rows = compare()
    assert [row.name for row in rows] == list(NAMES) and seen == [("mlp", True), ("cnn_pool", True)]
    for row in rows:
        assert 0 <= row.test_accuracy <= 1 and row.epochs == 1 and row.seconds > 0
        assert row.gap == row.train_accuracy - row.test_accuracy
    assert rows[1].num_parameters != rows[0].num_parameters
    with Image.open(out / "ladder.png") as image:
        assert image.width > 800
    assert "cnn_pool" in (out / "ladder.svg").read_text()


@pytest.mark.slow
def test_comparison_reuses_finished_networks(run):
    compare, settings, _, seen = run
    first = compare()
    seen.clear()
    assert compare() == first and seen == [("mlp", False), ("cnn_pool", False)]
    seen.clear()
    compare(("mlp",), replace(settings, seed=1))
    assert seen == [("mlp", True)]


@pytest.mark.slow
def test_comparison_trains_again_when_a_result_is_of_another_version(run):
    compare, _, out, seen = run
    compare(("mlp",))
    file = out / "mlp" / comparison.ComparedNetwork.FILE
    file.write_text(file.read_text().replace("ComparedNetwork/1", "Row/1"))
    seen.clear()
    compare(("mlp",))
    assert seen == [("mlp", True)]


def test_published_training_is_that_of_the_sources():
    how = comparison.published(TrainSettings(max_minutes=3.0), 20)
    assert (how.optimizer, how.batch_size, how.learning_rate, how.epochs) == ("adam", 32, 1e-3, 20)
    assert how.precision == "float32" and how.schedule == "constant" and how.max_minutes == 3.0
