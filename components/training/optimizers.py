"""The optimiser and the loss of a training, from its hyperparameters."""

from __future__ import annotations

from typing import Any

from pergola.components.training import muon
from pergola.components.training.hyperparameters import Hyperparameters


def loss(hyperparameters: Hyperparameters) -> Any:
    """Cross-entropy or focal loss, from logits."""
    import keras

    options = {"from_logits": True, "label_smoothing": hyperparameters.label_smoothing}
    if hyperparameters.focal:  # Lin et al., 2017; alpha would only rescale the learning rate
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=hyperparameters.focal, **options)
    return keras.losses.CategoricalCrossentropy(**options)


def optimizer(hyperparameters: Hyperparameters, learning_rate: float, accumulate: int) -> Any:
    """The optimiser, with weight decay, weight averaging and gradient accumulation."""
    import keras

    options: dict[str, Any] = {"weight_decay": hyperparameters.weight_decay or None}
    if hyperparameters.average:  # Keras updates averages at every accumulation step
        options |= {"use_ema": True, "ema_momentum": hyperparameters.average ** (1 / accumulate)}
    if accumulate > 1:
        options |= {"gradient_accumulation_steps": accumulate}
    name = hyperparameters.optimizer
    if name == "muon":
        built = muon.muon(learning_rate, keras.config.dtype_policy().compute_dtype, **options)
    elif name == "sgd":
        built = keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, **options)
    else:
        kind = keras.optimizers.Adam if name == "adam" else keras.optimizers.AdamW
        built = kind(learning_rate, **options)
    built.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return built
