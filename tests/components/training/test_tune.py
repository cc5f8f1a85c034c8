import json
from pathlib import Path

import pytest

from pergola.components import settings as config
from pergola.components.errors import InputError
from pergola.components.steps import experiments as steps
from pergola.components.training.augmentation.augment import no_augmentation
from pergola.components.training.fit import TrainSettings
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.search import space
from pergola.components.training.search.space import TunableSettings
from pergola.components.training.search.tune import Trial, TuneSettings, Tuning
from tests.components.training.conftest import write_shards

KERAS_TUNERS_OWN = r"ignore:(currentThread|getName)\(\) is deprecated:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(KERAS_TUNERS_OWN)

SPACE = """
[model.architecture]
values = ["mlp", "conv"]
[model.conv_dense]
values = [[], [4]]
when = { "model.architecture" = ["conv"] }
[train.learning_rate]
low = 1e-3
high = 1e-2
log = true
[train.batch_size]
low = 8
high = 16
step = 8
"""
BASE = TunableSettings(
    no_augmentation(),
    ModelSettings(conv_blocks=1, conv_filters=4, conv_dropout=0.0),
    TrainSettings(epochs=2, precision="float32"),
)


@pytest.fixture
def data(tmp_path):
    """Shards whose test split is missing, and a search space."""
    write_shards(tmp_path / "shards", counts={p: (6, 6, 6) for p in ("train", "validation", "test")})
    next((tmp_path / "shards").glob("test-*")).unlink()
    (tmp_path / "space.toml").write_text(SPACE)

    def tune(trials, method="random", **options):
        return steps.tune(tmp_path / "shards", tmp_path / "out", TuneSettings(method, trials), base=BASE,
                          space=tmp_path / "space.toml", **options)  # fmt: skip

    return tune, tmp_path / "out"


class Stopped(BaseException):
    pass


def stops(updates):
    """A progress bar that interrupts a search, like Ctrl-C, after trial number `updates`."""

    class Bar:
        left = updates

        def __call__(self, **options):
            self.initial = options["initial"]
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error): ...
        def set_postfix_str(self, text=""): ...

        def update(self, num=1):
            self.left -= 1
            if not self.left:
                raise Stopped

    return Bar()


@pytest.mark.slow
def test_tune_finds_settings_for_a_run_and_resumes(data, tmp_path):
    tune, out = data
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(Stopped):
        tune(2, progress=stops(1), tracking_uri=uri)
    kept = [Trial.load(file.parent) for file in sorted(out.glob("*/trials/*/trial.json"))]
    assert len(kept) == 1 and not (out / "best.toml").exists()
    rest = stops(9)
    tuning = tune(2, progress=rest, tracking_uri=uri)
    assert rest.initial == 1 and tuning.trials[:1] == tuple(kept) and len(tuning.trials) == 2
    assert tuning == Tuning.load(out)
    assert tuning.best.val_accuracy == max(trial.val_accuracy for trial in tuning.trials)
    for trial in tuning.trials:
        assert trial.values["model.architecture"] in ("mlp", "conv") and trial.epochs == 2
        assert ("model.conv_dense" in trial.values) == (trial.values["model.architecture"] == "conv")
        assert 1e-3 <= trial.values["train.learning_rate"] <= 1e-2
        assert trial.values["train.batch_size"] in (8, 16)
    assert len({json.dumps(dict(trial.values)) for trial in tuning.trials}) == 2
    settings = config.load(out / "best.toml")
    assert settings.train.learning_rate == tuning.best.values["train.learning_rate"]
    assert settings.train.epochs == 2 and settings.augment == no_augmentation()
    _check_runs(uri, tuning)


def _check_runs(uri, tuning):
    from pergola.components.release.registry.registry import Registry

    registry = Registry(uri)
    for trial in tuning.trials:
        run = registry._client.get_run(registry.runs.open(f"tune-{trial.id}"))
        assert run.info.status == "FINISHED" and run.data.metrics["trial_val_accuracy"] == trial.val_accuracy
        assert run.data.params["train.learning_rate"] == str(trial.values["train.learning_rate"])
        assert len(registry._client.get_metric_history(run.info.run_id, "loss")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bayesian", "hyperband"])
def test_tune_by_other_methods_within_minutes(data, method):
    tune, _ = data
    tuning = tune(4, method)
    assert len(tuning.trials) == 4 and tuning.method == method
    assert len(tune(5, method).trials) == 5


def test_spaces_that_are_shipped_name_settings_and_hold_the_defaults():
    for file in (space.SCRATCH, space.PRETRAINED):
        for parameter in space.load(file):
            for value in parameter.values or (parameter.low, parameter.high):
                assert BASE.changed({parameter.name: value}).value(parameter.name) in (value, tuple_of(value))


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate.rules]\nvalues = [1]", "section 'gate' cannot be searched"),
        ("[train.learning_rat]\nlow = 0.1\nhigh = 1.0", "Did you mean 'learning_rate'"),
        ("[train.epochs]\nlow = 3", "needs values"),
        ("[train.optimizer]\nlow = 1\nhigh = 2", "is not a number"),
        ("[train.optimizer]\nvalues = ['adamm']", "is not one of"),
        (
            "[model.conv_blocks]\nlow = 2\nhigh = 3\nwhen = {'model.architecture' = ['conv']}",
            "must come before",
        ),
        ("[model.dropout]\nvalues = [0.1]\nlog = 3\nx = 1", "unknown key 'x'"),
        ("", "is empty"),
        ("[", "cannot be read as TOML"),
    ],
)
def test_an_invalid_search_space_is_rejected(tmp_path, text, message):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        space.load(tmp_path / "space.toml")
    with pytest.raises(InputError, match="There is no search space"):
        space.load(Path(tmp_path / "none.toml"))


def test_tune_needs_a_validation_split(tmp_path):
    counts = {"train": (2, 2, 2), "validation": (0, 0, 0), "test": (1, 1, 1)}
    write_shards(tmp_path / "shards", counts=counts)
    with pytest.raises(InputError, match="no validation images"):
        steps.tune(tmp_path / "shards", tmp_path / "out", TuneSettings(), base=BASE)
    assert not (tmp_path / "out").exists()


def test_a_float_is_decoded_without_rounding_errors_of_added_steps():
    parameter = space.Parameter("augment.zoom", float, low=0.0, high=0.3, step=0.05)
    assert parameter.decoded(0.05 + 0.05 + 0.05) == 0.15 != 0.05 + 0.05 + 0.05
    listed = space.Parameter("augment.zoom", float, values=(0.123456789,))
    assert listed.decoded(listed.encoded(0.123456789)) == 0.123456789
