"""What `import pergola` gives, what it costs, and that docs/api.md lists the same names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pergola

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
STANDARD = sys.stdlib_module_names


def loaded(code: str) -> set[str]:
    """Top-level packages outside of the standard library that a fresh interpreter has after `code`."""
    code = f"{code}\nimport json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    before = "import sys; b = set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=True)
    return {name for name in json.loads(done.stdout) if name not in STANDARD and not name.startswith("_")}


def test_all_is_what_the_reference_lists():
    listed = re.findall(r"^### `pergola\.(\w+)", API, re.MULTILINE)
    assert sorted(listed) == sorted(pergola.__all__)


@pytest.mark.parametrize("name", pergola.__all__)
def test_name_is_there_and_documented(name):
    value = getattr(pergola, name)
    assert name in dir(pergola)
    assert isinstance(value, str) or len(value.__doc__) > 20


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'pergola' has no attribute 'train'"):
        _ = pergola.train


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert pergola.__version__ == version("pergola-ml")


def test_submodules_do_not_hide_the_functions(tmp_path):
    """`pergola.run` stays a function when every module of the package is imported."""
    code = (
        "import pergola, pergola.local_run, pergola.classifier, pergola.predictions, pergola.extras\n"
        "assert callable(pergola.run) and callable(pergola.load)"
    )
    assert loaded(code) >= {"pergola"}


def test_import_loads_nothing_but_itself():
    assert loaded("") | {"pergola"} == loaded("import pergola")
    code = "import sys, pergola; print(sorted(m for m in sys.modules if m.startswith('pergola')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['pergola']\n"


def test_client_loads_grpc_numpy_and_protobuf_alone():
    base = loaded("import grpc, numpy, google.protobuf")
    assert loaded("import pergola; pergola.Client") - base == {"pergola"}


def test_client_loads_nothing_of_the_async_client():
    code = "import sys, pergola; pergola.Client; print(*(m for m in sys.modules if m.startswith('pergola.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert "pergola.serving.client.blocking_transport" in names
    assert not [name for name in names if "async" in name or name.endswith(".classify")]


def test_async_client_loads_what_client_loads():
    base = loaded("import grpc, numpy, google.protobuf")
    assert loaded("import pergola; pergola.AsyncClient") - base == {"pergola"}


def test_names_load_nothing_heavy():
    """All names that are not Client: Pillow for images is all that comes on top."""
    names = ", ".join(f"pergola.{name}" for name in pergola.__all__)
    base = loaded("import grpc, numpy, google.protobuf")
    assert loaded(f"import pergola; {names}") - base == {"pergola", "PIL"}
