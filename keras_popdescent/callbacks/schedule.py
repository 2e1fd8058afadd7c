"""A schedule within a plain `model.fit`: what a search found out, retrained by Keras alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_popdescent.errors import ArgumentError, BindingError, ModelError, describe
from keras_popdescent.history.schedule import CALLBACKS, Schedule
from keras_popdescent.hyperparameters import HandleBinding, find_handles
from keras_popdescent.hyperparameters._keras_internals import sync_from_fit


class ScheduleCallback(keras.callbacks.Callback):
    """Changes a model's hyperparameters while `fit` trains it, as a schedule says.

    The model is one that the same build function has made, compiled and not yet trained. When
    `fit` is over, it is a plain Keras model again, with the last values as plain numbers. After the
    schedule's last gradient step its last values stay.

    Args:
        schedule: A schedule from `tuner.get_best_schedule()`.
        stop: Whether `fit` ends with the schedule's last gradient step. Defaults to False.
        initial_step: The schedule's step that the first batch of `fit` is. Defaults to 0.

    Raises:
        ArgumentError: If the schedule does not say what its hyperparameters control, or one changes
            on the way that no running model can change (an activation, a batch size).

    Example:
        ```python
        model = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
        schedule = tuner.get_best_schedule()
        model.fit(x, y, epochs=10, callbacks=[schedule.as_callback()])
        ```
    """

    def __init__(self, schedule: Schedule, stop: bool = False, initial_step: int = 0) -> None:
        super().__init__()
        _check(schedule)
        self.schedule = schedule
        self.stop = stop
        self.initial_step = int(initial_step)
        self._binding: dict[str, HandleBinding] = {}
        self._written: Mapping[str, float] | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make what changes live."""
        self.step = self.initial_step
        self._written = None
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
                    "The model has not what the schedule controls.",
                    "Expected a model that the search's own build function has made.",
                    missing=missing,
                    found=list(found),
                )
            )
        for path in paths:
            self._binding[path] = HandleBinding(path, [(path, 1.0)])
            self._binding[path].attach(self.model)
        # A step that was traced before has the plain numbers in it.
        self.model.make_train_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write the values that the coming gradient step is to use."""
        last = self.schedule.segments[-1]
        segment = self.schedule.segment_at(min(self.step, last.stop - 1))
        if segment.scalars is self._written:
            return
        sync_from_fit(self.model)
        for path, binding in self._binding.items():
            binding.write(segment.scalars[path])
        self._written = segment.scalars

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the step, and end the training with the schedule if asked to."""
        self.step += 1
        if self.stop and self.step >= self.schedule.gradient_steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave a plain model behind."""
        sync_from_fit(self.model)
        for binding in self._binding.values():
            binding.detach(self.model)
        self._binding = {}
        self.model.make_train_function(force=True)

    def _paths(self, own: Mapping[str, float]) -> list[str]:
        """Return the paths of the scalars that are not always as the model has them."""
        segments = self.schedule.segments
        common = [path for path in segments[0].scalars if all(path in s.scalars for s in segments)]
        return [path for path in common if {s.scalars[path] for s in segments} != {own.get(path)}]


def _check(schedule: Schedule) -> None:
    if not schedule.segments:
        raise ArgumentError(describe("The schedule is empty."))
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
