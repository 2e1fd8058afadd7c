"""What an executor is: it trains, scores and rewrites members, and decides nothing.

The contract is here, below the executors that fulfil it, so that the loop and `Population` need not
know them; each executor registers itself under a name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from keras_popdescent.data import SearchData
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.state import MemberState, is_finite
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import ScoringPlan, TrainingPlan
from keras_popdescent.strategies.space import Values


class Hooks(Protocol):
    """What is told about a member while it is in its model; user callbacks hang on it."""

    def needs_batches(self, slot: int) -> bool:
        """Whether every batch must be announced, so that steps cannot run many in one call."""

    def train_begin(self, slot: int, model: keras.Model) -> None:
        """The member's training is about to go on."""

    def batch_begin(self, slot: int, model: keras.Model) -> None:
        """A batch is about to be trained on."""

    def batch_end(self, slot: int, model: keras.Model, logs: Mapping[str, float]) -> None:
        """A batch was trained on."""

    def train_end(
        self, slot: int, model: keras.Model, num_steps: int, logs: Mapping[str, float]
    ) -> None:
        """The member was trained and scored."""

    def should_stop(self, slot: int) -> bool:
        """Whether the member's training in this iteration should end before the next batch."""


@dataclass
class Setup:
    """All that an executor needs to start.

    Attributes:
        blueprint: Builds the models.
        values: The first members' hyperparameter values by slot.
        data: Training and validation batches.
        objective: What scores a member.
        training: Which batches members train on.
        scoring: Which validation data scores them.
        seed: Root of all randomness in the executor.
        initial_weights: Weights, in the order of `Model.get_weights()`, that every first member
            starts with; None for weights of its own.
        hooks: Told about members while they are in their model.
        ema_momentum: Of the moving averages of weights that members are scored and exported with,
            see `Averaging`; None for none. It is the loop that decides on it.
    """

    blueprint: Blueprint
    values: Sequence[Values]
    data: SearchData
    objective: Objective
    training: TrainingPlan
    scoring: ScoringPlan
    seed: np.random.SeedSequence
    initial_weights: Sequence[Any] | None = None
    hooks: Hooks | None = None
    ema_momentum: float | None = None


@dataclass(frozen=True)
class Report:
    """What one member did in one iteration.

    Attributes:
        slot: The member's slot.
        score: The objective's raw value; NaN where the member diverged.
        logs: All reported quantities: running means over the iteration's batches, and with
            `"val_"` in front those on the validation data.
        gradient_steps: Optimizer updates made.
        seconds: Wall time of training and scoring.
    """

    slot: int
    score: float
    logs: Mapping[str, float] = field(default_factory=dict)
    gradient_steps: int = 0
    seconds: float = 0.0


class Executor(ABC):
    """Trains, scores and rewrites the members of one population.

    The order of calls: `start`, then any number of `advance`, `try_out` and `apply`. `advance`
    trains and scores in one go, so that a member has to be put into its model only once. Members
    can go on and be exported for as long as their population lives, so nothing here calls `close`:
    it is for those who want the memory before that.

    Attributes:
        anneals: Whether `advance` heeds `rate_factor`. Where it does not, the loop passes and
            records 1.
        focuses: Whether a member may take the turns of others, see `revive`. Where it may not, the
            loop passes over a strategy's `focus`.
        averages: Whether members are scored by averages of their weights where `Setup`
            says so. Where it may not, the loop passes over a strategy's `averaging`.
        closes: Whether members may train on after the last iteration. Where they may not, the loop
            passes over a strategy's `closing`.
    """

    anneals: bool = True
    averages: bool = True
    focuses: bool = True
    closes: bool = True

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt may end `advance`; else it waits until the iteration is recorded."""
        return True

    @abstractmethod
    def start(self, setup: Setup) -> None:
        """Make the first members.

        Raises:
            PopDescentError: For data, models, objectives or bindings that cannot work.
        """

    @abstractmethod
    def advance(
        self,
        slots: Sequence[int],
        num_batches: int,
        *,
        batch_size: int | None = None,
        plan: TrainingPlan | None = None,
        score: bool = True,
        rate_factor: float = 1.0,
    ) -> list[Report]:
        """Train the members in `slots` on `num_batches` batches each, and score them.

        Where an interrupt ends it, all members are as they were before.

        Args:
            slots: The members that train.
            num_batches: Batches for each of them.
            batch_size: Samples a batch; None for the members' own.
            plan: Which batches; None for the setup's plan.
            score: Whether they are scored too.
            rate_factor: What their learning rates are multiplied with while they train, see
                `LiveModel.annealed`; their values and states keep the rates themselves.
        """

    @abstractmethod
    def try_out(self, candidates: Sequence[Offspring]) -> list[float]:
        """Return the scores of children that are not born yet; no member changes.

        `apply` makes the same child of the same `Offspring`, whichever slot it names then.

        Raises:
            ObjectiveError: If the objective is not measured on validation data alone.
        """

    def prepare(self, values: Values) -> None:  # noqa: B027
        """Make ready what a member of these values needs; raises what its build function raises."""

    def can_inherit(self, child: Offspring) -> bool:
        """Whether the parents' weights have the shapes that they have in the child's model."""
        return True

    @abstractmethod
    def apply(self, offspring: Sequence[Offspring]) -> None:
        """Replace members; parents are read before anything is written."""

    def revive(self, child: Offspring, state: MemberState) -> None:
        """Replace a member by a child of what `capture` returned once.

        As `apply` does it for a child of a living member; `child.parents` is not looked at.
        """
        raise NotImplementedError(f"{type(self).__name__} does not focus.")

    @abstractmethod
    def capture(self, slot: int) -> MemberState:
        """Return a member's state; it does not change when the member goes on."""

    def are_finite(self, slots: Sequence[int]) -> list[bool]:
        """Return for each of the slots whether all weights of its member are finite."""
        return [is_finite(self.capture(slot)) for slot in slots]

    @abstractmethod
    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        """Call `action` with the model while a member is in it; what it changes is the member's."""

    def begin_averages(self, slots: Sequence[int]) -> None:  # noqa: B027
        """Forget members' averages of weights: the next move takes the weights as they are."""

    @abstractmethod
    def feed(self, data: SearchData) -> None:
        """Go on with other data."""

    @abstractmethod
    def export(self, values: Values, state: MemberState) -> keras.Model:
        """Return an independent, plain, compiled Keras model with a member's state and values."""

    def exporter(self) -> Callable[[Values, MemberState], keras.Model]:
        """Return what does as `export` does, but holds no population in memory.

        By default it is `export` itself, which does. Override both, or none.
        """
        return self.export

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Return all of the executor's state: arrays and JSON-able values in nested dicts."""

    @abstractmethod
    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take back what `snapshot` returned, after `start` with the same setup."""

    def close(self) -> None:  # noqa: B027
        """Release models and data; what was captured can still be exported."""
