"""A blueprint builds compiled models for given hyperparameter values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras

from keras_popdescent.errors import ArgumentError, ModelError, describe
from keras_popdescent.hyperparameters import Binding, HandleBinding, find_handles
from keras_popdescent.hyperparameters._keras_internals import loss_arguments
from keras_popdescent.hyperparameters.binding import LossScaleBinding, PenaltyScaleBinding
from keras_popdescent.hyperparameters.handle import Handle
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.base import Regularization
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE
from keras_popdescent.strategies.space import (
    Dimension,
    LinearDimension,
    LogDimension,
    SearchSpace,
    Values,
)

LEARNING_RATE = "popdescent/learning_rate"
LEARNING_RATE_MULTIPLIER = "popdescent/learning_rate_multiplier"
L2 = "popdescent/l2"
L2_MULTIPLIER = "popdescent/l2_multiplier"


class Blueprint(ABC):
    """Builds compiled Keras models, and knows what is live in them.

    Attributes:
        space: The search space with its kinds.
    """

    space: SearchSpace

    @abstractmethod
    def build(self, values: Values) -> keras.Model:
        """Return a new compiled model for a full set of values, as its author would have it."""

    @abstractmethod
    def bindings(self, values: Values) -> dict[str, Binding]:
        """Return new, unattached bindings, by hyperparameter, for the model of these values."""

    def computed_values(self, values: Values) -> dict[str, float]:
        """Return the values of handles (by path) that follow hyperparameters in no simple way."""
        return {}

    def computed_paths(self, values: Values) -> list[str]:
        """Return the paths of those handles in the model of these values."""
        return []

    def complete(self, values: Values) -> Values:
        """Return a first member's values, with those that its own model decides filled in."""
        return values

    def structure_key(self, values: Values) -> Hashable:
        """Return what decides which compiled model a member needs; live values are not in it."""
        return tuple((name, values[name]) for name in self.space.names("rebuild", "structural"))

    def build_seeded(self, values: Values, seed: int) -> keras.Model:
        """Build a model whose initial weights follow from a seed.

        Raises:
            ModelError: If what was built is not a compiled Keras model.
        """
        with borrowed_globals(seed):
            model = self.build(values)
        return checked(model)


