"""The REST API: forms, bodies to the byte, errors and status codes."""

import base64
import gzip
import json

import numpy as np
import pytest

from tests.support import models

HALF = "/v1/models/half/versions/1:predict"


def error(reply) -> str:
    assert list(reply.json()) == ["error"]
    return reply.json()["error"]


def test_row_form_is_laid_out_as_the_stock_server_does(target):
    reply = target.post(HALF, {"instances": [1.0, 2.0, 5.0]})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


def test_column_form_is_laid_out_as_the_stock_server_does(target):
    reply = target.post(HALF, {"inputs": [1.0, 2.0]})
    assert reply.body == b'{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'


def test_rows_of_several_inputs_and_outputs_are_objects(target):
    reply = target.post("/v1/models/two:predict", {"instances": [{"a": 3.0, "b": 1.0}, {"a": 0, "b": 0}]})
    first = reply.json()["predictions"][0]
    assert first == {"sum": 4.0, "difference": 2.0, "name_bytes": {"b64": "My4wMDAwMDA="}}
    assert reply.body.startswith(b'{\n    "predictions": [\n        {\n            "')


def test_columns_of_several_inputs_ignore_surplus_keys(target):
    reply = target.post("/v1/models/two:predict", {"inputs": {"a": [3.0], "b": [1.0], "c": [9.0]}})
    assert reply.json()["outputs"]["sum"] == [4.0]


def test_bytes_travel_as_base64(target):
    image = base64.b64encode(models.image_bytes(240)).decode()
    for body in ({"instances": [{"b64": image}]}, {"instances": [{"image": {"b64": image}}]}):
        reply = target.post("/v1/models/leaves:predict", body)
        assert reply.json()["predictions"][0]["label"] == "bright"


def test_signature_name_chooses(target):
    reply = target.post("/v1/models/leaves:predict", {"signature_name": "labels", "instances": [1, 0]})
    assert reply.json() == {"predictions": ["bright", "dark"]}


def test_floats_have_a_point_and_as_few_digits_as_a_float32_needs(target):
    values = [0, 1.0, 0.1, 1e-5, 16777216.0, 0.333333343, 1e30]
    body = {"signature_name": "float32", "inputs": values}
    reply = target.post("/v1/models/echo:predict", body)
    texts = [line.strip(" ,") for line in reply.body.decode().splitlines()[2:-2]]
    assert texts == ["0.0", "1.0", "0.1", "1e-05", "16777216.0", "0.333333343", "1e+30"]


@pytest.mark.parametrize("text", ["1e400", "-1E+309", "1" * 310 + ".0", "1" * 310, "1" * 5000])
def test_numbers_beyond_a_double_are_refused(target, text):
    for path, body in (
        (HALF, f'{{"instances": [{text}]}}'),
        (HALF, f'{{"inputs": {{"x": [0.5, {text}]}}}}'),
        ("/v1/models/tf1:regress", f'{{"signature_name": "regress_x_to_y", "examples": [{{"x": {text}}}]}}'),
    ):
        reply = target.post(path, body.encode())
        assert reply.status == 400
        assert "Number too big to be stored in double." in error(reply)
    assert target.post(HALF, b'{"instances": [1e-400, 1e+020]}').status == 200


def test_nan_and_infinity_are_bare_words(target):
    values = b"NaN, Infinity, -Infinity, -NaN, Inf, -Inf"
    body = b'{"signature_name": "float32", "instances": [%s]}' % values
    assert target.post("/v1/models/echo:predict", body).body == (
        b'{\n    "predictions": [NaN, Infinity, -Infinity, NaN, Infinity, -Infinity\n    ]\n}'
    )


def test_words_for_numbers_are_left_alone_in_strings(target):
    body = b'{"signature_name": "string", "instances": ["-Inf \\" NaN"], "x": Inf}'
    assert target.post("/v1/models/echo:predict", body).json() == {"predictions": ['-Inf " NaN']}


def test_numbers_become_floats_however_precise_they_are(target):
    body = {"signature_name": "float32", "instances": [1700000001, 16777217, 9007199254740993, 1e39]}
    expected = {"predictions": [1700000000.0, 16777216.0, 9007199250000000.0, float("inf")]}
    assert target.post("/v1/models/echo:predict", body).json() == expected
    body = {"signature_name": "float64", "inputs": [9007199254740993]}
    assert target.post("/v1/models/echo:predict", body).json() == {"outputs": [9007199254740992.0]}
    rows = {"signature_name": "float32", "instances": [[1.5, 1e39], {"b64": ""}]}
    assert (
        target.post("/v1/models/echo:predict", rows).status == 400
    )  # through the path that checks each value


