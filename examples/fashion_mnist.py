"""The demo: Population Descent on Fashion-MNIST, beside KerasTuner's RandomSearch.

Both get the same search space, the same data and the same number of gradient steps. The population
has five slots that train for six epochs each; RandomSearch trains five models for six epochs each.

    make demo
    python -m examples.fashion_mnist [--epochs 6] [--samples 20000] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hide what TensorFlow's C++ side prints to standard error while it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    held = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(held, 2)
        os.close(held)


with quiet_start():
    import keras
    import keras_tuner
    import numpy as np

    keras.ops.zeros(1)

from rich.console import Console
from rich.table import Table

from keras_popdescent import PopDescentTuner
from keras_popdescent.plots import plot_search
from reproduce.datasets import load_fashion_mnist_or_digits

BATCH_SIZE = 64
MODELS = 5


def build_model(hp: keras_tuner.HyperParameters) -> keras.Model:
    """Return a small convolutional network with a learning rate, an L2 and a dropout to tune."""
    penalty = keras.regularizers.L2(hp.Float("l2", 1e-6, 1e-2, sampling="log", default=1e-4))
    strides = 2 if SHAPE[0] > 16 else 1
    model = keras.Sequential(
        [
            keras.layers.Input(SHAPE),
            keras.layers.Conv2D(16, 3, strides=strides, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=strides, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.7, default=0.2)),
            keras.layers.Dense(10),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


# Height, width and channels of an image; the data set decides.
SHAPE = (28, 28, 1)


@dataclass(frozen=True)
class Outcome:
    """One method's best model, measured alike: cross-entropy without penalty, and accuracy."""

    name: str
    validation: tuple[float, float]
    test: tuple[float, float]
    gradient_steps: int
    seconds: float


def measure(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return cross-entropy and accuracy on (samples, ...) images and (samples,) labels."""
    logits = model.predict(x, batch_size=256, verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return float(keras.ops.mean(loss)), float(np.mean(logits.argmax(axis=1) == y))


class Counter(keras.callbacks.Callback):
    """Counts gradient steps over all trials of RandomSearch and says which trial is on."""

    steps = 0
    trials = 0

    def on_train_begin(self, logs: object = None) -> None:
        Counter.trials += 1
        print(f"trial {Counter.trials} of {MODELS}", flush=True)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        Counter.steps += 1


def main() -> None:
    """Run both searches, print the comparison and draw the picture."""
    global SHAPE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help="how long each model trains")
    parser.add_argument("--samples", type=int, default=20_000, help="training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    console = Console()

    dataset = load_fashion_mnist_or_digits()
    (x_all, y_all), (x_test, y_test) = dataset.scaled()
    SHAPE = x_all.shape[1:]
    num_validation = min(5_000, len(x_all) // 5)
    x_val, y_val = x_all[-num_validation:], y_all[-num_validation:]
    x, y = x_all[:-num_validation][: arguments.samples], y_all[:-num_validation]
    y = y[: arguments.samples]
    console.print(f"[bold]Data[/]: {dataset.source}")
    console.print(
        f"{len(x):,} training, {len(x_val):,} validation, {len(x_test):,} held-out test images\n"
    )
    fit = {
        "epochs": arguments.epochs,
        "batch_size": BATCH_SIZE,
        "validation_data": (x_val, y_val),
    }

    console.print("[bold]PopDescentTuner[/]: five members train together")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tuner = PopDescentTuner(
            build_model,
            objective="val_loss",
            population_size=MODELS,
            directory=folder,
            seed=arguments.seed,
        )
        tuner.search(x, y, **fit)
        outcomes = [
            outcome(
                "PopDescentTuner",
                tuner.get_best_models()[0],
                (x_val, y_val, x_test, y_test),
                tuner.history.gradient_steps,
                time.perf_counter() - began,
            )
        ]

        console.print("\n[bold]KerasTuner RandomSearch[/]: five models, one after the other")
        began = time.perf_counter()
        random_search = keras_tuner.RandomSearch(
            build_model,
            objective="val_loss",
            max_trials=MODELS,
            directory=folder,
            project_name="random_search",
            seed=arguments.seed + 1,
        )
        random_search.search(x, y, verbose=0, callbacks=[Counter()], **fit)
        outcomes.append(
            outcome(
                "RandomSearch",
                best_model(random_search),
                (x_val, y_val, x_test, y_test),
                Counter.steps,
                time.perf_counter() - began,
            )
        )

    console.print()
    console.print(members_table(tuner))
    console.print(comparison_table(outcomes))
    path = arguments.output / "fashion_mnist.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_search(
        tuner.history,
        names=["learning_rate", "l2", "dropout"],
        title=f"Population Descent on {dataset.name}",
        path=path,
    )
    console.print(f"\nPicture: {path}")


def best_model(tuner: keras_tuner.Tuner) -> keras.Model:
    """Return a KerasTuner tuner's best model, without Keras's warning that its optimizer is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model: keras.Model = tuner.get_best_models()[0]
    return model


def outcome(
    name: str,
    model: keras.Model,
    data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    gradient_steps: int,
    seconds: float,
) -> Outcome:
    """Measure a method's best model."""
    x_val, y_val, x_test, y_test = data
    return Outcome(
        name, measure(model, x_val, y_val), measure(model, x_test, y_test), gradient_steps, seconds
    )


def members_table(tuner: PopDescentTuner) -> Table:
    """Return the members that lived at the end, and the best one ever."""
    history = tuner.history
    best = history.best()
    living = {member.member_id for member in history.iterations()[-1].members}
    table = Table(
        title="Members at the end, with their best scores (* the best ever)", title_justify="left"
    )
    for column in ("member", "parent", "steps", "val_loss", "learning rate", "L2", "dropout"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in history.member_table():
        if row["member_id"] in living or (best is not None and row["member_id"] == best[0]):
            mark = " *" if best is not None and row["member_id"] == best[0] else ""
            table.add_row(
                f"{row['member_id']}{mark}",
                ", ".join(map(str, row["parents"])) or "-",
                f"{row['gradient_steps']:,}",
                "-" if row["best_score"] is None else f"{row['best_score']:.4f}",
                f"{row['learning_rate']:.2e}",
                f"{row['l2']:.2e}",
                f"{row['dropout']:.2f}",
            )
    return table


def comparison_table(outcomes: list[Outcome]) -> Table:
    """Return the methods side by side."""
    table = Table(
        title="Best model by validation loss (cross-entropy, without penalty) after as many steps",
        title_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for column in ("val loss", "accuracy", "test loss", "accuracy", "steps", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for o in outcomes:
        table.add_row(
            o.name,
            f"{o.validation[0]:.4f}",
            f"{o.validation[1]:.2%}",
            f"{o.test[0]:.4f}",
            f"{o.test[1]:.2%}",
            f"{o.gradient_steps:,}",
            f"{o.seconds:.0f} s",
        )
    return table


if __name__ == "__main__":
    main()
