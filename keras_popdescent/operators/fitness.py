"""Fitness: a score, whatever its direction and scale, mapped to (0, 1].

Source: Population Descent (arXiv 2310.14671), Algorithm 1 ("FITNESS: individual x Batch ->
[0, 1]"); the formula 2 / (2 + loss) is that of the authors' reference code.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["min", "max"]


def cost(score: float | None, direction: Direction) -> float:
    """Return a score as a number of which less is better.

    Args:
        score: A raw objective value; None where there is none.
        direction: `"min"` or `"max"`, the user's direction.

    Returns:
        The score, negated where it is to be maximised; infinity where it is not finite, or None.
    """
    if score is None or not math.isfinite(score):
        return math.inf
    return float(score if direction == "min" else -score)


def fitness(scores: NDArray[np.float64], direction: Direction = "min") -> NDArray[np.float64]:
    """Map scores to fitness, larger is better.

    - A loss (direction `"min"`): `2 / (2 + loss)`, as in the paper's code. Losses below zero (a
      likelihood of a density, say) are first shifted so that the lowest one is 0.
    - A rate (direction `"max"`, every finite score in [0, 1]): the score itself.
    - Any other score to maximise: `2 / (2 + (best - score))`.
    - A non-finite score: 0, the only way to get it. Finite scores get at least 1e-12.

    So the best member has fitness 1 where losses are negative, and where a score that is no rate is
    maximised. It saturates, too: losses below 1e-16 all have 1. Whom to replace is decided by
    `PopulationView.costs`.

    Args:
        scores: (population_size,) float array of raw objective values.
        direction: `"min"` or `"max"`, the user's direction.

    Returns:
        (population_size,) float array in [0, 1].
    """
    scores = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(scores)
    result = np.zeros_like(scores)
    if not finite.any():
        return result
    known = scores[finite]
    if direction == "min":
        mapped = 2.0 / (2.0 + (known - min(0.0, known.min())))
    elif known.min() >= 0.0 and known.max() <= 1.0:
        mapped = known
    else:
        mapped = 2.0 / (2.0 + (known.max() - known))
    result[finite] = np.clip(mapped, 1e-12, 1.0)
    return result
