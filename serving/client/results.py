"""The results of the client's calls. Frozen; each names the version that produced it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pergola.serving.client.errors import InvalidInput, NotFound
from pergola.serving.wire import contract
from pergola.serving.wire.datatypes import type_name
from pergola.serving.wire.protos import manage_pb2, predict_pb2
from pergola.serving.wire.tensors import TensorError, to_array

AVAILABLE = "AVAILABLE"


@dataclass(frozen=True)
class Prediction:
    """The outputs of one request. `prediction["probabilities"]` is one of them.

    outputs: name -> array; strings are object arrays of bytes.
    """

    outputs: Mapping[str, np.ndarray[Any, Any]]
    model: str
    version: int
    signature: str

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        try:
            return self.outputs[name]
        except KeyError:
            raise InvalidInput(
                f"{self.model} version {self.version} has no output '{name}'. "
                f"Its outputs: {', '.join(sorted(self.outputs))}."
            ) from None

    @classmethod
    def of(cls, reply: predict_pb2.PredictResponse) -> Prediction:
        """The prediction of a reply."""
        spec = reply.model_spec
        outputs = {name: _array(tensor) for name, tensor in sorted(reply.outputs.items())}
        return cls(outputs, spec.name, spec.version.value, spec.signature_name)


@dataclass(frozen=True)
class Classification:
    """The classes of N images, all predicted by one version of the model.

    labels: the likeliest class of each image.  probability: float32 (N,), of that class.
    probabilities: float32 (N, C), rows sum to 1.  classes: the C names, in the order of the columns;
    empty if the model has no "labels" signature.
    decisions: the answer of the lowest expected cost for each image, which may be "ask a person"; None from a
    model without costs.
    """

    labels: tuple[str, ...]
    probability: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any]
    classes: tuple[str, ...]
    model: str
    version: int
    decisions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def top(self, k: int = 3) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each image its k likeliest classes with their probabilities, likeliest first.

        Raises NotFound if the model does not provide the names of its classes.
        """
        if not self.classes:
            raise NotFound(
                f"{self.model} version {self.version} does not provide the names of its classes: it has no "
                f"signature '{contract.LABELS}'. Use probabilities, or export the model with pergola."
            )
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return tuple(
            tuple((self.classes[i], float(row[i])) for i in best)
            for row, best in zip(self.probabilities, order, strict=True)
        )


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error: str = ""  # why it failed; empty if it did not

    @property
    def available(self) -> bool:
        """Whether it serves requests."""
        return self.state == AVAILABLE

    @classmethod
    def of(cls, reply: manage_pb2.GetModelStatusResponse) -> tuple[VersionStatus, ...]:
        """The versions of a reply, newest first."""
        name = manage_pb2.ModelVersionStatus.State.Name
        states = manage_pb2.ModelVersionStatus.State.values()
        found = [
            cls(s.version, name(s.state) if s.state in states else str(s.state), s.status.error_message)
            for s in reply.model_version_status
        ]
        return tuple(sorted(found, key=lambda s: -s.version))


@dataclass(frozen=True)
class TensorSpec:
    """Data type and shape of an input or output."""

    dtype: str  # "float32", "string", …
    shape: tuple[int | None, ...] | None  # None: any rank; None in it: any size

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} (any shape)"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes}{',' if len(self.shape) == 1 else ''})"


@dataclass(frozen=True)
class SignatureSpec:
    """Inputs and outputs of one signature."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str  # "tensorflow/serving/predict", …


@dataclass(frozen=True)
class Metadata:
    """The signatures of a served version."""

    model: str
    version: int
    signatures: Mapping[str, SignatureSpec]

    @classmethod
    def of(cls, reply: predict_pb2.GetModelMetadataResponse) -> Metadata:
        """The metadata of a reply. It holds TensorFlow's message in an Any, which ours can parse."""
        packed = reply.metadata["signature_def"].value if "signature_def" in reply.metadata else b""
        signatures = predict_pb2.SignatureDefMap.FromString(packed).signature_def
        return cls(
            reply.model_spec.name,
            reply.model_spec.version.value,
            {name: _signature(signatures[name]) for name in sorted(signatures)},
        )


@dataclass(frozen=True)
class ServedModel:
    """One model that a server should serve, for `Client.reload`.

    versions: None for the newest, "all", or the numbers to serve.  labels: label -> version.
    """

    name: str
    base_path: str  # absolute, as the server sees it
    versions: str | Sequence[int] | None = None
    num_latest: int = 1
    labels: Mapping[str, int] | None = None

    def message(self) -> manage_pb2.ModelConfig:
        """TF-Serving's configuration message."""
        if not self.base_path.startswith(("/", "gs://", "s3://", "hdfs://")):
            raise InvalidInput(
                f"{self.name}: base_path '{self.base_path}' must be absolute, as the server sees it."
            )
        return manage_pb2.ModelConfig(
            name=self.name,
            base_path=self.base_path,
            model_platform="tensorflow",
            model_version_policy=self._policy(),
            version_labels=dict(self.labels or {}),
        )

    def _policy(self) -> Any:
        policy = manage_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
        if self.versions is None:
            return policy(latest=policy.Latest(num_versions=self.num_latest))
        if self.versions == "all":
            return policy(all=policy.All())
        if isinstance(self.versions, str) or not self.versions:
            raise InvalidInput(
                f"{self.name}: versions is {self.versions!r}, expected None, 'all' or numbers."
            )
        return policy(specific=policy.Specific(versions=list(self.versions)))


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    """A writable array. Raises InvalidInput for a damaged tensor."""
    try:
        array = to_array(tensor, strict=True)
    except TensorError as error:
        raise InvalidInput(str(error)) from error
    return array if array.flags.writeable else array.copy()


def _signature(signature: predict_pb2.SignatureDef) -> SignatureSpec:
    return SignatureSpec(
        {name: _spec(signature.inputs[name]) for name in sorted(signature.inputs)},
        {name: _spec(signature.outputs[name]) for name in sorted(signature.outputs)},
        signature.method_name,
    )


def _spec(info: predict_pb2.TensorInfo) -> TensorSpec:
    if info.tensor_shape.unknown_rank:
        return TensorSpec(type_name(info.dtype), None)
    sizes = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(type_name(info.dtype), sizes)
