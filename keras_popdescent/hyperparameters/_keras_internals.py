"""Every use of a private API of Keras, in one place.

`tests/hyperparameters/test_keras_internals.py` fails when one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the model and all layers below it, depth first.

    `Model.layers` is public but stops at the top level: it misses what wrappers, RNN cells and
    custom layers hold.
    """
    return list(model._flatten_layers(include_self=True, recursive=True))


@contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Let a built layer take new state, as Keras itself does to quantize a layer."""
    was_locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            layer._tracker.lock()


def untrack(layer: keras.Layer, variable: keras.Variable) -> None:
    """Take a variable out of a layer's state again."""
    layer._untrack_variable(variable)


def label_smoothing_arguments(loss: keras.losses.Loss) -> dict[str, Any]:
    """Return the dict from which a built-in loss reads its label smoothing at every call."""
    arguments: dict[str, Any] = loss._fn_kwargs
    return arguments


def set_loss_weight(model: keras.Model, index: int, weight: Any) -> None:
    """Replace the weight of one of the compiled losses, before or after they are built."""
    compiled = model._compile_loss
    if compiled._flat_losses is not None:
        entry = compiled._flat_losses[index]
        compiled._flat_losses[index] = entry._replace(loss_weights=weight)
    else:
        flat = keras.tree.flatten(compiled._user_loss_weights)
        flat[index] = weight
        compiled._user_loss_weights = keras.tree.pack_sequence_as(compiled._user_loss_weights, flat)


def user_loss_weights(model: keras.Model) -> Any:
    """Return the `loss_weights` that the model was compiled with.

    The public `get_compile_config` serializes every metric and loss on the way, which fails for
    lambdas.
    """
    compiled = model._compile_loss
    return None if compiled is None else compiled._user_loss_weights


def learning_rate_setting(optimizer: Any) -> Any:
    """Return the rate's variable, or the schedule that the optimizer was built with.

    The public `learning_rate` of an optimizer with a schedule is the current value only.
    """
    return optimizer._learning_rate


def sync_from_fit(model: keras.Model) -> None:
    """Within `fit`, bring the model's variables up to date (JAX keeps the state elsewhere)."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
