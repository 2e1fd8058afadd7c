"""A schedule within a plain `model.fit`: what a search found out, retrained by Keras alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_popdescent.errors import ArgumentError, BindingError, ModelError, describe
from keras_popdescent.history.schedule import CALLBACKS, Schedule, Segment
from keras_popdescent.hyperparameters import HandleBinding, find_handles
from keras_popdescent.hyperparameters._keras_internals import (
    learning_rate_setting,
    sync_from_fit,
    weight_averages,
)
from keras_popdescent.hyperparameters.optimizer import inner_optimizer
from keras_popdescent.population.averages import WeightAverages, averaged_indices
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE


class ScheduleCallback(keras.callbacks.Callback):
    """Changes a model's hyperparameters while `fit` trains it, as a schedule says.

    The model is one that the same build function has made, compiled and not yet trained. When
    `fit` is over, it is a plain Keras model again, with the last values as plain numbers. After the
    schedule's last gradient step its last values stay. Where the search scored averages of weights,
    they are moved as there, and the model has them when `fit` is over.

    Args:
        schedule: A schedule from `tuner.get_best_schedule()`.
        stop: Whether `fit` ends with the schedule's last gradient step. Defaults to False.
        initial_step: The schedule's step that the first batch of `fit` is. Defaults to 0.
        previous: The callback of an earlier `fit` of the same training: its averages of weights go
            on, and the weights are those that it trained last. Defaults to None.
        averages: Whether the model has the averages of weights in the end, where there are some
            (True, the default), or its weights as they are.

    Raises:
        ArgumentError: If the schedule does not say what its hyperparameters control, if one changes
            on the way that no running model can change (an activation, a batch size), or if the
            strategy scaled the loss (`PopDescent.reference()`); in `fit`, for a model compiled with
            `steps_per_execution`.

    Example:
        ```python
        model = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
        schedule = tuner.get_best_schedule()
        model.fit(x, y, epochs=10, callbacks=[schedule.as_callback()])
        ```
    """

    def __init__(
        self,
        schedule: Schedule,
        stop: bool = False,
        initial_step: int = 0,
        *,
        previous: ScheduleCallback | None = None,
        averages: bool = True,
    ) -> None:
        super().__init__()
        _check(schedule)
        self.schedule = schedule
        self.stop = stop
        self.initial_step = int(initial_step)
        self.averages = averages
        self._previous = previous
        self._averages: WeightAverages | None = None
        self._binding: dict[str, HandleBinding] = {}
        self._segment: Segment | None = None
        # id of a variable of the optimizer -> what it is when just built, where some segment
        # begins so
        self._fresh: dict[int, Any] = {}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make what changes live."""
        check_single_steps(self.model)
        self.step = self.initial_step
        self._segment = None
        self._binding = {}
        if not self.model.built:
            raise ModelError(
                describe(
                    "The model has no weights yet.",
                    fix="Give it a `keras.Input`, or call it once on a batch, before `fit`.",
                    model=self.model.name,
                )
            )
        found = find_handles(self.model)
        paths = self._paths({path: handle.static for path, handle in found.items()})
        missing = [path for path in paths if path not in found]
        if missing:
            raise BindingError(
                describe(
                    "The model does not have what the schedule controls.",
                    "Expected a model that the search's own build function has made.",
                    missing=missing,
                    found=list(found),
                )
            )
        if any(segment.optimizer_state != "inherit" for segment in self.schedule):
            self._fresh = fresh_slots(self.model)
        self._averages = self._first_averages()
        for path in paths:
            self._binding[path] = HandleBinding(path, [(path, 1.0)])
            self._binding[path].attach(self.model)
        # A step that was traced before has the plain numbers in it.
        self.model.make_train_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write the values that the coming gradient step is to use."""
        last = self.schedule.segments[-1]
        segment = self.schedule.segment_at(min(self.step, last.stop - 1))
        if segment is self._segment:
            return
        sync_from_fit(self.model)
        if segment.optimizer_state != "inherit":
            self._restart(counter=segment.optimizer_state == "fresh")
        for path, binding in self._binding.items():
            binding.write(segment.scalars[path])
        self._segment = segment

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the step, and end the training with the schedule if asked to."""
        self.step += 1
        if self._averages is not None and self.schedule.averages_after(self.step):
            sync_from_fit(self.model)
            self._averages.update()
        if self.stop and self.step >= self.schedule.gradient_steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave a plain model behind."""
        if self.step < self.schedule.gradient_steps:
            warnings.warn(
                f"`fit` ended after {self.step:,} of the schedule's "
                f"{self.schedule.gradient_steps:,} gradient steps. Train for more epochs with "
                f"`as_callback(stop=True)`, or under `schedule.stretched({self.step})`.",
                stacklevel=2,
            )
        sync_from_fit(self.model)
        for binding in self._binding.values():
            binding.detach(self.model)
        self._binding = {}
        if self._averages is not None and self.averages and self._averages.count():
            self._averages.put()
        self.model.make_train_function(force=True)

    def _first_averages(self) -> WeightAverages | None:
        """Return averages of the model's weights; None where there are none, or `use_ema` ones."""
        momentum = self.schedule.ema_momentum
        # The optimizer may still be built with the first step.
        if momentum is None or getattr(inner_optimizer(self.model), "use_ema", False):
            return None
        weights = self.model.weights
        averages = WeightAverages([weights[i] for i in averaged_indices(weights)], momentum)
        if self._previous is not None and self._previous._averages is not None:
            averages.go_on_from(self._previous._averages)
        return averages

    def _restart(self, counter: bool) -> None:
        """Set the optimizer's slots back, on request its step counter too."""
        optimizer = inner_optimizer(self.model)
        live = {
            id(handle.target) for binding in self._binding.values() for handle in binding.handles
        }
        kept = {id(learning_rate_setting(optimizer)), *live}
        if not counter:
            kept.add(id(optimizer.iterations))
        for variable in optimizer.variables:
            if id(variable) not in kept:
                # A momentum that was 0 has got its slots since.
                fresh = self._fresh.get(id(variable))
                variable.assign(keras.ops.zeros_like(variable) if fresh is None else fresh)
        for weight, average in weight_averages(optimizer):
            average.assign(keras.ops.copy(weight))

    def _paths(self, own: Mapping[str, float]) -> list[str]:
        """Return the paths of the scalars that are not always as the model has them."""
        segments = self.schedule.segments
        common = [path for path in segments[0].scalars if all(path in s.scalars for s in segments)]
        return [path for path in common if {s.scalars[path] for s in segments} != {own.get(path)}]


