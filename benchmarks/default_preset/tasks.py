"""The tasks: three that are cheap enough for many seeds, and the paper's two networks.

The two smallest draw their parts anew for each seed: which few hundred samples a model is chosen by
matters more than how it was trained. The others have one split, and a large test part.

All are scored without penalties. Nothing that is searched is at its best in the middle of its range
by design; who does not search takes the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import keras
import numpy as np

from benchmarks.searches import tasks
from benchmarks.searches.task import Arrays, Range, Task, Values, cross_entropy
from reproduce.datasets import DatasetUnavailableError, load_digits, load_fashion_mnist

SQUARED_ERROR = "squared_error"
SPACE = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "l2": Range(1e-6, 1e-2, log=True),
    "dropout": Range(0.0, 0.6),
}
# Of the labels, in all parts alike: a network can then learn the noise of the training part.
LABEL_NOISE = 0.15
# Of these splits none was looked at while the default was chosen.
FIRST_SPLIT = 1000


def digits(seed: int = 0) -> Task:
    """Return an MLP 64-64-10 on 500 of scikit-learn's digits, 15 % of the labels random.

    Args:
        seed: Of the split and the noise.
    """
    parts = load_digits().scaled()
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    rng = np.random.default_rng(FIRST_SPLIT + seed)
    order = rng.permutation(len(x))
    x, y = x[order].reshape(len(x), -1), noisy(y[order], rng)
    # 250 images to choose by, 1,047 to test.
    return Task(
        "digits, noisy labels", tasks.build_mlp, SPACE,
        (x[:500], y[:500]), (x[500:750], y[500:750]), (x[750:], y[750:]),
        epochs=40, batch_size=32, own_split=True,
    )  # fmt: skip


def noisy(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return labels of which some are drawn anew, so that a few stay as they are."""
    drawn = rng.integers(0, 10, len(labels)).astype(labels.dtype)
    return np.where(rng.random(len(labels)) < LABEL_NOISE, drawn, labels)


def fashion_mnist(seed: int = 0) -> Task:
    """Return a small convolutional network on 10,000 images of Fashion-MNIST; one split for all."""
    (x, y), test = load_fashion_mnist().scaled()
    return Task(
        "Fashion-MNIST, small CNN", build_small_cnn, SPACE,
        (x[:10_000], y[:10_000]), (x[-5_000:], y[-5_000:]), test,
        epochs=6,
    )  # fmt: skip


def build_small_cnn(values: Values) -> keras.Model:
    """Return a network of 20,000 parameters on 28 x 28 pixels."""
    return tasks.build_small_cnn(values, (8, 16, 32))


def friedman(seed: int = 0) -> Task:
    """Return a regression: Friedman's first function of ten inputs, with noise, 500 samples.

    Args:
        seed: Of the samples.
    """
    try:
        from sklearn.datasets import make_friedman1
    except ImportError as error:
        raise DatasetUnavailableError("scikit-learn is not installed.") from error
    x, y = make_friedman1(
        n_samples=4_750, n_features=10, noise=1.0, random_state=FIRST_SPLIT + seed
    )
    # To unit variance; the noise is then 0.04 of it, which is the least that can be reached.
    x = ((x - 0.5) * np.sqrt(12.0)).astype("float32")
    y = ((y - y.mean()) / y.std()).astype("float32")[:, np.newaxis]
    return Task(
        "Friedman regression", build_regression, SPACE,
        (x[:500], y[:500]), (x[500:750], y[500:750]), (x[750:], y[750:]),
        epochs=50, batch_size=32, metric=SQUARED_ERROR, own_split=True,
    )  # fmt: skip


def build_regression(values: Values) -> keras.Model:
    """Return an MLP 10-64-64-1."""
    penalty = keras.regularizers.L2(values["l2"])
    model = keras.Sequential(
        [
            keras.layers.Input((10,)),
            keras.layers.Dense(64, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(values["dropout"]),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(values["learning_rate"]),
        "mse",
        metrics=[keras.metrics.MeanSquaredError(name=SQUARED_ERROR)],
    )
    return model


def paper_cifar10(seed: int = 0) -> Task:
    """Return the paper's network for CIFAR-10, for four epochs; one split for all."""
    return replace(tasks.paper_cifar10(), epochs=4)


def paper_fashion_mnist(seed: int = 0) -> Task:
    """Return the paper's network for Fashion-MNIST, for three epochs; one split for all."""
    return replace(tasks.paper_fashion_mnist(), epochs=3)


# what the command line calls it -> the task of a seed
SMALL: Mapping[str, Callable[[int], Task]] = {
    "digits": digits,
    "friedman": friedman,
    "fashion_mnist": fashion_mnist,
}
PAPER: Mapping[str, Callable[[int], Task]] = {
    "paper_cifar10": paper_cifar10,
    "paper_fashion_mnist": paper_fashion_mnist,
}


def loss(task: Task, model: keras.Model, data: Arrays) -> float:
    """Return what a task is judged by, on some data, without penalties."""
    if task.metric != SQUARED_ERROR:
        return cross_entropy(model, data)
    x, y = data
    return float(np.mean((model.predict(x, batch_size=256, verbose=0) - y) ** 2))


def accuracy(task: Task, model: keras.Model, data: Arrays) -> float | None:
    """Return the part of some data that is classified rightly; None for a regression."""
    if task.metric == SQUARED_ERROR:
        return None
    x, y = data
    return float(np.mean(model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y))


def tiny(task: Task) -> Task:
    """Return a task of seconds, to see that everything runs."""
    return tasks.tiny(task)
