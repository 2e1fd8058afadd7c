"""The states of the models that a call of the user's code has built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_popdescent.errors import ArgumentError, ModelError, describe
from keras_popdescent.population.export import put_into
from keras_popdescent.population.state import MemberState, add_noise
from keras_popdescent.strategies.base import Offspring


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


def check_optimizer_state(rule: str) -> None:
    """Refuse a rule for children's optimizers that cannot be kept between calls.

    Raises:
        ArgumentError: For `"fresh_slots"`: each call has an optimizer, and a counter, of its own.
    """
    if rule == "fresh_slots":
        raise ArgumentError(
            describe(
                "Parent and child cannot share a step counter where your own code trains them.",
                "Expected 'inherit', 'restart' or 'fresh'.",
                optimizer_state=rule,
            )
        )


def inherit(parents: Sequence[OwnState], child: Offspring) -> OwnState:
    """Return a child's state: weights with noise (of several parents, averaged), and optimizer.

    Raises:
        ArgumentError: For `optimizer_state="fresh_slots"`.
    """
    check_optimizer_state(child.optimizer_state)
    first = parents[0]
    weights = list(first.weights)
    if all(len(parent.weights) == len(weights) for parent in parents[1:]):
        for index in first.trainable if len(parents) > 1 else ():
            weights[index] = np.mean([parent.weights[index] for parent in parents], axis=0)
    add_noise(weights, first.trainable, child.weight_noise)
    # The step counter comes first in Keras's optimizers.
    kept = first.optimizer[: {"inherit": None, "restart": 1, "fresh": 0}[child.optimizer_state]]
    groups = zip(*(parent.models for parent in parents), strict=False)
    return replace(
        first,
        weights=tuple(np.asarray(keras.ops.convert_to_numpy(weight)) for weight in weights),
        optimizer=kept,
        num_plain=(len(weights), len(kept)),
        models=tuple(inherit(group, child) for group in groups),
        steps=first.steps if kept else 0,
    )
