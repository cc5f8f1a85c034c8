"""pergola.run, pergola.load, Classifier and Predictions on a small real model."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pergola
from pergola.components.artifacts.evaluation import Evaluation as EvaluationRecord
from tests.api.conftest import SETTINGS
from tests.support import images
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.slow  # they train, export and serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(dataset) -> list[Path]:
    return sorted(dataset.rglob("*.png"))[::7]


def test_run_publishes_a_version(result, workspace):
    assert (result.decision, result.version, result.model) == ("accepted", 1, "leaves")
    assert (workspace / "models" / "leaves" / "1" / "saved_model.pb").is_file()
    assert repr(result) == "RunResult(model='leaves', version=1, outcome='accepted')"
    assert str(result).startswith("ACCEPTED: leaves version 1 is the champion.")


def test_run_records_the_command_that_does_the_same(result, workspace):
    report = Path(result.report).read_text()
    assert "--set train.epochs=4" in report and f"--workspace {workspace}" in report


def test_run_takes_dotted_and_nested_settings_and_a_file(dataset, tmp_path, capsys):
    config = tmp_path / "pergola.toml"
    config.write_text("[train]\nepochs = 7\n")
    for settings in ({"train.epochs": -1}, {"train": {"epochs": -1}}):
        with pytest.raises(pergola.InputError, match="epochs: -1 is out of bounds"):
            pergola.run(dataset, workspace=tmp_path / "work", config=config, settings=settings)
    with pytest.raises(pergola.InputError, match=r"unknown key 'epoch'. Did you mean 'epochs'?"):
        pergola.run(dataset, workspace=tmp_path / "work", settings={"train.epoch": 3})
    assert capsys.readouterr() == ("", "")


def test_run_without_images_says_so(tmp_path):
    with pytest.raises(pergola.InputError, match="There are no images at"):
        pergola.run(tmp_path / "nowhere", workspace=tmp_path / "work")


def test_run_and_load_use_the_workspace_of_the_environment(result, workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("PERGOLA_WORKSPACE", str(workspace))
    monkeypatch.chdir(tmp_path)
    with pergola.load("leaves") as classifier:
        assert classifier.version == 1
    monkeypatch.delenv("PERGOLA_WORKSPACE")
    with pytest.raises(pergola.InputError, match=f"no workspace at {tmp_path / 'pergola-work'}"):
        pergola.load("leaves")


def test_load_takes_a_version_a_number_in_the_name_or_a_folder(result, workspace):
    folder = workspace / "models" / "leaves" / "1"
    for found in (
        pergola.load("leaves", 1, workspace),
        pergola.load("leaves/1", workspace=workspace),
        pergola.load(folder),
        pergola.load(str(folder)),
    ):
        assert (found.model, found.version, len(found.labels)) == ("leaves", 1, 3)
        assert repr(found) == "Classifier(model='leaves', version=1, 3 classes)"
        found.close()


def test_load_of_a_folder_without_a_number_has_version_0(result, workspace, tmp_path):
    (tmp_path / "mine").symlink_to(workspace / "models" / "leaves" / "1")
    with pergola.load(tmp_path / "mine") as classifier:
        assert (classifier.model, classifier.version) == ("mine", 0)


def test_load_takes_a_folder_without_saved_model_as_a_name(result, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves").mkdir()
    pergola.load("leaves", workspace=workspace).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("leavs",), "There is no model 'leavs' in .*Did you mean 'leaves'?"),
        (("leaves", 7), "No version 7 of 'leaves' is in"),
    ],
)
def test_load_names_what_there_is(result, workspace, arguments, message):
    with pytest.raises(pergola.InputError, match=message):
        pergola.load(*arguments, workspace=workspace)


def test_load_refuses_a_version_of_a_folder(result, workspace):
    with pytest.raises(pergola.InputError, match="is a folder of one version"):
        pergola.load(workspace / "models" / "leaves" / "1", 1)


def test_predictions_are_those_of_the_server(classifier, files, workspace, tmp_path):
    here = classifier.predict(files)
    base = f"--model_base_path={workspace / 'models' / 'leaves'}"
    with (
        ServerProcess(tmp_path, "--model_name=leaves", base) as server,
        pergola.Client(server.address, model="leaves") as client,
    ):
        there = client.classify_images(files)
    np.testing.assert_array_equal(here.probabilities, there.probabilities)
    np.testing.assert_array_equal(here.probability, there.probability)
    fields = ("labels", "classes", "model", "version", "decisions")
    assert [getattr(here, name) for name in fields] == [getattr(there, name) for name in fields]


def test_predict_takes_paths_bytes_arrays_and_pil_images(classifier, files):
    path = files[0]
    with Image.open(path) as opened:
        pixels = np.asarray(opened)
        forms = [path, str(path), path.read_bytes(), pixels, opened]
        answers = classifier.predict(forms)
        alone = [classifier.predict(form) for form in forms]
    assert answers.probabilities.shape == (5, 3)
    np.testing.assert_array_equal(answers.probabilities, np.repeat(answers.probabilities[:1], 5, axis=0))
    assert [len(one) for one in alone] == [1] * 5
    assert answers.images == (str(path), str(path), "image 2", "image 3", "image 4")
    batch = classifier.predict(np.stack([pixels, pixels]))
    np.testing.assert_allclose(batch.probabilities, answers.probabilities[:2], rtol=1e-5)
    assert len(classifier.predict(pixels[..., 0])) == len(classifier.predict(iter(files[:1]))) == 1


def test_predict_turns_pil_images_upright(classifier, tmp_path):
    pixels = images.pixels(1, 1, size=16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        answers = classifier.predict([tmp_path / "turned.png", opened, np.rot90(pixels, -1)])
    np.testing.assert_array_equal(answers.probabilities, np.repeat(answers.probabilities[:1], 3, axis=0))


def test_predict_says_which_image_is_wrong(classifier, files, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(pergola.InputError, match=r"There is no image at '.*gone.png'. Check the path."):
        classifier.predict([files[0], tmp_path / "gone.png"])
    with pytest.raises(pergola.InputError, match=r"broken.jpg: .* is not an image that can be read"):
        classifier.predict(tmp_path / "broken.jpg")
    with pytest.raises(pergola.InputError, match="image 1: Got an array of float64"):
        classifier.predict([files[0], np.zeros((4, 4))])
    with pytest.raises(pergola.InputError, match="Got no images"):
        classifier.predict([])


def test_predictions_read_image_by_image(classifier, files):
    answers = classifier.predict(files)
    one = answers[-1]
    assert (one.image, one.label, one.version) == (str(files[-1]), answers.labels[-1], 1)
    assert next(iter(one.probabilities)) == one.label and sum(one.probabilities.values()) == pytest.approx(1)
    assert one.probability == one.probabilities[one.label]
    assert [each.label for each in answers] == list(answers.labels)
    with pytest.raises(IndexError):
        answers[len(files)]


def test_predictions_are_a_pandas_table(classifier, files):
    table = classifier.predict(files).to_pandas()
    assert list(table.columns) == [
        "image", "label", "probability", "version", "p(class_0)", "p(class_1)", "p(class_2)",
    ]  # fmt: skip
    assert len(table) == len(files) and set(table["version"]) == {1}
    np.testing.assert_allclose(table.filter(like="p(").max(axis=1), table["probability"], rtol=1e-6)


def test_predictions_print_as_a_table(classifier, files):
    answers = classifier.predict(files[:2])
    first, *lines = str(answers).splitlines()
    assert repr(answers) == "Predictions(2 images, model='leaves', version=1)"
    assert first == "leaves version 1" and len(lines) == 2
    assert all(str(path) in line and "%" in line for path, line in zip(files, lines, strict=False))


def test_decisions_of_a_model_that_knows_costs(dataset, tmp_path):
    costs = tmp_path / "costs.csv"
    costs.write_text("true,predicted,cost,ask a person\n*,*,1,0.001\n")
    settings = {**SETTINGS, "train": {"epochs": 1}, "export.costs": costs}
    result = pergola.run(dataset, workspace=tmp_path / "work", settings=settings, quiet=True)
    answers = pergola.load(result.model_path).predict(next(dataset.rglob("*.png")))
    assert answers.decisions == ("ask a person",) == (answers[0].decision,)
    assert "decision" in answers.to_pandas() and "-> ask a person" in str(answers)


def test_evaluate_agrees_with_the_evaluation_of_the_run(classifier, result, workspace, tmp_path, dataset):
    (folder,) = (workspace / "steps" / "evaluate").glob("*/")
    recorded = EvaluationRecord.load(folder)
    import pandas as pd

    table = pd.read_parquet(folder / "predictions.parquet")
    listed = pd.DataFrame({"path": [str(dataset / p) for p in table["path"]], "label": table["label"]})
    listed.to_csv(tmp_path / "test.csv", index=False)
    found = classifier.evaluate(tmp_path / "test.csv")
    names = ("labels", "num_images", "accuracy", "macro_f1", "top_k", "confusion", "per_class")
    for name in names:
        assert getattr(found, name) == getattr(recorded, name), name
    assert found.log_loss == pytest.approx(recorded.log_loss, rel=1e-6)  # other images share a batch
    assert found.intervals["accuracy"] == recorded.intervals["accuracy"]
    assert str(found).startswith(f"accuracy {found.accuracy:.1%} (") and "3 classes" in str(found)


def test_evaluate_counts_unknown_classes_as_errors_and_leaves_broken_files_out(classifier, dataset, tmp_path):
    for label in ("class_0", "moss"):
        (tmp_path / "more" / label).mkdir(parents=True)
        for number in range(3):
            source = dataset / "class_0" / f"{number:03}.png"
            (tmp_path / "more" / label / source.name).write_bytes(source.read_bytes() + label.encode())
    (tmp_path / "more" / "moss" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    found = classifier.evaluate(tmp_path / "more")
    assert found.labels == (*classifier.labels, "moss") and found.num_images == 6
    assert found.accuracy <= 0.5 and found.per_class[-1].support == 3
    with pytest.raises(pergola.InputError, match="There are no images at"):
        classifier.evaluate(tmp_path / "nowhere")


def test_closed_classifier_says_so(result, workspace, files):
    with pergola.load("leaves", workspace=workspace) as classifier:
        pass
    with pytest.raises(pergola.InputError, match=r"is closed. Load it again"):
        classifier.predict(files)


def test_script_without_a_main_guard_runs_once(result, dataset, workspace, tmp_path):
    """Worker processes of the scan must not run the caller's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pergola\nprint('started', flush=True)\n"
        f"classifier = pergola.load('leaves', workspace={str(workspace)!r})\n"
        f"print(classifier.evaluate({str(dataset)!r}).num_images)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["started", "120"], done.stderr


def test_predictions_are_a_classification_of_the_client(classifier, files):
    """What reads a server's answer reads a local one."""
    from pergola.serving.client.results import Classification

    answers = classifier.predict(files[:2])
    assert isinstance(answers, Classification) and dataclasses.is_dataclass(answers)
    assert answers.top(1)[0] == ((answers[0].label, answers[0].probability),)
