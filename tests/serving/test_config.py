"""The model config file, and the other text protos."""

from pathlib import Path

import pytest

from pergola.serving.server import tls
from pergola.serving.server.config import text_protos
from pergola.serving.server.config.errors import BadConfig
from pergola.serving.server.config.model_config import (
    ModelConfig,
    RequestLogConfig,
    read_models,
    write_models,
)
from pergola.serving.server.config.versions import All, Latest, Specific
from pergola.serving.server.telemetry.metrics import MonitoringSettings, read_settings
from tests.support.certificates import Authority

MODELS = [
    ModelConfig("a", Path("/m/a")),
    ModelConfig("b", Path("/m/b"), Latest(3), {"stable": 1, "canary": 2}),
    ModelConfig("c", Path("/m/c"), All(), {}, RequestLogConfig("/log/c", 0.5)),
    ModelConfig("d", Path("/m/d"), Specific(frozenset({4, 5}))),
]


def config(tmp_path, text: str) -> Path:
    path = tmp_path / "models.config"
    path.write_text(text)
    return path


def test_models_survive_a_file(tmp_path):
    path = tmp_path / "models.config"
    write_models(MODELS, path)
    assert read_models(path) == MODELS
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_config_list { config {", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("model_config_lst { }", "no field named"),
        ('model_config_list { config { base_path: "/m" model_platform: "tensorflow" } }', "without a name"),
        ('model_config_list { config { name: "m" model_platform: "tensorflow" } }', "base path"),
        (
            'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }',
            "absolute",
        ),
        (
            'model_config_list { config { name: "m" base_path: "s3://b/m" model_platform: "tensorflow" } }',
            "s3://",
        ),
        ('model_config_list { config { name: "m" base_path: "/m" } }', "Illegal setting neither"),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW '
            'model_platform: "tensorflow" } }',
            "Illegal setting both",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_type: OTHER } }',
            "model_type choice 2 not supported",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "caffe" } }',
            "Model m requests unsupported platform caffe",
        ),
        ("", "lists no models"),
        ('custom_model_config { type_url: "x/y" }', "lists no models"),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } '
            'config { name: "m" base_path: "/n" model_platform: "tensorflow" } }',
            "m multiple times",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" '
            "model_version_policy { specific { } } } }",
            "names no version",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" '
            'logging_config { log_collector_config { filename_prefix: "/x" } '
            "sampling_config { sampling_rate: 2 } } } }",
            "sampling_rate is 2",
        ),
    ],
)
def test_models_refuse_with_a_reason(tmp_path, text, reason):
    with pytest.raises(BadConfig, match=reason):
        read_models(config(tmp_path, text))


def test_models_refuse_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadConfig, match="Cannot read the model config file"):
        read_models(tmp_path / "none")


def test_monitoring_file_says_where_the_page_is(tmp_path):
    for text, path in {
        "prometheus_config { enable: true }": "/monitoring/prometheus/metrics",
        'prometheus_config { enable: true path: "/m" }': "/m",
        "prometheus_config { enable: false }": None,
        "": None,
    }.items():
        assert read_settings(config(tmp_path, text)) == MonitoringSettings(path)
    with pytest.raises(BadConfig, match="no MonitoringConfig"):
        read_settings(config(tmp_path, "prometheus { }"))


def test_messages_have_the_stock_servers_field_numbers():
    message = text_protos.parse("server_key: 'k' client_verify: true", "SSLConfig")
    assert message.SerializeToString() == b"\x0a\x01k\x20\x01"
    batching = text_protos.parse(
        "max_batch_size { value: 3 } allowed_batch_sizes: [1, 3]", "BatchingParameters"
    )
    assert batching.SerializeToString() == b"\x0a\x02\x08\x03\x32\x02\x01\x03"


def ssl_text(authority: Authority, verify: bool = False) -> str:
    certificate, key = authority.issue("server")
    parts = {"server_key": key, "server_cert": certificate, "custom_ca": authority.ca}
    lines = [f"{name}: {path.read_text()!r}" for name, path in parts.items()]
    return "\n".join([*lines, f"client_verify: {str(verify).lower()}"])


def test_tls_reads_pem_texts_and_refuses_anything_else(tmp_path):
    text = ssl_text(Authority(tmp_path / "ca"))
    assert tls.credentials(config(tmp_path, text)) is not None
    for damaged, reason in {
        "server_key: 'key.pem' server_cert: 'c.pem'": "PEM",
        text.replace("custom_ca", "#").replace("client_verify: false", "client_verify: true"): "custom_ca",
    }.items():
        with pytest.raises(BadConfig, match=reason):
            tls.credentials(config(tmp_path, damaged))
