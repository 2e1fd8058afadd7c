"""Handles of the optimizer: learning rate or a multiplier on it, momentum, betas, decay, clips."""

from __future__ import annotations

from typing import Any

import keras

from keras_popdescent.hyperparameters import _keras_internals
from keras_popdescent.hyperparameters.handle import AttributeHandle, Handle
from keras_popdescent.hyperparameters.numbers import read_number, shortest, write_number

_SCALARS = ("momentum", "beta_1", "beta_2", "rho")
_SCALES = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")


def inner_optimizer(model: keras.Model) -> Any:
    """Return the optimizer that computes the updates, without a loss-scaling wrapper."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


class LearningRateHandle(Handle):
    """The optimizer's learning rate: a variable already, nothing has to be added."""

    unbounded = True

    def __init__(self, optimizer: Any) -> None:
        super().__init__("optimizer.learning_rate", _number(optimizer.learning_rate))
        self.optimizer = optimizer
        self.attached = False

    def attach(self, model: keras.Model) -> None:
        self.attached = True

    def detach(self, model: keras.Model) -> None:
        self.attached = False

    def read(self) -> float:
        setting = self.target
        if isinstance(setting, keras.Variable):
            return shortest(read_number(setting))
        return _number(self.optimizer.learning_rate)

    def write(self, value: float) -> None:
        setting = self.target
        if isinstance(setting, keras.Variable):
            write_number(setting, value)
        else:
            self.optimizer.learning_rate = value

    @property
    def target(self) -> keras.Variable | None:
        variable: keras.Variable = _keras_internals.learning_rate_setting(self.optimizer)
        return variable

    def _install(self, model: keras.Model, scalar: Any) -> None:
        self.write(float(scalar))


@keras.saving.register_keras_serializable(package="keras_popdescent")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning-rate schedule times a live multiplier.

    Args:
        schedule: The user's schedule.
        multiplier: A number or a `LiveScalar`.
    """

    def __init__(self, schedule: Any, multiplier: Any = 1.0) -> None:
        self.schedule = schedule
        self.multiplier = multiplier

    def __call__(self, step: Any) -> Any:
        return self.schedule(step) * self.multiplier

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "multiplier": float(self.multiplier),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ScaledSchedule:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["multiplier"])


class ScheduleMultiplierHandle(Handle):
    """A multiplier on the schedule of an optimizer, whose rate itself cannot be set."""

    unbounded = True
    in_model = False

    def __init__(self, optimizer: Any, schedule: Any) -> None:
        scaled = isinstance(schedule, ScaledSchedule)
        super().__init__(
            "optimizer.learning_rate_multiplier", float(schedule.multiplier) if scaled else 1.0
        )
        self.optimizer = optimizer
        self.schedule = schedule.schedule if scaled else schedule

    def _make_variable(self, model: keras.Model) -> keras.Variable:
        return _optimizer_variable(self.optimizer, self.static, "learning_rate_multiplier")

    def _drop_variable(self, model: keras.Model, variable: keras.Variable) -> None:
        _keras_internals.untrack(self.optimizer, variable)

    def _install(self, model: keras.Model, scalar: Any) -> None:
        own = isinstance(scalar, float) and scalar == 1.0
        self.optimizer.learning_rate = (
            self.schedule if own else ScaledSchedule(self.schedule, scalar)
        )


class OptimizerHandle(AttributeHandle):
    """A Python number that the update rule reads."""

    in_model = False
    number_on_torch = True

    def _install(self, model: keras.Model, scalar: Any) -> None:
        super()._install(model, scalar)
        if self.attribute == "momentum" and (scalar != 0.0 or self.scalar is not None):
            _keras_internals.add_momentum_slots(self.owner)

    def _make_variable(self, model: keras.Model) -> keras.Variable:
        return _optimizer_variable(self.owner, self.static, self.attribute)

    def _drop_variable(self, model: keras.Model, variable: keras.Variable) -> None:
        _keras_internals.untrack(self.owner, variable)


class ScaleHandle(OptimizerHandle):
    """Weight decay or a clipping threshold."""

    unbounded = True
    probe: tuple[float, float] | None = (0.0, 0.5)

    def __init__(self, path: str, owner: Any, attribute: str) -> None:
        super().__init__(path, owner, attribute)
        # Whether a clipping threshold matters depends on the gradients: no probe can tell.
        if attribute != "weight_decay":
            self.probe = None


def optimizer_handles(model: keras.Model) -> list[Handle]:
    """Return the handles of the model's optimizer."""
    optimizer = inner_optimizer(model)
    if optimizer is None:
        return []
    plain: list[Handle] = [
        OptimizerHandle(f"optimizer.{name}", optimizer, name)
        for name in _SCALARS
        if _is_number(optimizer, name)
    ]
    scales: list[Handle] = [
        ScaleHandle(f"optimizer.{name}", optimizer, name)
        for name in _SCALES
        if _is_number(optimizer, name) and _is_scale(optimizer, name)
    ]
    return [*_rate_handles(optimizer), *plain, *scales]


def _rate_handles(optimizer: Any) -> list[Handle]:
    """Return the handle of the rate, or of its schedule; none for a rate from a function."""
    setting = _keras_internals.learning_rate_setting(optimizer)
    if isinstance(setting, keras.optimizers.schedules.LearningRateSchedule):
        return [ScheduleMultiplierHandle(optimizer, setting)]
    return [LearningRateHandle(optimizer)] if isinstance(setting, keras.Variable) else []


def rate_handle(model: keras.Model) -> LearningRateHandle | None:
    """Return the handle of a learning rate that is a plain number, None for any other."""
    found = _rate_handles(inner_optimizer(model))
    return next((handle for handle in found if isinstance(handle, LearningRateHandle)), None)


def _is_number(optimizer: Any, name: str) -> bool:
    value = getattr(optimizer, name, None)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scale(optimizer: Any, name: str) -> bool:
    if name == "clipvalue" and keras.backend.backend() == "jax":
        # `jax.numpy.clip` takes nothing that stands for a number.
        return False
    # A threshold of 0 means no clipping at all: another graph, not another number in it.
    return name == "weight_decay" or getattr(optimizer, name) > 0


def _number(value: Any) -> float:
    return shortest(float(keras.ops.convert_to_numpy(value)))


def _optimizer_variable(optimizer: Any, value: float, name: str) -> keras.Variable:
    return optimizer.add_variable(
        shape=(), initializer=keras.initializers.Constant(value), dtype="float32", name=name
    )
