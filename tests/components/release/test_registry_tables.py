"""Contract: what is read from MLflow's tables is what MLflow's own client says, on a real SQLite store."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pergola.components.release.registry import tables
from pergola.components.release.registry.lookup import champion_of, version_of
from pergola.components.release.registry.registry import Registry
from tests.support import registries


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A store in which every change that a version can undergo has happened to some version."""
    root = tmp_path_factory.mktemp("workspace")
    uri = registries.put_empty(root)
    saved_model = root / "saved_model"
    saved_model.mkdir()
    (saved_model / "saved_model.pb").write_bytes(b"graph")
    registry, client = Registry(uri), MlflowClient(uri, uri)
    for model in ("leaves", "oaks", "it-x", "renamed-before", "gone"):
        for number in range(1, 5):
            run = registry.runs.open(f"{model}-{number}")
            key = "" if number == 1 else f"export-{number}"
            registry.register(model, run, saved_model, sha256=f"{number:064x}", export_key=key)
    registry.promote("leaves", 1)
    registry.promote("leaves", 3)
    registry.withdraw("leaves", 2)
    client.delete_model_version("leaves", "4")
    registry.promote("oaks", 2)
    client.delete_model_version("oaks", "2")  # a deleted champion takes the alias with it
    client.set_registered_model_alias("it-x", "champion", "1")
    client.set_registered_model_alias("it-x", "other", "2")
    client.delete_model_version_tag("it-x", "1", "pergola.sha256")
    client.set_model_version_tag("it-x", "1", "pergola.previous_champion", "not a number")
    registry.promote("renamed-before", 2)
    client.rename_registered_model("renamed-before", "renamed")
    client.delete_registered_model("gone")
    return root / "mlflow.db"


@pytest.mark.parametrize("model", ["leaves", "oaks", "it-x", "renamed-before", "renamed", "gone", "never"])
def test_tables_give_what_the_client_gives(path, model):
    uri = f"sqlite:///{path}"
    registry = Registry(uri)
    known = {item.version: item for item in registry.versions(model)}
    assert tables.champion_in(path, model) == registry.champion(model) == champion_of(uri, model)
    for version in range(6):
        assert tables.version_in(path, model, version) == known.get(version)
        assert version_of(uri, model, version) == known.get(version)


def test_the_store_of_this_test_has_champions_and_deleted_versions(path):
    assert tables.champion_in(path, "leaves").previous == 1
    assert tables.version_in(path, "leaves", 4) is None
    assert tables.champion_in(path, "oaks") is None
    assert tables.champion_in(path, "renamed").version == 2


def test_version_of_needs_no_mlflow(path):
    code = (
        "import sys; from pergola.components.release.registry.lookup import version_of;"
        f"assert version_of('sqlite:///{path}', 'leaves', 1); assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
