"""Versions, labels, config files and reloads, with folders that are whole, half-written or gone."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.contract.started.conftest import DidNotStart
from tests.support import models
from tests.support.servers import models_config, until
from tests.support.wire import Refusal

ZERO = {"x": [0.0]}


def label(name: str, version: int) -> str:
    return f'version_labels {{ key: "{name}" value: {version} }}'


def y_of(wire, model: str, **spec) -> float:
    return wire.outputs(model, ZERO, **spec)["y"][0]


@pytest.fixture
def copy(half, tmp_path):
    """A base path of one's own, of x / 2 + 2."""
    return shutil.copytree(half, tmp_path / "models" / "half")


def test_versions_switch_under_load_without_a_failed_request(start, copy):
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=half")
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(wire.predict("half", ZERO))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        models.half_plus_two(copy.parent, 2, add=9.0)
        (copy.parent / "2").rename(copy / "2")
        try:
            until(lambda: wire.states("half") == {2: "AVAILABLE", 1: "END"})
            until(lambda: answers[-1].model_spec.version.value == 2)
        finally:
            stop.set()
        for task in asking:
            task.result()
    seen = {(a.model_spec.version.value, a.outputs["y"].float_val[0]) for a in answers}
    assert seen == {(1, 2.0), (2, 9.0)}


def test_a_reload_adds_and_removes_models_and_moves_labels(start, copy, half):
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=a")
    answer = wire.reload(models_config(("a", copy, label("stable", 1)), ("b", half)))
    assert answer.status.error_code == 0
    assert y_of(wire, "a", version_label="stable") == y_of(wire, "b") == 2.0
    assert wire.reload(models_config(("a", copy, label("stable", 5)))) == Refusal(
        "FAILED_PRECONDITION",
        "Request to assign label to version 5 of model a, which is not currently available for inference",
    )
    assert y_of(wire, "b") == 2.0  # nothing has changed
    assert wire.reload(models_config(("b", half))).status.error_code == 0
    gone = Refusal("NOT_FOUND", "Servable not found for request: Latest(a)")
    until(lambda: wire.predict("a", ZERO) == gone)


def test_a_reload_of_a_model_that_never_comes_ends_at_the_deadline(start, binary, half, tmp_path):
    if binary:
        pytest.skip("in the stock server the next reload waits for this one, for ever")
    _, wire, _ = start(f"--model_base_path={half}", "--model_name=half")
    (tmp_path / "empty").mkdir()
    started = time.monotonic()
    answer = wire.reload(models_config(("half", half), ("empty", tmp_path / "empty")), timeout_s=1)
    assert answer.code == "DEADLINE_EXCEEDED" and time.monotonic() - started < 5
    assert wire.reload(models_config(("half", half)), timeout_s=10).status.error_code == 0


