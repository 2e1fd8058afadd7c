"""From a hypermodel to a compiled model, with what the tuner's own arguments say about it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

from keras_popdescent.errors import ArgumentError, ModelError, describe
from keras_popdescent.population.export import call_on

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner


def build_hypermodel(tuner: PopulationTuner, hp: keras_tuner.HyperParameters) -> Any:
    """Build a model, with the tuner's `optimizer`, `loss` and `metrics` in place of its own.

    Args:
        tuner: The tuner.
        hp: Hyperparameters with values.
    """
    strategy = tuner.distribution_strategy
    if strategy is None or tuner.segment is None:
        return _build(tuner, hp)
    with strategy.scope():
        # Overridden training calls `fit`, which distributes by itself.
        return _build(tuner, hp)


def build_and_call(
    build: Callable[[keras_tuner.HyperParameters], Any], batch: Any, hp: keras_tuner.HyperParameters
) -> Any:
    """Build a model, and call it where it has no weights before: a call, too, may declare values.

    Args:
        build: Returns a model.
        batch: Samples (and labels) to call it with; None to build it only.
        hp: Hyperparameters with values.
    """
    model = build(hp)
    if batch is not None and isinstance(model, keras.Model) and not model.built:
        # What cannot be called is told where it is to be trained.
        with suppress(Exception):
            call_on(model, batch)
    return model


def warn_of_own_fit(classes: Iterable[type[Any]]) -> None:
    """Say that a model's own `fit` is not called: members train by `train_step`.

    Args:
        classes: Classes of what was built.
    """
    for built in classes:
        if issubclass(built, keras.Model) and built.fit is not keras.Model.fit:
            warnings.warn(
                f"`{built.__name__}.fit` is not called: members are trained by `train_step`. "
                "Override `fit` of a `HyperModel`, and call the model's there, to have it called.",
                stacklevel=2,
            )


def _build(tuner: PopulationTuner, hp: keras_tuner.HyperParameters) -> Any:
    model = tuner.hypermodel.build(hp)
    if isinstance(model, keras.Model) and (tuner.optimizer or tuner.loss or tuner.metrics):
        _compile(model, tuner)
    return model


def _compile(model: keras.Model, tuner: PopulationTuner) -> None:
    """Compile a model again, with all that the tuner does not override as it was."""
    arguments: dict[str, Any] = {}
    if model.compiled:
        config = model.get_compile_config() or {}
        arguments = {
            name: keras.saving.deserialize_keras_object(value)
            for name, value in config.items()
            if name not in ("optimizer", "loss")
        }
        arguments.update(optimizer=model.optimizer, loss=model.loss)
    if tuner.optimizer:
        arguments["optimizer"] = _own(tuner.optimizer)
    if tuner.loss:
        arguments["loss"] = tuner.loss
    if tuner.metrics:
        # Metrics have a state, so each model needs its own.
        arguments["metrics"] = keras.tree.map_structure(_own_metric, tuner.metrics)
    model.compile(**arguments)


def _own(optimizer: Any) -> Any:
    if isinstance(optimizer, str):
        return optimizer
    return type(optimizer).from_config(optimizer.get_config())


def _own_metric(metric: Any) -> Any:
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def refuse_chief() -> None:
    """Refuse KerasTuner's way of sharing trials among machines: a population is in one process.

    Raises:
        ArgumentError: If the environment names a chief.
    """
    chief = os.environ.get("KERASTUNER_ORACLE_IP")
    if chief:
        raise ArgumentError(
            describe(
                "A population lives in one process, and cannot share its trials with a chief.",
                fix="Unset `KERASTUNER_ORACLE_IP`.",
                KERASTUNER_ORACLE_IP=chief,
            )
        )


def refuse_several_replicas(strategy: Any) -> None:
    """Refuse a distribution over several devices: members take turns on one.

    Args:
        strategy: A `tf.distribute.Strategy` or None.

    Raises:
        ArgumentError: If it has more than one replica.
    """
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if replicas > 1:
        raise ArgumentError(
            describe(
                "A population trains its members one after another on one device.",
                "Expected None, or a strategy with one replica.",
                "For more speed let the members be larger, or override `HyperModel.fit`: it is "
                "called within the strategy's scope.",
                distribution_strategy=type(strategy).__name__,
                replicas=replicas,
            )
        )


def check_size(model: Any, limit: int | None) -> None:
    """Refuse a model with more trainable numbers than `max_model_size`.

    Args:
        model: A model; one without weights yet passes.
        limit: The largest number of trainable numbers, None for no limit.

    Raises:
        ModelError: Naming both sizes.
    """
    size = model_size(model)
    if limit is not None and size > limit:
        raise ModelError(
            describe(
                "The model is larger than `max_model_size` allows.",
                fix="Make the search space smaller, or the limit larger.",
                parameters=size,
                max_model_size=limit,
            )
        )


def model_size(model: Any) -> int:
    """Return how many trainable numbers a model has, 0 while it has no weights."""
    if not isinstance(model, keras.Model) or not model.built:
        return 0
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
