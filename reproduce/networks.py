"""The paper's networks (arXiv 2310.14671; exact layers in the authors' code).

They end in logits: the loss takes logits once, whatever the backend. In the authors' code the
networks end in a softmax under a loss declared as taking logits, which Keras on TensorFlow resolves
to the same function.
"""

from __future__ import annotations

import keras


def fashion_mnist(
    learning_rate: float = 1e-3, l2: float | None = None, dropout: float | None = None
) -> keras.Model:
    """Return the Fashion-MNIST network, compiled with Adam: 4,575,242 parameters.

    Args:
        learning_rate: Adam's learning rate.
        l2: L2 coefficient of the dense layer's kernel; None for no penalty.
        dropout: Rate of the dropout before the output (the baselines have 0.5); None for none.
    """
    penalty = None if l2 is None else keras.regularizers.L2(l2)
    layers = [
        keras.layers.Input((28, 28, 1)),
        keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(128, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(256, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(1024, activation="relu", kernel_regularizer=penalty),
        *([] if dropout is None else [keras.layers.Dropout(dropout)]),
        keras.layers.Dense(10),
    ]
    return _compiled(layers, learning_rate)


def cifar10(
    learning_rate: float = 1e-3, l2: float | None = None, third_padding: str = "same"
) -> keras.Model:
    """Return the CIFAR-10 network, compiled with Adam: 186,250 parameters.

    Args:
        learning_rate: Adam's learning rate.
        l2: L2 coefficient of the dense layer's kernel; None for no penalty.
        third_padding: Padding of the third convolution: `"same"` for Population Descent and grid
            search, `"valid"` for the other baselines.
    """
    penalty = None if l2 is None else keras.regularizers.L2(l2)
    layers = [
        keras.layers.Input((32, 32, 3)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(128, 3, padding=third_padding, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(4),
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu", kernel_regularizer=penalty),
        keras.layers.Dense(10),
    ]
    return _compiled(layers, learning_rate)


def _compiled(layers: list[keras.Layer], learning_rate: float) -> keras.Model:
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
