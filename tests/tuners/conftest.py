import keras
import numpy as np
import pytest


def build_model(hp):
    penalty = keras.regularizers.L2(hp.Float("l2", 1e-6, 1e-2, sampling="log"))
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
            keras.layers.Dense(3),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


@pytest.fixture(scope="session")
def data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(320, 8)).astype("float32")
    y = (x @ rng.normal(size=(8, 3))).argmax(axis=1)
    return x, y


@pytest.fixture
def build():
    return build_model


class Crash(Exception):
    """What ends a search in these tests."""


class CrashAt(keras.callbacks.Callback):
    """Raises at the end of an epoch of one member, when others are not there yet."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.epoch:
            raise Crash
