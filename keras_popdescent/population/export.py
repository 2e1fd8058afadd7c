"""From a member to a plain Keras model of its own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_popdescent.data.batch import Batch
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.space import Values


def export_model(
    blueprint: Blueprint, values: Values, state: MemberState, live: LiveModel, batch: Batch
) -> keras.Model:
    """Return an independent, compiled Keras model with a member's state and values.

    The model is as its author would have built it for these values: plain layers and plain numbers,
    nothing of this package in it, so that it can be saved, loaded and trained on anywhere.

    Args:
        blueprint: Builds the model.
        values: The member's hyperparameter values.
        state: The member's state.
        live: The live model that the state belongs to.
        batch: A batch of training data, for models whose weights appear with the first batch.
    """
    model = blueprint.build_seeded(values, seed=0)
    if not model.built:
        model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch[0]))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    live_ids = {id(handle.variable) for handle in live.handles}
    weights = {id(variable) for variable in live.model.weights}
    kept = [
        tensor
        for variable, tensor in zip(live.weight_variables, state.weights, strict=True)
        if id(variable) in weights and id(variable) not in live_ids
    ]
    for variable, tensor in zip(model.weights, kept, strict=True):
        variable.assign(np.array(keras.ops.convert_to_numpy(tensor)))
    _copy_optimizer(model, values, state, live, live_ids)
    return model


def _copy_optimizer(
    model: keras.Model, values: Values, state: MemberState, live: LiveModel, live_ids: set[int]
) -> None:
    """Copy slots and step counter; the learning rate is the member's own, already in the model."""
    own = model.optimizer.learning_rate
    rate = float(keras.ops.convert_to_numpy(own)) if _settable(model) else None
    pairs = [
        (variable, tensor)
        for variable, tensor in zip(live.optimizer_variables, state.optimizer, strict=True)
        if id(variable) not in live_ids
    ]
    targets = model.optimizer.variables
    same = len(targets) == len(pairs) and all(
        tuple(target.shape) == tuple(tensor.shape)
        for target, (_, tensor) in zip(targets, pairs, strict=True)
    )
    if not same:
        # A momentum of exactly 0 has no slots in a plain optimizer: nothing is lost with them.
        return
    for target, (_, tensor) in zip(targets, pairs, strict=True):
        target.assign(np.array(keras.ops.convert_to_numpy(tensor)))
    if rate is not None:
        model.optimizer.learning_rate = rate


def _settable(model: keras.Model) -> Any:
    return isinstance(model.optimizer.learning_rate, keras.Variable)
