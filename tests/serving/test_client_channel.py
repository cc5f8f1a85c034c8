"""How the client reaches a server: addresses, TLS, tokens, keep-alive."""

import socket

import grpc
import pytest

from pergola.serving.client import Client, InvalidInput, NotAllowed, Unavailable
from pergola.serving.client.channel import Connection, Tls, target_of
from pergola.serving.client.errors import CallInfo, from_status
from pergola.serving.client.retry import Retry, may_retry
from tests.support.certificates import Authority
from tests.support.scripted_server import ScriptedServer


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def credentials(authority: Authority, *, mutual: bool = False) -> grpc.ServerCredentials:
    certificate, key = authority.issue("server.test")
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=authority.ca.read_bytes() if mutual else None,
        require_client_auth=mutual,
    )


def ask(server: ScriptedServer, connection: Connection, timeout_s: float = 5.0) -> int:
    with Client(server.address, model="leaves", timeout_s=timeout_s, connection=connection) as client:
        return client.predict({"image": [b"a"]}).version


def test_tls_trusts_the_given_authority_and_no_other(authority, tmp_path):
    with ScriptedServer(credentials=credentials(authority)) as server:
        assert ask(server, Connection(tls=Tls(ca=authority.ca))) == 1
        stranger = Authority(tmp_path)
        with pytest.raises(Unavailable, match=r"CERTIFICATE_VERIFY_FAILED|certificate|handshake"):
            ask(server, Connection(tls=Tls(ca=stranger.ca)), timeout_s=1.5)


def test_tls_checks_the_name_that_the_certificate_must_carry(authority):
    with ScriptedServer(credentials=credentials(authority)) as server:
        assert ask(server, Connection(tls=Tls(ca=authority.ca, server_name="server.test"))) == 1
        with pytest.raises(Unavailable):
            ask(server, Connection(tls=Tls(ca=authority.ca, server_name="other.test")), timeout_s=1.5)


def test_mutual_tls_shows_who_is_asking(authority):
    certificate, key = authority.issue("caller")
    with ScriptedServer(credentials=credentials(authority, mutual=True)) as server:
        assert ask(server, Connection(tls=Tls(authority.ca, certificate, key))) == 1
        with pytest.raises(Unavailable):
            ask(server, Connection(tls=Tls(authority.ca)), timeout_s=1.5)


@pytest.mark.parametrize("problem", ["missing", "not a PEM", "half a pair"])
def test_tls_files_that_cannot_be_used_are_named(authority, tmp_path, problem, connect):
    certificate, _ = authority.issue("caller")
    (tmp_path / "ca.txt").write_text("not a certificate")
    tls, words = {
        "missing": (Tls(tmp_path / "no.pem"), "cannot read .*no.pem: No such file"),
        "not a PEM": (Tls(tmp_path / "ca.txt"), "ca.txt is not a PEM file"),
        "half a pair": (Tls(authority.ca, certificate), "certificate and key come together"),
    }[problem]
    with pytest.raises(InvalidInput, match=words):
        connect("localhost:8500", model="leaves", connection=Connection(tls=tls))


def test_token_goes_with_every_call_and_may_change(authority, connect):
    tokens = iter(["first", "second"])
    connection = Connection(
        tls=Tls(ca=authority.ca), token=lambda: next(tokens), metadata=(("x-team", "botany"),)
    )
    with ScriptedServer(credentials=credentials(authority)) as server:
        with connect(server.address, model="leaves", connection=connection) as client:
            client.predict({"image": [b"a"]})
            client.status()
        sent = [(call["authorization"], call["x-team"]) for call in server.metadata]
    assert sent == [("Bearer first", "botany"), ("Bearer second", "botany")]


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("models.example:8500", False),
        ("dns:///models.example:8500", False),
        (["10.0.0.1:8500", "127.0.0.1:8500"], False),
        ("localhost:8500", True),
        ("dns:///localhost:8500", True),
        ("127.0.0.1:8500", True),
        ("unix:/run/models.sock", True),
    ],
)
def test_token_never_travels_in_the_open(address, allowed, connect):
    if allowed:
        connect(address, model="leaves", connection=Connection(token="secret")).close()
        return
    with pytest.raises(InvalidInput, match=r"would travel to .* unencrypted"):
        connect(address, model="leaves", connection=Connection(token="secret"))
    connect(address, model="leaves", connection=Connection(token="secret", plain_token=True)).close()


async def token_of_a_loop() -> str:
    return "secret"


@pytest.mark.parametrize("token", [token_of_a_loop, b"secret"])
def test_token_that_is_no_text_is_refused(token, connect):
    with pytest.raises(InvalidInput, match="expected text, or a function that returns it"):
        connect("localhost:8500", model="leaves", token=token)


def test_refused_token_says_so(authority):
    with ScriptedServer() as server:
        server.failures = [(grpc.StatusCode.UNAUTHENTICATED, "token expired")]
        with pytest.raises(NotAllowed, match=r"token expired\. Check the token"):
            ask(server, Connection())


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("localhost:8500", "localhost:8500"),
        ("dns:///leaves.models.svc:8500", "dns:///leaves.models.svc:8500"),
        ("unix:///run/models.sock", "unix:///run/models.sock"),
        ("[::1]:8500", "[::1]:8500"),
        (["localhost:8500"], "localhost:8500"),
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_target_of_addresses(address, target):
    assert target_of(address) == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://localhost:8501", "address of a REST server"),
        ("localhost", "is not an address. Expected host:port"),
        ("localhost:", "is not an address"),
        ("localhost:99999", "is not an address"),
        (":8500", "is not an address"),
        ("", "is not an address"),
        ([], "No address"),
        (["10.0.0.1:1", "[::1]:1"], "IP addresses of one family"),
        (["a.example:1", "b.example:1"], "one name that resolves to all servers"),
    ],
)
def test_target_refuses_what_is_no_address(address, words):
    with pytest.raises(InvalidInput, match=words):
        target_of(address)


