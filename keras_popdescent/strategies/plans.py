"""What a strategy asks of a search beside replacements: frozen records that the loop heeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from keras_popdescent.arguments import (
    check_flag,
    check_number,
    check_one_of,
    check_type,
    make_whole,
)
from keras_popdescent.errors import ArgumentError, describe


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
