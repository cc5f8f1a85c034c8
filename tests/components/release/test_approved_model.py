"""What becomes the champion is the model that was evaluated: its answers and its files."""

import base64
import dataclasses
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from pergola.components import digest
from pergola.components.artifacts.evaluation import GoldenRequest, GoldenRequests
from pergola.components.artifacts.release import FinalTest, Registration
from pergola.components.errors import StepError
from pergola.components.evaluation.gate.gate import GateInputs
from pergola.components.evaluation.gate.resource_rules import is_served_correctly
from pergola.components.evaluation.gate.settings import GateSettings
from pergola.components.release.registry.registry import Registry
from pergola.components.release.smoke_test import SmokeTestServer, SmokeTestSettings
from pergola.components.settings import Settings
from pergola.components.steps import release as steps
from pergola.components.steps.context import Context
from pergola.components.store.publish import publish, published
from pergola.components.workspace import Workspace
from tests.components.evaluation.test_gate import evaluation
from tests.support import models, registries
from tests.support.confirming import confirm_by, confirm_with

pytestmark = pytest.mark.slow  # servers and models

LEVELS = (20, 126, 129, 240)  # of which the second and third are close to the border
ACTIONS = ("eat", "ask a person")
MORE = {
    "decision": ACTIONS,
    "score": (1.0, 250.0),
    "colours": (("black", "navy"), ("white", "pink")),
}
OTHER = {
    "decision": {**MORE, "decision": ACTIONS[::-1]},
    "score": {**MORE, "score": (1.0, 300.0)},
    "colours": {**MORE, "colours": (("black", "navy"), ("white", "red"))},
    "an output less": {name: MORE[name] for name in ("decision", "score")},
    "an output more": {**MORE, "more": (1, 2)},
    "another type": {**MORE, "score": ("1", "250")},
}


def request_of(level, tilt=0.0):
    """What models.classifier answers, worked out by hand."""
    logits = np.array([-8.0, 8.0]) * level / 255 + [4.0, -4.0 + tilt]
    answer = np.exp(logits) / np.exp(logits).sum()
    image = base64.b64encode(models.image_bytes(level)).decode()
    return GoldenRequest(image, tuple(answer.tolist()), models.LABELS[int(answer.argmax())])


PLAIN = GoldenRequests(models.LABELS, tuple(request_of(level) for level in LEVELS))


def golden_of_more():
    """The golden requests of a model with decisions and two outputs that pergola does not know."""
    requests = []
    for request in PLAIN.requests:
        place = models.LABELS.index(request.label)
        outputs = {"score": MORE["score"][place], "colours": list(MORE["colours"][place])}
        requests.append(dataclasses.replace(request, decisions=(ACTIONS[place],), outputs=outputs))
    names = ("colours", "decision", "label", "probabilities", "probability", "score")
    return GoldenRequests(models.LABELS, tuple(requests), names)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    base = tmp_path_factory.mktemp("built")
    swapped = models.LABELS[::-1]
    return {
        "good": models.classifier(base, 1),
        "swapped": models.classifier(base, 2, labels=swapped),
        "swapped classes": models.classifier(base, 3, classes=swapped),
        "decides": models.classifier(base, 4, more=MORE),
        **{name: models.classifier(base, 5 + i, more=OTHER[name]) for i, name in enumerate(OTHER)},
    }


@pytest.fixture(scope="module")
def server():
    with SmokeTestServer(SmokeTestSettings(timeout_s=90, rounds=1)) as found:
        yield found


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return Registry(registries.put_empty(tmp_path_factory.mktemp("workspace")))


def release(registry, base, name, model, version):
    registry.register(name, registry.runs.open(f"{name}-{version}"), model, sha256=str(version) * 64)
    return publish(model, base, name, version)


@contextmanager
def opening(server, publication, base):
    with server.serve(base, publication.model, publication.version) as client:
        yield client


def test_smoke_test_and_gate_refuse_swapped_class_names(server, built, tmp_path):
    assert server.smoke_test(built["good"], PLAIN, tmp_path).ok
    result = server.smoke_test(built["swapped"], PLAIN, tmp_path)
    assert (result.ok, result.reason) == (False, "it answered with label 'bright' where 'dark' is expected")
    rule = is_served_correctly(GateInputs(evaluation(0.95), result), GateSettings())
    assert not rule.passed and "label 'bright'" in rule.message


def test_smoke_test_refuses_swapped_names_in_the_signature_that_clients_ask_for_them(server, built, tmp_path):
    result = server.smoke_test(built["swapped classes"], PLAIN, tmp_path)
    assert result.reason == "it answered with the class name 'bright' where 'dark' is expected"


