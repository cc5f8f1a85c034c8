"""A SavedModel that runs in this process exactly as in the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pergola.components.errors import StepError
from pergola.components.evaluation.model_contract import INPUTS, OUTPUTS, ModelContract
from pergola.serving.server.config.errors import ServingError
from pergola.serving.server.core.model import RuntimeSettings, SessionModel, load
from pergola.serving.wire import contract
from pergola.serving.wire.images import MAX_PIXELS, fitting


class LoadedModel:
    """The signatures of serving/wire/contract.py of a SavedModel folder; use it in a `with` block.

    Raises StepError if the model cannot be loaded or has no such signatures.
    """

    def __init__(self, saved_model: Path) -> None:
        self._folder = saved_model

    def __enter__(self) -> Self:
        try:
            self._model: SessionModel = load(self._folder, RuntimeSettings())
        except ServingError as error:
            raise StepError(f"The model in {self._folder} cannot be loaded: {error}") from error
        self._max_pixels = self._limit()
        return self

    def __exit__(self, *error: object) -> None:
        self._model.close()

    def probabilities(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        """Encoded images -> float32 (N, C)."""
        return self._run(
            contract.SERVING_DEFAULT, contract.IMAGE, self._strings(images), contract.PROBABILITIES
        )

    def reply(self, images: list[bytes]) -> dict[str, npt.NDArray[Any]]:
        """Encoded images -> all outputs of the default signature, by name: what a server replies."""
        names = self._model.signatures[contract.SERVING_DEFAULT].outputs
        return self._outputs(contract.SERVING_DEFAULT, contract.IMAGE, self._strings(images), tuple(names))

    def embeddings(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        """Encoded images -> float32 (N, D)."""
        return self._run(contract.EMBEDDING, contract.IMAGE, self._strings(images), contract.EMBEDDING)

    def explains(self) -> bool:
        """Whether the model has saliency maps; older models do not."""
        return contract.SALIENCY in self._model.signatures

    def saliency(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        """Encoded images -> float32 (N, h, w), 0 to 1."""
        return self._run(contract.SALIENCY, contract.IMAGE, self._strings(images), contract.SALIENCY)

    def labels(self) -> tuple[str, ...]:
        """The classes of the probabilities, in order."""
        outputs = self._model.signature_defs[contract.SERVING_DEFAULT].outputs
        count = outputs[contract.PROBABILITIES].tensor_shape.dim[1].size
        names = self._run(contract.LABELS, contract.INDEX, np.arange(count, dtype=np.int64), contract.LABEL)
        return tuple(name.decode("utf-8") for name in names)

    def _limit(self) -> int:
        """Pixels of the largest image that the model takes."""
        signature = self._model.signatures.get(contract.LABELS)
        if signature is None or contract.MAX_PIXELS not in signature.outputs:
            return MAX_PIXELS
        return int(
            self._run(contract.LABELS, contract.INDEX, np.zeros(1, np.int64), contract.MAX_PIXELS).item()
        )

    def _strings(self, images: list[bytes]) -> npt.NDArray[np.object_]:
        """Images as the model takes them: a champion may have seen smaller ones than its successor."""
        array = np.empty(len(images), dtype=object)
        array[:] = [fitting(image, self._max_pixels) for image in images]
        return array

    def contract(self) -> ModelContract:
        """What its callers depend on."""
        signatures = {
            name: {
                INPUTS: {key: _described(one, exact=True) for key, one in sorted(found.inputs.items())},
                OUTPUTS: {key: _described(one, exact=False) for key, one in sorted(found.outputs.items())},
            }
            for name, found in sorted(self._model.signature_defs.items())
            if not name.startswith("__")
        }
        return ModelContract(self.labels(), signatures)

    def _run(self, signature: str, input: str, value: Any, output: str) -> Any:
        return self._outputs(signature, input, value, (output,))[output]

    def _outputs(self, signature: str, input: str, value: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
        known = self._model.signatures.get(signature)
        if known is None or input not in known.inputs or not {*outputs} <= {*known.outputs}:
            raise StepError(
                f"The model in {self._folder} has no signature '{signature}' from '{input}' to "
                f"'{', '.join(outputs)}'. Export it with pergola."
            )
        try:
            values = self._model.run({known.inputs[input]: value}, [known.outputs[name] for name in outputs])
            return dict(zip(outputs, values, strict=True))
        except ServingError as error:
            raise StepError(f"The model in {self._folder} failed: {error}") from error


def _described(tensor: Any, *, exact: bool) -> str:
    """Dtype and shape of a TensorInfo message, such as "uint8 (?, ?, ?, 3)"; all sizes "?" unless exact."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(tensor.dtype).name
    if tensor.tensor_shape.unknown_rank:
        return f"{dtype} of any shape"
    sizes = [str(dim.size) if exact and dim.size >= 0 else "?" for dim in tensor.tensor_shape.dim]
    return f"{dtype} ({', '.join(sizes)})"
