"""A SavedModel as a callable. TensorFlow is imported here, when a model is loaded, and not before.

The model runs in a version 1 session, one a version: that is what the C++ server does, so TF1 and TF2
models, feeds by tensor name and error texts are the same.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pergola.serving.server.config.errors import Code, LoadFailed, RuntimeFailure
from pergola.serving.server.core import rank_guard
from pergola.serving.wire.tensors import Array, TensorError, to_array

DEFAULT_SIGNATURE = "serving_default"
MAX_SIMPLE_NODES = 300
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


@dataclass(frozen=True)
class Signature:
    """One entry of a SavedModel: which tensors go in and come out, by alias.

    inputs and outputs map an alias to a tensor name such as "serving_default_x:0"; dtypes and shapes
    map an input's alias to its DataType number and to its dimensions, -1 where any size will do, None
    for any rank; defaults hold values for inputs that a request may leave out.
    """

    name: str
    method_name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dtypes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    defaults: Mapping[str, Array] = field(default_factory=dict)


class Model(Protocol):
    """A loaded model."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Its signatures, by name."""
        ...

    @property
    def signature_defs(self) -> Mapping[str, Any]:
        """SignatureDef messages by name, for GetModelMetadata."""
        ...

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int = 0) -> list[Array]:
        """Values of the tensors `fetches` when the tensors named in `feeds` have these values."""
        ...

    def close(self) -> None:
        """Free the model's resources."""
        ...


@dataclass(frozen=True)
class RuntimeSettings:
    """How TensorFlow runs a model. Zero lets TensorFlow choose."""

    tags: tuple[str, ...] = ("serve",)
    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    gpu_memory_fraction: float = 0.0
    mixed_precision: str = ""  # "bfloat16": let oneDNN use it in float32 models
    session_config: bytes = b""  # a serialised ConfigProto that goes first


FeedsAndFetches = tuple[frozenset[str], frozenset[str]]  # names of fed and of fetched tensors
MAX_REMEMBERED = 64  # pairs per model


class SessionModel:
    """A SavedModel in a session of its own. Made by `load`.

    seen: the pairs of feeds and fetches in requests so far; shared by all versions of a model, added to here.
    """

    def __init__(self, session: Any, signature_defs: Mapping[str, Any], seen: set[FeedsAndFetches]) -> None:
        self._session = session
        self._seen = seen
        self._ready: set[FeedsAndFetches] = set()
        self._preparing = threading.Lock()
        self._graph = session.graph
        self._tensors: dict[str, Any] = {}
        self._options: dict[int, Any] = {0: None}
        self.signature_defs: Mapping[str, Any] = signature_defs
        self.signatures: Mapping[str, Signature] = {
            name: _signature(name, proto) for name, proto in signature_defs.items()
        }

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int = 0) -> list[Array]:
        """Values of the tensors `fetches`, arrays in their order.

        Raises RuntimeFailure with TensorFlow's own code and text.
        """
        pair = frozenset(feeds), frozenset(fetches)
        if pair not in self._ready:
            self._prepare(pair)
        return self._run(feeds, fetches, timeout_ms)

    def prepare(self) -> None:
        """Optimise the graph for every pair of feeds and fetches seen so far that this version has.

        For the first version of a model: for its default signature.
        """
        usual = self.signatures.get(DEFAULT_SIGNATURE)
        first = [(frozenset(usual.inputs.values()), frozenset(usual.outputs.values()))] if usual else []
        for pair in tuple(self._seen) or first:
            with contextlib.suppress(RuntimeFailure):
                self._prepare(pair)

    def _prepare(self, pair: FeedsAndFetches) -> None:
        """Make TensorFlow optimise the graph for these feeds and fetches, as it does at their first run.

        Otherwise each concurrent request would do the same again: eight callers of a new version kept both
        cores busy for 30 ms. Values of a wrong type are rejected after the optimiser and before anything
        runs (direct_session.cc).
        """
        with self._preparing:
            if pair in self._ready:
                return
            feeds, fetches = pair
            wrong = {name: self._value_of_wrong_type(name) for name in sorted(feeds)}
            if wrong:
                with contextlib.suppress(RuntimeFailure):
                    self._run(wrong, sorted(fetches))
            self._ready.add(pair)
            if len(self._seen) < MAX_REMEMBERED:
                self._seen.add(pair)

    def _value_of_wrong_type(self, name: str) -> Array:
        is_bool = self._found(name).dtype.as_numpy_dtype is np.bool_
        return np.zeros((), np.float32 if is_bool else np.bool_)

    def _run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int = 0) -> list[Array]:
        import tensorflow as tf

        try:
            inputs = {self._tensor(name): array for name, array in feeds.items()}
            outputs = [self._tensor(name) for name in fetches]
            options = self._run_options(timeout_ms)
            values = self._session._call_tf_sessionrun(options, inputs, outputs, [], None)
            return [value if isinstance(value, np.ndarray) else _scalar(value) for value in values]
        except tf.errors.OpError as error:
            raise RuntimeFailure(Code(error.error_code), rank_guard.plain_text(error.message)) from None
        except (TypeError, ValueError) as error:
            # The binding rejects arrays that cannot become tensors, such as an object in a string array.
            raise RuntimeFailure(Code.INVALID_ARGUMENT, str(error)) from None

    def close(self) -> None:
        """Free variables, tables and graph."""
        self._session.close()
        self._tensors.clear()
        del self._session, self._graph
        gc.collect()  # sessions and graphs point at each other

    def _tensor(self, name: str) -> Any:
        handle = self._tensors.get(name)
        if handle is None:
            handle = self._tensors[name] = self._found(name)._as_tf_output()
        return handle

    def _found(self, name: str) -> Any:
        try:
            return self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            raise RuntimeFailure(
                Code.NOT_FOUND,
                f"FeedInputs: unable to find feed output {name}",
            ) from None

    def _run_options(self, timeout_ms: int) -> Any:
        timeout_ms = _in_steps(timeout_ms)  # each distinct value is cached
        if timeout_ms not in self._options:
            import tensorflow as tf
            from tensorflow.python.client import pywrap_tf_session

            options = tf.compat.v1.RunOptions(timeout_in_ms=timeout_ms)
            self._options[timeout_ms] = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        return self._options[timeout_ms]


