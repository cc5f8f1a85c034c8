"""What flags change of a server's behaviour on the wire."""

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from tests.serving.contract.started.conftest import DidNotStart
from tests.support import models
from tests.support.certificates import Authority
from tests.support.servers import models_config
from tests.support.wire import Refusal, Wire

ZERO = {"x": [0.0]}


def test_a_unix_socket_serves_grpc(start, half, tmp_path):
    path = tmp_path / "s.sock"
    _, wire, _ = start(f"--model_base_path={half}", f"--grpc_socket_path={path}")
    with Wire(f"unix:{path}") as local:
        assert local.outputs("default", ZERO) == wire.outputs("default", ZERO) == {"y": [2.0]}


def test_tensor_content_is_filled_where_asked_for(start, half):
    _, wire, _ = start(f"--model_base_path={half}", "--enable_serialization_as_tensor_content")
    tensor = wire.predict("default", ZERO).outputs["y"]
    assert np.frombuffer(tensor.tensor_content, np.float32).tolist() == [2.0]


def test_cors_headers_are_sent_where_asked_for(start, half):
    server, _, _ = start(f"--model_base_path={half}", "--rest_api_enable_cors_support")
    assert server.get("/v1/models/default").headers["access-control-allow-origin"] == "*"


def test_health_and_metrics_are_off_unless_asked_for(start, half, tmp_path):
    server, wire, _ = start(f"--model_base_path={half}")
    assert wire.raw("/grpc.health.v1.Health/Check", b"").code == "UNIMPLEMENTED"
    assert server.get("/monitoring/prometheus/metrics").status == 404
    (tmp_path / "monitoring.txt").write_text("prometheus_config { enable: true path: '/metrics' }")
    server, _, _ = start(f"--model_base_path={half}", f"--monitoring_config_file={tmp_path}/monitoring.txt")
    assert server.get("/metrics").status == 200
    assert server.get("/monitoring/prometheus/metrics").status == 404


BATCHING = "max_batch_size {{ value: {size} }} batch_timeout_micros {{ value: 20000 }} "
THREADS = "num_batch_threads { value: 1 }"


def test_requests_are_batched(start, tmp_path):
    models.slow(tmp_path / "slow", ms=60)
    (tmp_path / "batching.txt").write_text(BATCHING.format(size=16) + THREADS)
    (tmp_path / "monitoring.txt").write_text("prometheus_config { enable: true path: '/metrics' }")
    server, wire, _ = start(
        f"--model_base_path={tmp_path / 'slow'}", "--model_name=slow", "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching.txt",
        f"--monitoring_config_file={tmp_path}/monitoring.txt",
    )  # fmt: skip
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: wire.outputs("slow", {"x": [float(i)]})["y"][0], range(32)))
    assert answers == [i + 1.0 for i in range(32)]
    assert wire.predict("slow", {"x": [0.0] * 17}) == Refusal(
        "INVALID_ARGUMENT", "Task size 17 is larger than maximum input batch size 16"
    )
    page = server.get("/metrics").body.decode()
    line = next(x for x in page.splitlines() if x.startswith(":tensorflow:serving:batching_session:wrapped"))
    assert float(line.split()[-1]) < 16


@pytest.mark.parametrize("pad", [False, True])
def test_texts_of_different_lengths_share_a_batch_only_padded(start, tmp_path, pad):
    models.echo(tmp_path / "echo")
    (tmp_path / "batching.txt").write_text(
        "max_batch_size { value: 2 } batch_timeout_micros { value: 5000000 } num_batch_threads { value: 1 } "
        f"pad_variable_length_inputs: {str(pad).lower()}"
    )
    _, wire, _ = start(
        f"--model_base_path={tmp_path / 'echo'}", "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching.txt",
    )  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(
                wire.predict, "default", {"x": np.ones((1, width), np.float32)}, signature_name="float32"
            )
            for width in (2, 3)
        ]
        answers = [task.result() for task in asked]
    if pad:
        found = [list(a.outputs["x_out"].float_val) for a in answers]
        assert found == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    else:
        assert {a.code for a in answers} == {"FAILED_PRECONDITION"}
        assert answers[0].text.startswith(
            "Tensors with name 'float32_x:0' from different tasks have different shapes and padding is "
            "turned off."
        )


def test_a_version_may_bring_its_own_batching_parameters(start, half, tmp_path):
    own = models.half_plus_two(tmp_path / "own")
    (own / "batching_params.pbtxt").write_text(BATCHING.format(size=3))
    (tmp_path / "batching.txt").write_text(BATCHING.format(size=2) + THREADS)
    (tmp_path / "models.config").write_text(models_config(("own", own.parent), ("none", half)))
    _, wire, _ = start(
        f"--model_config_file={tmp_path}/models.config", "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching.txt", "--enable_per_model_batching_parameters",
    )  # fmt: skip
    assert wire.outputs("own", {"x": [0.0] * 3})["y"].tolist() == [2.0] * 3
    assert wire.predict("own", {"x": [0.0] * 4}).text == (
        "Task size 4 is larger than maximum input batch size 3"
    )
    assert len(wire.outputs("none", {"x": [0.0] * 9})["y"]) == 9  # without a file it is not batched