def test_smoke_test_compares_every_output(server, built, tmp_path):
    result = server.smoke_test(built["decides"], golden_of_more(), tmp_path)
    assert (result.ok, result.reason) == (True, "") and result.max_difference < 1e-5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("decision", "with decision 'ask a person' where 'eat' is expected"),
        ("colours", "with colours 'red' where 'pink' is expected"),
        ("an output less", "expected colours, decision, label, probabilities, probability, score"),
        ("an output more", "with the outputs colours, decision, label, more, prob"),
        ("another type", "with score of type object, expected numbers"),
    ],
)
def test_smoke_test_refuses_another_output(server, built, tmp_path, name, reason):
    result = server.smoke_test(built[name], golden_of_more(), tmp_path)
    assert not result.ok and reason in result.reason


def test_smoke_test_measures_how_far_other_numbers_are(server, built, tmp_path):
    result = server.smoke_test(built["score"], golden_of_more(), tmp_path)
    assert result.ok and result.max_difference == pytest.approx(50 / 250)
    rule = is_served_correctly(GateInputs(evaluation(0.95), result), GateSettings())
    assert not rule.passed


def test_smoke_test_takes_either_action_where_both_cost_the_same(server, built, tmp_path):
    golden = golden_of_more()
    either = tuple(dataclasses.replace(request, decisions=ACTIONS) for request in golden.requests)
    result = server.smoke_test(built["decision"], dataclasses.replace(golden, requests=either), tmp_path)
    assert result.ok


def test_smoke_test_takes_the_other_label_where_the_other_class_came_out_ahead(server, built, tmp_path):
    near = GoldenRequests(models.LABELS, (request_of(126, tilt=0.1),))
    assert near.requests[0].label == "bright"  # 50.6%, and 48.1% where it is served: dark
    result = server.smoke_test(built["good"], near, tmp_path)
    assert result.ok and 0.01 < result.max_difference < 0.05
    assert not server.smoke_test(built["swapped"], near, tmp_path).ok


def test_golden_requests_of_an_older_version_compare_labels(server, built, tmp_path):
    fields = ("image", "probabilities", "label")
    requests = [{name: getattr(request, name) for name in fields} for request in PLAIN.requests]
    old = {"schema": "GoldenRequests/1", "labels": models.LABELS, "requests": requests}
    (tmp_path / "golden.json").write_text(json.dumps(old))
    golden = GoldenRequests.load(tmp_path)
    assert server.smoke_test(built["good"], golden, tmp_path / "out").ok
    assert server.smoke_test(built["decides"], golden, tmp_path / "out").ok
    assert not server.smoke_test(built["swapped"], golden, tmp_path / "out").ok


@pytest.mark.parametrize("name", ["swapped", "swapped classes"])
def test_confirm_withdraws_a_model_with_swapped_class_names(server, registry, built, tmp_path, name):
    model = f"leaves-{name}".replace(" ", "-")
    first = release(registry, tmp_path, model, built["good"], 1)
    with server.serve(tmp_path, model, 1) as client:
        confirm_with(client, PLAIN, first, tmp_path, registry, max_difference=0.01)
    second = release(registry, tmp_path, model, built[name], 2)
    with (
        server.serve(tmp_path, model, 2) as client,
        pytest.raises(StepError, match=r"withdrawn: it answered with .* 'bright' where .* Version 1 remains"),
    ):
        confirm_with(client, PLAIN, second, tmp_path, registry, max_difference=0.01)
    assert published(tmp_path, model) == [1] and registry.champion(model).version == 1


FILES = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "checksums.sha256",
)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_confirm_withdraws_a_version_with_a_flipped_byte(server, registry, built, tmp_path, number):
    model = f"ferns-{number}"
    publication = release(registry, tmp_path, model, built["good"], 1)
    flip(tmp_path / model / "1" / FILES[number])
    with pytest.raises(StepError, match=r"withdrawn: .*checksums\.sha256.*There is no champion"):
        confirm_by(
            opening(server, publication, tmp_path),
            PLAIN,
            publication,
            tmp_path,
            registry,
            max_difference=0.01,
        )
    assert published(tmp_path, model) == [] and registry.champion(model) is None
    assert registry.versions(model)[0].status == "withdrawn"
    again = publish(built["good"], tmp_path, model, 1)
    confirm_by(opening(server, again, tmp_path), PLAIN, again, tmp_path, registry, max_difference=0.01)
    assert registry.champion(model).version == 1


def test_confirm_withdraws_a_damaged_version_that_a_server_loaded_before(server, registry, built, tmp_path):
    publication = release(registry, tmp_path, "mosses", built["good"], 1)
    with server.serve(tmp_path, "mosses", 1) as client:
        flip(tmp_path / "mosses" / "1" / FILES[2])
        with pytest.raises(StepError, match=r"withdrawn: .*does not match"):
            confirm_with(client, PLAIN, publication, tmp_path, registry, max_difference=0.01)
    assert published(tmp_path, "mosses") == [] and registry.champion("mosses") is None


