"""Evolutionary stochastic gradient descent.

Source: Xiaodong Cui, Wei Zhang, Zoltán Tüske, Michael Picheny, "Evolutionary Stochastic Gradient
Descent for Optimization of Deep Neural Networks", NeurIPS 2018, arXiv 1810.06773, Algorithm 1; with
the choices of the code that Population Descent (arXiv 2310.14671) was compared with.

Deviations from the paper, as in that code: no back-off (a member keeps what its gradient steps did
to it); every parent is as likely as any other; the survivors beside the elites are drawn with
replacement. Deviation from that code: a member that survives twice becomes two members, which train
on their own, where the code trained one object twice a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from keras_popdescent.arguments import check_flag, check_number, check_whole
from keras_popdescent.operators.fitness import cost
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.strategies.base import Offspring, PopulationView, Strategy
from keras_popdescent.strategies.plans import ClosingPlan, ScoringPlan, TrainingPlan, check_plans


class ESGD(Strategy):
    """Let members and tried-out children compete: the best m survive, the others by chance.

    After each iteration g = 1, 2, ..., with a population of size n and m elites:

    1. `num_offspring * n` children are made: each the mean of the trainable weights of
       `num_parents` members drawn at random with replacement, plus Gaussian noise of standard
       deviation `noise_scale / g` for each weight;
    2. members and children are ranked by score;
    3. the m best survive, and n - m others are drawn with replacement from the rest.

    A child has the hyperparameter values of its first parent. As children are scored before they
    replace anybody, the population evolves after the last iteration too.

    Args:
        num_offspring: Children for each member, at least 1. Defaults to 4.
        num_parents: Parents of a child, at least 1. Defaults to 3.
        noise_scale: Standard deviation of the first iteration's noise, at least 0. Defaults to
            0.01.
        training: Which batches members train on. Defaults to the same for all, with an optimizer as
            just built in each iteration.
        scoring: Which validation data scores members and children. Defaults to all of it. (The
            authors rank by the loss on the whole training set: pass that as validation data.)
        closing: Training after the last iteration. Defaults to none.
        keep_best: Whether the result is the best member ever seen, or the fittest at the end (the
            default).

    Raises:
        ArgumentError: For an argument that cannot work.

    Example:
        >>> import numpy as np
        >>> from dataclasses import replace
        >>> from keras_popdescent import ESGD, PopulationView, SearchSpace
        >>> view = PopulationView(
        ...     scores=np.array([0.5, 2.0, 1.0]), values=[{}] * 3,
        ...     iteration=1, num_iterations=10, num_elites=1, space=SearchSpace(),
        ... )
        >>> strategy, rng = ESGD(), np.random.default_rng(0)
        >>> children = strategy.candidates(view, rng)
        >>> len(children), len(children[0].parents)
        (12, 3)
        >>> tried = [replace(child, score=0.1 + i) for i, child in enumerate(children)]
        >>> strategy.evolve(replace(view, candidates=tried), rng)[0].score
        0.1
    """

    tries_candidates = True
    implicit = False

    def __init__(
        self,
        num_offspring: int = 4,
        num_parents: int = 3,
        noise_scale: float = 0.01,
        *,
        training: TrainingPlan | None = None,
        scoring: ScoringPlan | None = None,
        closing: ClosingPlan | None = None,
        keep_best: bool = False,
    ) -> None:
        check_number("noise_scale", noise_scale, 0.0, none=False)
        check_plans(training, scoring, closing)
        check_flag("keep_best", keep_best)
        self.num_offspring: int = check_whole("num_offspring", num_offspring, none=False)
        self.num_parents: int = check_whole("num_parents", num_parents, none=False)
        self.noise_scale = noise_scale
        default = TrainingPlan(batches="common", fresh_optimizer=True)
        self.training = default if training is None else training
        self.scoring = ScoringPlan() if scoring is None else scoring
        self.closing = ClosingPlan() if closing is None else closing
        self.keep_best = keep_best

    def _candidates(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        finite = np.flatnonzero(view.fitness)
        sd = self.noise_scale / view.iteration
        children = []
        for index in range(self.num_offspring * view.size):
            first = int(rng.choice(finite))
            # Weights of other shapes have no mean with the first parent's.
            alike = [slot for slot in map(int, finite) if _same_structure(view, first, slot)]
            others = rng.choice(alike, size=self.num_parents - 1)
            children.append(
                Offspring(
                    slot=index % view.size,
                    parents=(first, *map(int, others)),
                    values=dict(view.values[first]),
                    weight_noise=NoiseSpec("gaussian", sd, int(rng.integers(2**31))),
                    optimizer_state="fresh",
                )
            )
        return children

    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        ranked = _ranked(view)
        others = ranked[view.num_elites :] or ranked
        num_elites = min(view.num_elites, len(ranked))
        drawn = rng.integers(len(others), size=view.size - num_elites)
        survivors = [*ranked[:num_elites], *(others[int(index)] for index in drawn)]
        staying = {survivor for survivor in survivors if isinstance(survivor, int)}
        arriving: list[int | Offspring] = []
        seen: set[int] = set()
        for survivor in survivors:
            if isinstance(survivor, int) and survivor not in seen:
                seen.add(survivor)
            else:
                arriving.append(survivor)
        # The weakest make place first.
        leaving = [int(slot) for slot in np.argsort(-view.costs, kind="stable")]
        leaving = [slot for slot in leaving if slot not in staying]
        return [
            _born(view, slot, survivor) for slot, survivor in zip(leaving, arriving, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_offspring": self.num_offspring,
            "num_parents": self.num_parents,
            "noise_scale": self.noise_scale,
            "training": asdict(self.training),
            "scoring": asdict(self.scoring),
            "closing": asdict(self.closing),
            "keep_best": self.keep_best,
        }


def _same_structure(view: PopulationView, first: int, second: int) -> bool:
    names = view.space.names("structural")
    return all(view.values[first][name] == view.values[second][name] for name in names)


def _ranked(view: PopulationView) -> Sequence[int | Offspring]:
    """Return slots of members, and children, the best first; what is not finite is left out."""
    scored: list[tuple[float, int | Offspring]] = [
        *zip(view.costs, range(view.size), strict=True),
        *((cost(child.score, view.direction), child) for child in view.candidates),
    ]
    finite = [pair for pair in scored if math.isfinite(pair[0])]
    return [entry for _, entry in sorted(finite, key=lambda pair: pair[0])]


def _born(view: PopulationView, slot: int, survivor: int | Offspring) -> Offspring:
    """Return the survivor as one that is born in a slot; a member is copied."""
    if isinstance(survivor, Offspring):
        return replace(survivor, slot=slot)
    return Offspring(
        slot=slot,
        parents=(survivor,),
        values=dict(view.values[survivor]),
        optimizer_state="fresh",
        score=float(view.scores[survivor]),
    )
