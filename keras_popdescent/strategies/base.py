"""What a strategy is: it sees numbers and decides who is replaced by whom, with what values.

A strategy never sees a model. Its decisions are frozen records, so that they can be tested with
scripted scores, logged and replayed; an executor carries them out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from keras_popdescent.arguments import (
    check_flag,
    check_number,
    check_one_of,
    check_type,
    make_whole,
)
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.operators.fitness import Direction, cost, fitness
from keras_popdescent.operators.noise import NO_NOISE, NoiseSpec
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
class TrainingPlan:
    """Which batches the members train on.

    Attributes:
        batches: `"own"`: every slot has a shuffled stream of its own. `"common"`: in an iteration
            all members see the same batches (arXiv 2310.14671, Algorithm 1, line 2). `"subset"`:
            every slot draws its own random subset each iteration and passes over it in fixed order
            (the authors' code). Defaults to `"own"`.
        passes: How many times an iteration passes over its batches (the authors' "epochs"), at
            least 1; an iteration has `passes * batches_per_iteration` gradient steps. Defaults
            to 1.
        fresh_optimizer: Whether every member begins every iteration with an optimizer as just
            built, with its own values (evolutionary stochastic gradient descent). Defaults to
            False.

    Raises:
        ArgumentError: For another word, or a number that is not whole or below 1.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> PopDescent(training=TrainingPlan("common", passes=2)).training
        TrainingPlan(batches='common', passes=2, fresh_optimizer=False)
    """

    batches: Literal["own", "common", "subset"] = "own"
    passes: int = 1
    fresh_optimizer: bool = False

    def __post_init__(self) -> None:
        check_one_of("batches", self.batches, ("own", "common", "subset"))
        make_whole(self, ["passes"])
        check_flag("fresh_optimizer", self.fresh_optimizer)


@dataclass(frozen=True)
class ScoringPlan:
    """Which part of the validation data scores the members.

    Attributes:
        sample: `"whole"`: all of it. `"common"`: a random part, the same for all members, drawn
            anew each iteration. `"own"`: a random part for each member. Defaults to `"whole"`.
        num_samples: Size of the random part, at least 1; all where there are fewer. Defaults to
            None: 1,600. It has no meaning beside `"whole"`.

    Raises:
        ArgumentError: For another word, a number that is not whole or below 1, or a number beside
            `"whole"`.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> PopDescent(scoring=ScoringPlan("common", num_samples=500)).scoring.num_samples
        500
    """

    sample: Literal["whole", "common", "own"] = "whole"
    num_samples: int | None = None

    def __post_init__(self) -> None:
        check_one_of("sample", self.sample, ("whole", "common", "own"))
        make_whole(self, ["num_samples"], nullable=["num_samples"])
        if self.sample == "whole" and self.num_samples is not None:
            raise ArgumentError(
                describe(
                    "`num_samples` is the size of a random part, and the whole is not one.",
                    "Expected `sample='common'` or `'own'` beside it.",
                    sample=self.sample,
                    num_samples=self.num_samples,
                )
            )


@dataclass(frozen=True)
class ClosingPlan:
    """Training after the last iteration, without selection (the authors' "fine-tuning").

    All members train on, and are scored once more at the end. `PopDescentCallback` refuses it:
    there `fit` says how long the training is.

    Attributes:
        rounds: Rounds of training, each on new batches, at least 0. Defaults to 0: none.
        batches: Batches a round, at least 1. Defaults to None: the population's
            `batches_per_iteration`.
        batch_size: Samples a batch, at least 1. Defaults to None: the population's own.
        passes: How many times a round passes over its batches, at least 1. Defaults to 1.

    Raises:
        ArgumentError: For a number that is not whole or out of its range.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> PopDescent(closing=ClosingPlan(rounds=5, batches=64, batch_size=128)).closing
        ClosingPlan(rounds=5, batches=64, batch_size=128, passes=1)
    """

    rounds: int = 0
    batches: int | None = None
    batch_size: int | None = None
    passes: int = 1

    def __post_init__(self) -> None:
        make_whole(self, ["rounds"], least=0)
        make_whole(self, ["batches", "batch_size", "passes"], nullable=["batches", "batch_size"])


@dataclass(frozen=True)
class Annealing:
    """A factor on the learning rates of all members, which falls while the search goes on.

    With progress u from 0 (the first iteration) to 1 (the end), constant until `begin`, then half a
    cosine down to `floor`:

        factor = 1                                                  for u <= begin
        factor = floor + (1 - floor) * (1 + cos(pi * v)) / 2        v = (u - begin) / (1 - begin)

    All members have the same factor in an iteration, so selection compares them at the same stage
    of their annealing: a lower rate looks better at once, but not because it came down earlier. The
    factor is no hyperparameter: it is not mutated, and a member's values stay what they are.

    Source: the cosine of Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv 1608.03983, without
    restarts, held constant within an iteration.

    Attributes:
        floor: The factor at the end, 0 ... 1. Defaults to 0.
        begin: The progress at which it begins to fall, at least 0 and below 1. Defaults to 0.

    Raises:
        ArgumentError: For a number outside of its range.

    Example:
        >>> [Annealing(floor=0.1).factor(u) for u in (0.0, 0.5, 1.0)]
        [1.0, 0.55, 0.1]
    """

    floor: float = 0.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("floor", "begin"):
            check_number(name, getattr(self, name), 0.0, none=False)
        if self.floor > 1.0 or self.begin >= 1.0:
            raise ArgumentError(
                describe(
                    "This annealing never ends.",
                    "Expected `floor` in 0 ... 1, and `begin` at least 0 and below 1.",
                    floor=self.floor,
                    begin=self.begin,
                )
            )

    def factor(self, progress: float) -> float:
        """Return the factor at a progress in 0 ... 1."""
        fallen = (min(max(progress, 0.0), 1.0) - self.begin) / (1.0 - self.begin)
        if fallen <= 0.0:
            return 1.0
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * fallen)) / 2.0


@dataclass(frozen=True)
class Averaging:
    """An exponential moving average of a member's weights, by which it is scored and kept.

    While a member trains, its weights move about a path that its scores should be about. So after
    each iteration the average a follows the weights w,

        a = m * a + (1 - m) * w,    m = min(momentum, 1 - 1 / (reach * n), k / (k + 1))

    after k earlier iterations of its line (at first it is their mean), in a search of n iterations:
    where these are few and long, the weights of one have little to do with those of the next.
    Members are scored, kept and exported with the average (all weights that are floats, moving
    statistics included), and train on with the weights as they are. So a high learning rate is not
    judged by the noise that it leaves in the weights, and the result is smoother than any moment of
    the training. A child's average goes on from its parents', with the same noise as the weights if
    there is noise.

    An optimizer with `use_ema=True` has averages of its own, a step at a time: those count then.
    Nothing is averaged where no validation data scores the members, where the training is the
    user's own code, or where nobody knows how many iterations there will be (within a `fit` on data
    of unknown length). Closing training (`ClosingPlan`) is scored and exported as it ends. What
    changes a member's weights from outside begins its average anew. n is that of the first call: a
    population that is trained further, by another `fit` or a resumed search, goes on with the
    momentum that it began with, or without averages.

    Source: averaging of iterates, Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", SIAM J. Control Optim. 30(4), 1992; for the averages of networks, Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, arXiv 1803.05407.

    Attributes:
        momentum: The part of the old average in the new, at least 0 and below 1, an iteration.
            Defaults to 0.8: about the last five iterations count. 0 is no averaging.
        reach: The part of the search's iterations that count at most, above 0 and at most 1.
            Defaults to an eighth: 40 iterations and more have a momentum of 0.8, 20 have 0.6, 10
            have 0.2, and 8 and fewer no averages.

    Raises:
        ArgumentError: For a number outside of its range.

    Example:
        >>> [Averaging().momentum_over(n) for n in (8, 20, 40, 80)]
        [0.0, 0.6, 0.8, 0.8]
    """

    momentum: float = 0.8
    reach: float = 0.125

    def __post_init__(self) -> None:
        check_number("momentum", self.momentum, 0.0, none=False)
        check_number("reach", self.reach, 0.0, 1.0, above=True, none=False)
        if self.momentum >= 1.0:
            raise ArgumentError(
                describe(
                    "This average would never move.",
                    "Expected `momentum` at least 0 and below 1.",
                    momentum=self.momentum,
                )
            )

    def momentum_over(self, iterations: int) -> float:
        """Return the momentum in a search of so many iterations, once it is old enough."""
        return min(self.momentum, max(1.0 - 1.0 / (self.reach * max(iterations, 1)), 0.0))


@dataclass(frozen=True)
class Focus:
    """A phase of a search in which the best model trains on alone, with all the steps.

    A population trains each of its members for a part of the gradient steps only. Where that is too
    little to train a model out, the steps of the others are worth more in the best one. So at
    `begin` the weakest member is replaced by a copy of the best model ever seen, as it was then,
    with its values and a warm restart of its optimizer (`"restart"`, see `Offspring`). In every
    iteration the copy takes the turns of all members in one go, and nobody is replaced, for as long
    as it pays: after `patience` iterations without a better score than the best ever, all train and
    evolve again until the search ends. A copy that diverges is replaced by another, whose optimizer
    goes on as it was.

    The phase is passed over where nobody may be replaced: in a population of one, with as many
    elites as members, or where no more members may be born.

    Attributes:
        begin: The progress at which it begins, 0 ... 1, as a part of the iterations (or of the
            time, where that ends the search); after one iteration at the earliest. Defaults to 0.5.
        patience: After so many iterations in a row that brought nothing better it is over, at least
            1; None for never. Defaults to 3.

    Raises:
        ArgumentError: For a number outside of its range.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> PopDescent(focus=Focus(begin=0.75, patience=None)).focus
        Focus(begin=0.75, patience=None)
        >>> PopDescent(focus=None).focus is None
        True
    """

    begin: float = 0.5
    patience: int | None = 3

    def __post_init__(self) -> None:
        check_number("begin", self.begin, 0.0, none=False)
        make_whole(self, ["patience"], nullable=["patience"])
        if self.begin > 1.0:
            raise ArgumentError(
                describe("This phase never begins.", "Expected 0 ... 1.", begin=self.begin)
            )


def check_plans(
    training: TrainingPlan | None, scoring: ScoringPlan | None, closing: ClosingPlan | None
) -> None:
    """Refuse plans of another type; None passes.

    Raises:
        ArgumentError: Naming the argument.
    """
    check_type("training", training, TrainingPlan, "a `TrainingPlan`")
    check_type("scoring", scoring, ScoringPlan, "a `ScoringPlan`")
    check_type("closing", closing, ClosingPlan, "a `ClosingPlan`")


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
