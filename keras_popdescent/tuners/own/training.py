"""Training of the user's own: overridden `run_trial`, `_build_and_fit_model` or `HyperModel.fit`.

The user's code is called once for each member and iteration, as KerasTuner would call it for a
trial, and every model that it builds through the tuner starts with the member's weights: what an
iteration is, how long it trains and on which data is the user's. So this is an executor: the loop,
the strategy and the records are the same as for any other search.
"""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner
import numpy as np

from keras_popdescent.callbacks.tensorboard import with_member_folders
from keras_popdescent.data import SearchData
from keras_popdescent.errors import (
    ModelError,
    ObjectiveError,
    PopDescentError,
    TrainingError,
    describe,
)
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.seeding import borrowed_globals, integer_seed
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import TrainingPlan
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners.own.calls import Calls
from keras_popdescent.tuners.own.life import Life
from keras_popdescent.tuners.own.metrics import metrics_of, reported_apart
from keras_popdescent.tuners.own.segment import Segment, inheriting
from keras_popdescent.tuners.own.state import NOTHING, OwnState, capture_own, fill, inherit

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial

    from keras_popdescent.tuners.base import PopulationTuner


class OwnTraining(Executor):
    """Trains members by calling the user's code.

    A call that raises leaves its member without a score: it is replaced first. `FailedTrialError`
    is not tried again, other errors `max_retries_per_trial` times; fatal errors, and as many
    failures in a row as `max_consecutive_failed_trials` says, end the search.

    Args:
        tuner: The tuner whose `run_trial` is called.
        calls: How often and how long.
        args: Positional arguments of `search`.
        kwargs: Arguments of `search` by name.
        trial_of: Returns the trial of the member in a slot.
        stop: Told that the member in a slot trains no more.
        learn: Told a trial whose call has declared hyperparameters.
        folders: Whether `TensorBoard` callbacks get a folder for each trial, as KerasTuner's
            `run_trial` gives them.

    Attributes:
        error: The last error of a call that failed, None where none did.
    """

    def __init__(
        self,
        tuner: PopulationTuner,
        calls: Calls,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        trial_of: Callable[[int], Trial],
        stop: Callable[[int], None],
        learn: Callable[[Trial], None] | None = None,
        folders: bool = False,
    ) -> None:
        self._tuner = tuner
        self._calls = calls
        self._args = tuple(args)
        self._kwargs = {**kwargs}
        self._takes_callbacks = "callbacks" in self._kwargs
        given = self._kwargs.pop("callbacks", None) or []
        self._given = given if isinstance(given, list | tuple) else [given]
        self._folders = folders
        self._trial_of = trial_of
        self._stop = stop
        self._learn = learn
        self._failures = 0
        self.error: Exception | None = None
        # The first member's first call, made before the loop: it shows hyperparameters that only
        # the training declares.
        self._first: tuple[Report, OwnState, Life, int] | None = None
        # slot -> what its member's last call has built
        self._models: dict[int, list[keras.Model]] = {}
        self._seeds = np.random.SeedSequence(0)

    def look_ahead(self, trial: Trial, seed: np.random.SeedSequence) -> Report:
        """Make the first member's first call, to find what the training declares.

        Args:
            trial: The first member's trial.
            seed: Root of the randomness, the same as that of `start`.
        """
        self._seeds = seed
        life = Life()
        report, state = self._call(0, trial, NOTHING, 0, life)
        self._first = (report, state, life, 1)
        return report

    @property
    def build_config(self) -> Mapping[str, Any] | None:
        """What a model needs to have weights before its first batch, as the first call found."""
        return None if self._first is None else self._first[1].build_config

    # What an iteration's learning rate is, is the user's.
    anneals = False
    # What its weights are when it is scored, too.
    averages = False
    # How often the user's code is called for a slot is planned beforehand.
    focuses = False
    closes = False

    def start(self, setup: Setup) -> None:
        size = len(setup.values)
        self._setup = setup
        self._seeds = setup.seed
        self._values = [dict(values) for values in setup.values]
        self._states: list[OwnState] = [NOTHING] * size
        self._lives = [Life() for _ in range(size)]
        self._num_calls = [0] * size
        self._ahead: dict[int, Report] = {}
        if self._first is not None:
            report, self._states[0], self._lives[0], self._num_calls[0] = self._first
            self._ahead[0] = report

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
        states, calls = list(self._states), list(self._num_calls)
        try:
            return [self._advance_one(slot) for slot in slots]
        except BaseException:
            # An interrupt: all are again as they were recorded, in models that have not gone on.
            self._states, self._num_calls = states, calls
            self._models.clear()
            raise

    def _advance_one(self, slot: int) -> Report:
        if slot in self._ahead:
            return self._ahead.pop(slot)
        trial = self._trial_of(slot)
        known = len(trial.hyperparameters.space)
        report, self._states[slot] = self._call(
            slot, trial, self._states[slot], self._num_calls[slot], self._lives[slot]
        )
        self._num_calls[slot] += 1
        if self._learn is not None and len(trial.hyperparameters.space) > known:
            self._learn(trial)
        return report

    def _call(
        self, slot: int, trial: Trial, state: OwnState, number: int, life: Life
    ) -> tuple[Report, OwnState]:
        """Call the user's code, and return what it reports and the state that it leaves."""
        began = time.perf_counter()
        if not life.begun:
            life.begin(self._given_to(trial), trial)
        retries = self._tuner.oracle.max_retries_per_trial
        for attempt in range(1 + retries):
            segment = Segment(state, self._models.pop(slot, ()))
            try:
                logs = self._run(trial, segment, number, life)
                break
            except (PopDescentError, keras_tuner.errors.FatalError):
                raise
            except Exception as error:
                trial.message = traceback.format_exc()
                final = isinstance(error, keras_tuner.errors.FailedTrialError)
                if attempt == retries or final:
                    self._failed(error)
                    seconds = time.perf_counter() - began
                    return Report(slot, math.nan, {}, 0, seconds), state
        self._failures = 0
        life.went_on()
        self._models[slot] = segment.models
        after = capture_own(segment.models) if segment.models else state
        if segment.models and getattr(segment.models[-1], "stop_training", False):
            self._stop(slot)
        seconds = time.perf_counter() - began
        score = self._tuner.search_objective().score(logs)
        return Report(slot, score, logs, _steps(state, after), seconds), after

    def _given_to(self, trial: Trial) -> Sequence[Any]:
        if not self._folders:
            return self._given
        return with_member_folders(self._given, lambda _: str(trial.trial_id))

    def _run(self, trial: Trial, segment: Segment, number: int, life: Life) -> dict[str, float]:
        arguments = {**self._kwargs, **self._calls.arguments(number)}
        if self._takes_callbacks:
            arguments["callbacks"] = list(life.callbacks)
        seed = integer_seed(self._seeds.spawn(1)[0])
        with (
            borrowed_globals(seed),
            inheriting(self._tuner, segment),
            reported_apart(trial) as told,
            life.turn(),
        ):
            results = self._tuner.run_trial(trial, *self._args, **arguments)
        objective = self._tuner.oracle.objective
        if results is None and told.exists(objective.name):
            warnings.warn(
                "`run_trial` has told the oracle its metrics itself. Please remove the call of "
                "`oracle.update_trial`, and return them instead.",
                DeprecationWarning,
                stacklevel=2,
            )
            return {objective.name: float(told.get_history(objective.name)[-1].value[-1])}
        return metrics_of(results, objective.name, "Tuner.run_trial()")

    def _failed(self, error: Exception) -> None:
        self.error = error
        self._failures += 1
        limit = self._tuner.max_consecutive_failed_trials
        if self._failures >= limit:
            raise TrainingError(
                describe(
                    f"Your training failed {self._failures} times in a row.",
                    fix="See the error above this one.",
                    error=repr(error)[:300],
                    max_consecutive_failed_trials=limit,
                )
            ) from error

    def try_out(self, candidates: Sequence[Offspring]) -> list[float]:
        raise unscored_candidates()

    def apply(self, offspring: Sequence[Offspring]) -> None:
        states, calls = list(self._states), list(self._num_calls)
        for child in offspring:
            self._lives[child.slot].end()
            self._values[child.slot] = dict(child.values)
            self._states[child.slot] = inherit([states[p] for p in child.parents], child)
            self._num_calls[child.slot] = calls[child.parents[0]]
            self._models.pop(child.slot, None)
            self._lives[child.slot] = Life()

    def capture(self, slot: int) -> MemberState:
        return self._states[slot]

    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        model = self.export(self._values[slot], self._states[slot])
        action(model)
        self._states[slot] = capture_own([model])

    def feed(self, data: SearchData) -> None:
        raise TrainingError(
            describe(
                "Your own training brings the data.",
                fix="Pass them to `search`, whose arguments it gets.",
            )
        )

    def export(self, values: Values, state: MemberState) -> keras.Model:
        return self.exporter()(values, state)

    def exporter(self) -> Callable[[Values, MemberState], keras.Model]:
        return partial(_export, self._setup.blueprint)

    def snapshot(self) -> dict[str, Any]:
        return {
            "values": [dict(values) for values in self._values],
            "states": list(self._states),
            "calls": list(self._num_calls),
            "spawned": self._seeds.n_children_spawned,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        self._values = [dict(values) for values in snapshot["values"]]
        self._states = list(snapshot["states"])
        self._num_calls = list(snapshot["calls"])
        self._ahead = {}
        self._models = {}
        self._seeds = np.random.SeedSequence(
            self._seeds.entropy,
            spawn_key=self._seeds.spawn_key,
            n_children_spawned=snapshot["spawned"],
        )

    def end_lives(self) -> None:
        """End the training of all living members' callbacks."""
        for life in getattr(self, "_lives", []):
            life.end()
        self._models.clear()


def _export(blueprint: Blueprint, values: Values, state: MemberState) -> keras.Model:
    if not isinstance(state, OwnState) or not state.weights:
        raise ModelError(
            describe(
                "Your own training has left no Keras model.",
                "Expected it to build the model with `self.hypermodel.build(hp)`.",
                "Override `load_model` beside it, or use `get_best_hyperparameters`.",
            )
        )
    model = blueprint.build_seeded(values, 0)
    fill(model, state)
    return model


def unscored_candidates() -> ObjectiveError:
    """Return the error for a strategy that scores children before they have trained."""
    return ObjectiveError(
        describe(
            "The strategy scores children before they are born, and your own training scores "
            "members only after it has trained them.",
            "Expected a strategy without candidates, `PopDescent()` for example.",
        )
    )


def _steps(before: OwnState, after: OwnState) -> int:
    """Return the gradient steps of a call; 1 where no optimizer has counted them."""
    return max(after.steps - before.steps, 1)