def test_confirm_withdraws_another_model_with_a_list_of_its_own(server, registry, built, tmp_path):
    publication = release(registry, tmp_path, "palms", built["good"], 1)
    other = publish(built["decides"], tmp_path / "other", "palms", 1)
    (tmp_path / "palms").rename(tmp_path / "away")
    (tmp_path / "other" / "palms").rename(tmp_path / "palms")
    expected = rf"withdrawn: .*{other.sha256[:12]}…, {publication.sha256[:12]}… was published"
    with server.serve(tmp_path, "palms", 1) as client, pytest.raises(StepError, match=expected):
        confirm_with(client, PLAIN, publication, tmp_path, registry, max_difference=0.01)
    assert published(tmp_path, "palms") == [] and registry.champion("palms") is None


def test_confirm_withdraws_what_its_own_server_cannot_load(server, registry, tmp_path):
    broken = tmp_path / "saved_model"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no graph at all")
    publication = release(registry, tmp_path / "models", "broken", broken, 1)
    with pytest.raises(StepError, match=r"withdrawn: .*cannot be loaded"):
        confirm_by(
            opening(server, publication, tmp_path / "models"),
            PLAIN,
            publication,
            tmp_path / "models",
            registry,
            max_difference=0.01,
        )
    assert published(tmp_path / "models", "broken") == []


@pytest.fixture
def released(server, built, tmp_path):
    """A context, and the artifacts of register, export and evaluate."""
    registries.put_empty(tmp_path / "work")
    workspace = Workspace(tmp_path / "work")
    context = Context(tmp_path, "leaves", Settings(), workspace, server=server)
    saved_model = shutil.copytree(built["good"], tmp_path / "export" / "saved_model")
    registry = Registry(workspace.tracking_uri)
    sha256 = digest.of_folder(saved_model)
    made = registry.register("leaves", registry.runs.open("a run"), saved_model, sha256=sha256)
    Registration("leaves", made.version, made.run, sha256).save(tmp_path / "registration")
    PLAIN.save(tmp_path / "evaluation")
    (tmp_path / "reference").mkdir()
    return context, registry


def publish_step(context, folder):
    inputs = (folder / name for name in ("registration", "export", "reference"))
    return steps.publish(context, folder / "publication", *inputs)


def confirm_steps(context, folder):
    steps.final_test(context, folder / "final_test", folder / "publication", folder / "evaluation")
    return steps.confirm(context, folder / "out", folder / "publication", folder / "final_test")


def test_publish_step_refuses_an_export_that_changed_after_it_was_registered(released, tmp_path):
    flip(tmp_path / "export" / "saved_model" / FILES[2])
    with pytest.raises(StepError, match="not the model that was registered as version 1 of 'leaves'"):
        publish_step(released[0], tmp_path)
    assert published(released[0].workspace.models, "leaves") == []


@pytest.mark.parametrize("file", FILES[:3])
def test_confirm_step_withdraws_a_damaged_version_before_a_server_loads_it(released, tmp_path, file):
    context, registry = released
    publish_step(context, tmp_path)
    flip(context.workspace.models / "leaves" / "1" / file)
    with pytest.raises(StepError, match=r"withdrawn: .* does not match checksums\.sha256"):
        confirm_steps(context, tmp_path)
    assert published(context.workspace.models, "leaves") == [] and registry.champion("leaves") is None
    publish_step(context, tmp_path)
    confirm_steps(context, tmp_path)
    assert registry.champion("leaves").version == 1


def test_confirm_step_withdraws_a_version_that_is_damaged_after_its_final_test(released, tmp_path):
    context, registry = released
    publish_step(context, tmp_path)
    steps.final_test(context, tmp_path / "final_test", tmp_path / "publication", tmp_path / "evaluation")
    assert steps.has_passed(context, tmp_path / "final_test")
    flip(context.workspace.models / "leaves" / "1" / FILES[2])
    with pytest.raises(StepError, match=r"withdrawn: .* does not match checksums\.sha256"):
        steps.confirm(context, tmp_path / "out", tmp_path / "publication", tmp_path / "final_test")
    assert registry.champion("leaves") is None and not steps.has_passed(context, tmp_path / "final_test")


def test_confirm_step_refuses_the_final_test_of_another_version(released, tmp_path):
    context, registry = released
    publish_step(context, tmp_path)
    FinalTest("leaves", 2).save(tmp_path / "final_test")
    with pytest.raises(StepError, match="of version 2 of 'leaves', not of 1"):
        steps.confirm(context, tmp_path / "out", tmp_path / "publication", tmp_path / "final_test")
    assert published(context.workspace.models, "leaves") == [1] and registry.champion("leaves") is None


def test_a_final_test_needs_no_registry(released, tmp_path):
    """On a cluster its pod decodes images, so it has no way to the registry and no secret."""
    context, _ = released
    publish_step(context, tmp_path)
    nowhere = dataclasses.replace(context, workspace=Workspace(tmp_path / "work", "http://127.0.0.1:9"))
    steps.final_test(nowhere, tmp_path / "final_test", tmp_path / "publication", tmp_path / "evaluation")
    assert FinalTest.load(tmp_path / "final_test").problem == ""
