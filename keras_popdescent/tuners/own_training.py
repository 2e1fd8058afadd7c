"""Training of the user's own: overridden `run_trial`, `_build_and_fit_model` or `HyperModel.fit`.

The user's code is called once for each member and iteration, as KerasTuner would call it for a
trial, and every model that it builds through the tuner starts with the member's weights: what an
iteration is, how long it trains and on which data is the user's. So this is an executor: the loop,
the strategy and the records are the same as for any other search.
"""

from __future__ import annotations

import inspect
import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner
import numpy as np

from keras_popdescent.arguments import check_whole
from keras_popdescent.callbacks.members import fresh_callback
from keras_popdescent.callbacks.tensorboard import with_member_folders
from keras_popdescent.data import SearchData
from keras_popdescent.errors import (
    ModelError,
    ObjectiveError,
    PopDescentError,
    ResultError,
    TrainingError,
    describe,
)
from keras_popdescent.population.budget import MIN_ITERATIONS, Budget, plan_budget
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.export import put_into
from keras_popdescent.population.member import Member
from keras_popdescent.population.seeding import borrowed_globals, integer_seed
from keras_popdescent.population.state import MemberState, add_noise
from keras_popdescent.strategies.base import Offspring, TrainingPlan
from keras_popdescent.strategies.space import Values

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial

    from keras_popdescent.tuners.base import PopulationTuner

# RandomSearch makes so many calls where nobody says how many.
DEFAULT_CALLS = 10


def overridden(tuner: PopulationTuner, base: type) -> Callable[..., Any] | None:
    """Return the training method that is the user's own, None where there is none.

    Args:
        tuner: The tuner.
        base: The class whose own methods are not the user's.
    """
    if type(tuner).run_trial is not base.run_trial:  # type: ignore[attr-defined]
        return tuner.run_trial
    if type(tuner)._build_and_fit_model is not keras_tuner.Tuner._build_and_fit_model:
        own: Callable[..., Any] = tuner._build_and_fit_model
        return own
    hypermodel = tuner.hypermodel
    if hypermodel is not None and type(hypermodel).fit is not keras_tuner.HyperModel.fit:
        fit: Callable[..., Any] = hypermodel.fit
        return fit
    return None


@dataclass(frozen=True)
class Calls:
    """How often the user's code is called for each slot, and with which epochs.

    Attributes:
        iterations: Calls for each slot.
        epochs: Epochs of all calls together, None where `search` was called without.
        epochs_per_call: Epochs of each call but the last, which has what is left.
        initial_epoch: The first epoch's number.
        resumes: Whether the code takes an `initial_epoch`, so that epochs go on counting.
    """

    iterations: int
    epochs: int | None = None
    epochs_per_call: int = 1
    initial_epoch: int = 0
    resumes: bool = True

    def arguments(self, call: int) -> dict[str, int]:
        """Return the arguments of `fit` that say how long the call, counted from 0, trains."""
        if self.epochs is None:
            return {}
        begin = self.initial_epoch + call * self.epochs_per_call
        end = min(begin + self.epochs_per_call, self.initial_epoch + self.epochs)
        return {"epochs": end, "initial_epoch": begin} if self.resumes else {"epochs": end - begin}

    def budget(self, max_time: float | None = None) -> Budget:
        """Return what the loop is told: one batch stands for one call.

        Args:
            max_time: Seconds after which no call begins.
        """
        note = "your own training is called once a member and iteration"
        if self.epochs is not None:
            note += f", for {self.epochs_per_call} epoch{'s' * (self.epochs_per_call > 1)}"
        planned = plan_budget(
            epochs=None,
            steps_per_epoch=None,
            iterations=self.iterations,
            batches_per_iteration=1,
            max_time=max_time,
        )
        return replace(planned, note=note)


