"""What a strategy is: it sees numbers and decides who is replaced by whom, with what values.

A strategy never sees a model. Its decisions are frozen records, so that they can be tested with
scripted scores, logged and replayed; an executor carries them out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from keras_popdescent.arguments import (
    check_one_of,
)
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.operators.fitness import Direction, cost, fitness
from keras_popdescent.operators.noise import NO_NOISE, NoiseSpec
from keras_popdescent.strategies.plans import (
    Annealing,
    Averaging,
    ClosingPlan,
    Focus,
    ScoringPlan,
    TrainingPlan,
)
from keras_popdescent.strategies.space import SearchSpace, Values

Regularization = Literal["first", "all", "unused"]
OptimizerState = Literal["inherit", "restart", "fresh", "fresh_slots"]


@dataclass(frozen=True)
class Offspring:
    """The record of one replacement.

    Attributes:
        slot: The slot whose member is replaced.
        parents: Slots of the parents before the replacement. The child starts from the weights of
            the only parent, or from the mean of the parents' trainable weights; all else is the
            first parent's.
        values: The child's hyperparameter values.
        weight_noise: Noise added to the child's trainable weights. Defaults to none.
        optimizer_state: `"inherit"` the first parent's; `"restart"`: slots as just built under a
            copy of the first parent's step counter; `"fresh"`, all as just built; `"fresh_slots"`:
            as `"restart"`, but parent and child go on sharing one counter (the authors' code).
            Within `PopDescentCallback` no counter is shared: there it is `"restart"`. Where the
            training code is the user's own it is refused. Defaults to `"inherit"`.
        strength: How hard the child was mutated, for the record. Defaults to 0.
        score: The child's score, where it was tried out before its birth; see
            `Strategy.candidates`. Defaults to None.

    Raises:
        ArgumentError: If there is no such `optimizer_state`.

    Example:
        >>> child = Offspring(slot=2, parents=(0,), values={"learning_rate": 0.02})
        >>> child.optimizer_state, child.weight_noise.is_zero
        ('inherit', True)
    """

    slot: int
    parents: tuple[int, ...]
    values: Values
    weight_noise: NoiseSpec = NO_NOISE
    optimizer_state: OptimizerState = "inherit"
    strength: float = 0.0
    score: float | None = None

    def __post_init__(self) -> None:
        check_one_of("optimizer_state", self.optimizer_state, get_args(OptimizerState))


@dataclass(frozen=True)
class PopulationView:
    """All that a strategy may know when it decides.

    Attributes:
        scores: (population_size,) float array, raw objective values in the user's direction.
        values: The members' hyperparameter values by slot.
        iteration: Number of this iteration, from 1.
        num_iterations: How many iterations the search will have.
        num_elites: How many members stay untouched, 0 ... population_size.
        space: The search space.
        direction: `"min"` or `"max"`.
        births_left: How many members may still be born; None for no limit.
        candidates: Children that the strategy had tried out after this iteration, each with its
            score; empty for most strategies.
        fitness: (population_size,) float array in [0, 1]; computed from the scores.
    """

    scores: NDArray[np.float64]
    values: Sequence[Values]
    iteration: int
    num_iterations: int
    num_elites: int
    space: SearchSpace
    direction: Direction = "min"
    births_left: int | None = None
    candidates: Sequence[Offspring] = ()
    fitness: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fitness", fitness(self.scores, self.direction))

    @property
    def size(self) -> int:
        """The population size."""
        return len(self.values)

    @property
    def costs(self) -> NDArray[np.float64]:
        """(population_size,) float array: less is better, infinity where a score is not finite.

        What to rank members by: unlike `fitness` it tells any two scores apart.
        """
        return np.array([cost(score, self.direction) for score in self.scores.tolist()])

    @property
    def num_replaced(self) -> int:
        """How many members are replaced: population_size - num_elites, and all that diverged."""
        return max(self.size - self.num_elites, int(np.sum(self.fitness == 0.0)))


class Strategy(ABC):
    """Base class: the policies that all strategies share; an algorithm adds two private hooks.

    Shared: members with a non-finite score have fitness 0 and are replaced first; when no member is
    finite nothing can be copied and nobody is replaced; nobody is replaced after the last iteration
    (the child could neither train nor be scored), unless children are tried out before their birth;
    no more members are born than allowed.

    Attributes:
        training: Which batches members train on. Defaults to `TrainingPlan()`.
        scoring: Which validation data scores them. Defaults to `ScoringPlan()`.
        closing: Training after the last iteration. Defaults to `ClosingPlan()`.
        annealing: The common factor on the members' learning rates. Defaults to None: none.
        focus: The phase in which the best model trains on alone. Defaults to None: none.
        averaging: The moving average of weights that members are scored by. Defaults to None: none.
        keep_best: Whether the result of a search is the best member ever seen on validation (True,
            the default) or the fittest at the end (False).
        multipliers: Names of built-in live multipliers that the strategy needs besides the user's
            search space: `"loss_scale"`, `"l2_scale"`.
        regularization: Which penalty terms `"l2_scale"` applies to.
        implicit: Whether the model's own learning rate and L2 may be mutated where the search space
            holds nothing live.
        tries_candidates: Whether children are tried out, that is scored, before the strategy
            decides which of them replace members; `_candidates` then names them.
    """

    training: TrainingPlan = TrainingPlan()
    scoring: ScoringPlan = ScoringPlan()
    closing: ClosingPlan = ClosingPlan()
    annealing: Annealing | None = None
    focus: Focus | None = None
    averaging: Averaging | None = None
    keep_best: bool = True
    multipliers: tuple[str, ...] = ()
    implicit: bool = True
    regularization: Regularization = "all"
    tries_candidates: bool = False

    def start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        """Return the first members' hyperparameter values, one dict a slot.

        Args:
            size: The population size.
            space: The search space.
            rng: Source of randomness.

        Raises:
            ArgumentError: If `_start` names what neither the space has nor `multipliers`: it would
                be recorded and have no effect.
        """
        first = self._start(size, space, rng)
        known = [*space.names(), *(f"popdescent/{name}" for name in self.multipliers)]
        unknown = sorted({name for values in first for name in values if name not in known})
        if unknown:
            raise ArgumentError(
                describe(
                    f"`{type(self).__name__}` starts with hyperparameters that are not there.",
                    f"There are: {', '.join(known) or 'none'}.",
                    unknown=unknown,
                )
            )
        return first

    def candidates(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        """Return children to try out before `evolve`; none for most strategies.

        They are built from their parents, scored as members are, and forgotten. `evolve` sees them
        with their scores in `view.candidates`, and may return some of them, in any slot.

        Args:
            view: Scores, values and bookkeeping of the iteration that has just ended.
            rng: Source of randomness.
        """
        if not self.tries_candidates or not view.fitness.any():
            return []
        return self._candidates(view, rng)

    def evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        """Decide who is replaced; slots that are not named stay as they are.

        Args:
            view: Scores, values and bookkeeping of the iteration that has just ended.
            rng: Source of randomness.
        """
        over = view.iteration >= view.num_iterations and not self.tries_candidates
        if over or not view.fitness.any():
            return []
        offspring = self._evolve(view, rng)
        return offspring if view.births_left is None else offspring[: view.births_left]

    def _start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        """Member 0 has the defaults, the others are drawn from the prior."""
        first = space.defaults()
        return [first] + [space.initial(rng) for _ in range(size - 1)]

    def _candidates(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        """Return the children to try out, where `tries_candidates`; their slots mean nothing."""
        return []

    @abstractmethod
    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        """Return the offspring, the weakest members' first; `view.fitness` is not all 0."""

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-able description, recorded with a search."""
        return {"class": type(self).__name__}

    def get_state(self) -> dict[str, Any]:
        """Return the JSON-able state that a resumed search needs; most strategies have none."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `get_state` returned."""
