"""docs/client.md is run: every Python block, in order, in one namespace."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.certificates import Authority
from tests.support.scripted_server import ScriptedServer

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the page's code finds where it runs."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save("a.jpg")
    Image.fromarray(pixels).save("b.png")
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    assert (certificate.name, key.name, authority.ca.name) == ("client.pem", "client.key", "ca.pem")
    Path("token").write_text("secret\n")
    return tmp_path


def test_every_example_of_the_page_runs(folder, capsys):
    assert len(BLOCKS) > 8
    with ScriptedServer() as server:
        server.versions = [1, 2]
        namespace = {"__name__": "docs"}
        for block in BLOCKS:
            exec(compile(block.replace("localhost:8500", server.address), str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "version 2" in printed
    assert "serving_default takes image: string (?,)" in printed
    assert "does not serve leaves version 99" in printed


def test_the_page_names_every_error():
    from pergola.serving.client import errors as client_errors

    errors = [
        name
        for name, value in vars(client_errors).items()
        if isinstance(value, type) and issubclass(value, client_errors.ClientError)
    ]
    assert len(errors) > 8
    assert all(f"`{name}`" in PAGE.read_text() for name in errors)
