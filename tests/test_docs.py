"""What is written from the code is up to date, and the docs site loads nothing from other hosts."""

import ast
import re
import runpy
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.support.manifests import ROOT

GRAPH = runpy.run_path(str(ROOT / "scripts" / "architecture" / "graph.py"))


def test_the_picture_of_the_packages_shows_the_imports_of_today():
    command = [sys.executable, str(ROOT / "scripts" / "architecture"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_graph_holds_every_package_and_what_it_imports():
    boxes, edges = GRAPH["read"]()
    folders = {
        f"{top}.{path.name}"
        for top in ("pipelines", "components", "serving")
        for path in (ROOT / top).iterdir()
        if (path / "__init__.py").is_file()
    }
    assert folders <= set(boxes)
    assert edges["components.imaging", "serving.wire"] and not edges["serving.wire", "components.imaging"]


def test_an_import_that_a_longer_path_implies_is_left_out():
    assert GRAPH["reduced"]({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_of_a_cycle_the_edge_with_the_fewest_imports_goes_against_the_direction():
    counts = Counter({("a", "b"): 3, ("b", "a"): 1, ("b", "c"): 2})
    assert GRAPH["without_cycles"](counts) == ({("a", "b"), ("b", "c")}, {("b", "a")})


@pytest.mark.parametrize(
    ("html", "address"),
    [
        ('<script src="https://cdn.example/x.js">', "https://cdn.example/x.js"),
        ('<img alt="a" src=//badges.example/a.svg>', "//badges.example/a.svg"),
        ('<link href="https://fonts.example/css" rel="stylesheet">', "https://fonts.example/css"),
        ('<a href="https://example.com">', ""),
        ('<script src="assets/x.js">', ""),
    ],
)
def test_a_page_that_loads_from_another_host_is_refused(html, address):
    mkdocs = pytest.importorskip("mkdocs.exceptions", reason="no MkDocs: scripts/setup docs brings it")
    hooks = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorial.md"))
    if not address:
        assert hooks["on_post_page"](html, page) == html
        return
    with pytest.raises(mkdocs.PluginError, match=f"tutorial.md loads {address}"):
        hooks["on_post_page"](html, page)


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/contributing.md"])
def test_the_files_that_a_map_of_the_code_names_are_there(page):
    tops = "pergola|pipelines|components|serving|k8s|tests|scripts|docs|images"
    named = re.findall(rf"`((?:{tops})/[\w/.-]*)[ `]", (ROOT / page).read_text())
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_the_tests_that_the_threat_model_names_are_there():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs/threat-model.md").read_text())
    assert len(named) > 40
    assert [f"{file}::{test}" for file, test in named if test not in _tests_of(ROOT / "tests" / file)] == []


def _tests_of(path):
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