def plan_calls(
    code: Callable[..., Any],
    fit_kwargs: Mapping[str, Any],
    *,
    iterations: int | None,
    population_size: int,
    max_trials: int | None,
) -> Calls:
    """Return how often the user's code is called.

    With `epochs` (in `search`, by name): each slot trains for so long, in at most about 20 calls,
    or in `iterations`. Without: `iterations` calls for each slot, or, where that is not given
    either, in all as many calls as RandomSearch would make for `max_trials` (10 by default).

    Args:
        code: The overridden method; its signature says whether it takes an `initial_epoch`.
        fit_kwargs: The arguments of `search` that were given by name.
        iterations: Number of iterations, None for what follows from the rest.
        population_size: Number of members.
        max_trials: The tuner's.
    """
    epochs = fit_kwargs.get("epochs")
    if epochs is None:
        calls = DEFAULT_CALLS if max_trials is None else max_trials
        return Calls(iterations or max(1, round(calls / population_size)))
    check_whole("epochs", epochs)
    check_whole("initial_epoch", fit_kwargs.get("initial_epoch"), least=0)
    first = int(fit_kwargs.get("initial_epoch") or 0)
    total = int(epochs) - first
    each = max(1, math.ceil(total / (iterations or MIN_ITERATIONS)))
    parameters = inspect.signature(code).parameters.values()
    resumes = any(p.kind is p.VAR_KEYWORD or p.name == "initial_epoch" for p in parameters)
    return Calls(math.ceil(total / each), total, each, first, resumes)


@dataclass(frozen=True)
class OwnState(MemberState):
    """The states of all models that one call has built, in their order; the last is the member's.

    Attributes:
        models: The states of the models before the last.
        trainable: Positions of the trainable weights among `weights`.
        build_config: What a model needs to have weights before its first batch.
        steps: What the optimizer of the last model counts as its steps.
    """

    models: tuple[OwnState, ...] = ()
    trainable: tuple[int, ...] = ()
    build_config: Mapping[str, Any] | None = None
    steps: int = 0


NOTHING = OwnState((), (), (0, 0))


def capture_own(models: Sequence[keras.Model]) -> OwnState:
    """Return the states of the models that a call has built, those without weights left out."""
    states = [_capture(model) for model in models if model.built]
    return replace(states[-1], models=tuple(states[:-1])) if states else NOTHING


def _capture(model: keras.Model) -> OwnState:
    weights = _arrays(model.weights)
    optimizer = model.optimizer if getattr(model, "compiled", False) else None
    slots: tuple[Any, ...] = ()
    if optimizer is not None and optimizer.built:
        slots = _arrays(optimizer.variables)
    trainable = {id(variable) for variable in model.trainable_variables}
    return OwnState(
        weights,
        slots,
        (len(weights), len(slots)),
        type(optimizer).__name__,
        trainable=tuple(i for i, v in enumerate(model.weights) if id(v) in trainable),
        build_config=model.get_build_config(),
        steps=0 if optimizer is None or not slots else int(optimizer.iterations),
    )


