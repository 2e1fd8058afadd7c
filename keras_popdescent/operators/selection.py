"""Who is replaced, and by whose copies.

Source: Population Descent (arXiv 2310.14671), Algorithm 1, lines 6 and 9 to 12.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weakest(costs: NDArray[np.float64], count: int) -> list[int]:
    """Return the slots of the `count` weakest members, weakest first (Algorithm 1, line 10).

    Members of infinite cost (a non-finite score) come first. Of two equal members the one in the
    higher slot counts as weaker, so that the result does not depend on the sorting algorithm.

    Args:
        costs: (population_size,) float array, less is better; see `PopulationView.costs`.
        count: How many, 0 ... population_size.
    """
    order = sorted(range(len(costs)), key=lambda slot: (-costs[slot], -slot))
    return order[:count]


def choose_parents(fitness: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` slots with replacement, each with probability fitness / sum(fitness).

    All members are candidates, the weakest too (Algorithm 1, line 6: the weighted multinomial over
    `Optimized`); a member of fitness 0 is never drawn.

    Args:
        fitness: (population_size,) float array in [0, 1], not all 0.
        count: How many parents to draw.
        rng: Source of randomness.
    """
    weights = np.asarray(fitness, dtype=np.float64)
    drawn = rng.choice(len(weights), size=count, replace=True, p=weights / weights.sum())
    return [int(slot) for slot in drawn]
