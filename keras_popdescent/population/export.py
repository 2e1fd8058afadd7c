"""From a member to a plain Keras model of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_popdescent.data.batch import Batch
from keras_popdescent.errors import PopDescentError
from keras_popdescent.hyperparameters._keras_internals import weight_averages
from keras_popdescent.hyperparameters.optimizer import inner_optimizer
from keras_popdescent.population.averages import averaged_indices
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.space import Values


def export_model(
    blueprint: Blueprint, values: Values, state: MemberState, batch: Batch
) -> keras.Model:
    """Return an independent, compiled Keras model with a member's state and values.

    Where weights are averaged it has the averages, by which the member was scored.

    The model is as its author would have built it for these values: plain layers and plain numbers,
    nothing of this package in it, so that it can be saved, loaded and trained on anywhere.

    Args:
        blueprint: Builds the model.
        values: The member's hyperparameter values.
        state: The member's state.
        batch: A batch of training data, for models whose weights appear with the first batch.
    """
    model = build_plain(blueprint, values, lambda: blueprint.build_seeded(values, seed=0), batch)
    if not model.built:
        call_on(model, batch)
    put_into(model, state)
    put_averages_into(model, state)
    return model


def call_on(model: keras.Model, batch: Any) -> None:
    """Call a model on the samples of a batch: its weights appear with it.

    Args:
        model: A model.
        batch: Samples, and whatever comes with them.
    """
    model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch[0]))


def make_all(makers: Sequence[Callable[[], keras.Model]], stacklevel: int = 3) -> list[keras.Model]:
    """Make several models, the best first; where they share layers, the best has its own weights.

    A build function that uses layers made outside of it puts the same variables into every model.

    Args:
        makers: Each makes one; in the order in which the models are returned.
        stacklevel: How far up the caller is whom the warning is for.

    Warns:
        UserWarning: If models share trainable weights.
    """
    models = [make() for make in reversed(makers)][::-1]
    weights = [id(weight) for model in models for weight in model.trainable_weights]
    if len(set(weights)) < len(weights):
        warnings.warn(
            "The models share trainable weights: layers that are made outside of the build "
            "function are the same in all of them, and hold the weights of the best one. Ask for "
            "one model, or make the layers inside.",
            stacklevel=stacklevel,
        )
    return models


def build_plain(
    blueprint: Blueprint, values: Values, build: Callable[[], keras.Model], batch: Batch
) -> keras.Model:
    """Return a plain model with some values, also where the build function raises for live ones.

    Live values are written into a model, so nothing was ever built with them: then the model is
    built with the live defaults, and has the live values as plain numbers.

    Args:
        blueprint: Builds the model.
        values: Hyperparameter values.
        build: Builds it with these values.
        batch: See `LiveModel`.

    Raises:
        Exception: What the build function raised at first, where that does not help either.
    """
    try:
        return build()
    except PopDescentError:
        raise
    except Exception as error:
        return _built_beside(blueprint, values, batch, error)


def _built_beside(
    blueprint: Blueprint, values: Values, batch: Batch, error: Exception
) -> keras.Model:
    names = blueprint.space.names("live")
    known = {**values, **{name: blueprint.space[name].default for name in names}}
    if known == dict(values):
        raise error
    try:
        live = LiveModel(blueprint, known, 0, batch, full=False)
    except PopDescentError:
        raise
    except Exception:
        raise error from None
    live.write_values(values)
    live.detach()
    return live.model


def put_into(model: keras.Model, state: MemberState) -> None:
    """Put a member's weights and optimizer state into a built model; its values stay its own."""
    for variable, tensor in zip(model.weights, state.weights[: state.num_plain[0]], strict=True):
        variable.assign(_array(tensor))
    if state.num_plain[1] and getattr(model, "optimizer", None) is not None:
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        _copy_optimizer(model, state)


def put_averages_into(model: keras.Model, state: MemberState) -> None:
    """Give a model the averages of its weights, if any: ours, or its optimizer's (`use_ema`)."""
    if state.num_averages:
        *averages, count = state.averages
        if not int(_array(count)):
            return  # They were never moved, and are of nothing.
        weights = model.weights
        for index, average in zip(averaged_indices(weights), averages, strict=True):
            weights[index].assign(_array(average))
        return
    for weight, average in weight_averages(inner_optimizer(model)):
        # On JAX, Keras's `finalize_variable_values` leaves both with one array: no `fit` after it.
        weight.assign(keras.ops.copy(average))


def _copy_optimizer(model: keras.Model, state: MemberState) -> None:
    """Copy slots and step counter; the learning rate is the member's own, already in the model."""
    own = model.optimizer.learning_rate
    rate = float(keras.ops.convert_to_numpy(own)) if isinstance(own, keras.Variable) else None
    targets = model.optimizer.variables
    tensors = state.optimizer[: state.num_plain[1]]
    if len(targets) < len(tensors):
        # A momentum of exactly 0 has no slots in a plain optimizer. They come last, except in a
        # centered RMSprop: there only step counter and rate are sure to be the same.
        centered = getattr(inner_optimizer(model), "centered", False)
        tensors = tensors[: 2 if centered else len(targets)]
    for target, tensor in zip(targets, tensors, strict=False):
        target.assign(_array(tensor))
    if rate is not None:
        model.optimizer.learning_rate = rate


def _array(tensor: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(tensor))
