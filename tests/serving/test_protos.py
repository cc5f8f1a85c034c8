"""Our messages are TF-Serving's on the wire, and live beside them in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from pergola.serving.wire.protos import manage_pb2, predict_pb2, tensor_pb2

FILES = (tensor_pb2, predict_pb2, manage_pb2)


def _messages(descriptors) -> list[Descriptor]:
    found = []
    for message in descriptors:
        found += [message, *_messages(message.nested_types)]
    return found


OURS = {
    message.full_name.removeprefix("pergola.serving."): message
    for file in FILES
    for message in _messages(file.DESCRIPTOR.message_types_by_name.values())
}
ENUMS = {
    **{name: enum for file in FILES for name, enum in file.DESCRIPTOR.enum_types_by_name.items()},
    "ModelVersionStatus.State": manage_pb2.ModelVersionStatus.State.DESCRIPTOR,
}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Descriptor | EnumDescriptor]:
    """Every message and enum of TensorFlow and tensorflow-serving-api that ours could stand for."""
    from tensorflow.core.framework import tensor_pb2 as tf_tensor
    from tensorflow.core.framework import tensor_shape_pb2, types_pb2
    from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_pb2,
        status_pb2,
    )
    from tensorflow_serving.apis import predict_pb2 as tf_predict
    from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

    files = (
        tf_tensor,
        tensor_shape_pb2,
        types_pb2,
        meta_graph_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_pb2,
        status_pb2,
        tf_predict,
        file_system_storage_path_source_pb2,
        model_server_config_pb2,
    )
    known = {}
    for file in files:
        package = file.DESCRIPTOR.package + "."
        known.update(file.DESCRIPTOR.enum_types_by_name.items())
        for message in _messages(file.DESCRIPTOR.message_types_by_name.values()):
            known[message.full_name.removeprefix(package)] = message
    known["Code"] = error_codes_pb2.Code.DESCRIPTOR  # which that file only passes on
    known["ModelVersionStatus.State"] = get_model_status_pb2.ModelVersionStatus.State.DESCRIPTOR
    return known


def _wire(field: FieldDescriptor) -> tuple:
    """What decides how a field is written."""
    kind = field.message_type or field.enum_type
    where = field.containing_oneof.name if field.containing_oneof else None
    return (
        field.name,
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed if field.is_repeated else False,
        kind.full_name.rpartition(".")[2] if kind else None,
        where,
    )


@pytest.mark.parametrize("name", sorted(OURS))
def test_message_has_the_field_numbers_and_types_of_tf_serving(name, theirs):
    fields = {field.number: _wire(field) for field in theirs[name].fields}
    for field in OURS[name].fields:
        assert _wire(field) == fields.get(field.number)


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enum_has_the_numbers_of_tf_serving(name, theirs):
    numbers = {value.name: value.number for value in theirs[name].values}
    assert {value.name: numbers[value.name] for value in ENUMS[name].values} == {
        value.name: value.number for value in ENUMS[name].values
    }


def test_messages_cover_every_method_that_the_client_calls(theirs):
    for name in (
        "PredictRequest",
        "GetModelMetadataResponse",
        "GetModelStatusResponse",
        "ReloadConfigRequest",
    ):
        assert name in OURS
    left_out = {
        f"{name}.{field.name}"
        for name, message in OURS.items()
        for field in theirs[name].fields
        if field.number not in {ours.number for ours in message.fields}
    }
    assert left_out == {
        "FileSystemStoragePathSourceConfig.fail_if_zero_versions_at_startup",
        "FileSystemStoragePathSourceConfig.file_system_poll_wait_seconds",
        "FileSystemStoragePathSourceConfig.servable_versions_always_present",
        "FileSystemStoragePathSourceConfig.servables",
        "ModelConfig.logging_config",
        "ModelConfig.model_type",
        "ModelServerConfig.custom_model_config",
        "PredictRequest.client_id",
        "PredictRequest.predict_streamed_options",
        "PredictRequest.request_options",
        "ReloadConfigResponse.metric",
        "TensorInfo.composite_tensor",
        "TensorProto.resource_handle_val",
        "TensorProto.variant_val",
    }


def test_messages_have_names_of_their_own():
    for file in FILES:
        assert file.DESCRIPTOR.package == "pergola.serving"
        assert file.DESCRIPTOR.name.startswith("pergola/serving/wire/protos/")


def test_generated_files_are_those_of_the_proto_files(tmp_path):
    """After an edit of a .proto file: scripts/protos."""
    root = Path(__file__).parents[2]
    words = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "--proto_path=.",
        f"--descriptor_set_out={tmp_path}/all",
    ]
    names = [file.DESCRIPTOR.name for file in FILES]
    subprocess.run([*words, *names], cwd=root, check=True, timeout=60)
    compiled = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "all").read_bytes())
    for ours, file in zip(FILES, compiled.file, strict=True):
        made = descriptor_pb2.FileDescriptorProto()
        ours.DESCRIPTOR.CopyToProto(made)
        for message in _protos(file):
            for field in message.field:
                field.ClearField("json_name")
        assert made == file
    assert {path.name for path in (root / "serving/wire/protos").glob("*.proto")} == {
        name.rpartition("/")[2] for name in names
    }


def _protos(holder) -> list:
    nested = [*(holder.message_type if hasattr(holder, "message_type") else holder.nested_type)]
    return nested + [inner for message in nested for inner in _protos(message)]


def test_request_bytes_are_read_by_tf_serving_api(theirs):
    from tensorflow_serving.apis import predict_pb2 as tf_predict

    request = predict_pb2.PredictRequest(output_filter=["label"])
    request.model_spec.name, request.model_spec.version.value = "leaves", 7
    request.inputs["image"].dtype = tensor_pb2.DT_STRING
    request.inputs["image"].string_val.append(b"\xff\xd8")
    read = tf_predict.PredictRequest.FromString(request.SerializeToString())
    assert (read.model_spec.name, read.model_spec.version.value) == ("leaves", 7)
    assert (list(read.output_filter), read.inputs["image"].string_val[0]) == (["label"], b"\xff\xd8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        (
            "pergola.serving.client.client",
            "tensorflow",
            "tensorflow_serving.apis.prediction_service_pb2_grpc",
        ),
        (
            "tensorflow",
            "tensorflow_serving.apis.prediction_service_pb2_grpc",
            "pergola.serving.client.client",
        ),
    ],
    ids=["ours first", "theirs first"],
)
def test_messages_share_a_process_with_tensorflow(order):
    code = "\n".join(f"import {module}" for module in order)
    code += """
from pergola.serving.wire.protos import predict_pb2, manage_pb2
from tensorflow_serving.apis import predict_pb2 as theirs, model_service_pb2
assert predict_pb2.PredictRequest is not theirs.PredictRequest
assert theirs.PredictRequest.FromString(predict_pb2.PredictRequest(output_filter=['x']).SerializeToString())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
