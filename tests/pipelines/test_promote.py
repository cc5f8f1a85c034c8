"""promote, rollback, release and releases on a workspace: everything names the same version after each."""

from __future__ import annotations

import json
import shutil
import urllib.request

import pytest
from click.testing import CliRunner

from pergola.classifier import load
from pergola.components.release.registry.lookup import champion_of
from pergola.components.release.registry.registry import Registry
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import notes_of
from pergola.components.workspace import Workspace
from pergola.pipelines.commands import cli
from pergola.pipelines.release import versions
from pergola.pipelines.release.resolve import resolve_version
from tests.support import candidates, models, registries
from tests.support.command import serving


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Versions 1 to 3 of "shades" are registered and held; the golden requests of 3 are another model's."""
    folder = tmp_path_factory.mktemp("template")
    made = Workspace(folder / "work")
    made.create()
    Registry(made.tracking_uri)
    for number, expects in ((1, 1.0), (2, 2.0), (3, 9.0)):
        found = candidates.register(made, folder / str(number), float(number), expects=expects)
        assert found.version == number
    return made


@pytest.fixture
def three(template, tmp_path, monkeypatch):
    """A copy of it, which the commands use."""
    return used(Workspace(shutil.copytree(template.root, tmp_path / "work")), monkeypatch)


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Version 1 of "shades" is registered and held; it cannot be loaded."""
    made = Workspace(tmp_path / "work")
    made.create()
    registries.put_empty(made.root)
    candidates.register(made, tmp_path / "1", 1.0, loads=False)
    return used(made, monkeypatch)


def used(workspace: Workspace, monkeypatch) -> Workspace:
    monkeypatch.setenv("PERGOLA_WORKSPACE", str(workspace.root))
    monkeypatch.setenv("PERGOLA_USER", "ada")
    return workspace


def typed(line: str):
    """Exit status, data and messages of a command."""
    result = CliRunner().invoke(cli.pergola, [*line.split(), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.stderr


def assert_all_say(workspace: Workspace, live: int, place: dict[str, str]) -> None:
    """Registry, record, versions, load, what drift judges, and the running server's answer."""
    assert champion_of(workspace.tracking_uri, "shades").version == live
    assert open_store(workspace.models).release("shades").stable == live
    (listed,) = versions.versions(workspace)["models"]
    assert (listed["champion"], listed["answers"]) == (live, live)
    assert [row["version"] for row in listed["versions"] if row["champion"]] == [live]
    assert resolve_version(workspace, None).version == live  # of `pergola drift`
    with load("shades", workspace=workspace.root) as classifier:
        assert classifier.version == live
        here = classifier.predict(models.image_bytes(126)).probabilities[0]
    with urllib.request.urlopen(f"{place['rest']}/v1/models/shades") as reply:
        states = json.load(reply)["model_version_status"]
    assert [s["version"] for s in states if s["state"] == "AVAILABLE"] == [str(live)]
    served = typed_predict(workspace)
    assert served["version"] == live and served["probability"] == pytest.approx(max(here), abs=1e-5)


def typed_predict(workspace: Workspace):
    image = workspace.root.parent / "grey.png"
    image.write_bytes(models.image_bytes(126))
    status, found, messages = typed(f"predict {image}")
    assert status == 0, messages
    return found[0]


@pytest.mark.slow  # starts five servers
def test_every_command_moves_everything_to_the_same_version(three):
    with serving(three.root, timeout_s=300) as place:
        walk = [
            ("promote 1", 1),
            ("promote 2 --reason checked", 2),
            ("promote 3", 2),  # answers otherwise than its golden requests say
            ("rollback", 1),
            ("release 2", 2),
            ("release stable 1", 1),
            ("promote shades/2", 2),
        ]
        for line, live in walk:
            status, data, messages = typed(line)
            assert (status, "could not be confirmed" in messages) == (
                (1, True) if "3" in line else (0, False)
            )
            assert "3" in line or data["stable"] == live, messages
            assert_all_say(three, live, place)
    assert "3" not in [p.name for p in (three.models / "shades").iterdir()]
    history = typed("releases")[1]["history"]
    assert [event["stable"] for event in history] == [1, 2, 1, 2, 1, 2]
    assert history[1]["why"] == "checked" and {event["who"] for event in history} == {"ada"}
    assert typed(f"releases --at {history[2]['at']}")[1]["stable"] in {1, 2}
    assert typed("releases --at 2001-01-01")[1]["stable"] is None


@pytest.mark.slow  # starts a server
def test_a_promoted_version_has_what_any_other_has(three):
    assert typed("promote 2")[0] == 0
    folder = three.models / "shades" / "2"
    assert (notes_of(folder) / "reference.json").read_text() == "2.0"
    status, found, _ = typed("lineage 2")
    assert status == 0 and found["release"] == {"published": True, "unchanged": True, "champion": True}
    with load("shades", version=1) as held:  # registered, not published
        assert held.version == 1


@pytest.mark.slow  # builds models
def test_a_registered_model_that_was_changed_is_not_promoted(three):
    for graph in three.root.glob("mlartifacts/*/artifacts/model-*/saved_model.pb"):
        graph.write_bytes(graph.read_bytes() + b"\0")
    status, data, _ = typed("promote 1")
    assert status == 2 and "No version 1 of 'shades'" in data["error"]
    assert not (three.models / "shades" / "1").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("promote seven", "'seven' is not a version"),
        ("promote 7", "no record of version 7 of 'shades'. It has: 1"),
        ("promote shade/1", "no model 'shade'"),
        ("release stable 7", "no published model"),
        ("releases --at yesterday --model shades", "no model"),
    ],
)
def test_promote_says_what_is_wrong(held, line, message):
    status, data, _ = typed(line)
    assert status == 2 and message in data["error"]