def checked(model: Any) -> keras.Model:
    """Refuse anything but a compiled Keras model.

    Raises:
        ModelError: Saying what came instead.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(
            describe(
                "The build function returned no Keras model.",
                "Expected a compiled `keras.Model`.",
                "Does the function end with `return model`?",
                returned=type(model).__name__,
            )
        )
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ModelError(
            describe(
                "The build function returned a model that is not compiled.",
                "Expected a model with an optimizer and a loss.",
                "Call `model.compile(optimizer=..., loss=...)` before returning it.",
                model=model.name,
            )
        )
    return model


class ModelBlueprint(Blueprint):
    """A blueprint without a search space: a compiled model to clone, or a function that builds one.

    What can be mutated is what the model has: its learning rate (or a multiplier on its schedule),
    its L1 and L2 coefficients, and the multipliers that a strategy asks for.

    Args:
        source: A compiled model, or a function without arguments that returns one.
        mutate: Which of the model's own values are tuned, from `"learning_rate"`, `"l2"`, and paths
            of handles such as `"optimizer.momentum"`.
        multipliers: Built-in multipliers, from `"loss_scale"` and `"l2_scale"`.
        regularization: Which penalty terms `"l2_scale"` applies to.

    Raises:
        ModelError: If the model is not compiled or cannot be cloned.
    """

    def __init__(
        self,
        source: keras.Model | Callable[[], keras.Model],
        mutate: tuple[str, ...] = ("learning_rate", "l2"),
        multipliers: tuple[str, ...] = (),
        regularization: Regularization = "all",
    ) -> None:
        with borrowed_globals(0):
            self._build = _cloner(source) if isinstance(source, keras.Model) else source
            example = checked(source if isinstance(source, keras.Model) else self._build())
        self._targets = own_targets(example, mutate)
        self._multipliers = multipliers
        self._regularization = regularization
        self.space = SearchSpace([dimension for dimension, _ in self._targets.values()])

    def build(self, values: Values) -> keras.Model:
        model = checked(self._build())
        own = {
            path: float(values[name]) * factor
            for name, (_, targets) in self._targets.items()
            if name in values
            for path, factor in targets
        }
        set_plain(model, own)
        return model

    def bindings(self, values: Values) -> dict[str, Binding]:
        bound: dict[str, Binding] = {
            name: HandleBinding(name, targets) for name, (_, targets) in self._targets.items()
        }
        return {**bound, **multiplier_bindings(self._multipliers, self._regularization)}


def multiplier_bindings(
    multipliers: tuple[str, ...], regularization: Regularization
) -> dict[str, Binding]:
    """Return new bindings for the built-in multipliers."""
    bound: dict[str, Binding] = {}
    if "loss_scale" in multipliers:
        bound[LOSS_SCALE] = LossScaleBinding()
    if "l2_scale" in multipliers:
        bound[L2_SCALE] = PenaltyScaleBinding(regularization)
    return bound


# name of a hyperparameter -> its dimension, and (path of a handle, factor) pairs
Targets = dict[str, tuple[Dimension, tuple[tuple[str, float], ...]]]


def own_targets(model: keras.Model, mutate: tuple[str, ...]) -> Targets:
    """Return what a model has by itself that can be mutated around its own value.

    Ranges: the learning rate from 1/100 to 10 times its own value; L1 and L2 coefficients and other
    scales from 1/100 to 100 times; rates (dropout, momentum) from 0 to 0.95. Coefficients that
    differ share one multiplier.

    Raises:
        ArgumentError: If `mutate` names what the model has not.
    """
    handles = find_handles(model)
    targets: Targets = {}
    if "learning_rate" in mutate:
        if "optimizer.learning_rate" in handles:
            own = handles["optimizer.learning_rate"].static
            if own > 0.0:
                dimension = LogDimension(LEARNING_RATE, own / 100.0, own * 10.0, own)
                targets[LEARNING_RATE] = (dimension, (("optimizer.learning_rate", 1.0),))
        elif "optimizer.learning_rate_multiplier" in handles:
            dimension = LogDimension(LEARNING_RATE_MULTIPLIER, 0.01, 10.0, 1.0)
            targets[LEARNING_RATE_MULTIPLIER] = (
                dimension,
                (("optimizer.learning_rate_multiplier", 1.0),),
            )
    if "l2" in mutate:
        targets.update(_penalty_targets(handles))
    for path in mutate:
        if path in handles:
            targets[path] = (_own_dimension(path, handles[path]), ((path, 1.0),))
        elif path not in ("learning_rate", "l2"):
            raise ArgumentError(
                describe(
                    "The model has no such live scalar.",
                    f"It has: {', '.join(handles)}; and 'learning_rate', 'l2' for all of a kind.",
                    mutate=path,
                )
            )
    return targets


def _own_dimension(path: str, handle: Handle) -> Dimension:
    """Return the range of a handle around its own value; a rate moves linearly up to 0.95."""
    own = handle.static
    if handle.unbounded and own > 0.0:
        return LogDimension(path, own / 100.0, own * 100.0, own)
    if handle.unbounded:
        raise ArgumentError(
            describe(
                f"`{path}` is 0: there is nothing to mutate around.",
                fix="Give it a positive value in the model.",
            )
        )
    return LinearDimension(path, 0.0, max(0.95, own), own)


def _penalty_targets(handles: Mapping[str, Any]) -> Targets:
    coefficients = {
        path: handle.static
        for path, handle in handles.items()
        if path.endswith((".l1", ".l2")) and handle.static > 0.0
    }
    if not coefficients:
        return {}
    own = next(iter(coefficients.values()))
    if all(value == own for value in coefficients.values()):
        dimension = LogDimension(L2, own / 100.0, own * 100.0, own)
        return {L2: (dimension, tuple((path, 1.0) for path in coefficients))}
    dimension = LogDimension(L2_MULTIPLIER, 0.01, 100.0, 1.0)
    return {L2_MULTIPLIER: (dimension, tuple(coefficients.items()))}


def set_plain(model: keras.Model, values: Mapping[str, float]) -> None:
    """Put plain numbers into a model that is not live, by paths of handles."""
    handles = find_handles(model)
    for path, value in values.items():
        if path in handles:
            handles[path].set_plain(model, value)


def _cloner(model: keras.Model) -> Callable[[], keras.Model]:
    """Return a function that builds the model anew from its configuration."""
    checked(model)
    try:
        compile_config = model.get_compile_config()
        keras.models.clone_model(model)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise ModelError(
            describe(
                "The model cannot be cloned from its configuration.",
                fix="Pass a function that builds and compiles it instead of the model.",
                model=type(model).__name__,
                reason=str(error)[:200],
            )
        ) from error

    def clone() -> keras.Model:
        copy = keras.models.clone_model(model)
        copy.compile_from_config(compile_config)
        losses = (keras.tree.flatten(m.loss) for m in (model, copy))
        for own, copied in zip(*losses, strict=True):
            # Not all of it is in the configuration: the delta of a Huber loss is not (Keras 3.15).
            loss_arguments(copied).update(loss_arguments(own))
        return copy

    return clone
