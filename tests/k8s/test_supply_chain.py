"""What the images are made of: licences of packages, their list for each image, base images by digest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0123456789abcdef" * 4
MIT = "Permission is hereby granted, free of charge, to any person"


def package(folder, name, *, metadata="", text=""):
    """An installed package with these lines of metadata and this licence text."""
    place = folder / f"{name}-1.0.dist-info"
    (place / "licenses").mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\n")
    (place / "licenses" / "LICENSE").write_text(text)
    (place / "RECORD").write_text(f"{place.name}/METADATA,,\n{place.name}/licenses/LICENSE,,\n")


def licences(folder, *more):
    command = [sys.executable, ROOT / "images" / "licences", folder, *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("metadata", "text", "said"),
    [
        ("License-Expression: AGPL-3.0-only", "", "GPL conflicts"),
        ("License-Expression: GPL-2.0-or-later AND MIT", "", "GPL conflicts"),
        ("License: LGPLv3", "", "GPL conflicts"),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3", "", "GPL conflicts"),
        ("Classifier: License :: Other/Proprietary License", "", "proprietary conflicts"),
        ("License: Business Source License 1.1", "", "Business Source conflicts"),
        ("License-Expression: CC-BY-NC-4.0", "", "non-commercial conflicts"),
        ("License-Expression: SSPL-1.0", "", "SSPL conflicts"),
        ("", "GNU GENERAL PUBLIC LICENSE Version 3", "GPL conflicts"),
        ("", "", "under 'no licence': that is none that is known here"),
        ("License: my own", "do what you want", "under 'my own': that is none that is known here"),
    ],
)
def test_a_licence_that_conflicts_or_is_unknown_is_refused(tmp_path, metadata, text, said):
    package(tmp_path, "good", metadata="License: MIT")
    package(tmp_path, "planted", metadata=metadata, text=text)
    done = licences(tmp_path)
    assert done.returncode == 1 and "2 packages, 1 in conflict" in done.stdout
    assert "planted 1.0 is under" in done.stderr and said in done.stderr


@pytest.mark.parametrize(
    ("name", "metadata", "text"),
    [
        ("either", "License-Expression: GPL-3.0-only OR BSD-3-Clause", ""),
        ("both", "License-Expression: MPL-2.0 AND MIT", ""),
        ("old", "Classifier: License :: OSI Approved\nLicense: UNKNOWN", MIT),
        ("psycopg-binary", "License-Expression: LGPL-3.0-only", ""),
        ("nvidia-cudnn-cu12", "License: LicenseRef-NVIDIA-Proprietary", ""),
    ],
)
def test_a_licence_that_is_fine_or_an_exception_passes(tmp_path, name, metadata, text):
    package(tmp_path, name, metadata=metadata, text=text)
    done = licences(tmp_path)
    assert done.returncode == 0, done.stderr


def test_notices_hold_the_licence_texts_of_all_packages(tmp_path):
    package(tmp_path / "site", "one", metadata="License: MIT", text=f"{MIT}: one")
    package(tmp_path / "site", "two", metadata="License: BSD", text="Redistribution of two")
    assert licences(tmp_path / "site", "--notices", tmp_path / "share" / "NOTICES").returncode == 0
    text = (tmp_path / "share" / "NOTICES").read_text()
    assert text.index("one 1.0: MIT") < text.index(f"{MIT}: one") < text.index("two 1.0: BSD")
    assert "Redistribution of two" in text


def test_a_folder_without_packages_is_no_success(tmp_path):
    done = licences(tmp_path)
    assert done.returncode == 2 and "holds no package" in done.stderr


@pytest.fixture
def images(tmp_path):
    """Runs scripts/images with an engine that only notes its arguments."""
    engine = tmp_path / "engine"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = build ] || echo 1000000\n')
    engine.chmod(0o755)

    def run(*words, **variables):
        environment = {**os.environ, "ENGINE": str(engine), **variables}
        command = [ROOT / "scripts" / "images", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "BASE"),
        ({"BASE": "docker.io/library/python:3.11-slim-bookworm"}, "BASE"),
        ({"BASE": f"python@{DIGEST[:-1]}"}, "BASE"),
        ({"BASE": f"python@{DIGEST}"}, "BUILD_BASE"),
    ],
)
def test_a_release_without_digests_builds_nothing(images, given, missing):
    done, calls = images("--release", "cpu", **given)
    assert (done.returncode, calls) == (2, [])
    assert f"--release needs {missing} by digest" in done.stderr and "imagetools inspect" in done.stderr


def test_a_release_is_built_on_the_digests_and_says_so(images):
    base, build = f"registry.example/python@{DIGEST}", f"registry.example/build@{DIGEST}"
    done, calls = images("--release", "sync", BASE=base, BUILD_BASE=build)
    assert done.returncode == 0, done.stderr
    (call,) = [call for call in calls if call.startswith("build")]
    assert f"--build-arg BASE={base} --build-arg BUILD_BASE={build}" in call
    assert f"base.name=registry.example/python --label org.opencontainers.image.base.digest={DIGEST}" in call


def test_images_for_oneself_need_no_digest(images):
    done, calls = images("sync")
    assert done.returncode == 0 and "--target sync" in calls[0] and "base.digest" not in calls[0]


def test_the_list_of_packages_is_that_of_the_image_with_hashes(tmp_path):
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))
    if uv is None:
        pytest.skip("no uv: scripts/setup fetches one when it makes .venv")
    # As scripts/sbom and images/install do; the words of each image come from one place.
    found = {}
    for target in ("cpu", "sync"):
        words = subprocess.run([ROOT / "images" / "packages", target, "emit"], capture_output=True, text=True)
        command = [uv, "export", "--quiet", "--frozen", "--no-default-groups", "--no-emit-project",
                   "--format", "cyclonedx1.5", *words.stdout.split()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found[target] = {part["name"]: part for part in json.loads(done.stdout)["components"]}
    assert {"tensorflow", "kfp", "psycopg"} <= set(found["cpu"]) and "pytest" not in found["cpu"]
    assert "s3fs" in found["sync"] and not {"tensorflow", "numpy", "pyasn1"} & set(found["sync"])
    for part in found["cpu"].values():
        files = part["externalReferences"]
        assert files and all(file["hashes"][0]["alg"] == "SHA-256" for file in files), part["name"]