def ssl_file(folder, authority, verify):
    certificate, key = authority.issue("server")
    parts = {"server_key": key, "server_cert": certificate, "custom_ca": authority.ca}
    lines = [f"{name}: {path.read_text()!r}" for name, path in parts.items()]
    path = folder / "ssl.txt"
    path.write_text("\n".join([*lines, f"client_verify: {str(verify).lower()}"]))
    return path


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # preface, empty settings


def test_channel_arguments_reach_grpc(start, half):
    argument = "--grpc_channel_arguments=grpc.max_connection_age_ms=200,grpc.max_connection_age_grace_ms=100"
    server, wire, _ = start(f"--model_base_path={half}", argument)
    assert not isinstance(wire.predict("default", ZERO), Refusal)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(HELLO)
        while connection.recv(4096):  # ends when the server hangs up; times out if it never does
            pass
    assert not isinstance(wire.predict("default", ZERO), Refusal)  # a client does not notice


def test_a_certificate_that_cannot_be_used_ends_the_start(start, binary, half, tmp_path):
    if binary:
        pytest.skip("the stock server aborts")
    (tmp_path / "ssl.txt").write_text('server_key: "-----BEGIN x" server_cert: "-----BEGIN y"')
    with pytest.raises(DidNotStart, match="its certificate and key cannot be used"):
        start(f"--model_base_path={half}", f"--ssl_config_file={tmp_path}/ssl.txt")


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_serves_whom_it_should_and_no_one_else(start, half, tmp_path, mutual):
    authority, path = Authority(tmp_path / "ca"), tmp_path / "s.sock"
    certificate, key = (file.read_bytes() for file in authority.issue("client"))
    ca = authority.ca.read_bytes()
    known = grpc.ssl_channel_credentials(ca, key, certificate)
    anonymous = grpc.ssl_channel_credentials(ca)
    server, _, _ = start(
        f"--model_base_path={half}", f"--grpc_socket_path={path}",
        f"--ssl_config_file={ssl_file(tmp_path, authority, mutual)}",
    )  # fmt: skip
    for address in (server.address, f"unix:{path}"):
        for credentials, served in ((known, True), (anonymous, not mutual), (None, False)):
            with Wire(address, credentials, [("grpc.ssl_target_name_override", "localhost")]) as wire:
                answer = wire.predict("default", ZERO, timeout_s=5)
                assert (not isinstance(answer, Refusal)) == served, (address, answer)
    assert server.get("/v1/models/default").status == 200  # REST is as it was


def test_the_profiler_writes_a_trace_on_the_grpc_port(start, half, tmp_path):
    from pergola.serving.server.config.text_protos import message_class

    _, wire, _ = start(f"--model_base_path={half}")
    request = message_class("ProfileRequest")(
        duration_ms=50, repository_root=str(tmp_path / "p"), session_id="s", host_name="h:1"
    )
    body = wire.raw("/tensorflow.ProfilerService/Profile", request.SerializeToString())
    assert not message_class("ProfileResponse").FromString(body).empty_trace
    assert (tmp_path / "p" / "s" / "h_1.xplane.pb").stat().st_size > 0
    assert wire.raw("/tensorflow.ProfilerService/Monitor", b"").code == "UNIMPLEMENTED"


def test_a_caller_of_the_profiler_cannot_leave_its_folder(start, binary, half, tmp_path):
    from pergola.serving.server.config.text_protos import message_class

    if binary:
        pytest.skip("the stock server writes wherever it is told to")
    _, wire, _ = start(f"--model_base_path={half}")
    request = message_class("ProfileRequest")(
        duration_ms=50, repository_root=str(tmp_path / "p"), session_id="../../etc", host_name="h:1"
    )
    refused = wire.raw("/tensorflow.ProfilerService/Profile", request.SerializeToString())
    assert refused.code == "INVALID_ARGUMENT" and "plain names" in refused.text
    _, wire, _ = start(f"--model_base_path={half}", "--noenable_profiler")
    answer = wire.raw("/tensorflow.ProfilerService/Profile", request.SerializeToString())
    assert answer.code == "UNIMPLEMENTED"


def test_signature_method_names_are_checked_where_asked_for(start, tmp_path):
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
    for flags, code in ((("--enable_signature_method_name_check",), "INTERNAL"), ((), None)):
        answer = start(base, *flags).wire.predict("default", ZERO)
        assert (answer.code if isinstance(answer, Refusal) else None) == code
