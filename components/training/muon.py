"""Muon: each step turns a convolution's kernels by a rotation instead of along the plain gradient.

After Keller Jordan's Muon and its use for CIFAR-10 ("airbench", 2024). The gradient of a kernel, smoothed by
momentum, is brought near an orthogonal matrix by Newton and Schulz's iteration, so every direction learns
at one pace; the kernel itself is held at one length a filter. That suits networks in which normalisation
follows each convolution, since to them a kernel's length makes no difference. Everything else learns by Adam.
"""

from __future__ import annotations

import math
from typing import Any

RATE = 0.12
ADAM_SHARE = 1 / 24  # of the rate, for everything but kernels
MOMENTUM = 0.6
ITERATIONS = 3  # of Newton and Schulz; singular values then lie between about 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's polynomial, as published
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


def muon(learning_rate: float, dtype: str = "float32", **options: Any) -> Any:
    """The optimiser. dtype: in which the iteration multiplies; options: those of every Keras optimiser."""
    return _class()(learning_rate, dtype, **options)


def orthogonal(matrix: Any, dtype: str = "float32") -> Any:
    """About the nearest matrix (M, N) whose rows, or columns if they are fewer, are orthonormal."""
    from keras import ops

    x = ops.cast(matrix, dtype)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = ops.transpose(x)
    x = x / (ops.cast(ops.norm(matrix), dtype) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    return ops.cast(ops.transpose(x) if is_tall else x, "float32")


_MUON: list[type] = []


def _class() -> type:
    """The optimiser's class, made once, when Keras is there."""
    import keras
    from keras import ops

    if _MUON:
        return _MUON[0]

    class Muon(keras.optimizers.Optimizer):
        def __init__(self, learning_rate: float, dtype: str, **options: Any) -> None:
            super().__init__(learning_rate, **options)
            self._multiplies_in = dtype

        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            super().build(variables)
            self._momenta = self.add_optimizer_variables(variables, "momentum")
            others = [variable for variable in variables if not _is_kernel(variable)]
            squares = self.add_optimizer_variables(others, "velocity")
            by_path = {other.path: square for other, square in zip(others, squares, strict=True)}
            self._squares = [by_path.get(variable.path) for variable in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            gradient = ops.cast(gradient, variable.dtype)
            rate = ops.cast(learning_rate, variable.dtype)
            if self._squares[index] is None:
                self._turn(gradient, variable, rate, self._momenta[index])
            else:
                self._adam(gradient, variable, rate * ADAM_SHARE, self._momenta[index], self._squares[index])

        def _turn(self, gradient: Any, kernel: Any, rate: Any, momentum: Any) -> None:
            filters = kernel.shape[-1]
            self.assign(momentum, momentum * MOMENTUM + gradient)
            ahead = ops.reshape(gradient + momentum * MOMENTUM, (-1, filters))
            turn = ops.reshape(orthogonal(ahead, self._multiplies_in), kernel.shape)
            value = ops.convert_to_tensor(kernel)
            length = ops.sqrt(ops.sum(ops.square(value))) + EPSILON
            self.assign(kernel, value * (math.sqrt(filters) / length) - rate * turn)

        def _adam(self, gradient: Any, variable: Any, rate: Any, mean: Any, square: Any) -> None:
            step = ops.cast(self.iterations + 1, variable.dtype)
            self.assign(mean, mean * BETA_1 + gradient * (1 - BETA_1))
            self.assign(square, square * BETA_2 + ops.square(gradient) * (1 - BETA_2))
            unbiased = ops.sqrt(square / (1 - BETA_2**step)) + EPSILON
            self.assign_sub(variable, rate * (mean / (1 - BETA_1**step)) / unbiased)

    _MUON.append(Muon)
    return Muon


def _is_kernel(variable: Any) -> bool:
    """Of a convolution (H, W, channels, filters)."""
    return len(variable.shape) == 4
