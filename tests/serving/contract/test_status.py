"""GetModelStatus, GetModelMetadata, HandleReloadConfigRequest, health."""

import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from tests.support.wire import Refusal


def test_status_lists_versions_newest_first(target):
    answer = target.wire.status("half")
    assert [(s.version, s.state, s.status.error_code) for s in answer.model_version_status] == [
        (2, 30, 0),
        (1, 30, 0),
    ]
    assert [s.version for s in target.wire.status("half", version=1).model_version_status] == [1]


def test_status_ignores_labels(target):
    answer = target.wire.status("half", version_label="nonsense")
    assert [s.version for s in answer.model_version_status] == [2, 1]


def test_status_refuses_what_it_does_not_know(target):
    wire = target.wire
    assert wire.status("nope") == Refusal("NOT_FOUND", "Could not find any versions of model nope")
    assert wire.status("half", version=7) == Refusal("NOT_FOUND", "Could not find version 7 of model half")
    assert wire.status(None) == Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
    assert wire.status("") == Refusal("NOT_FOUND", "Could not find any versions of model ")


def test_metadata_gives_the_signatures(target):
    answer = target.wire.metadata("leaves")
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("leaves", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "tensor", "embedding", "labels"} <= set(signatures.signature_def)
    tensor = signatures.signature_def["tensor"].inputs["image"]
    assert [dim.size for dim in tensor.tensor_shape.dim] == [-1, -1, -1, 3]


def test_metadata_refuses_what_it_does_not_know(target):
    wire = target.wire
    assert wire.metadata(None) == Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
    assert wire.metadata("leaves", fields=()) == Refusal(
        "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"
    )
    assert wire.metadata("leaves", fields=("size",)).code == "INVALID_ARGUMENT"
    assert wire.metadata("nope") == Refusal("NOT_FOUND", "Servable not found for request: Latest(nope)")


def test_reload_refuses_anything_but_a_list(target):
    for config in ('custom_model_config { type_url: "x/y" }', ""):
        assert target.wire.reload(config) == Refusal(
            "INVALID_ARGUMENT",
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported",
        )


ENTRY = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (ENTRY + ENTRY, "Illegal to list model m multiple times in config list"),
        (
            'config { name: "m" base_path: "m" model_platform: "tensorflow" }',
            "Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            'config { name: "m" base_path: "/m" }',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform.",
        ),
        (
            'config { name: "m" base_path: "/m" model_platform: "caffe" }',
            "Model m requests unsupported platform caffe",
        ),
    ],
)
def test_reload_refuses_lists_that_cannot_be_served(target, config, text):
    assert target.wire.reload(f"model_config_list {{ {config} }}") == Refusal("INVALID_ARGUMENT", text)
    assert target.wire.outputs("half", {"x": [1.0]}, version=1)["y"].tolist() == [2.5]


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health_says_serving(target, service):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(target.wire.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