def _arrays(variables: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(np.array(keras.ops.convert_to_numpy(variable)) for variable in variables)


class Segment:
    """One call of the user's code: what the models that it builds start with.

    Args:
        state: The state of the member, or of its parent.
        models: The models that the member's last call has left, which go on as they are, so that
            Keras need not trace them again.
    """

    def __init__(self, state: OwnState, models: Sequence[keras.Model] = ()) -> None:
        self._states = (*state.models, state) if state.weights else ()
        self._left = list(models)
        self.models: list[keras.Model] = []

    def reuse(self) -> keras.Model | None:
        """Return the model that goes on, None where one has to be built."""
        if len(self.models) >= len(self._left):
            return None
        self.models.append(self._left[len(self.models)])
        return self.models[-1]

    def take(self, model: Any) -> None:
        """Give a model that was just built the weights of its predecessor."""
        if not isinstance(model, keras.Model):
            return
        if not any(model is known for known in self.models):
            self.models.append(model)
        position = next(i for i, known in enumerate(self.models) if model is known)
        if position < len(self._states):
            fill(model, self._states[position])


def fill(model: keras.Model, state: OwnState) -> None:
    """Put a state into a model; its hyperparameters, the learning rate included, stay its own.

    Raises:
        ModelError: If the model has other weights than the state.
    """
    if not model.built and state.build_config:
        model.build_from_config(dict(state.build_config))
    shapes = [tuple(variable.shape) for variable in model.weights]
    if shapes != [tensor.shape for tensor in state.weights]:
        raise ModelError(
            describe(
                "A model that your training has built cannot take over its parent's weights.",
                "Expected the same weights as those of the parent.",
                'Declare what decides their shapes with `bindings={name: "structural"}`; give a '
                "model without an input shape a `keras.Input`.",
                shapes=shapes,
                parent=[tensor.shape for tensor in state.weights],
            )
        )
    optimizer = model.optimizer if getattr(model, "compiled", False) else None
    if type(optimizer).__name__ != state.optimizer_class:
        # Slots mean something in no other optimizer.
        state = replace(state, optimizer=(), num_plain=(len(state.weights), 0))
    put_into(model, state)


class InheritingHyperModel(keras_tuner.HyperModel):
    """The user's hypermodel during a call: what it builds has the member's weights.

    Args:
        hypermodel: The user's.
        segment: The call.
    """

    def __init__(self, hypermodel: keras_tuner.HyperModel, segment: Segment) -> None:
        self._hypermodel = hypermodel
        self._segment = segment

    def build(self, hp: keras_tuner.HyperParameters) -> Any:
        """Build as the user's hypermodel does, and hand over the weights."""
        model = self._segment.reuse()
        if model is None:
            model = self._hypermodel.build(hp)
            self._segment.take(model)
        return model

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> Any:
        return self._hypermodel.declare_hyperparameters(hp)

    def fit(self, hp: keras_tuner.HyperParameters, model: Any, *args: Any, **kwargs: Any) -> Any:
        return self._hypermodel.fit(hp, model, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hypermodel, name)


class _Life:
    """One member's copies of the user's callbacks: `on_train_begin` and `on_train_end` once."""

    def __init__(self) -> None:
        self.callbacks: list[keras.callbacks.Callback] = []
        self._ends: list[Callable[..., Any]] = []
        self._begun = False

    def begin(self, given: Sequence[Any], trial: Trial) -> None:
        """Copy the callbacks, before the first call.

        Args:
            given: Callbacks, or functions that return one.
            trial: The member's trial.
        """
        if self._begun:
            return
        self._begun = True
        member = Member(0, 0, dict(trial.hyperparameters.values))
        self.callbacks = [fresh_callback(callback, member) for callback in given]
        self._ends = [callback.on_train_end for callback in self.callbacks]
        for callback in self.callbacks:
            # An attribute of the copy: its class, which others may look at, stays what it is.
            callback.on_train_end = _nothing

    def went_on(self) -> None:
        """A call is over: the next one does not begin the training anew."""
        for callback in self.callbacks:
            callback.on_train_begin = _nothing

    def end(self) -> None:
        """End the training."""
        for callback, end in zip(self.callbacks, self._ends, strict=True):
            if callback.model is not None:
                end({})


def _nothing(logs: Mapping[str, Any] | None = None) -> None:
    """What a callback does where its training only goes on."""


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
        self._first: tuple[Report, OwnState, _Life, int] | None = None
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
        life = _Life()
        report, state = self._call(0, trial, NOTHING, 0, life)
        self._first = (report, state, life, 1)
        return report

    @property
    def build_config(self) -> Mapping[str, Any] | None:
        """What a model needs to have weights before its first batch, as the first call found."""
        return None if self._first is None else self._first[1].build_config

    # What an iteration's learning rate is, is the user's.
    anneals = False

    def start(self, setup: Setup) -> None:
        size = len(setup.values)
        self._setup = setup
        self._seeds = setup.seed
        self._values = [dict(values) for values in setup.values]
        self._states: list[OwnState] = [NOTHING] * size
        self._lives = [_Life() for _ in range(size)]
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
        return [self._advance_one(slot) for slot in slots]

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
        self, slot: int, trial: Trial, state: OwnState, number: int, life: _Life
    ) -> tuple[Report, OwnState]:
        """Call the user's code, and return what it reports and the state that it leaves."""
        began = time.perf_counter()
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

    def _run(self, trial: Trial, segment: Segment, number: int, life: _Life) -> dict[str, float]:
        arguments = {**self._kwargs, **self._calls.arguments(number)}
        if self._takes_callbacks:
            arguments["callbacks"] = list(life.callbacks)
        seed = integer_seed(self._seeds.spawn(1)[0])
        with (
            borrowed_globals(seed),
            inheriting(self._tuner, segment),
            reported_apart(trial) as told,
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
        raise ObjectiveError(
            describe(
                "The strategy scores children before they are born, and your own training scores "
                "members only after it has trained them.",
                "Expected a strategy without candidates, `PopDescent()` for example.",
            )
        )

    def apply(self, offspring: Sequence[Offspring]) -> None:
        states, calls = list(self._states), list(self._num_calls)
        for child in offspring:
            self._lives[child.slot].end()
            self._values[child.slot] = dict(child.values)
            self._states[child.slot] = _inherit([states[p] for p in child.parents], child)
            self._num_calls[child.slot] = calls[child.parents[0]]
            self._models.pop(child.slot, None)
            self._lives[child.slot] = _Life()

    def capture(self, slot: int) -> MemberState:
        return self._states[slot]

    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        model = self.export(self._values[slot], self._states[slot])
        action(model)
        self._states[slot] = capture_own([model])

    def feed(self, data: SearchData) -> None:
        raise NotImplementedError("Your own training brings the data.")

    def export(self, values: Values, state: MemberState) -> keras.Model:
        if not isinstance(state, OwnState) or not state.weights:
            raise ModelError(
                describe(
                    "Your own training has left no Keras model.",
                    "Expected it to build the model with `self.hypermodel.build(hp)`.",
                    "Override `load_model` beside it, or use `get_best_hyperparameters`.",
                )
            )
        model = self._setup.blueprint.build_seeded(values, 0)
        fill(model, state)
        return model

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


def _inherit(parents: Sequence[OwnState], child: Offspring) -> OwnState:
    """Return a child's state: weights with noise (of several parents, averaged), and optimizer."""
    first = parents[0]
    weights = list(first.weights)
    if all(len(parent.weights) == len(weights) for parent in parents[1:]):
        for index in first.trainable if len(parents) > 1 else ():
            weights[index] = np.mean([parent.weights[index] for parent in parents], axis=0)
    add_noise(weights, first.trainable, child.weight_noise)
    # The step counter comes first in Keras's optimizers.
    kept = first.optimizer[: {"inherit": None, "restart": 1}.get(child.optimizer_state, 0)]
    groups = zip(*(parent.models for parent in parents), strict=False)
    return replace(
        first,
        weights=tuple(np.asarray(keras.ops.convert_to_numpy(weight)) for weight in weights),
        optimizer=kept,
        num_plain=(len(weights), len(kept)),
        models=tuple(_inherit(group, child) for group in groups),
        steps=first.steps if kept else 0,
    )


def _steps(before: OwnState, after: OwnState) -> int:
    """Return the gradient steps of a call; 1 where no optimizer has counted them."""
    return max(after.steps - before.steps, 1)


@contextmanager
def inheriting(tuner: PopulationTuner, segment: Segment) -> Iterator[None]:
    """Within the block, models that are built through the tuner start with the member's weights."""
    hypermodel = tuner.hypermodel
    if hypermodel is not None:
        tuner.hypermodel = InheritingHyperModel(hypermodel, segment)
    tuner.segment = segment
    try:
        yield
    finally:
        tuner.hypermodel, tuner.segment = hypermodel, None


@contextmanager
def reported_apart(trial: Trial) -> Iterator[Any]:
    """Within the block, what is reported for a trial stays apart from what it has reported before.

    Args:
        trial: The trial.

    Yields:
        What is reported.
    """
    before = trial.metrics
    trial.metrics = type(before)()
    try:
        yield trial.metrics
    finally:
        trial.metrics = before


def metrics_of(results: Any, objective: str, where: str) -> dict[str, float]:
    """Return what overridden training reports, by name.

    Args:
        results: A float: the objective; a dict of metrics; a `History`, of which the last epoch
            counts, since its weights are those that go on; or a list of these, which is averaged.
        objective: Name of the objective.
        where: What returned them, for messages.

    Raises:
        ResultError: For anything else.
    """
    if isinstance(results, list) and results:
        rows = [metrics_of(result, objective, where) for result in results]
        common = [name for name in rows[0] if all(name in row for row in rows)]
        return {name: float(np.mean([row[name] for row in rows])) for name in common}
    if isinstance(results, int | float | np.number) or np.ndim(results) == 0 and hasattr(
        results, "__float__"
    ):  # fmt: skip
        return {objective: float(results)}
    if isinstance(results, keras.callbacks.History):
        results = {name: values[-1] for name, values in results.history.items() if values}
    if isinstance(results, Mapping):
        return {name: float(value) for name, value in results.items() if np.ndim(value) == 0}
    hint = "Did you forget to return the metrics?" if results is None else ""
    raise ResultError(
        describe(
            f"The return value of {where} cannot be a score.",
            f"Expected the return value of {where} to be one of float, dict, "
            "keras.callbacks.History, or a list of one of these types.",
            hint,
            returned=results,
        )
    )
