"""What the laws of executors are tried on: a small model, its data, three members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import prepare
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.population.objective import objective_of
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.plans import ScoringPlan, TrainingPlan
from keras_popdescent.strategies.space import Values
from keras_popdescent.testing.executors.comparing import dropout_seeds, own_weights

RATE, L2, DROPOUT = "popdescent/learning_rate", "popdescent/l2", "4:Dropout.rate"
NUM_SAMPLES, BATCH_SIZE, STEPS = 44, 8, 6  # an epoch is five batches of 8 and one of 4
MOMENTUM = 0.5  # of the averages of weights: after two iterations, their mean
FIRST_VALUES: tuple[Values, ...] = (
    {RATE: 0.01, L2: 0.001, DROPOUT: 0.25},
    {RATE: 0.02, L2: 0.01, DROPOUT: 0.5},
    {RATE: 0.005, L2: 0.1, DROPOUT: 0.125},
)


def build_model() -> keras.Model:
    """Return the suite's model, compiled."""
    layers = keras.layers
    penalty = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="tanh", kernel_regularizer=penalty),
            layers.BatchNormalization(),
            layers.Dropout(0.25, seed=3),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def make_data(seed: int = 0) -> dict[str, Any]:
    """Return arrays for training and validation, as `fit` takes them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_SAMPLES + 20, 5)).astype("float32")
    y = np.stack([x.sum(axis=1), x[:, 0] * x[:, 1]], axis=1)
    border = NUM_SAMPLES
    return {"x": x[:border], "y": y[:border], "validation_data": (x[border:], y[border:])}


class ExecutorSetting:
    """What the laws of executors need: a model, data, values, and the executor, not yet known.

    Attributes:
        tolerance: Largest difference, relative or absolute, between weights that count as equal
            where an executor computes what plain Keras computes.
    """

    tolerance: float = 1e-6

    def make_executor(self) -> Executor:
        """Return a new executor, not started."""
        raise NotImplementedError("Override `make_executor`.")

    def make_setup(self, shuffle: bool = True, **changes: Any) -> Setup:
        """Return what to start with: three members, each with values of its own.

        Args:
            shuffle: Whether each epoch has an order of its own.
            **changes: Other attributes of the setup.
        """
        mutate = ("learning_rate", "l2", DROPOUT)
        setup = Setup(
            blueprint=ModelBlueprint(build_model, mutate),
            values=FIRST_VALUES,
            data=prepare(**make_data(), batch_size=BATCH_SIZE, shuffle=shuffle),
            objective=objective_of("val_loss"),
            training=TrainingPlan(),
            scoring=ScoringPlan(),
            seed=np.random.SeedSequence(0),
        )
        return replace(setup, **changes)

    def start(self, **changes: Any) -> Executor:
        """Return an executor that was started with such a setup."""
        executor = self.make_executor()
        executor.start(self.make_setup(**changes))
        return executor

    def started(self, shuffle: bool = True, ema_momentum: float | None = None) -> Executor:
        """Return an executor that the tests share, for time, as it was when it was started."""
        key = (type(self), shuffle, ema_momentum)
        if key not in _SHARED:
            executor = self.start(shuffle=shuffle, ema_momentum=ema_momentum)
            _SHARED[key] = (executor, executor.snapshot())
        executor, snapshot = _SHARED[key]
        executor.restore(snapshot)
        return executor

    def plain(self, state: MemberState, values: Values) -> keras.Model:
        """Return a plain model with a member's weights, seed and values."""
        model = ModelBlueprint(build_model, ("learning_rate", "l2", DROPOUT)).build(values)
        model.set_weights(own_weights(state))
        model.layers[2].seed_generator.state.assign(dropout_seeds(state))
        return model


# (suite, whether the data is shuffled, momentum) -> an executor, and its state at the start
_SHARED: dict[
    tuple[type[ExecutorSetting], bool, float | None], tuple[Executor, dict[str, Any]]
] = {}
