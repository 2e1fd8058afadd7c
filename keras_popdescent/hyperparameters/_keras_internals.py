"""Every use of a private API of Keras, in one place.

`tests/hyperparameters/test_keras_internals.py` fails when one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state

# Where Keras keeps its counters of automatic names.
_NAMES = "object_name_uids"


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the model and all layers below it, depth first, in the order of their weights.

    `Model.layers` is public but stops at the top level: it misses what wrappers, RNN cells and
    custom layers hold. Keras's own `_flatten_layers` has inner layers in reverse.
    """
    found: dict[int, keras.Layer] = {}

    def visit(layer: keras.Layer) -> None:
        if id(layer) not in found:
            found[id(layer)] = layer
            for inner in layer._layers:
                visit(inner)

    visit(model)
    return list(found.values())


@contextmanager
def fresh_names() -> Iterator[None]:
    """Within the block, automatic names count from the beginning, as in a first build.

    Keras numbers layers and metrics over a whole process: the second model's `AUC()` is called
    `auc_1`, and no objective would find it.
    """
    held = global_state.get_global_attribute(_NAMES)
    global_state.set_global_attribute(_NAMES, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_NAMES, held)


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


def track(layer: keras.Layer, variable: keras.Variable) -> None:
    """Make a variable part of a layer's state, after those that are."""
    with unlocked(layer):
        layer._track_variable(variable)


def untrack(owner: Any, variable: keras.Variable) -> None:
    """Take a variable out of the state of a layer or an optimizer again."""
    owner._untrack_variable(variable)


def loss_arguments(loss: keras.losses.Loss) -> dict[str, Any]:
    """Return the dict from which a built-in loss reads its numbers at every call."""
    arguments: dict[str, Any] = getattr(loss, "_fn_kwargs", {})
    return arguments


def user_loss_weights(model: keras.Model) -> Any:
    """Return the `loss_weights` that the model was compiled with.

    The public `get_compile_config` serializes every metric and loss on the way, which fails for
    lambdas.
    """
    compiled = model._compile_loss
    return None if compiled is None else compiled._user_loss_weights


def user_metrics(model: keras.Model) -> list[Any]:
    """Return the metrics that the model was compiled with, as they were given, in one list.

    The public `get_compile_config` fails for one of a `functools.partial`, and `Model.metrics` has
    them with the first batch only.
    """
    compiled = model._compile_metrics
    if compiled is None:
        return []
    given = [compiled._user_metrics, compiled._user_weighted_metrics]
    return [metric for metric in keras.tree.flatten(given) if metric is not None]


def set_loss_weight(model: keras.Model, key: int | str | None, weight: Any) -> None:
    """Replace one of the compiled loss's weights, before or after the losses are built.

    Args:
        model: A compiled model.
        key: Which of the `loss_weights`; None where they are one number.
        weight: A number, which is then also saved with the model, or what stands for one.
    """
    compiled = model._compile_loss
    compiled._user_loss_weights = _replaced(compiled._user_loss_weights, key, weight)
    if isinstance(weight, float):
        saved = model._compile_config.config
        saved["loss_weights"] = _replaced(saved["loss_weights"], key, weight)
    if compiled._flat_losses is not None:
        for index in _losses_at(compiled, key):
            entry = compiled._flat_losses[index]
            compiled._flat_losses[index] = entry._replace(loss_weights=weight)


def _replaced(weights: Any, key: int | str | None, weight: Any) -> Any:
    if key is None:
        return weight
    pairs = weights.items() if isinstance(weights, dict) else enumerate(weights)
    changed = {k: weight if k == key else w for k, w in pairs}
    return changed if isinstance(weights, dict) else list(changed.values())


def _losses_at(compiled: Any, key: int | str | None) -> list[int]:
    """Return which of the built losses have the weight at a key."""
    paths = [loss.path for loss in compiled._flat_losses]
    if key is None:
        return list(range(len(paths)))
    if not any(paths):
        # One output; where it has several losses, they are in the order of the weights.
        return [key if isinstance(key, int) else 0]
    outputs = compiled._y_pred_build_structure
    if isinstance(outputs, dict) and isinstance(key, int):
        key = keras.tree.flatten({name: name for name in outputs})[key]
    elif isinstance(key, str) and not isinstance(outputs, dict):
        key = compiled.output_names.index(key)
    return [index for index, path in enumerate(paths) if path[0] == key]


def learning_rate_setting(optimizer: Any) -> Any:
    """Return the rate's variable, or the schedule that the optimizer was built with.

    The public `learning_rate` of an optimizer with a schedule is the current value only.
    """
    return optimizer._learning_rate


def weight_averages(optimizer: Any) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return weights and their moving averages, which an optimizer with `use_ema` has once built.

    In the place of the weights they are what `fit` ends with.
    """
    averages = getattr(optimizer, "_model_variables_moving_average", [])
    pairs = zip(optimizer._trainable_variables, averages, strict=True) if averages else ()
    return [(weight, average) for weight, average in pairs if average is not None]


def add_momentum_slots(optimizer: Any) -> None:
    """Give a built SGD or RMSprop the slots that it left out because its momentum was 0."""
    name = "momentums" if isinstance(optimizer, keras.optimizers.SGD) else "_momentums"
    if optimizer.built and not getattr(optimizer, name, True):
        slots = optimizer.add_optimizer_variables(optimizer._trainable_variables, "momentum")
        setattr(optimizer, name, slots)


def sync_from_fit(model: keras.Model) -> None:
    """Within `fit`, bring the model's variables up to date (JAX keeps the state elsewhere)."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
