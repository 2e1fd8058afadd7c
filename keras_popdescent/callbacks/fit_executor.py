"""The executor within `model.fit`: the one compiled model is time-sliced among the members.

`fit` drives: it trains whoever is in the model. So there is no `advance` here; the callback hands
the members' reports to the loop. Memory is twice the members' states towards the end of an
iteration: where `fit` ends within one, members are put back to where they were scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import SearchData
from keras_popdescent.data.batch import Batch
from keras_popdescent.executors.scoring import ValidationSampler
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.executors.verify import verify_bindings
from keras_popdescent.hyperparameters import Binding, HandleBinding
from keras_popdescent.operators.noise import NO_NOISE
from keras_popdescent.population.blueprint import Blueprint, own_targets
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.live_model import LiveModel, data_errors
from keras_popdescent.population.seeding import integer_seed
from keras_popdescent.population.state import (
    MemberState,
    capture,
    child_state,
    inherit,
    restore,
    visited,
    with_fresh_optimizer,
)
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import ScoringPlan, TrainingPlan
from keras_popdescent.strategies.space import SearchSpace, Values


class GivenModelBlueprint(Blueprint):
    """The blueprint of the one model that is being fitted: it builds nothing.

    Args:
        model: A built, compiled model.
        mutate: Which of its own values are mutated.
    """

    def __init__(self, model: keras.Model, mutate: tuple[str, ...]) -> None:
        self._model = model
        self._targets = own_targets(model, mutate)
        self.space = SearchSpace([dimension for dimension, _ in self._targets.values()])

    def build(self, values: Values) -> keras.Model:
        return self._model

    def bindings(self, values: Values) -> dict[str, Binding]:
        return {name: HandleBinding(name, paths) for name, (_, paths) in self._targets.items()}


class FitExecutor(Executor):
    """Swaps members in and out of a model that `fit` is training.

    Args:
        model: The model.
        mutate: Which of its own values are mutated.
        size: Number of members.
        validation: Arrays or batches that score members; None for none.
        batch_size: Samples a batch of validation arrays.
        scoring: Which part of them.
        seed: Root of the randomness.
    """

    # `fit` goes on from turn to turn, and members take turns in a fixed order.
    focuses = False
    # Nor does it go on after its last epoch.
    closes = False

    def __init__(
        self,
        model: keras.Model,
        mutate: tuple[str, ...],
        size: int,
        validation: Batch | list[Batch] | None,
        batch_size: int,
        scoring: ScoringPlan,
        seed: np.random.SeedSequence,
    ) -> None:
        self.blueprint = GivenModelBlueprint(model, mutate)
        self._size = size
        self._validation = validation
        self._batch_size = batch_size
        # What was in the model before `start`.
        self._found: MemberState | None = None
        # What the member in the model has only while it trains.
        self._annealing = ExitStack()
        score_seed, self._seeds = seed.spawn(2)
        self._sampler = ValidationSampler(validation, batch_size, scoring, score_seed, size)

    def start(self, setup: Setup) -> None:
        first = dict(setup.values[0])
        self._objective = setup.objective
        donated = keras.backend.backend() == "jax"
        batch = self._first_batch() if keras.backend.backend() == "tensorflow" else ()
        self.live = LiveModel(
            self.blueprint,
            first,
            0,
            batch,
            full=bool(batch),
            donated=donated,
            ema_momentum=setup.ema_momentum,
        )
        self._found = capture(self.live)
        self._stepper = make_stepper(self.live.model)
        self.live.compile_averages(self._stepper.compiled)
        self._verify(first)
        self._loaded: Any = None
        self._fresh = capture(self.live)
        self._values = [dict(values) for values in setup.values]
        self._newborn = set(range(self._size))
        self._states = [
            inherit(
                [self._fresh],
                self.live,
                optimizer="inherit",
                fresh=self._fresh,
                seed=integer_seed(seed),
                noise=NO_NOISE,
            )
            for seed in self._seeds.spawn(self._size)
        ]
        self._complete = (list(self._states), set(self._newborn))

    def undo(self) -> None:
        """Make the model what it was before `start`, however far that has come."""
        self._annealing.close()
        if self._found is not None:
            restore(self.live, self._found)
        if hasattr(self, "live"):
            self.live.detach()

    def _verify(self, values: Values) -> None:
        """See that live hyperparameters act, on validation samples: others there are none yet."""
        batch = self._first_batch()
        if not batch:
            return

        def train(num_steps: int) -> None:
            for _ in range(num_steps):
                self._stepper.train_batch(batch)

        try:
            verify_bindings(self.live, self._stepper, values, train)
        except data_errors() as error:
            warnings.warn(
                "Nobody has tried whether the hyperparameters that are mutated act on this model: "
                f"its `train_step` does not take the validation data ({type(error).__name__}: "
                f"{str(error)[:200]}).",
                stacklevel=2,
            )

    def _first_batch(self) -> Batch:
        """Return validation samples to build metrics on: `fit` leaves that to its first trace."""
        if self._validation is None or isinstance(self._validation, list):
            return () if self._validation is None else self._validation[0]
        size = self._batch_size
        batch: Batch = keras.tree.map_structure(lambda array: array[:size], self._validation)
        return batch

    def swap_in(self, slot: int, fresh_optimizer: bool = False, rate_factor: float = 1.0) -> None:
        """Put a member into the model, for its training.

        Args:
            slot: Its slot.
            fresh_optimizer: Whether it gets an optimizer as just built.
            rate_factor: What its learning rate is multiplied with until `swap_out`.
        """
        if fresh_optimizer:
            self._states[slot] = with_fresh_optimizer(self._states[slot], self._fresh)
            self._newborn.add(slot)
        restore(self.live, self._states[slot])
        if slot in self._newborn:
            self.live.write_values(self._values[slot])
            self._newborn.discard(slot)
        self._annealing.enter_context(self.live.annealed(rate_factor))

    def swap_out(self, slot: int) -> None:
        """Keep the state of the member that is in the model."""
        self._annealing.close()
        self._states[slot] = capture(self.live)

    def next_iteration(self) -> None:
        """Draw the validation sample of the coming iteration; all members are complete."""
        self._complete = (list(self._states), set(self._newborn))
        self._sampler.next_iteration()

    def put_back(self) -> None:
        """Give all members the states that they had when the iteration under way began."""
        self._annealing.close()
        self._states, self._newborn = self._complete

    def score(self, slot: int) -> dict[str, float]:
        """Return what the member in the model reports on the validation data."""
        model = self.live.model
        # The running metrics belong to `fit`.
        held = [keras.ops.copy(variable) for variable in model.metrics_variables]
        if self._loaded is None:
            self._loaded = self._sampler.load(self._stepper)
        logs = self._sampler.evaluate(slot, self.live, self._stepper, self._loaded)
        for variable, value in zip(model.metrics_variables, held, strict=True):
            variable.assign(value)
        return {f"val_{name}": value for name, value in logs.items()}

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
        raise NotImplementedError("`fit` trains the members.")

    def try_out(self, candidates: Sequence[Offspring]) -> list[float]:
        before = capture(self.live)
        scores = []
        for child in candidates:
            # Whatever its seed: nothing is drawn while a model is scored.
            restore(self.live, child_state(child, self._states, self.live, self._fresh, 0))
            self.live.write_values(child.values)
            scores.append(self._objective.score(self.score(child.slot)))
        restore(self.live, before)
        return scores

    def apply(self, offspring: Sequence[Offspring]) -> None:
        before = list(self._states)
        for child, seed in zip(offspring, self._seeds.spawn(len(offspring)), strict=True):
            self._values[child.slot] = dict(child.values)
            self._newborn.add(child.slot)
            self._states[child.slot] = child_state(
                child, before, self.live, self._fresh, integer_seed(seed)
            )

    def capture(self, slot: int) -> MemberState:
        return self._states[slot]

    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        self.swap_in(slot)
        before = capture(self.live)
        action(self.live.model)
        self.swap_out(slot)
        self._states[slot] = visited(before, self._states[slot])

    def feed(self, data: SearchData) -> None:
        raise NotImplementedError("`fit` brings the data.")

    def export(self, values: Values, state: MemberState) -> keras.Model:
        """Put a member into the fitted model, for good."""
        restore(self.live, state)
        self.live.write_values(values)
        self.live.put_averages()
        return self.live.model

    def snapshot(self) -> dict[str, Any]:
        return {"values": self._values, "states": self._states}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self._values, self._states = snapshot["values"], snapshot["states"]
