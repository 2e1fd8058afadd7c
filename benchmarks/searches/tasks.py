"""The tasks: a small network on the digits, one on Fashion-MNIST, and the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import keras
import numpy as np

from benchmarks.searches.task import Arrays, Range, Task, Values, cross_entropy_metric
from reproduce import data, networks
from reproduce.datasets import DatasetUnavailableError, load_digits, load_fashion_mnist

SPACE = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "l2": Range(1e-6, 1e-2, log=True),
    "dropout": Range(0.0, 0.6),
}
WITHOUT_DROPOUT = {name: limits for name, limits in SPACE.items() if name != "dropout"}


def build_mlp(values: Values) -> keras.Model:
    """Return a 64-64-10 network."""
    return _compiled(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(
                64, activation="relu", kernel_regularizer=keras.regularizers.L2(values["l2"])
            ),
            keras.layers.Dropout(values["dropout"]),
            keras.layers.Dense(10),
        ],
        values,
    )


def build_small_cnn(values: Values, widths: tuple[int, int, int] = (16, 32, 128)) -> keras.Model:
    """Return the demo's network on 28 x 28 pixels: 190,000 parameters at its own widths."""
    first, second, units = widths
    penalty = keras.regularizers.L2(values["l2"])
    return _compiled(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(first, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(second, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dropout(values["dropout"]),
            keras.layers.Dense(10),
        ],
        values,
    )


def build_fashion_mnist(values: Values) -> keras.Model:
    """Return the paper's network for Fashion-MNIST, with the dropout that its baselines had."""
    return networks.fashion_mnist(
        keras.optimizers.Adam(values["learning_rate"]),
        values["l2"],
        dropout=values["dropout"],
        metrics=[cross_entropy_metric()],
    )


def build_cifar10(values: Values) -> keras.Model:
    """Return the paper's network for CIFAR-10."""
    return networks.cifar10(
        keras.optimizers.Adam(values["learning_rate"]),
        values["l2"],
        metrics=[cross_entropy_metric()],
    )


def _compiled(layers: list[keras.Layer], values: Values) -> keras.Model:
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.Adam(values["learning_rate"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[cross_entropy_metric()],
    )
    return model


def digits() -> Task:
    """Return the MLP on scikit-learn's digits: 1,154 training and 288 validation images."""
    (x, y), test = load_digits().scaled()
    x = x.reshape(len(x), -1)
    # The images are ordered by writer: mixed, so that validation has the writers of training.
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return Task(
        "digits, MLP 64-64-10", build_mlp, SPACE,
        (x[:-288], y[:-288]), (x[-288:], y[-288:]), (test[0].reshape(len(test[0]), -1), test[1]),
        epochs=40, target=5.0,
    )  # fmt: skip


def fashion_mnist() -> Task:
    """Return the small convolutional network on 20,000 images of Fashion-MNIST."""
    (x, y), test = load_fashion_mnist().scaled()
    return Task(
        "Fashion-MNIST, small CNN", build_small_cnn, SPACE,
        (x[:20_000], y[:20_000]), (x[-5_000:], y[-5_000:]), test,
        epochs=6, target=1.5,
    )  # fmt: skip


def paper_fashion_mnist() -> Task:
    """Return the paper's network for Fashion-MNIST on the paper's split."""
    return _paper("fmnist", "Fashion-MNIST, the paper's network", build_fashion_mnist, SPACE)


def paper_cifar10() -> Task:
    """Return the paper's network for CIFAR-10 on the paper's split."""
    return _paper("cifar10", "CIFAR-10, the paper's network", build_cifar10, WITHOUT_DROPOUT)


def _paper(
    key: str, name: str, build: Callable[[Values], keras.Model], space: Mapping[str, Range]
) -> Task:
    split = data.load_split(key)
    return Task(
        name, build, space,
        (split.x_train, split.y_train), (split.x_val, split.y_val), (split.x_test, split.y_test),
        epochs=6, target=1.5,
    )  # fmt: skip


def chosen(quick: bool, everything: bool) -> tuple[list[Task], list[str]]:
    """Return the tasks, and a sentence for each one whose data cannot be had.

    Args:
        quick: The digits only, for few epochs.
        everything: The paper's networks too, which take hours on a CPU.
    """
    if quick:
        return [tiny(digits())], []
    loaders = [digits, fashion_mnist]
    if everything:
        loaders += [paper_fashion_mnist, paper_cifar10]
    tasks, missing = [], []
    for load in loaders:
        try:
            tasks.append(load())
        except DatasetUnavailableError as error:
            missing.append(f"{load.__name__}: {error}")
    if not everything:
        missing.append("The paper's networks: hours on a CPU (`--full` runs them).")
    return tasks, missing


def tiny(task: Task) -> Task:
    """Return a task of seconds: few samples, few epochs; it also warms everything up."""

    def first(arrays: Arrays) -> Arrays:
        return arrays[0][:128], arrays[1][:128]

    return replace(
        task,
        training=first(task.training),
        validation=first(task.validation),
        test=first(task.test),
        epochs=4,
    )
