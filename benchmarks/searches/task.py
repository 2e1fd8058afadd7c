"""What all searches are given, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

Values = Mapping[str, float]
Arrays = tuple[np.ndarray, np.ndarray]
# Members are compared without their penalties, by every tool.
METRIC = "cross_entropy"
OBJECTIVE = f"val_{METRIC}"


@dataclass(frozen=True)
class Range:
    """A hyperparameter's range.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether values are drawn on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    @property
    def middle(self) -> float:
        """The value that is taken where nothing is searched."""
        if self.log:
            return float(np.sqrt(self.low * self.high))
        return (self.low + self.high) / 2.0

    def draw(self, rng: np.random.Generator) -> float:
        """Return a random value."""
        if self.log:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Task:
    """A network to tune on a data set.

    Attributes:
        name: Its name in the table.
        build: Returns a compiled model for some values; it reports the metric.
        space: The ranges, by name.
        training: Samples and labels.
        validation: Samples and labels, by which a search chooses.
        test: Samples and labels that no search sees.
        epochs: How long one model trains.
        models: How many models the budget holds.
        batch_size: Samples a batch.
        target: RandomSearch's time over PopDescentTuner's that is to be reached.
        metric: What searches choose by on validation data; lower is better.
        own_split: Whether the parts of the data are drawn anew for each seed.
    """

    name: str
    build: Callable[[Values], keras.Model]
    space: Mapping[str, Range]
    training: Arrays
    validation: Arrays
    test: Arrays
    epochs: int
    models: int = 5
    batch_size: int = 64
    target: float | None = None
    metric: str = METRIC
    own_split: bool = False

    @property
    def steps(self) -> int:
        """Gradient steps of one model."""
        return self.epochs * -(-len(self.training[0]) // self.batch_size)

    @property
    def budget(self) -> int:
        """Gradient steps that a search may take."""
        return self.models * self.steps

    @property
    def objective(self) -> str:
        """The metric's name on validation data."""
        return f"val_{self.metric}"

    @property
    def middle(self) -> dict[str, float]:
        """The middle of each range."""
        return {name: limits.middle for name, limits in self.space.items()}

    def fit_arguments(self) -> dict[str, Any]:
        """Return what `fit` and `search` are called with, beside epochs and callbacks."""
        x, y = self.training
        return {
            "x": x,
            "y": y,
            "batch_size": self.batch_size,
            "validation_data": self.validation,
            "verbose": 0,
        }


@dataclass(frozen=True)
class Found:
    """A search's outcome: its best model, and the gradient steps that it took."""

    model: keras.Model
    gradient_steps: int


class CountSteps(keras.callbacks.Callback):
    """Counts the optimizer's updates in any number of trainings, and ends them with the budget.

    It reads the optimizer's own counter at the end of an epoch: a callback for every batch would
    slow the trainings down.

    Args:
        budget: Gradient steps after which the training stops; None for no limit.
    """

    def __init__(self, budget: int | None = None) -> None:
        super().__init__()
        self.budget = budget
        self.steps = 0
        self._seen = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> CountSteps:
        # KerasTuner copies callbacks for every trial; there is one count.
        return self

    @property
    def spent(self) -> bool:
        """Whether nothing is left of the budget."""
        return self.budget is not None and self.steps >= self.budget

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Note where the optimizer stands: it may have trained before."""
        self._seen = int(self.model.optimizer.iterations)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Count."""
        now = int(self.model.optimizer.iterations)
        self.steps += now - self._seen
        self._seen = now
        if self.spent:
            self.model.stop_training = True


def cross_entropy_metric() -> keras.metrics.Metric:
    """Return the metric that searches choose by."""
    return keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name=METRIC)


def cross_entropy(model: keras.Model, data: Arrays) -> float:
    """Return a model's mean cross-entropy, without penalties."""
    x, y = data
    logits = model.predict(x, batch_size=256, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return float(keras.ops.mean(losses))
