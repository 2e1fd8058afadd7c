"""The winner's schedule, found out in full and retrained from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_popdescent.callbacks.schedule import ScheduleCallback, refuse_multipliers
from keras_popdescent.data import SearchData
from keras_popdescent.data.search_data import DEFAULT_BATCH_SIZE
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history import History, Schedule, Segment
from keras_popdescent.hyperparameters import BATCH_SIZE, find_handles
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.export import call_on
from keras_popdescent.population.kept import Kept
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners.own.state import capture_own, fill

# Where a learning rate that is a plain number is.
RATE = "optimizer.learning_rate"
Build = Callable[[Values], keras.Model]


def schedule_of(
    history: History, winner: Kept, blueprint: Blueprint, bindings: Mapping[str, Any]
) -> Schedule:
    """Return the complete schedule of a member up to the moment in which it was kept.

    Args:
        history: The history of its execution.
        winner: The member.
        blueprint: See `complete_schedule`.
        bindings: See `complete_schedule`.
    """
    schedule = history.schedule(winner.member_id, until=winner.gradient_steps)
    return complete_schedule(schedule, blueprint, bindings)


def complete_schedule(
    schedule: Schedule, blueprint: Blueprint, bindings: Mapping[str, Any]
) -> Schedule:
    """Return a schedule that also says what its values amount to in the model.

    Args:
        schedule: The winner's.
        blueprint: Builds the models.
        bindings: The user's own bindings; what they control is not known.
    """
    fixed = [
        *blueprint.space.names("rebuild", "structural"),
        *(name for name, binding in bindings.items() if not isinstance(binding, str)),
        BATCH_SIZE,
        LOSS_SCALE,
        L2_SCALE,
    ]
    known = {name for segment in schedule for name in segment.values}
    # key: an ancestor -> what its values amount to; annealing cuts its life into many segments
    found: dict[int, dict[str, float]] = {}
    segments = []
    for segment in schedule:
        own = found.get(segment.member_id)
        if own is None:
            own = found[segment.member_id] = _scalars(blueprint, segment.values)
        segments.append(replace(segment, scalars=_annealed(own, segment.rate_factor)))
    names = tuple(name for name in dict.fromkeys(fixed) if name in known)
    return replace(schedule, segments=tuple(segments), fixed_names=names)


def _scalars(blueprint: Blueprint, values: Values) -> dict[str, float]:
    model: Any = blueprint.build_seeded(values, 0)
    if not isinstance(model, keras.Model) or not model.compiled:
        return {}
    return {path: float(handle.static) for path, handle in find_handles(model).items()}


def _annealed(scalars: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return a model's scalars with its learning rate multiplied, as `LiveModel.annealed` does."""
    annealed = dict(scalars)
    if factor != 1.0 and RATE in annealed:
        annealed[RATE] *= factor
    return annealed


def retrain(
    schedule: Schedule,
    build: Build,
    data: SearchData,
    fit_arguments: Mapping[str, Any],
    epochs: int | None,
) -> keras.Model:
    """Train a new model with plain `fit` under a schedule.

    Where a hyperparameter changes that a running model cannot change, the model is built anew and
    the weights are carried over, as in the search.

    Args:
        schedule: A complete schedule.
        build: Returns a new compiled model for some values.
        data: The data, for its number of batches.
        fit_arguments: Arguments of `fit`.
        epochs: How long to train, the schedule stretched to it; None for as many gradient steps as
            the schedule has.

    Raises:
        ArgumentError: If the strategy scaled the loss, which no plain model does.
    """
    refuse_multipliers(schedule)
    samples = getattr(data.training, "num_samples", None)
    arguments = dict(fit_arguments)
    default = int(arguments.pop("batch_size", None) or DEFAULT_BATCH_SIZE)

    def steps_per_epoch(values: Values) -> int:
        size = int(values.get(BATCH_SIZE, default))
        return data.steps_per_epoch or 1 if samples is None else math.ceil(samples / size)

    if epochs is not None:
        schedule = schedule.stretched(epochs * steps_per_epoch(schedule.segments[0].values))
    callbacks = list(arguments.pop("callbacks", None) or [])
    model: keras.Model | None = None
    done = 0
    phases = list(_phases(schedule))
    replay: ScheduleCallback | None = None
    for phase in phases:
        values = phase.segments[0].values
        before, model = model, build(values)
        if not model.built:
            call_on(model, data.training.first_batch())
        if before is not None:
            fill(model, capture_own([before]))
        # How many steps a call makes changes no result; the schedule counts them one by one.
        at_once, model.steps_per_execution = model.steps_per_execution, 1
        replay = ScheduleCallback(phase, stop=True, previous=replay, averages=phase is phases[-1])
        length = math.ceil(phase.gradient_steps / steps_per_epoch(values))
        if samples is not None:
            arguments["batch_size"] = int(values.get(BATCH_SIZE, default))
        model.fit(
            **arguments,
            initial_epoch=done,
            epochs=done + length,
            callbacks=[replay, *callbacks],
        )
        model.steps_per_execution = at_once
        model.make_train_function(force=True)
        done += length
    if model is None:
        raise ArgumentError(
            describe("The schedule is empty.", fix="Use one from `tuner.get_best_schedule()`.")
        )
    return model


def _phases(schedule: Schedule) -> Iterator[Schedule]:
    """Cut a schedule where a model must be built anew; each part begins at step 0."""
    names = schedule.fixed_names
    part: list[Segment] = []
    for segment in schedule:
        if part and any(part[0].values.get(n) != segment.values.get(n) for n in names):
            yield _from_zero(schedule, part)
            part = []
        part.append(segment)
    if part:
        yield _from_zero(schedule, part)


def _from_zero(schedule: Schedule, part: list[Segment]) -> Schedule:
    """Return a part of a schedule, its steps counted from its own beginning."""
    begin, end = part[0].start, part[-1].stop
    return Schedule(
        tuple(replace(s, start=s.start - begin, stop=s.stop - begin) for s in part),
        ema_momentum=schedule.ema_momentum,
        averaged_at=tuple(step - begin for step in schedule.averaged_at if begin < step <= end),
    )