def test_labels_at_the_start_want_a_flag_and_then_point_ahead_but_do_not_move_there(start, half, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(models_config(("a", half, label("next", 2))))
    with pytest.raises(DidNotStart, match="Request to assign label to version 2 of model a"):
        start(f"--model_config_file={file}")
    flag = "--allow_version_labels_for_unavailable_models"
    _, wire, _ = start(f"--model_config_file={file}", flag)
    assert wire.predict("a", ZERO, version_label="next") == Refusal(
        "NOT_FOUND", "Servable not found for request: Specific(a, 2)"
    )
    assert wire.reload(models_config(("a", half, label("next", 3)))).code == "FAILED_PRECONDITION"
    assert (
        wire.reload(models_config(("a", half, label("next", 1) + label("later", 3)))).status.error_code == 0
    )
    assert y_of(wire, "a", version_label="next") == 2.0


def test_policies_decide_which_versions_are_served(start, copy):
    for version in (2, 3, 10):
        models.half_plus_two(copy, version, add=float(version))
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=m")
    for policy, served in (
        ("all {}", {1, 2, 3, 10}),
        ("specific { versions: 2 versions: 3 versions: 7 }", {2, 3}),
        ("latest { num_versions: 2 }", {3, 10}),
        ("", {10}),
    ):
        wire.reload(models_config(("m", copy, f"model_version_policy {{ {policy} }}")))
        until(lambda served=served: {v for v, s in wire.states("m").items() if s == "AVAILABLE"} == served)
        assert y_of(wire, "m") == max(served)


def test_a_config_file_is_polled_and_has_the_last_word(start, copy, half, tmp_path):
    file, aside = tmp_path / "models.config", tmp_path / "aside"
    file.write_text(models_config(("a", half)))
    flags = (f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    _, wire, log = start(*flags)
    file.write_text("model_config_list { config {")
    until(lambda: "ModelServerConfig" in log())  # it says so, and
    assert y_of(wire, "a") == 2.0  # the old one stays
    aside.write_text(models_config(("a", half), ("b", copy)))
    aside.replace(file)
    until(lambda: wire.states("b") == {1: "AVAILABLE"})
    assert wire.reload(models_config(("a", half))).status.error_code == 0
    until(lambda: wire.states("b") == {1: "AVAILABLE"})


QUICK = ("--load_retry_interval_micros=20000", "--max_num_load_retries=1")


def test_broken_version_folders_are_said_to_be_and_harm_no_other(start, copy):
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=m", *QUICK)
    (copy / "2").mkdir()  # empty
    shutil.copytree(copy / "1", copy / "3")
    (copy / "3" / "saved_model.pb").write_bytes(b"garbage" * 50)
    shutil.copytree(copy / "1", copy / "4")
    shutil.rmtree(copy / "4" / "variables")
    half = shutil.copytree(copy / "1", copy / "5") / "saved_model.pb"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (copy / "6").write_text("a file, not a folder")
    for version in (6, 5, 4, 3, 2):
        until(lambda version=version: wire.states("m").get(version) == "END")
        assert wire.states("m")[1] == "AVAILABLE" and y_of(wire, "m") == 2.0
        status = wire.status("m", version=version).model_version_status[0].status
        assert status.error_code != 0 and status.error_message
        if version in (6, 2):
            assert "Could not find SavedModel" in status.error_message
        path = copy / str(version)
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert y_of(wire, "m") == 2.0


def test_unreadable_version_folders_harm_no_other(start, copy, tmp_path):
    """Links that lead nowhere and round in circles: what root cannot read either."""
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=m", *QUICK)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    shutil.copytree(copy / "1", copy / "4")
    (copy / "4" / "saved_model.pb").chmod(0)
    for version, target in ((2, tmp_path / "nowhere"), (3, tmp_path / "circle")):
        (copy / str(version)).symlink_to(target)
    (copy / "5").mkdir()
    (copy / "5" / "saved_model.pb").symlink_to(tmp_path / "circle")
    for version in (5, 4, 3, 2):
        if version == 4 and os.geteuid() == 0:  # who may read everything
            until(lambda: wire.states("m").get(4) == "AVAILABLE")
        else:
            until(lambda version=version: wire.states("m").get(version) == "END")
            assert wire.status("m", version=version).model_version_status[0].status.error_message
        assert y_of(wire, "m") == 2.0
        path = copy / str(version)
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    until(lambda: wire.states("m").get(1) == "AVAILABLE")
    assert y_of(wire, "m") == 2.0


def test_deleted_versions_go_and_a_deleted_base_path_changes_nothing(start, copy):
    models.half_plus_two(copy, 2, add=9.0)
    _, wire, _ = start(f"--model_base_path={copy}", "--model_name=m")
    assert y_of(wire, "m") == 9.0
    shutil.rmtree(copy / "2")
    until(lambda: wire.states("m") == {2: "END", 1: "AVAILABLE"})
    assert y_of(wire, "m") == 2.0
    copy.rename(copy.parent / "away")
    assert y_of(wire, "m") == 2.0
    (copy.parent / "away").rename(copy)
    shutil.rmtree(copy / "1")
    until(lambda: wire.states("m").get(1) == "END")
    assert wire.predict("m", ZERO).code == "NOT_FOUND"


def test_a_start_fails_when_no_version_loads(start, tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(DidNotStart, match="1 servable"):
        start(f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0")


@pytest.mark.slow
def test_two_hundred_version_switches_leave_memory_and_descriptors_as_they_were(start, binary, tmp_path):
    if binary:
        pytest.skip("the stock server grows")
    for version in (1, 2):
        models.classifier(tmp_path / "leaves", version)
    entry = "model_version_policy {{ specific {{ versions: {} }} }}"
    config = [models_config(("leaves", tmp_path / "leaves", entry.format(version))) for version in (1, 2)]
    (tmp_path / "models.config").write_text(config[0])
    server, wire, _ = start(f"--model_config_file={tmp_path}/models.config", process=True)
    image = {"image": [models.image_bytes(250)]}

    def switch(times: int) -> tuple[int, int]:
        for number in range(times):
            assert not isinstance(wire.reload(config[(number + 1) % 2]), Refusal)
            assert wire.outputs("leaves", image)["label"].tolist() == [b"bright"]
        until(lambda: list(wire.states("leaves").values()).count("AVAILABLE") == 1)
        open_files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        return server.resident_bytes(), open_files

    before, files = switch(20)
    after, files_after = switch(200)
    assert after < before * 1.01, f"{before / 2**20:.1f} MiB became {after / 2**20:.1f} MiB"
    assert files_after <= files
