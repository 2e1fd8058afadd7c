"""The paper's networks (arXiv 2310.14671; exact layers in the authors' code), compiled.

They end in logits: the loss takes logits once, whatever the backend. In the authors' code the
networks end in a softmax under a loss declared as taking logits, which Keras on TensorFlow resolves
to the same function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

Metrics = Sequence[Any]


def fashion_mnist(
    optimizer: keras.optimizers.Optimizer | None = None,
    l2: float | None = None,
    *,
    dropout: float | None = None,
    l2_everywhere: bool = False,
    metrics: Metrics = (),
) -> keras.Model:
    """Return the Fashion-MNIST network: 4,575,242 parameters.

    Args:
        optimizer: Defaults to Adam with learning rate 0.001.
        l2: L2 coefficient of the dense layer's kernel; None for no penalty.
        dropout: Rate of the dropout before the output (the baselines have 0.5); None for none.
        l2_everywhere: Whether the kernels of the convolutions have the penalty too (Table 2).
        metrics: Metrics beside accuracy.
    """
    dense_penalty = None if l2 is None else keras.regularizers.L2(l2)
    conv_penalty = keras.regularizers.L2(l2) if l2_everywhere and l2 is not None else None

    def conv(filters: int, strides: int) -> keras.Layer:
        return keras.layers.Conv2D(
            filters, 3, strides=strides, activation="relu", kernel_regularizer=conv_penalty
        )

    layers = [
        keras.layers.Input((28, 28, 1)),
        conv(64, 2),
        conv(128, 2),
        conv(256, 1),
        keras.layers.Flatten(),
        keras.layers.Dense(1024, activation="relu", kernel_regularizer=dense_penalty),
        *([] if dropout is None else [keras.layers.Dropout(dropout)]),
        keras.layers.Dense(10),
    ]
    return _compiled(layers, optimizer, metrics)


def cifar10(
    optimizer: keras.optimizers.Optimizer | None = None,
    l2: float | None = None,
    *,
    third_padding: str = "same",
    metrics: Metrics = (),
) -> keras.Model:
    """Return the CIFAR-10 network: 186,250 parameters.

    Args:
        optimizer: Defaults to Adam with learning rate 0.001.
        l2: L2 coefficient of the dense layer's kernel; None for no penalty.
        third_padding: Padding of the third convolution: `"same"` for Population Descent and grid
            search, `"valid"` for KerasTuner's RandomSearch.
        metrics: Metrics beside accuracy.
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
    return _compiled(layers, optimizer, metrics)


def esgd_fashion_mnist(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """Return the network that the authors gave ESGD on Fashion-MNIST: 6,934,538 parameters.

    Two convolutions are padded by one pixel (meant as a dilation), there is dropout, weights begin
    as PyTorch's, and pixels are in [-1, 1].
    """
    layers = [
        keras.layers.Input((28, 28, 1)),
        keras.layers.Rescaling(2.0, -1.0),
        keras.layers.ZeroPadding2D(1),
        _torch_conv(1, 64, strides=2),
        keras.layers.ZeroPadding2D(1),
        _torch_conv(64, 128, strides=2),
        _torch_conv(128, 256),
        keras.layers.Flatten(),
        _torch_dense(6400, 1024, "relu"),
        keras.layers.Dropout(0.5),
        _torch_dense(1024, 10),
    ]
    return _compiled(layers, optimizer, ())


def esgd_cifar10(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    """Return the network that the authors gave ESGD on CIFAR-10: 186,250 parameters.

    The third convolution is not padded and has no ReLU, weights begin as PyTorch's, and pixels are
    in [-1, 1].
    """
    layers = [
        keras.layers.Input((32, 32, 3)),
        keras.layers.Rescaling(2.0, -1.0),
        _torch_conv(3, 32),
        _torch_conv(32, 64),
        keras.layers.MaxPooling2D(2),
        _torch_conv(64, 128, activation=None),
        keras.layers.MaxPooling2D(2),
        _torch_conv(128, 64),
        keras.layers.MaxPooling2D(4),
        keras.layers.Flatten(),
        _torch_dense(64, 256, "relu"),
        _torch_dense(256, 10),
    ]
    return _compiled(layers, optimizer, ())


def _torch_conv(
    channels: int, filters: int, strides: int = 1, activation: str | None = "relu"
) -> keras.Layer:
    kernel, bias = _torch_initializers(9 * channels)
    return keras.layers.Conv2D(
        filters,
        3,
        strides=strides,
        activation=activation,
        kernel_initializer=kernel,
        bias_initializer=bias,
    )


def _torch_dense(inputs: int, units: int, activation: str | None = None) -> keras.Layer:
    kernel, bias = _torch_initializers(inputs)
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=kernel, bias_initializer=bias
    )


def _torch_initializers(fan_in: int) -> tuple[Any, Any]:
    """Return PyTorch's defaults: kernel and bias uniform within 1 / sqrt(fan_in)."""
    limit = 1.0 / math.sqrt(fan_in)
    uniform = keras.initializers.RandomUniform
    return uniform(-limit, limit), uniform(-limit, limit)


def _compiled(
    layers: list[keras.Layer], optimizer: keras.optimizers.Optimizer | None, metrics: Metrics
) -> keras.Model:
    model = keras.Sequential(layers)
    model.compile(
        optimizer=optimizer or keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", *metrics],
    )
    return model
