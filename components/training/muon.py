"""Muon for convolutions: Keras's optimiser with the kernels flattened to matrices and held at a fixed norm.

After Keller Jordan's Muon and its use for CIFAR-10 ("airbench", 2024). The gradient of a kernel, smoothed by
momentum, is replaced by a nearly orthogonal matrix (Newton-Schulz iteration), so all directions learn at the
same pace; before each step the kernel is rescaled to a norm of sqrt(filters). That suits networks that
normalise after each convolution, because there the scale of a kernel has no effect. All other variables,
dense kernels included, are trained by Adam.
"""

from __future__ import annotations

from functools import cache
from typing import Any

RATE = 0.12
ADAM_RATIO = 1 / 24  # learning rate of everything but kernels, as a share of theirs
MOMENTUM = 0.6
ITERATIONS = 3  # of Newton-Schulz; singular values then lie between about 0.7 and 1.2
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


def muon(
    learning_rate: float, dtype: str = "float32", *, weight_decay: float | None = None, **options: Any
) -> Any:
    """The optimiser. dtype: of the iteration's matrix products; options: those of every Keras optimiser."""
    optimizer = _convolution_muon()(
        learning_rate,
        adam_beta_1=BETA_1,
        adam_beta_2=BETA_2,
        epsilon=EPSILON,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        adam_lr_ratio=ADAM_RATIO,
        momentum=MOMENTUM,
        ns_steps=ITERATIONS,
        **options,
    )
    optimizer.matmul_dtype = dtype
    return optimizer


@cache
def _convolution_muon() -> type:
    """The class, defined on first use because Keras is slow to import."""
    import keras
    from keras import ops

    class ConvolutionMuon(keras.optimizers.Muon):
        matmul_dtype = "float32"

        def _should_use_adamw(self, variable: Any) -> bool:
            return len(variable.shape) != 4  # kernels of convolutions: (H, W, channels, filters)

        def _muon_update_step(self, gradient: Any, kernel: Any, rate: Any, momentum: Any) -> None:
            self.assign(momentum, momentum * self.momentum + gradient)
            matrix = ops.reshape(gradient + momentum * self.momentum, (-1, kernel.shape[-1]))
            matrix = matrix / (ops.norm(matrix) + 1e-7)  # in float32: bfloat16 sums too coarsely
            update = self.zeropower_via_newtonschulz5(ops.cast(matrix, self.matmul_dtype), self.ns_steps)
            update = ops.reshape(ops.cast(update, kernel.dtype), kernel.shape)
            value = ops.convert_to_tensor(kernel)
            scale = kernel.shape[-1] ** 0.5 / (ops.norm(ops.reshape(value, (-1,))) + EPSILON)
            self.assign(kernel, value * scale - rate * update)

    return ConvolutionMuon
