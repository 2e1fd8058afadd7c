"""KerasTuner's RandomSearch and Hyperband, and PopDescentTuner: one search space, one call."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from benchmarks.searches.task import CountSteps, Found, Task
from keras_popdescent import PopDescentTuner
from reproduce.runs import refuse_interrupted


class BudgetSpentError(keras_tuner.errors.FatalError):
    """Ends a KerasTuner search from within a trial."""


class EndSearch(CountSteps):
    """Ends the whole search, not only a training, when the budget is spent."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Count, and end the search."""
        super().on_epoch_end(epoch, logs)
        if self.spent:
            raise BudgetSpentError


def random_search(task: Task, seed: int, folder: Path) -> Found:
    """Train as many models as the budget holds, from random values."""
    tuner = keras_tuner.RandomSearch(
        hypermodel(task), max_trials=task.models, **common(task, seed, folder)
    )
    counter = CountSteps()
    tuner.search(epochs=task.epochs, callbacks=[counter], **task.fit_arguments())
    return Found(best_model(tuner), counter.steps)


def hyperband(task: Task, seed: int, folder: Path) -> Found:
    """Run brackets until the budget is spent; a trial that is then under way does not count."""
    tuner = keras_tuner.Hyperband(
        hypermodel(task),
        max_epochs=task.epochs,
        hyperband_iterations=100,
        **common(task, seed, folder),
    )
    counter = EndSearch(task.budget)
    with contextlib.suppress(BudgetSpentError):
        tuner.search(callbacks=[counter], **task.fit_arguments())
    return Found(best_model(tuner), counter.steps)


def popdescent(task: Task, seed: int, folder: Path) -> Found:
    """Train as many members together, from random values (by default the first has defaults)."""
    rng = np.random.default_rng(seed)
    first: dict[str, Any] = {name: limits.draw(rng) for name, limits in task.space.items()}
    tuner = PopDescentTuner(
        hypermodel(task),
        population_size=task.models,
        initial_hyperparameters=[first],
        **common(task, seed, folder),
    )
    refuse_interrupted(tuner.search(epochs=task.epochs, **task.fit_arguments()))
    return Found(tuner.get_best_models()[0], tuner.history.gradient_steps)


def common(task: Task, seed: int, folder: Path) -> dict[str, Any]:
    """Return the arguments that all three tuners share."""
    return {
        "objective": keras_tuner.Objective(task.objective, "min"),
        "seed": seed,
        "directory": str(folder),
        "project_name": "search",
        "overwrite": True,
    }


def hypermodel(task: Task) -> Callable[[keras_tuner.HyperParameters], keras.Model]:
    """Return the task's `build_model(hp)`; the defaults are the middle of the ranges."""

    def build_model(hp: keras_tuner.HyperParameters) -> keras.Model:
        return task.build(
            {
                name: hp.Float(
                    name,
                    limits.low,
                    limits.high,
                    sampling="log" if limits.log else "linear",
                    default=limits.middle,
                )
                for name, limits in task.space.items()
            }
        )

    return build_model


def best_model(tuner: keras_tuner.Tuner) -> keras.Model:
    """Return a tuner's best model, without Keras's warning that its optimizer is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model: keras.Model = tuner.get_best_models()[0]
    return model