def fresh_slots(model: keras.Model) -> dict[int, Any]:
    """Return what the variables of a model's optimizer, by id, are when it is just built."""
    optimizer = inner_optimizer(model)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    return {
        id(variable): np.array(keras.ops.convert_to_numpy(new))
        for variable, new in zip(optimizer.variables, fresh.variables, strict=True)
    }


def check_single_steps(model: keras.Model) -> None:
    """Refuse a model that makes several steps between two calls of a callback.

    Raises:
        ArgumentError: If it was compiled with `steps_per_execution` above 1.
    """
    if model.steps_per_execution != 1:
        raise ArgumentError(
            describe(
                "The callback counts gradient steps, and `fit` tells it of some of them only.",
                "Expected `steps_per_execution=1`.",
                "Compile the model without it, or set `model.steps_per_execution = 1`.",
                steps_per_execution=model.steps_per_execution,
            )
        )


def refuse_multipliers(schedule: Schedule) -> None:
    """Refuse a schedule in which the strategy's own multipliers scale the loss or its penalties.

    Raises:
        ArgumentError: Naming them: no plain model has them.
    """
    scaling = [
        name
        for name in (LOSS_SCALE, L2_SCALE)
        if any(segment.values.get(name, 1.0) != 1.0 for segment in schedule)
    ]
    if scaling:
        raise ArgumentError(
            describe(
                "The schedule scales the loss, which a plain `fit` cannot do.",
                "Expected a search with `PopDescent()` or `PopDescent.paper()`.",
                scaling=scaling,
            )
        )


def _check(schedule: Schedule) -> None:
    if not schedule.segments:
        raise ArgumentError(
            describe("The schedule is empty.", fix="Use one from `tuner.get_best_schedule()`.")
        )
    refuse_multipliers(schedule)
    if not any(segment.scalars for segment in schedule):
        raise ArgumentError(
            describe(
                "The schedule does not say what its hyperparameters control.",
                "Expected one from `tuner.get_best_schedule()`, or a file that it was saved to.",
            )
        )
    changed = [
        name
        for name in schedule.fixed_names
        if len({segment.values.get(name) for segment in schedule}) > 1
    ]
    if changed:
        raise ArgumentError(
            describe(
                "A hyperparameter changes on the way that a running `fit` cannot change.",
                fix="Use `tuner.retrain_best`, which builds the model anew where it must.",
                changing=changed,
            )
        )


CALLBACKS["schedule"] = ScheduleCallback