def load(folder: Path, settings: RuntimeSettings, seen: set[FeedsAndFetches] | None = None) -> SessionModel:
    """The SavedModel in `folder`, its variables restored and its tables initialised.

    seen: see SessionModel. Raises LoadFailed when there is none, and RuntimeFailure with TensorFlow's text
    when it is damaged.
    """
    import tensorflow as tf
    from tensorflow.python.saved_model import loader_impl

    if not (folder / "saved_model.pb").is_file() and not (folder / "saved_model.pbtxt").is_file():
        raise LoadFailed(
            message=f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}"
        )
    graph, session = tf.Graph(), None
    try:
        with _ONE_AT_A_TIME, graph.as_default():
            loader = loader_impl.SavedModelLoader(str(folder))
            meta_graph = loader.get_meta_graph_def_from_tags(list(settings.tags))
            rank_guard.guard(meta_graph)
            session = tf.compat.v1.Session(graph=graph, config=_config(settings, _is_simple(meta_graph)))
            loader.load(session, list(settings.tags))
    except tf.errors.OpError as error:
        _close(session)
        raise RuntimeFailure(Code(error.error_code), error.message) from None
    except Exception as error:  # a damaged file fails in many ways: DecodeError, KeyError, OSError, …
        _close(session)
        message = str(error).strip() or type(error).__name__
        raise LoadFailed(message=f"{folder} cannot be loaded: {message}") from error
    model = SessionModel(session, dict(meta_graph.signature_def.items()), set() if seen is None else seen)
    model.prepare()
    return model


_LOOPS = {"While", "StatelessWhile", "Enter", "RefEnter", "MapDefun", "For"}

_ONE_AT_A_TIME = threading.Lock()  # graph.as_default and graph import are not thread-safe


def _in_steps(ms: int) -> int:
    """Rounded up to three binary digits."""
    step = 1 << max(0, ms.bit_length() - 3)
    return -(-ms // step) * step


def _scalar(value: Any) -> Array:
    """An array of the binding's value for a scalar tensor: bytes or a NumPy number."""
    return np.array(value, object) if isinstance(value, bytes | str) else np.asarray(value)


def _close(session: Any) -> None:
    if session is not None:
        session.close()


def _is_simple(meta_graph: Any) -> bool:
    """Whether a graph gains nothing from running operations in parallel: few nodes, no loop."""
    graph = meta_graph.graph_def
    lists = [graph.node, *(function.node_def for function in graph.library.function)]
    if sum(map(len, lists)) > MAX_SIMPLE_NODES:
        return False
    return not any(node.op in _LOOPS for nodes in lists for node in nodes)


def _config(settings: RuntimeSettings, simple: bool) -> Any:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto()
    if simple:
        # Run in the calling thread: for a tiny graph TensorFlow's pool costs four times the work itself.
        config.inter_op_parallelism_threads = -1
    if settings.session_config:
        config.MergeFromString(settings.session_config)
    if settings.intra_op_parallelism:
        config.intra_op_parallelism_threads = settings.intra_op_parallelism
    if settings.inter_op_parallelism:
        config.inter_op_parallelism_threads = settings.inter_op_parallelism
    if settings.mixed_precision:
        rewrite = config.graph_options.rewrite_options
        rewrite.auto_mixed_precision_onednn_bfloat16 = rewrite.ON
    if settings.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = settings.gpu_memory_fraction
    return config


def _signature(name: str, proto: Any) -> Signature:
    return Signature(
        name=name,
        method_name=proto.method_name,
        inputs={alias: info.name for alias, info in sorted(proto.inputs.items())},
        outputs={alias: info.name for alias, info in sorted(proto.outputs.items())},
        dtypes={alias: info.dtype for alias, info in proto.inputs.items()},
        shapes={alias: _shape(info.tensor_shape) for alias, info in proto.inputs.items()},
        defaults={alias: _default(alias, value) for alias, value in proto.defaults.items()},
    )


def _shape(shape: Any) -> tuple[int, ...] | None:
    return None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)


def _default(alias: str, value: Any) -> Array:
    try:
        return to_array(value)
    except TensorError as error:
        raise LoadFailed(message=f"The default of input {alias} is not a valid tensor: {error}") from error
