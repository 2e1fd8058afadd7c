"""Optuna: the TPE sampler with the median pruner, both with their defaults, over Keras's `fit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import optuna

from benchmarks.searches.task import CountSteps, Found, Task, Values


class EachEpoch(keras.callbacks.Callback):
    """Reports to a trial after each epoch, prunes it, and keeps the best weights of all trials.

    Args:
        trial: The trial.
        values: Its hyperparameter values.
        objective: What it is judged by.
        best: What was best so far, over all trials.
    """

    def __init__(self, trial: optuna.Trial, values: Values, objective: str, best: Best) -> None:
        super().__init__()
        self._trial, self._values, self._best = trial, values, best
        self._objective = objective
        self.lowest = float("inf")
        self.pruned = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Report."""
        score = float((logs or {})[self._objective])
        self.lowest = min(self.lowest, score)
        self._best.offer(score, self._values, self.model)
        self._trial.report(score, epoch)
        if self._trial.should_prune():
            self.pruned = True
            self.model.stop_training = True


class Best:
    """The best weights ever seen, held in memory."""

    def __init__(self) -> None:
        self._score = float("inf")
        self._values: Values = {}
        self._weights: list = []

    def offer(self, score: float, values: Values, model: keras.Model) -> None:
        """Keep a model's weights if they are better."""
        if score < self._score:
            self._score, self._values = score, values
            self._weights = model.get_weights()

    def model(self, task: Task) -> keras.Model:
        """Return a model with the best weights."""
        model = task.build(self._values)
        model.set_weights(self._weights)
        return model


def search(task: Task, seed: int, folder: Path) -> Found:
    """Run trials until the budget is spent."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counter, best = CountSteps(task.budget), Best()

    def objective(trial: optuna.Trial) -> float:
        # As KerasTuner does before each trial.
        keras.backend.clear_session()
        values = {
            name: trial.suggest_float(name, limits.low, limits.high, log=limits.log)
            for name, limits in task.space.items()
        }
        each = EachEpoch(trial, values, task.objective, best)
        task.build(values).fit(
            epochs=task.epochs, callbacks=[counter, each], **task.fit_arguments()
        )
        if counter.spent:
            trial.study.stop()
        if each.pruned:
            raise optuna.TrialPruned
        return each.lowest

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner()
    )
    study.optimize(objective)
    return Found(best.model(task), counter.steps)