@pytest.mark.parametrize("more", [b" trailing", b"{}", b"\0", b"]"])
def test_what_follows_the_document_is_ignored(target, more):
    assert target.post(HALF, b'\n {"instances": [1.0]}' + more).json() == {"predictions": [2.5]}


def test_the_first_of_doubled_keys_counts(target):
    body = b'{"instances": [1.0], "instances": [3.0]}'
    assert target.post(HALF, body).json() == {"predictions": [2.5]}


@pytest.mark.parametrize("text", ["aGVs\nbG8=\n", "aGVsbG8", "aGVsbG8.", " aGVs bG8= "])
def test_base64_may_have_white_space_and_other_padding(target, text):
    body = {"signature_name": "string", "instances": [{"b64": text}]}
    assert target.post("/v1/models/echo:predict", body).json() == {"predictions": ["hello"]}


@pytest.mark.parametrize("text", ["aGVsbG8==", "a", "aGVs=bG8=", "aGVsb*8="])
def test_other_base64_is_refused(target, text):
    body = {"signature_name": "string", "inputs": [{"b64": text}]}
    assert error(target.post("/v1/models/echo:predict", body)) == "Unable to base64 decode"


def test_strings_are_bytes_as_they_were_sent(target):
    body = b'{"signature_name": "string", "instances": ["\xff\xc3\xbc", "\\u00fc\\ud83d\\ude00"]}'
    reply = target.post("/v1/models/echo:predict", body)
    assert reply.body == b'{\n    "predictions": ["\xff\xc3\xbc", "\xc3\xbc\xf0\x9f\x98\x80"\n    ]\n}'


@pytest.mark.parametrize("text", [r"\ud800", r"\ud800x", r"\udc00", r"\ud800\ud800\udc00", r"\ud800\n\udc00"])
def test_half_of_a_surrogate_pair_is_refused(target, text):
    body = f'{{"signature_name": "string", "instances": ["{text}"]}}'.encode()
    assert "The surrogate pair in string is invalid." in error(target.post("/v1/models/echo:predict", body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (HALF, {"instances": ["x" * 5000]}),
        (HALF, {"instances": [[["x"] * 5000]]}),
        (HALF, {"inputs": {"x": {"y" * 5000: 1}}}),
        (HALF, {"instances": [{"y" * 5000: 1}]}),
        (HALF, {"signature_name": "q" * 5000, "instances": [1.0]}),
        (HALF, ["x" * 5000]),
        ("/v1/models/tf1:regress", {"examples": [{"x" * 5000: None}]}),
        ("/v1/models/" + "m" * 5000 + ":predict", {"instances": [1.0]}),
        ("/v1/models/half/versions/" + "9" * 5000 + ":predict", {"instances": [1.0]}),
        ("/v1/" + "m" * 5000, {}),
    ],
)
def test_errors_quote_at_most_256_bytes(target, path, body):
    text = error(target.post(path, body))
    assert max(text.count(letter) for letter in "xymq9") <= 256 + 4 and len(text) < 256 + 200


def test_options_with_an_origin_are_answered(target):
    import urllib.request

    request = urllib.request.Request(
        target.server.rest + HALF, method="OPTIONS", headers={"Origin": "http://x"}
    )
    with urllib.request.urlopen(request) as reply:
        assert reply.status == 200


def test_gzip_bodies_end_at_100_mib(target):
    bomb = gzip.compress(b" " * (101 << 20), 1)
    reply = target.post(HALF, bomb, {"Content-Encoding": "gzip"})
    if target.is_ours:
        assert error(reply) == "The request body is larger than 104857600 bytes. Send it in parts."
    assert reply.status == 400


