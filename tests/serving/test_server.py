"""A whole server in this process, over its wire."""

import json
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from serving.config import ModelConfig, write_models
from tests.support import models
from tests.support.certificates import Authority
from tests.support.servers import fetch, in_process
from tests.support.wire import Refusal, Wire

CONFIG = 'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'


def listed(*entries: tuple) -> str:
    """The text of a model_config_list of (name, base[, more])."""
    parts = [CONFIG.format(name=e[0], base=e[1], more=e[2] if len(e) > 2 else "") for e in entries]
    return f"model_config_list {{ {' '.join(parts)} }}"


def until(condition, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def y_of(answer) -> float:
    assert not isinstance(answer, Refusal), answer
    return answer.outputs["y"].float_val[0]


@pytest.fixture
def copy(half, tmp_path):
    """A base path of one's own."""
    return shutil.copytree(half, tmp_path / "models" / "half")


def test_versions_switch_under_load_without_a_failed_request(copy):
    with in_process(f"--model_base_path={copy}", "--model_name=half") as server:
        answers, stop = [], threading.Event()

        def ask():
            with Wire(f"localhost:{server.grpc_port}") as wire:
                while not stop.is_set():
                    answers.append(wire.predict("half", {"x": [0.0]}))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            models.half_plus_two(copy.parent, 2, add=9.0)
            (copy.parent / "2").rename(copy / "2")
            try:
                until(lambda: answers and not isinstance(answers[-1], Refusal) and y_of(answers[-1]) == 9.0)
                until(lambda: server.manager.statuses("half", 1)[0].state.name == "END")
            finally:
                stop.set()
            for task in asking:
                task.result()
        assert {y_of(answer) for answer in answers} == {2.0, 9.0}
        versions = {answer.model_spec.version.value for answer in answers}
        assert versions == {1, 2}


def test_reload_adds_and_removes_models_and_moves_labels(copy, half):
    with (
        in_process(f"--model_base_path={copy}", "--model_name=a") as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
    ):
        answer = wire.reload(listed(("a", copy, 'version_labels { key: "stable" value: 1 }'), ("b", half)))
        assert answer.status.error_code == 0
        assert y_of(wire.predict("a", {"x": [0.0]}, version_label="stable")) == 2.0
        assert y_of(wire.predict("b", {"x": [0.0]})) == 2.0
        refused = wire.reload(listed(("a", copy, 'version_labels { key: "stable" value: 5 }')))
        assert refused == Refusal(
            "FAILED_PRECONDITION",
            "Request to assign label to version 5 of model a, which is not currently available for inference",
        )
        assert y_of(wire.predict("b", {"x": [0.0]})) == 2.0  # nothing has changed
        assert wire.reload(listed(("b", half))).status.error_code == 0
        until(lambda: wire.predict("a", {"x": [0.0]}) == Refusal(
            "NOT_FOUND", "Servable not found for request: Latest(a)"
        ))  # fmt: skip
        assert wire.reload("").code == "INVALID_ARGUMENT"


def test_reload_of_a_model_that_never_comes_ends_at_the_deadline(half, tmp_path):
    with (
        in_process(f"--model_base_path={half}", "--model_name=half") as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
    ):
        (tmp_path / "empty").mkdir()
        started = time.monotonic()
        answer = wire.reload(listed(("half", half), ("empty", tmp_path / "empty")), timeout_s=1)
        assert answer.code == "DEADLINE_EXCEEDED" and time.monotonic() - started < 5
        assert wire.reload(listed(("half", half)), timeout_s=10).status.error_code == 0


def test_config_file_is_polled_and_a_broken_one_changes_nothing(half, copy, tmp_path, caplog):
    file = tmp_path / "models.config"
    write_models([ModelConfig("a", half)], file)
    flags = (f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    with in_process(*flags) as server, Wire(f"localhost:{server.grpc_port}") as wire:
        file.write_text("model_config_list { config {")
        until(lambda: "what was loaded stays" in caplog.text)
        assert y_of(wire.predict("a", {"x": [0.0]})) == 2.0
        write_models([ModelConfig("a", half), ModelConfig("b", copy)], file)
        until(lambda: "b" in server.manager.models() and wire.states("b") == {1: "AVAILABLE"})


def test_broken_version_folders_are_said_to_be_and_harm_no_other(copy, tmp_path):
    quick = ("--load_retry_interval_micros=20000", "--max_num_load_retries=2")
    with (
        in_process(f"--model_base_path={copy}", "--model_name=m", *quick) as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
    ):
        (copy / "2").mkdir()  # empty
        shutil.copytree(copy / "1", copy / "3")
        (copy / "3" / "saved_model.pb").write_bytes(b"garbage" * 50)
        shutil.copytree(copy / "1", copy / "4")
        shutil.rmtree(copy / "4" / "variables")
        shutil.copytree(copy / "1", copy / "5")
        pb = (copy / "5" / "saved_model.pb").read_bytes()
        (copy / "5" / "saved_model.pb").write_bytes(pb[: len(pb) // 2])
        (copy / "6").write_text("a file, not a folder")
        for version in range(2, 7):
            until(lambda version=version: wire.states("m").get(version) == "END" or version < 6)
        assert wire.states("m")[1] == "AVAILABLE" and y_of(wire.predict("m", {"x": [0.0]})) == 2.0
        status = wire.status("m", version=6).model_version_status[0].status
        assert status.error_code != 0 and "Could not find SavedModel" in status.error_message
        (copy / "6").unlink()
        for version in (5, 4, 3):
            until(lambda version=version: wire.states("m").get(version) == "END")
            message = wire.status("m", version=version).model_version_status[0].status.error_message
            assert message
            shutil.rmtree(copy / str(version))
        assert y_of(wire.predict("m", {"x": [0.0]})) == 2.0


def test_unreadable_version_folders_harm_no_other(copy, tmp_path):
    """Links that lead nowhere and round in circles: what root cannot read either."""
    quick = ("--load_retry_interval_micros=20000", "--max_num_load_retries=1")
    with (
        in_process(f"--model_base_path={copy}", "--model_name=m", *quick) as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
    ):
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        shutil.copytree(copy / "1", copy / "4")
        (copy / "4" / "saved_model.pb").chmod(0)
        for version, target in ((2, tmp_path / "nowhere"), (3, tmp_path / "circle")):
            (copy / str(version)).symlink_to(target)
        (copy / "5").mkdir()
        (copy / "5" / "saved_model.pb").symlink_to(tmp_path / "circle")
        server.manager.poll()
        for version in (5, 4, 3, 2):
            if version == 4 and os.geteuid() == 0:  # who may read everything
                until(lambda: wire.states("m").get(4) == "AVAILABLE")
            else:
                until(lambda version=version: wire.states("m").get(version) == "END")
                assert wire.status("m", version=version).model_version_status[0].status.error_message
            assert isinstance(y_of(wire.predict("m", {"x": [0.0]})), float)
            path = copy / str(version)
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
            server.manager.poll()
        until(lambda: wire.states("m").get(1) == "AVAILABLE")
        assert y_of(wire.predict("m", {"x": [0.0]})) == 2.0


def test_start_fails_when_no_version_loads(tmp_path):
    from serving.errors import ModelsNotAvailable

    (tmp_path / "m" / "1").mkdir(parents=True)
    with (
        pytest.raises(ModelsNotAvailable, match="1 servable"),
        in_process(f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0"),
    ):
        pass


def test_two_servers_on_one_port_are_a_clear_error(half):
    with in_process(f"--model_base_path={half}") as server:
        for flag, port in (("port", server.grpc_port), ("rest_api_port", server.rest_port)):
            with (
                pytest.raises(OSError, match=f"Port {port} of --{flag} cannot be opened"),
                in_process(f"--model_base_path={half}", f"--{flag}={port}"),
            ):
                pass


def test_a_unix_socket_serves_grpc(half, tmp_path):
    path = tmp_path / "s.sock"
    with (
        in_process(f"--model_base_path={half}", "--port=0", f"--grpc_socket_path={path}") as server,
        Wire(f"unix:{path}") as wire,
    ):
        assert server.grpc_port is None
        assert y_of(wire.predict("default", {"x": [0.0]})) == 2.0


def test_tensor_content_is_filled_where_asked_for(half):
    flags = (f"--model_base_path={half}", "--enable_serialization_as_tensor_content")
    with in_process(*flags) as server, Wire(f"localhost:{server.grpc_port}") as wire:
        tensor = wire.predict("default", {"x": [0.0]}).outputs["y"]
        assert np.frombuffer(tensor.tensor_content, np.float32).tolist() == [2.0]


def test_requests_are_batched(tmp_path):
    models.slow(tmp_path / "slow", ms=60)
    file = tmp_path / "batching.txt"
    file.write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 20000 } num_batch_threads { value: 1 }"
    )
    monitoring = tmp_path / "monitoring.txt"
    monitoring.write_text("prometheus_config { enable: true path: '/metrics' }")
    flags = (
        f"--model_base_path={tmp_path / 'slow'}", "--model_name=slow", "--enable_batching",
        f"--batching_parameters_file={file}", f"--monitoring_config_file={monitoring}",
    )  # fmt: skip
    with in_process(*flags) as server, Wire(f"localhost:{server.grpc_port}") as wire:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: y_of(wire.predict("slow", {"x": [float(i)]})), range(32)))
        assert answers == [i + 1.0 for i in range(32)]
        too_large = wire.predict("slow", {"x": [0.0] * 17})
        assert too_large == Refusal(
            "INVALID_ARGUMENT", "Task size 17 is larger than maximum input batch size 16"
        )
        page = fetch(f"http://localhost:{server.rest_port}/metrics").body.decode()
        line = next(
            x for x in page.splitlines() if x.startswith(":tensorflow:serving:batching_session:wrapped")
        )
        assert float(line.split()[-1]) < 16


def test_overload_is_refused_at_once_and_recovery_too(slow):
    flags = (
        f"--model_base_path={slow}",
        "--model_name=slow",
        "--grpc_max_threads=1",
        "--rest_api_num_threads=1",
    )
    with in_process(*flags) as server, Wire(f"localhost:{server.grpc_port}") as wire:
        with ThreadPoolExecutor(40) as pool:
            started = time.monotonic()
            answers = list(pool.map(lambda _: wire.predict("slow", {"x": [0.0]}, timeout_s=4), range(40)))
        refused = [a for a in answers if isinstance(a, Refusal) and a.code == "RESOURCE_EXHAUSTED"]
        assert len(refused) >= 15 and time.monotonic() - started < 20
        until(lambda: not isinstance(wire.predict("slow", {"x": [0.0]}), Refusal))


def test_a_request_that_waits_longer_than_its_deadline_is_let_go(slow):
    flags = (f"--model_base_path={slow}", "--model_name=slow", "--grpc_max_threads=1")
    with (
        in_process(*flags) as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
        ThreadPoolExecutor(4) as pool,
    ):
        held = [pool.submit(wire.predict, "slow", {"x": [0.0]}) for _ in range(3)]
        until(lambda: server.manager.in_flight() >= 2)
        assert wire.predict("slow", {"x": [0.0]}, timeout_s=0.2).code == "DEADLINE_EXCEEDED"
        assert all(not isinstance(h.result(), Refusal) for h in held)


def test_stop_finishes_what_is_in_flight_and_takes_no_more(tmp_path):
    models.slow(tmp_path / "slow", ms=1500)
    with (
        in_process(f"--model_base_path={tmp_path / 'slow'}", "--model_name=slow") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        wire = Wire(f"localhost:{server.grpc_port}")
        url = f"http://localhost:{server.rest_port}/v1/models/slow:predict"
        body = json.dumps({"instances": [1.0]}).encode()
        pending = pool.submit(wire.predict, "slow", {"x": [1.0]})
        rest = pool.submit(fetch, url, body)
        until(lambda: server.manager.in_flight() == 2)
        stopping = pool.submit(server.stop, 10)
        assert y_of(pending.result()) == 2.0
        assert rest.result().json() == {"predictions": [2.0]}
        stopping.result()
        assert wire.predict("slow", {"x": [1.0]}, timeout_s=2).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        with pytest.raises(OSError):
            fetch(url, body, timeout_s=2)
        wire.close()


def test_rest_gives_up_a_model_that_takes_too_long(slow):
    flags = (f"--model_base_path={slow}", "--model_name=slow", "--rest_api_timeout_in_ms=50")
    with in_process(*flags) as server:
        url = f"http://localhost:{server.rest_port}/v1/models/slow:predict"
        assert fetch(url, b'{"instances": [1.0]}').status == 504


def test_slow_senders_are_cut_off_and_harm_no_one(half):
    flags = (f"--model_base_path={half}", "--rest_api_timeout_in_ms=300")
    with in_process(*flags) as server:
        head = (
            b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n{"
        )
        senders = [socket.create_connection(("localhost", server.rest_port)) for _ in range(20)]
        for number, sender in enumerate(senders):
            sender.sendall(head if number % 2 else head[:30])
        url = f"http://localhost:{server.rest_port}/v1/models/default:predict"
        assert fetch(url, b'{"instances": [0.0]}').json() == {"predictions": [2.0]}
        for number, sender in enumerate(senders):
            sender.settimeout(10)
            if number % 2:
                assert sender.recv(100).startswith(b"HTTP/1.1 504")
            else:
                assert sender.recv(100) == b""
            sender.close()


def test_cors_headers_are_sent_where_asked_for(half):
    with in_process(f"--model_base_path={half}", "--rest_api_enable_cors_support") as server:
        reply = fetch(f"http://localhost:{server.rest_port}/v1/models/default")
        assert reply.headers["access-control-allow-origin"] == "*"


def ssl_file(folder, authority, verify):
    certificate, key = authority.issue("server")
    parts = {"server_key": key, "server_cert": certificate, "custom_ca": authority.ca}
    lines = [f"{name}: {path.read_text()!r}" for name, path in parts.items()]
    path = folder / "ssl.txt"
    path.write_text("\n".join([*lines, f"client_verify: {str(verify).lower()}"]))
    return path


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_serves_whom_it_should_and_no_one_else(half, tmp_path, mutual):
    authority = Authority(tmp_path / "ca")
    flags = (f"--model_base_path={half}", f"--ssl_config_file={ssl_file(tmp_path, authority, mutual)}")
    certificate, key = (path.read_bytes() for path in authority.issue("client"))
    ca = authority.ca.read_bytes()
    known = grpc.ssl_channel_credentials(ca, key, certificate)
    anonymous = grpc.ssl_channel_credentials(ca)
    with in_process(*flags) as server:
        address = f"localhost:{server.grpc_port}"
        for credentials, served in ((known, True), (anonymous, not mutual), (None, False)):
            with Wire(address, credentials) as wire:
                answer = wire.predict("default", {"x": [0.0]}, timeout_s=5)
                assert (not isinstance(answer, Refusal)) == served


def test_profiler_writes_a_trace_on_the_grpc_port(half, tmp_path):
    from serving.text_protos import message_class

    with (
        in_process(f"--model_base_path={half}") as server,
        Wire(f"localhost:{server.grpc_port}") as wire,
    ):
        request = message_class("ProfileRequest")(
            duration_ms=50, repository_root=str(tmp_path / "p"), session_id="s", host_name="h:1"
        )
        body = wire.raw("/tensorflow.ProfilerService/Profile", request.SerializeToString())
        assert not message_class("ProfileResponse").FromString(body).empty_trace
        assert (tmp_path / "p" / "s" / "h_1.xplane.pb").stat().st_size > 0
        request.session_id = "../../etc"
        refused = wire.raw("/tensorflow.ProfilerService/Profile", request.SerializeToString())
        assert refused.code == "INVALID_ARGUMENT" and "plain names" in refused.text
        assert wire.raw("/tensorflow.ProfilerService/Monitor", b"").code == "UNIMPLEMENTED"


def test_signature_method_names_are_checked_where_asked_for(tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, None, name="x")
        info = v1.saved_model.build_tensor_info
        odd = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(x + 1.0)}, "odd/method")
        builder = v1.saved_model.Builder(str(tmp_path / "m" / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": odd})
        builder.save()
    base = f"--model_base_path={tmp_path / 'm'}"
    for flag, code in (("--enable_signature_method_name_check", "INTERNAL"), ("--enable_profiler", None)):
        with in_process(base, flag) as server, Wire(f"localhost:{server.grpc_port}") as wire:
            answer = wire.predict("default", {"x": [0.0]})
            assert (answer.code if isinstance(answer, Refusal) else None) == code
