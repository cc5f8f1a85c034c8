"""The Python code of README.md and docs/api.md is run, in order, in one namespace a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.api.conftest import SETTINGS
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.slow  # they train, export and serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(result, dataset, workspace, tmp_path, monkeypatch) -> Path:
    """What the code finds where it is run: a data set, a workspace with a model, images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves").symlink_to(dataset)
    (tmp_path / "pergola-work").symlink_to(workspace)
    for name in ("new.jpg", "leaf1.jpg", "leaf2.jpg"):
        shutil.copy(next(dataset.rglob("*.png")), name)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_examples_run(page, folder, workspace, capsys):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    base = f"--model_base_path={workspace / 'models' / 'leaves'}"
    with ServerProcess(folder, "--model_name=leaves", base) as server:
        namespace = {"__name__": "docs", "SETTINGS": SETTINGS}
        for block in blocks:
            code = block.replace("localhost:8500", server.address)
            # With the settings of the small model, whose run is reused.
            code = re.sub(r'run\("leaves/"[^)]*\)', 'run("leaves/", settings=SETTINGS, quiet=True)', code)
            exec(compile(code, page, "exec"), namespace)
    printed = capsys.readouterr().out
    assert re.search(r"^leaves version 1\n  new\.jpg  class_\d \d+\.\d%", printed, re.MULTILINE)
    assert re.search(r"^\('class_\d',.*\) \[0\..*\] 1$", printed, re.MULTILINE)


def test_docs_never_recommend_the_unrelated_package():
    """`pergola` on the package index is another project; ours is pergola-ml."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert not re.findall(r"pip install [\"']?pergola(?!-ml|_ml)\b", page.read_text()), page


def test_install_page_lists_every_extra():
    from importlib.metadata import metadata

    page = (ROOT / "docs" / "install.md").read_text()
    extras = {name for name in metadata("pergola-ml").get_all("Provides-Extra") or ()}
    documented = set(re.findall(r"\| `pergola-ml\[(\w+)\]`", page))
    assert documented == extras - {"tracking"}  # that one is for the images alone
