"""The file that turns on TLS in TensorFlow Serving."""

import stat

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from pergola.components.errors import InputError
from pergola.components.store.ssl_config import write_ssl_config

PEM = "-----BEGIN {0}-----\nMIIB+/=\n-----END {0}-----\n"


def ssl_config_message():
    """An empty tensorflow.serving.SSLConfig, whose module the API package does not carry."""
    file = descriptor_pb2.FileDescriptorProto(name="ssl_config.proto", package="test", syntax="proto3")
    message = file.message_type.add(name="SSLConfig")
    fields = (("server_key", 9), ("server_cert", 9), ("custom_ca", 9), ("client_verify", 8))
    for number, (name, kind) in enumerate(fields, start=1):
        message.field.add(name=name, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.SSLConfig"))()


@pytest.fixture
def certificates(tmp_path):
    folder = tmp_path / "certificates"
    folder.mkdir()
    for name, kind in (("tls.key", "PRIVATE KEY"), ("tls.crt", "CERTIFICATE"), ("ca.crt", "CERTIFICATE")):
        (folder / name).write_text(PEM.format(kind))
    return folder


def test_write_ssl_config_is_what_the_server_parses(certificates, tmp_path):
    path = tmp_path / "ssl.config"
    write_ssl_config(certificates, path)
    parsed = text_format.Parse(path.read_text(), ssl_config_message())
    assert parsed.server_key == PEM.format("PRIVATE KEY")
    assert parsed.server_cert == parsed.custom_ca == PEM.format("CERTIFICATE")
    assert parsed.client_verify
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_ssl_config_again_takes_the_new_certificate(certificates, tmp_path):
    write_ssl_config(certificates, tmp_path / "ssl.config")
    (certificates / "tls.crt").write_text(PEM.format("CERTIFICATE") * 2)
    write_ssl_config(certificates, tmp_path / "ssl.config")
    assert (tmp_path / "ssl.config").read_text().count("BEGIN CERTIFICATE") == 3


def test_write_ssl_config_says_what_is_missing(certificates, tmp_path):
    (certificates / "ca.crt").write_text("hello")
    with pytest.raises(InputError, match=r"ca\.crt holds no PEM"):
        write_ssl_config(certificates, tmp_path / "ssl.config")
    (certificates / "tls.key").unlink()
    with pytest.raises(InputError, match=r"tls\.key is missing"):
        write_ssl_config(certificates, tmp_path / "ssl.config")
    assert not (tmp_path / "ssl.config").exists()
