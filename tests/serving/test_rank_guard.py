"""Checks in front of convolutions, on graphs that TensorFlow really makes."""

import numpy as np
import pytest
import tensorflow as tf

from pergola.serving.server.config.errors import RuntimeFailure
from pergola.serving.server.core import model, rank_guard

v1 = tf.compat.v1


def save(folder, build, shape=None):
    """A TF1 SavedModel of x -> build(x). Gives the model, loaded with its checks."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, shape, name="x")
        y = tf.identity(build(x), name="y")
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.build_signature_def(
            {"x": v1.saved_model.build_tensor_info(x)}, {"y": v1.saved_model.build_tensor_info(y)}, "p"
        )
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return model.load(folder, model.RuntimeSettings())


def checks(build, shape=None) -> list[str]:
    """Where checks go in the graph of x -> build(x)."""
    with tf.Graph().as_default() as graph:
        build(v1.placeholder(tf.float32, shape, name="x"))
        meta = v1.train.export_meta_graph(graph=graph)
    count = rank_guard.guard(meta)
    names = [node.name for node in meta.graph_def.node if node.op == "EnsureShape"]
    assert len(names) == count
    return names


def kernel(*shape):
    return v1.get_variable(f"k{len(v1.global_variables())}", shape, initializer=v1.ones_initializer())


def conv(x, name="conv"):
    return tf.raw_ops.Conv2D(input=x, filter=kernel(3, 3, 3, 3), strides=[1] * 4, padding="SAME", name=name)


def depthwise(x):
    return tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=kernel(3, 3, 3, 1), strides=[1] * 4, padding="SAME"
    )


def conv3d(x):
    return tf.raw_ops.Conv3D(input=x, filter=kernel(1, 3, 3, 3, 3), strides=[1] * 5, padding="SAME")


def pool3d(x):
    return tf.raw_ops.MaxPool3D(input=x, ksize=[1] * 5, strides=[1] * 5, padding="SAME")


def padded(x):
    pads = [[0, 0], [1, 1], [1, 1], [0, 0]]
    weights = kernel(3, 3, 3, 3)
    padded = tf.raw_ops.Pad(input=x, paddings=pads)
    return tf.raw_ops.Conv2D(input=padded, filter=weights, strides=[1] * 4, padding="VALID")


def biased(x):
    return tf.nn.relu(tf.nn.bias_add(conv(x), kernel(3)))


CASES = {"conv": (conv, 4), "depthwise": (depthwise, 4), "conv3d": (conv3d, 5), "pool3d": (pool3d, 5),
         "padded": (padded, 4), "biased": (biased, 4)}  # fmt: skip


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_only_the_right_rank_gets_through(tmp_path, case, static):
    build, rank = CASES[case]
    loaded = save(tmp_path / "1", build, [None, *[8] * (rank - 2), 3] if static else None)
    for wrong in range(7):
        shape = (*[2] * (wrong - 1), 3)[:wrong]
        if wrong == rank:
            assert loaded.run({"x:0": np.ones(shape, np.float32)}, ["y:0"])[0].shape == shape
        else:
            with pytest.raises(RuntimeFailure, match=rf"^input must be {rank}-dimensional\["):
                loaded.run({"x:0": np.ones(shape, np.float32)}, ["y:0"])
    loaded.close()


def test_a_chain_of_convolutions_is_checked_once():
    assert checks(lambda x: conv(tf.nn.relu(conv(x / 255.0, "a")), "b")) == [f"{rank_guard.PREFIX}/a/0"]


def test_sums_of_convolutions_need_no_further_check():
    def residual(x):
        first = conv(x, "a")
        return conv(first * 2.0 + tf.nn.relu(first), "b")

    assert checks(residual) == [f"{rank_guard.PREFIX}/a/0"]


def test_a_sum_with_the_input_is_checked():
    assert len(checks(lambda x: conv(conv(x, "a") + x, "b"))) == 2


def test_static_shapes_prove_nothing():
    assert len(checks(conv, [None, 8, 8, 3])) == 1


def test_a_check_of_joined_padding_stands_before_the_padding():
    assert checks(padded)[0].endswith("Pad/0")


def test_graphs_without_convolutions_stay_as_they_are():
    assert checks(lambda x: tf.nn.relu(x) @ tf.ones([3, 3])) == []


def test_a_kernel_from_a_request_is_checked_too():
    def build(x):
        weights = v1.placeholder(tf.float32, None)
        return tf.raw_ops.Conv2D(input=x, filter=weights, strides=[1] * 4, padding="SAME", name="c")

    assert checks(build) == [f"{rank_guard.PREFIX}/c/0", f"{rank_guard.PREFIX}/c/1"]


def test_other_texts_are_not_touched():
    for text in ("Shape of tensor x [1] is not compatible with expected shape [2].", "", "input must be"):
        assert rank_guard.plain_text(text) == text