def test_message_limit_is_one_that_protobuf_can_hold():
    with pytest.raises(InvalidInput, match="expected 1 to 2047"):
        Connection(max_message_mib=4096)


def test_keepalive_notices_a_server_that_went_silent(connect):
    """A server process that is stopped holds its connection open; the probe finds out."""
    import os
    import signal
    import subprocess
    import sys
    import time

    code = """
import time
from tests.support.scripted_server import ScriptedServer
server = ScriptedServer()
print(server.address, flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        address = child.stdout.readline().strip()
        connection = Connection(keepalive_s=1.0, keepalive_timeout_s=0.5)
        retry = Retry(max_attempts=1)
        with connect(address, model="leaves", timeout_s=30, retry=retry, connection=connection) as client:
            client.predict({"image": [b"a"]})
            os.kill(child.pid, signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(Unavailable, match="ping timeout"):
                client.predict({"image": [b"a"]})
            assert time.monotonic() - started < 10
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.kill()
        child.wait()
        child.stdout.close()


def test_pauses_grow_are_random_and_end():
    retry = Retry(max_attempts=5, first_pause_s=0.1, max_pause_s=1.0)
    longest = [retry.pause_s(n, remaining_s=100, draw=lambda: 1.0) for n in range(1, 6)]
    assert longest == [0.2, 0.4, 0.8, 1.0, None]
    assert retry.pause_s(1, remaining_s=100, draw=lambda: 0.0) == 0.0
    assert retry.pause_s(4, remaining_s=0.5, draw=lambda: 1.0) == 0.5
    assert retry.pause_s(1, remaining_s=0.001) is None


class Failed(grpc.RpcError, grpc.Call):
    """A failed call, as gRPC hands it out."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details

    def initial_metadata(self): ...
    def trailing_metadata(self): ...
    def is_active(self): ...
    def time_remaining(self): ...
    def cancel(self): ...
    def add_callback(self, callback): ...


@pytest.mark.parametrize(
    ("code", "details", "again", "reload_again"),
    [
        ("UNAVAILABLE", "Socket closed", True, False),
        ("UNAVAILABLE", "queue is full", True, False),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: …", True, True),
        ("UNAVAILABLE", "connections to all backends failing; last error: …", True, True),
        ("UNAVAILABLE", "DNS resolution failed for x", True, True),
        ("UNKNOWN", "Stream removed", True, False),
        ("INTERNAL", "Received RST_STREAM with error code 2", True, False),
        ("INTERNAL", "the model broke", False, False),
        ("CANCELLED", "CANCELLED", True, False),
        ("CANCELLED", "Locally cancelled by application!", False, False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False, False),
        ("NOT_FOUND", "Servable not found", False, False),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", False, False),
        ("RESOURCE_EXHAUSTED", "OOM when allocating tensor", False, False),
        ("RESOURCE_EXHAUSTED", "too many requests at once", True, False),
    ],
)
def test_only_what_may_help_and_cannot_harm_is_sent_again(code, details, again, reload_again):
    error = Failed(grpc.StatusCode[code], details)
    assert may_retry(error, idempotent=True) is again
    assert may_retry(error, idempotent=False) is reload_again
    assert not may_retry(grpc.RpcError(), idempotent=True)


@pytest.mark.parametrize("address", ["::1:8500", "fe80::1", "2001:db8::7:8500"])
def test_address_of_ipv6_without_brackets_is_refused(address, connect):
    with pytest.raises(InvalidInput, match=r"stands in brackets: \[::1\]:8500"):
        connect(address, model="leaves")
    assert target_of("[::1]:8500") == "[::1]:8500"


def test_name_that_nobody_knows_is_unavailable(connect):
    client = connect("no-such-host.invalid:8500", model="leaves", timeout_s=1.0)
    with client, pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        client.predict({"image": [b"a"]})


def test_name_service_that_does_not_answer_is_unavailable(connect):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"dns://127.0.0.1:{silent.getsockname()[1]}/leaves.example:8500"
        with connect(address, model="leaves", timeout_s=0.5) as client:
            with pytest.raises(Unavailable, match=r"No connection to .*its name was not resolved") as caught:
                client.predict({"image": [b"a", b"b"]})
            with pytest.raises(Unavailable, match="No connection to"):
                client.predict_async({"image": [b"a"]}).result()
    assert "fewer" not in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "advice"),
    [
        ("image: string (32,)", "Raise timeout_s, or send fewer images at a time."),
        ("image: string (1,)", "Raise timeout_s."),
        ("x: float32 (9, 2)", "Raise timeout_s, or send fewer rows at a time."),
        ("", "Raise timeout_s."),
    ],
)
def test_advice_to_send_fewer_is_given_where_there_are_several(sent, advice):
    call_info = CallInfo("Predict", "localhost:8500", "leaves", lambda: sent, 3.0)
    error = from_status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", call_info)
    assert str(error).endswith(advice)
