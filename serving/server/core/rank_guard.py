"""Keeps a tensor of the wrong rank from aborting the process inside a convolution.

On TensorFlow 2.21 with oneDNN, Conv2D, Conv3D and DepthwiseConv2dNative abort the process when their
input has fewer than four dimensions, MaxPool3D when it has four; with other wrong ranks they compute
nonsense. Without oneDNN the same operations check, and answer INVALID_ARGUMENT. So before a SavedModel
is loaded an EnsureShape, which costs about a microsecond and copies nothing, goes in front of each such
operation, unless what comes before it can only give the right rank.

The rule is exact: these operations are defined for one rank only (4, or 5 for the 3D ones), so every
shape that the stock server accepts passes, whatever the signature says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PREFIX = "pergola_rank_guard"

RANKS = {
    "Conv2D": 4,
    "DepthwiseConv2dNative": 4,
    "_FusedConv2D": 4,
    "_FusedDepthwiseConv2dNative": 4,
    "Conv3D": 5,
    "_FusedConv3D": 5,
    "MaxPool3D": 5,
    "AvgPool3D": 5,
}

# How many leading inputs have that rank: image and filter, or the image alone.
_RANKED_INPUTS = {"MaxPool3D": 1, "AvgPool3D": 1}

# Operations whose result has the rank of their inputs, of which none fixes it.
_KEEPS_RANK = {
    *("Identity", "Cast", "StopGradient", "BiasAdd", "Softmax", "Sigmoid", "Tanh", "Softplus", "Erf"),
    *("Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Rsqrt", "Sqrt", "Exp", "Neg", "Square", "Reciprocal"),
    *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference", "AddN"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
}

# oneDNN joins these with the convolution behind them, so that the check has to stand before both.
_JOINED = {"Pad", "PadV2"}

# Operations whose result is as fixed as the model's weights: no request reaches them.
_FIXED = {"Const", "ReadVariableOp", "VariableV2", "VarHandleOp"}

_REFUSED = re.compile(
    r"Shape of tensor \S+ (?P<shape>\[[\d,]*\]) is not compatible with expected shape (?P<wanted>\[[?,]*\])\."
    rf"(?P<between>.*?)(?P<node>{PREFIX}/(?P<name>\S+)/\d+)",
    re.DOTALL,
)


def guard(meta_graph: Any) -> int:
    """Insert the checks into a MetaGraphDef, in place. Gives their number."""
    graph = meta_graph.graph_def
    count = _guard_nodes(graph.node, "")
    for function in graph.library.function:
        count += _guard_nodes(function.node_def, ":output:0")
    if count:
        _declare(meta_graph.meta_info_def.stripped_op_list)
    return count


def plain_text(message: str) -> str:
    """An error of a check with the text of the operation that it guards; other texts are unchanged."""
    found = _REFUSED.search(message)
    if found is None:
        return message
    text = f"input must be {found['wanted'].count('?')}-dimensional{found['shape']}"
    return message[: found.start()] + text + found["between"] + found["name"] + message[found.end() :]


def _guard_nodes(nodes: Any, suffix: str) -> int:
    by_name = {node.name: node for node in nodes}
    safe: dict[str, bool] = {}
    before = len(nodes)
    for node in [node for node in nodes if node.op in RANKS]:
        for index in range(_RANKED_INPUTS.get(node.op, 2)):
            user, place = _place(node, index, by_name)
            if _is_safe(user.input[place], by_name, safe):
                continue
            check = _check(nodes, user, place, RANKS[node.op])
            by_name[check.name] = check
            user.input[place] = check.name + suffix
    return len(nodes) - before


def _place(node: Any, index: int, by_name: Mapping[str, Any]) -> tuple[Any, int]:
    """The node and the input in front of which a check goes."""
    before = by_name.get(_name(node.input[index]))
    while before is not None and before.op in _JOINED:
        node, index = before, 0
        before = by_name.get(_name(node.input[0]))
    return node, index


def _check(nodes: Any, user: Any, place: int, rank: int) -> Any:
    check = nodes.add(name=f"{PREFIX}/{user.name}/{place}", op="EnsureShape", device=user.device)
    check.input.append(user.input[place])
    check.attr["T"].CopyFrom(user.attr["T"])
    check.attr["shape"].shape.SetInParent()
    for _ in range(rank):
        check.attr["shape"].shape.dim.add(size=-1)
    return check


def _is_safe(source: str, by_name: Mapping[str, Any], safe: dict[str, bool]) -> bool:
    """Whether no request can decide the rank of this tensor: weights, or behind a check or a convolution.

    The static shapes of the graph prove nothing, for a request is not held to them. Nor do operations
    such as Reshape, which TensorFlow removes where static shapes make them look needless.
    """
    name = _name(source)
    if name not in safe:
        node = by_name.get(name)
        safe[name] = False  # also while it is looked at: a loop is not safe
        if node is not None:
            checked = node.op in RANKS or node.name.startswith(PREFIX)
            safe[name] = checked or node.op in _FIXED or _keeps_rank(node, by_name, safe)
    return safe[name]


def _keeps_rank(node: Any, by_name: Mapping[str, Any], safe: dict[str, bool]) -> bool:
    inputs = [source for source in node.input if not source.startswith("^")]
    return node.op in _KEEPS_RANK and all(_is_safe(source, by_name, safe) for source in inputs)


def _name(source: str) -> str:
    return source.split(":")[0]


def _declare(op_list: Any) -> None:
    """List EnsureShape among the operations of the model, which the importer looks up there."""
    from tensorflow.python.framework import op_def_registry

    if op_list.op and all(op.name != "EnsureShape" for op in op_list.op):
        op_list.op.add().CopyFrom(op_def_registry.get("EnsureShape"))
