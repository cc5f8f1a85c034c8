"""The command line, without TensorFlow."""

import subprocess
import sys

import pytest

from pergola.serving.server import flags, options
from pergola.serving.server.flags import FlagError
from pergola.serving.server.options import ServerOptions
from tests.support.servers import ROOT

BASE = "--model_base_path=/models/m"


def options_of(*words: str) -> ServerOptions:
    return options.from_flags(flags.parse([BASE, *words]))


def test_flags_take_gflags_forms():
    words = ["--port=1", "--rest_api_port", "2", "-model_name=m", "--enable_batching", "--noenable_profiler"]
    values = flags.parse([*words, "--enable_model_warmup=false"]).values
    assert (values["port"], values["rest_api_port"], values["model_name"]) == (1, 2, "m")
    assert (values["enable_batching"], values["enable_profiler"], values["enable_model_warmup"]) == (
        True, False, False,
    )  # fmt: skip


def test_defaults_are_the_stock_servers():
    values = flags.parse([]).values
    expected = {
        "port": 8500, "grpc_socket_path": "", "rest_api_port": 0, "rest_api_timeout_in_ms": 30000,
        "model_name": "default", "model_config_file_poll_wait_seconds": 0, "file_system_poll_wait_seconds": 1,
        "saved_model_tags": "serve", "num_load_threads": 0, "max_num_load_retries": 5,
        "load_retry_interval_micros": 60_000_000, "enable_model_warmup": True, "enable_batching": False,
        "num_request_iterations_for_warmup": 0, "enable_profiler": True, "prefer_tflite_model": False,
        "enable_grpc_healthcheck_service": False, "enable_signature_method_name_check": False,
        "enable_serialization_as_tensor_content": False, "flush_filesystem_caches": True,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


def test_unknown_flags_are_collected_and_the_nearest_is_offered():
    parsed = flags.parse(["--model_nam=x", "stray"])
    assert parsed.unknown == ("--model_nam=x", "stray")
    assert flags.nearest("--model_nam=x") == "model_name" and flags.nearest("--zzz") == ""


@pytest.mark.parametrize(
    ("word", "text"),
    [("--port=x", "whole number"), ("--enable_batching=maybe", "true or false"), ("--model_name", "a value")],
)
def test_values_of_the_wrong_type_are_refused(word, text):
    with pytest.raises(FlagError, match=text):
        flags.parse([word])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--port=70000",), "0 to 65535"),
        (("--port=9000", "--rest_api_port=9000"), "same port"),
        (("--port=0",), "port is not set"),
        (("--batching_parameters_file=x",), "without setting enable_batching"),
        (("--enable_per_model_batching_parameters",), "without setting enable_batching"),
        (("--grpc_channel_arguments=a",), "key=value"),
        (("--mixed_precision=fp8",), "bfloat16"),
        (("--use_alts_credentials",), "use --ssl_config_file"),
        (
            tuple(f"--tensorflow_{k}_parallelism=1" for k in ("session", "intra_op", "inter_op")),
            "configure all",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, text):
    with pytest.raises(FlagError, match=text):
        options_of(*words)


@pytest.mark.parametrize(
    ("words", "intra", "inter"),
    [
        ((), 0, 0),
        (("--tensorflow_session_parallelism=3",), 3, 3),
        (("--tensorflow_session_parallelism=3", "--tensorflow_intra_op_parallelism=2"), 2, 0),
        (("--tensorflow_inter_op_parallelism=4",), 0, 4),
    ],
)
def test_parallelism_of_the_session_gives_way_to_that_of_operations(words, intra, inter):
    runtime = options_of(*words).runtime
    assert (runtime.intra_op_parallelism, runtime.inter_op_parallelism) == (intra, inter)


def test_a_model_or_a_config_is_needed():
    with pytest.raises(FlagError, match="are empty"):
        options.from_flags(flags.parse([]))


def test_options_follow_the_flags():
    chosen = options_of(
        "--model_name=leaves", "--port=0", "--grpc_socket_path=/tmp/s", "--rest_api_port=-1",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=5000,grpc.name=x",
        "--saved_model_tags=serve,gpu",
        "--load_retry_interval_micros=1500000",
    )  # fmt: skip
    assert chosen.models[0].name == "leaves" and str(chosen.models[0].base_path) == "/models/m"
    assert (chosen.grpc_port, chosen.rest_port, str(chosen.grpc_socket)) == (None, 0, "/tmp/s")
    assert chosen.grpc_channel_arguments == (("grpc.max_connection_age_ms", 5000), ("grpc.name", "x"))
    assert chosen.runtime.tags == ("serve", "gpu") and chosen.manager.load_retry_interval_s == 1.5


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pergola.serving.server.app", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_and_flag_errors_need_no_tensorflow():
    code = (
        "import sys; from pergola.serving.server import app as server; "
        "server.main(['--help']); server.main(['--port=0']);"
        "server.main(['--model_config_file=/none', '--port=1']);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "--grpc_socket_path" in done.stdout
    assert "Cannot read the model config file /none" in done.stderr and "Traceback" not in done.stderr


def test_version_says_what_it_speaks():
    done = run("--version")
    assert done.returncode == 0 and "TensorFlow Serving 2.20" in done.stdout


def test_unknown_flags_print_usage_and_idle_flags_are_said_to_be_idle():
    done = run("--modle_name=x", "--use_tfrt", "--port=0")
    assert done.returncode == 255
    assert "unknown argument: --modle_name=x. Did you mean --model_name?" in done.stderr
    assert "--use_tfrt has no effect" in done.stderr and "usage:" in done.stderr


def test_table_has_every_flag():
    assert flags.table().count("\n") == len(flags.flags()) + 2


def test_the_reference_has_the_table_as_the_code_has_it():
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert flags.table() in text
