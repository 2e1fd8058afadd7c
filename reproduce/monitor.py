"""Figure 1's curve: the lowest loss of a population on images, after each iteration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_popdescent import Observer
from keras_popdescent.history import IterationRecord
from reproduce.evaluation import cross_entropy, lowest


class Monitor(Observer):
    """Notes (gradient steps, lowest loss) after every replacement.

    Args:
        folder: Where the points are kept, for a run that is interrupted.
        x: (samples, ...) images.
        y: (samples,) labels.
        num_images: How many are drawn for each point, common to all members; None for all.
        seed: Seed of the draws; each point has a generator of its own.
    """

    def __init__(
        self,
        folder: Path,
        x: np.ndarray[Any, Any],
        y: np.ndarray[Any, Any],
        num_images: int | None,
        seed: int,
    ) -> None:
        self._path = folder / "curve.json"
        self._x, self._y, self._num_images, self._seed = x, y, num_images, seed
        self._loop: Any = None
        self._noted = 0
        self.points: list[list[float]] = []
        if self._path.exists():
            self.points = json.loads(self._path.read_text("utf-8"))

    def search_begin(self, loop: Any) -> None:
        self._loop = loop
        self._noted = loop.iteration
        # A run that goes on from an earlier iteration measures the later ones again.
        self.points = self.points[: loop.iteration]

    def iteration_end(self, record: IterationRecord) -> None:
        if not record.births:
            self._note()

    def births(self, members: Sequence[Any]) -> None:
        # They are in their slots now.
        self._note()

    def _note(self) -> None:
        loop = self._loop
        if loop.iteration == self._noted:
            return
        self._noted = loop.iteration
        index = np.arange(len(self._x))
        if self._num_images is not None:
            size = min(self._num_images, len(index) - 1)
            rng = np.random.default_rng([self._seed, loop.iteration])
            index = rng.choice(len(index) - 1, size=size, replace=False)
        losses: list[float] = []

        def score(model: keras.Model) -> None:
            losses.append(cross_entropy(model, self._x[index], self._y[index])[0])

        for member in loop.members:
            loop.executor.visit(member.slot, score)
        steps = loop.history.records[-1].gradient_steps
        self.points.append([steps, lowest(losses)])
        self._path.write_text(json.dumps(self.points), encoding="utf-8")
