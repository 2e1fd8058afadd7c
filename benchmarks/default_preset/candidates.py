"""Variants of the default that were tried, each as switches of the strategy.

They are compared on the small tasks by their validation loss, or on a part that is neither
validation nor test; the held-out parts choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from keras_popdescent import Annealing, Averaging, Focus, PopDescent, Strategy
from keras_popdescent.strategies import Offspring, PopulationView, ScoringPlan, UnitMutation
from keras_popdescent.strategies.space import SearchSpace, Values


class SmoothedScores(PopDescent):
    """`PopDescent` that compares members by a moving average of the scores along their lines.

    Args:
        momentum: Share that the average keeps in each iteration, from 0 to 1 exclusive.
        **kwargs: Arguments of `PopDescent`.
    """

    def __init__(self, momentum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self._means: np.ndarray | None = None

    def _start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        self._means = None
        return super()._start(size, space, rng)

    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        now = np.asarray(view.scores, dtype=float)
        before = now if self._means is None else self._means
        means = self.momentum * before + (1.0 - self.momentum) * now
        # A member that diverged has no score, and none to remember.
        means = np.where(np.isfinite(means), means, now)
        offspring = super()._evolve(replace(view, scores=means), rng)
        self._means = means.copy()
        for child in offspring:
            self._means[child.slot] = means[child.parents[0]]
        return offspring


CANDIDATES: Mapping[str, Callable[[], Strategy]] = {
    "all members to the end": lambda: PopDescent(focus=None),
    "the best alone to the end": lambda: PopDescent(focus=Focus(0.5, None)),
    "the best alone from three tenths on": lambda: PopDescent(focus=Focus(0.3)),
    "the best alone from seven tenths on": lambda: PopDescent(focus=Focus(0.7)),
    "annealed in the second half": lambda: PopDescent(annealing=Annealing(begin=0.5)),
    "annealed from the beginning": lambda: PopDescent(annealing=Annealing()),
    "no averages, warm restarts: the default before": lambda: PopDescent(
        optimizer_state="restart", averaging=None
    ),
    "no averages": lambda: PopDescent(averaging=None),
    "averages of momentum 0.7": lambda: PopDescent(averaging=Averaging(0.7)),
    "averages of momentum 0.9": lambda: PopDescent(averaging=Averaging(0.9)),
    "warm restarts": lambda: PopDescent(optimizer_state="restart"),
    "optimizer as just built": lambda: PopDescent(optimizer_state="fresh"),
    "no least width": lambda: PopDescent(UnitMutation(0.5)),
    "least width 0.1": lambda: PopDescent(UnitMutation(0.5, least=0.1)),
    "width 1": lambda: PopDescent(UnitMutation(1.0, least=0.2)),
    "noise 0.05": lambda: PopDescent(noise_scale=0.05),
    "scores smoothed over two iterations": lambda: SmoothedScores(0.5),
    "scores smoothed over five iterations": lambda: SmoothedScores(0.8),
    "smoothed over five iterations, no averages of weights": lambda: SmoothedScores(
        0.8, averaging=None
    ),
    "a common sample of 50": lambda: PopDescent(scoring=ScoringPlan("common", 50)),
    "a common sample of 125": lambda: PopDescent(scoring=ScoringPlan("common", 125)),
}
