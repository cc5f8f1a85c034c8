"""Status and metadata of a model in the JSON of the REST API (http_rest_api_util.cc).

Every field is printed, also where it has its default, with an indentation of one space.
"""

from __future__ import annotations

import json
from typing import Any

from pergola.serving.server.core.predictor import ModelMetadata
from pergola.serving.server.core.servable import ServableStatus


def statuses(found: list[ServableStatus]) -> bytes:
    """The body of GET /v1/models/M."""
    entries = [
        {
            "version": str(status.version),
            "state": status.state.name,
            "status": {"error_code": status.code.name, "error_message": status.message},
        }
        for status in found
    ]
    return (json.dumps({"model_version_status": entries}, indent=1, ensure_ascii=False) + "\n").encode()


def metadata(model: str, found: ModelMetadata) -> bytes:
    """The body of GET /v1/models/M/metadata."""
    spec = {"name": model, "signature_name": "", "version": str(found.version)}
    signatures = {"signature_def": {name: _plain(proto) for name, proto in found.signature_defs.items()}}
    return (
        '{\n"model_spec":'
        + json.dumps(spec, indent=1, ensure_ascii=False)
        + '\n,\n"metadata": {"signature_def": '
        + json.dumps(signatures, indent=1, ensure_ascii=False)
        + "\n}\n}\n"
    ).encode()


def _plain(proto: Any) -> Any:
    from google.protobuf import json_format

    return json_format.MessageToDict(
        proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