def test_a_client_that_offers_http_2_is_answered(target):
    """What Java's HTTP client sends by default; twice, for connections are kept."""
    import socket

    body = b'{"instances": [1.0]}'
    head = (
        b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB"
    )
    with socket.create_connection((target.server.host, target.server.rest_port), timeout=10) as connection:
        for _ in range(2):
            connection.sendall(
                b"POST %s HTTP/1.1\r\n%s\r\nContent-Length: %d\r\n\r\n%s"
                % (HALF.encode(), head, len(body), body)
            )
            assert b"2.5" in _until(connection, b"]\n}")
            connection.sendall(b"GET /v1/models/half HTTP/1.1\r\n%s\r\n\r\n" % head)
            assert b"AVAILABLE" in _until(connection, b"}\n")


def _until(connection, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = connection.recv(65536)
        assert part, data
        data += part
    return data


VALUES = {
    "int32": -5,
    "uint8": 200,
    "int64": -(2**60),
    "bool": True,
    "uint32": 2**32 - 1,
    "string": "ü",
    "uint64": 2**64 - 1,
    "float64": 0.1,
    "int16": -300,
    "int8": -7,
}


@pytest.mark.parametrize(("dtype", "value"), VALUES.items())
def test_every_dtype_of_json_comes_back(target, dtype, value):
    body = {"signature_name": dtype, "instances": [[value, value]]}
    assert target.post("/v1/models/echo:predict", body).json() == {"predictions": [[value, value]]}


def test_paths_ignore_case_and_know_versions_and_labels(target):
    body = {"instances": [1.0]}
    for path, value in {
        "/V1/Models/half/Versions/1:Predict": 2.5,
        "/v1/models/half/labels/canary:predict": 3.5,
        "/v1/models/half:predict": 3.5,
    }.items():
        assert target.post(path, body).json() == {"predictions": [value]}


def test_gzip_bodies_are_read(target):
    body = gzip.compress(json.dumps({"instances": [1.0]}).encode())
    reply = target.post(HALF, body, {"Content-Encoding": "gzip"})
    assert reply.json() == {"predictions": [2.5]}


def test_classify_and_regress(target):
    examples = [{"x": 2.0}, {"x": [3.0]}]
    reply = target.post(
        "/v1/models/tf1:classify", {"signature_name": "classify_scores", "examples": examples}
    )
    assert reply.body == b'{\n    "results": [[["", 3.0]], [["", 3.5]]\n    ]\n}'
    reply = target.post("/v1/models/tf1:regress", {"signature_name": "regress_x_to_y", "examples": examples})
    assert reply.body == b'{\n    "results": [3.0, 3.5]\n}'
    body = {"signature_name": "regress_x_to_y", "context": {"x": 10.0}, "examples": [{}]}
    assert target.post("/v1/models/tf1:regress", body).json() == {"results": [7.0]}


def test_status_prints_defaults(target):
    assert target.get("/v1/models/half/versions/1").body == (
        b'{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        b'    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    versions = target.get("/v1/models/half").json()["model_version_status"]
    assert [v["version"] for v in versions] == ["2", "1"]


def test_metadata_prints_signatures(target):
    reply = target.get("/v1/models/half/versions/1/metadata")
    assert reply.json()["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signature = reply.json()["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "name": "serving_default_x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
    }
    assert signature["method_name"] == "tensorflow/serving/predict"


REFUSALS = {
    "unknown model": ("/v1/models/nope:predict", {"instances": [1.0]}, 404,
                      "Servable not found for request: Latest(nope)"),
    "unknown version": ("/v1/models/half/versions/7:predict", {"instances": [1.0]}, 404,
                        "Servable not found for request: Specific(half, 7)"),
    "unknown label": ("/v1/models/half/labels/old:predict", {"instances": [1.0]}, 400,
                      "Unrecognized servable version label: old"),
    "unknown signature": (HALF, {"signature_name": "q", "instances": [1.0]}, 400,
                          'Serving signature name: "q" not found in signature def'),
    "no tensors": (HALF, {}, 400, "Missing 'inputs' or 'instances' key"),
    "wrong type": (HALF, {"inputs": ["a"]}, 400,
                   'JSON Value: "a" Type: String is not of expected type: float'),
    "wrong type in a row": (HALF, {"instances": ["a"]}, 400,
                            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
                            'JSON Value: "a" Type: String is not of expected type: float'),
    "true is no number": (HALF, {"inputs": [True]}, 400,
                          "JSON Value: true Type: True is not of expected type: float"),
    "ragged": (HALF, {"inputs": [[1.0], [1.0, 2.0]]}, 400,
               "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    "rows of different shapes": (HALF, {"instances": [[1.0], [1.0, 2.0]]}, 400,
                                 "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
                                 "Expecting tensor size: 1 but got: 2"),
    "keys of a row": ("/v1/models/two:predict", {"instances": [{"a": [1.0, 2.0]}]}, 400,
                      "Failed to process element: 0 of 'instances' list. JSON object: {\n    "
                      "\"a\": [1.0, 2.0]\n} keys must be equal to: a,b"),
    "no list of rows": (HALF, {"instances": 1}, 400, "JSON Value: {\n    \"instances\": 1\n} "
                        "Expecting 'instances' to be an list/array"),
    "unsigned": ("/v1/models/tf1:regress", {"examples": [{"x": 2**63}]}, 400,
                 "Feature: x has uint64_t element. Only int64 is supported."),
    "rows without objects": ("/v1/models/two:predict", {"instances": [1.0]}, 400,
                             "instances is a plain list, but expecting list of objects as multiple input "
                             "tensors required as per tensorinfo_map"),
    "columns without object": ("/v1/models/two:predict", {"inputs": [1.0]}, 400,
                               "inputs is a plain value/list, but expecting an object as multiple input "
                               "tensors required as per tensorinfo_map"),
    "column missing": ("/v1/models/two:predict", {"inputs": {"a": [1.0]}}, 400,
                       "Missing named input: b in 'inputs' object."),
    "bad base64": ("/v1/models/leaves:predict", {"inputs": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    "empty body": (HALF, b"", 400, "JSON Parse error: The document is empty"),
    "not json": (HALF, b"hello", 400, "JSON Parse error: Invalid value. at offset: 0"),
    "not an object": (HALF, b"[]", 400, "JSON Value: [] Is not object"),
    "classify without the tensors": ("/v1/models/tf1:classify", {"examples": [{"x": 1.0}]}, 400,
                                     "No classification inputs found in SignatureDef: serving_default"),
    "regress unknown signature": ("/v1/models/tf1:regress", {"signature_name": "q", "examples": [{"x": 1.0}]},
                                  400, "No signature was found with the name: q"),
    "mixed feature": ("/v1/models/tf1:regress", {"examples": [{"x": [1.0, "a"]}]}, 400,
                      "Unexpected element type in feature: x expecting type: float"),
    "malformed path": ("/v1/models/half:explain", {}, 400, "Malformed request: POST /v1/models/half:explain"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_post_refuses(target, case):
    path, body, status, text = REFUSALS[case]
    reply = target.post(path, body)
    assert (reply.status, error(reply)) == (status, text)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/x", 400, "Malformed request: GET /v1/x"),
        ("/v1/models/half?x=1", 400, "Malformed request: GET /v1/models/half?x=1"),
        ("/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/half/versions/7", 404, "Could not find version 7 of model half"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/half/versions/99999999999999999999", 400,
         "Failed to convert version: 99999999999999999999 to numeric."),
    ],
)  # fmt: skip
def test_get_refuses(target, path, status, text):
    reply = target.get(path)
    if "numeric" in text and not target.is_ours:
        pytest.skip("the stock server answers this one without a body")
    assert (reply.status, error(reply)) == (status, text)


def test_paths_outside_v1_are_not_found(target):
    assert target.get("/").status == 404 and target.get("/v2/models").status == 404


def test_error_bodies_are_laid_out_as_the_stock_server_does(target):
    reply = target.post(HALF, b"")
    assert reply.body == b'{\n    "error": "JSON Parse error: The document is empty"\n}'


def test_deep_json_is_refused_and_not_a_crash(target):
    if not target.is_ours:
        pytest.skip("the stock server overflows its stack")
    for body in (b"[" * 200_000, b'{"instances":' + b"[" * 200_000 + b"]" * 200_000 + b"}"):
        assert target.post(HALF, body).status == 400
    assert target.post(HALF, {"instances": [1.0]}).status == 200


def test_large_arrays_come_back_whole(target):
    values = np.random.default_rng(0).random((2, 50, 50)).astype(np.float32)
    body = {"signature_name": "float32", "instances": values.tolist()}
    got = np.array(target.post("/v1/models/echo:predict", body).json()["predictions"], np.float32)
    np.testing.assert_array_equal(got, values)
