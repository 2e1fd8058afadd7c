"""The benchmarks' own small networks, beside the paper's in `reproduce/networks.py`."""

from __future__ import annotations

import keras


def mlp() -> keras.Model:
    """Return a 64-64-10 network with a penalty."""
    penalty = keras.regularizers.L2(1e-4)
    return compiled(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(10),
        ]
    )


def lstm() -> keras.Model:
    """Return a small recurrent network: 32 units over 16 steps of 8 numbers."""
    return compiled(
        [keras.layers.Input((16, 8)), keras.layers.LSTM(32), keras.layers.Dense(10)],
    )


def compiled(layers: list[keras.Layer], learning_rate: float = 1e-3) -> keras.Model:
    """Return a classifier that ends in logits, compiled with Adam and accuracy."""
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
