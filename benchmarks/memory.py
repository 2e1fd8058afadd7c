"""Memory: how much a process grows over a long search, after the first ten iterations.

A small network with live and rebuild hyperparameters, a user's callbacks, and checkpoints: what a
search holds on to shows in the resident memory, which is measured after every iteration. The target
is a growth of less than 2 % from iteration 10 to the end.

    python -m benchmarks.memory [--iterations 200]
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import keras
import keras_tuner
import numpy as np

from benchmarks import records
from benchmarks.report import section
from keras_popdescent.tuners import PopDescentTuner

TARGET = 0.02
# Iterations in which everything has been compiled once.
WARM = 10


def build(hp: keras_tuner.HyperParameters) -> keras.Model:
    """Return a network with a live rate, a live dropout and two rebuild hyperparameters."""
    rate = hp.Float("rate", 1e-4, 1e-1, sampling="log")
    regularizer = keras.regularizers.L2(hp.Float("l2", 1e-6, 1e-2, sampling="log"))
    optimizers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    model = keras.Sequential(
        [
            keras.layers.Input((32,)),
            keras.layers.Dense(
                64, hp.Choice("activation", ["relu", "tanh"]), kernel_regularizer=regularizer
            ),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizers[hp.Choice("optimizer", ["adam", "sgd"])](rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def resident() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Measure(keras.callbacks.Callback):
    """Notes the memory each time that the first slot's member ends an epoch."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        while len(self.sizes) <= epoch:
            self.sizes.append(resident())


def measure(iterations: int) -> dict[str, float]:
    """Run the search and return its memory at iteration 10 and at the end."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1024, 32)).astype("float32")
    y = rng.integers(0, 10, 1024)
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        tuner = PopDescentTuner(
            build, "val_loss", population_size=4, iterations=iterations, batches_per_iteration=16,
            seed=0, directory=folder, checkpoint_every=5,
        )  # fmt: skip
        callbacks = [keras.callbacks.EarlyStopping(patience=10**6), lambda: Measure(sizes)]
        tuner.search(
            x, y, batch_size=64, steps_per_epoch=16, validation_data=(x[:256], y[:256]),
            verbose=0, callbacks=callbacks,
        )  # fmt: skip
        born = len(tuner.oracle.trials)
    warm, end = sizes[WARM], sizes[-1]
    return {
        "iterations": iterations,
        "members_born": born,
        "mb_at_10": warm / 1e6,
        "mb_at_end": end / 1e6,
        "growth": end / warm - 1.0,
        "target": TARGET,
    }


def main() -> None:
    """Measure, print, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--iterations", type=int, default=200)
    chosen = parser.parse_args()
    row = measure(20 if chosen.quick else chosen.iterations)
    result = records.record("memory", keras.backend.backend(), [row])
    print("\n".join(section(result)))
    records.save(result, records.folder_of(chosen))


if __name__ == "__main__":
    main()
