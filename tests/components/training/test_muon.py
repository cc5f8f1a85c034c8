import numpy as np
import pytest

from pergola.components.training import muon


def orthogonal(matrix):
    return np.asarray(muon.muon(0.1).zeropower_via_newtonschulz5(matrix, muon.ITERATIONS))


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_directions(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    near = orthogonal(matrix)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    found = np.diag(left.T @ near @ right.T)
    assert found.min() > 0.6 and found.max() < 1.3
    np.testing.assert_allclose(near, (left * found) @ right, atol=1e-4)


def test_muon_turns_kernels_at_one_length_and_moves_the_rest_by_adam():
    import keras

    rng = np.random.default_rng(0)
    kernel, bias = (
        keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in ((3, 3, 4, 8), (5,))
    )
    optimizer = muon.muon(0.1)
    optimizer.build([kernel, bias])
    assert len(optimizer.variables) == 2 + 3  # step and rate; a momentum each, and one square
    before = [np.asarray(v) for v in (kernel, bias)]
    slopes = [rng.normal(size=v.shape).astype(np.float32) for v in before]
    optimizer.apply([keras.ops.convert_to_tensor(slope) for slope in slopes])
    np.testing.assert_allclose(np.asarray(bias), before[1] - 0.1 / 24 * np.sign(slopes[1]), atol=1e-5)
    scaled = before[0] * np.sqrt(8) / np.linalg.norm(before[0])
    turn = orthogonal(slopes[0].reshape(36, 8)).reshape(kernel.shape)
    np.testing.assert_allclose(np.asarray(kernel), scaled - 0.1 * turn, atol=1e-5)


def test_muon_cares_for_neither_the_length_of_a_kernel_nor_of_its_gradient():
    import keras

    rng = np.random.default_rng(0)
    value, slope = (rng.normal(size=(3, 3, 4, 8)).astype(np.float32) for _ in range(2))
    found = []
    for scale in (1.0, 50.0):
        kernel = keras.Variable(scale * value)
        optimizer = muon.muon(0.24)
        optimizer.build([kernel])
        for _ in range(3):
            optimizer.apply([keras.ops.convert_to_tensor(slope / scale)])
        found.append(np.asarray(kernel))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
