"""Every kind of handle passes the suite: it changes the step, and it does not retrace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_popdescent.hyperparameters import (
    HandleBinding,
    LossScaleBinding,
    PenaltyScaleBinding,
    find_handles,
)
from keras_popdescent.testing.bindings import BindingCase, BindingConformance

L1, L2, L1L2 = keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2
layers = keras.layers
optimizers = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[RNG.integers(3, size=8)]
BITS = RNG.integers(2, size=(8, 2)).astype("float32")
# The second moments of Adam and the like need a step or two before they differ.
SHAPE_OF_RANK = {1: (5, 4), 2: (3, 3, 4), 3: (2, 3, 2, 4)}


def dense(units, **arguments):
    arguments.setdefault("kernel_initializer", keras.initializers.GlorotUniform(seed=units))
    arguments.setdefault("bias_initializer", keras.initializers.RandomNormal(seed=units))
    return layers.Dense(units, **arguments)


def mlp(optimizer=None, loss="mse", middle=(), shape=(6,), units=2, **arguments):
    """A small compiled network; `middle` stands between its two layers."""
    model = keras.Sequential(
        [keras.Input(shape), dense(5, activation="tanh"), *middle, dense(units, **arguments)]
    )
    model.compile(optimizer=optimizers.SGD(0.1) if optimizer is None else optimizer, loss=loss)
    return model


def handle_case(
    name: str,
    build: Callable[[float], keras.Model],
    suffix: str,
    values: tuple[float, float],
    batch=(X, Y),
    **arguments,
) -> BindingCase:
    """A case for the only handle whose path ends so."""

    def make_binding() -> HandleBinding:
        paths = [path for path in find_handles(build(values[0])) if path.endswith(suffix)]
        assert len(paths) == 1, paths
        return HandleBinding("hp", [(paths[0], 1.0)])

    return BindingCase(name, build, make_binding, values, batch, **arguments)


def schedule(value):
    return optimizers.schedules.ExponentialDecay(0.2 * value, decay_steps=2, decay_rate=0.5)


OPTIMIZER_CASES = [
    handle_case(name, lambda v, make=make: mlp(make(v)), f"optimizer.{name.split()[0]}", values)
    for name, make, values in [
        ("learning_rate sgd", lambda v: optimizers.SGD(v), (0.1, 0.03)),
        ("learning_rate adam", lambda v: optimizers.Adam(v), (0.01, 0.2)),
        ("momentum sgd", lambda v: optimizers.SGD(0.1, momentum=v), (0.9, 0.4)),
        ("momentum from 0", lambda v: optimizers.SGD(0.1, momentum=v), (0.0, 0.9)),
        ("momentum to 0", lambda v: optimizers.SGD(0.1, momentum=v), (0.9, 0.0)),
        ("momentum nesterov", lambda v: optimizers.SGD(0.1, v, nesterov=True), (0.9, 0.4)),
        ("momentum rmsprop", lambda v: optimizers.RMSprop(0.01, momentum=v), (0.0, 0.9)),
        ("beta_1 adam", lambda v: optimizers.Adam(0.1, beta_1=v), (0.9, 0.5)),
        ("beta_2 adam", lambda v: optimizers.Adam(0.01, beta_2=v), (0.999, 0.5)),
        ("beta_1 amsgrad", lambda v: optimizers.Adam(0.1, beta_1=v, amsgrad=True), (0.9, 0.5)),
        ("beta_1 nadam", lambda v: optimizers.Nadam(0.1, beta_1=v), (0.9, 0.5)),
        ("beta_2 adamax", lambda v: optimizers.Adamax(0.1, beta_2=v), (0.999, 0.5)),
        ("beta_2 lion", lambda v: optimizers.Lion(0.01, beta_2=v), (0.99, 0.1)),
        ("rho rmsprop", lambda v: optimizers.RMSprop(0.1, rho=v), (0.9, 0.5)),
        ("rho adadelta", lambda v: optimizers.Adadelta(10.0, rho=v), (0.95, 0.5)),
        ("weight_decay adamw", lambda v: optimizers.AdamW(0.01, weight_decay=v), (0.004, 0.5)),
        ("weight_decay adam", lambda v: optimizers.Adam(0.01, weight_decay=v), (0.01, 0.5)),
        ("weight_decay from 0", lambda v: optimizers.SGD(0.1, weight_decay=v), (0.0, 0.5)),
        ("clipnorm sgd", lambda v: optimizers.SGD(0.1, clipnorm=v), (1.0, 0.01)),
        ("clipvalue sgd", lambda v: optimizers.SGD(0.1, clipvalue=v), (1.0, 0.01)),
        ("global_clipnorm sgd", lambda v: optimizers.SGD(0.1, global_clipnorm=v), (1.0, 0.01)),
    ]
] + [
    handle_case(
        "learning_rate multiplier",
        lambda v: mlp(optimizers.SGD(schedule(v))),
        "optimizer.learning_rate_multiplier",
        (1.0, 0.3),
    )
]


def shared(value):
    regularizer = L2(value)
    return mlp(middle=[dense(4, kernel_regularizer=regularizer)], kernel_regularizer=regularizer)


class Scaled(layers.Layer):
    """A custom layer that hands its regularizer to a weight and forgets it."""

    def __init__(self, coefficient):
        super().__init__()
        self._coefficient = coefficient

    def build(self, input_shape):
        self.scale = self.add_weight(
            shape=(input_shape[-1],), initializer="ones", regularizer=L2(self._coefficient)
        )

    def call(self, inputs):
        return inputs * self.scale


REGULARIZER_CASES = [
    handle_case(name, build, suffix, values)
    for name, build, suffix, values in [
        ("l1 kernel", lambda v: mlp(kernel_regularizer=L1(v)), ".l1", (0.01, 0.3)),
        ("l2 kernel", lambda v: mlp(kernel_regularizer=L2(v)), ".l2", (0.01, 0.3)),
        ("l2 from 0", lambda v: mlp(kernel_regularizer=L2(v)), ".l2", (0.0, 0.3)),
        ("l1l2 l1", lambda v: mlp(kernel_regularizer=L1L2(v, 0.1)), ".l1", (0.01, 0.3)),
        ("l1l2 l2", lambda v: mlp(kernel_regularizer=L1L2(0.1, v)), ".l2", (0.01, 0.3)),
        ("l2 bias", lambda v: mlp(bias_regularizer=L2(v)), ".l2", (0.01, 3.0)),
        ("l2 activity", lambda v: mlp(activity_regularizer=L2(v)), ".l2", (0.01, 0.3)),
        ("l2 shared", shared, ".l2", (0.01, 0.3)),
    ]
] + [
    # Its config says nothing of the coefficient, so that it cannot be loaded.
    handle_case(
        "l2 custom layer", lambda v: mlp(middle=[Scaled(v)]), ".l2", (0.01, 0.3), saved=False
    )
]


def spatial(rank, rate):
    layer = {1: layers.SpatialDropout1D, 2: layers.SpatialDropout2D, 3: layers.SpatialDropout3D}
    shape = SHAPE_OF_RANK[rank]
    return mlp(middle=[layer[rank](rate, seed=3), layers.Flatten()], shape=shape)


def spatial_case(rank):
    shape = SHAPE_OF_RANK[rank]
    x = RNG.normal(size=(8, *shape)).astype("float32")
    return handle_case(
        f"rate spatial {rank}d", lambda v: spatial(rank, v), ".rate", (0.2, 0.6), (x, Y)
    )


NOISE_CASES = [
    handle_case(name, lambda v, make=make: mlp(middle=[make(v)]), suffix, values)
    for name, make, suffix, values in [
        ("rate dropout", lambda v: layers.Dropout(v, seed=3), ".rate", (0.2, 0.6)),
        ("rate from 0", lambda v: layers.Dropout(v, seed=3), ".rate", (0.0, 0.6)),
        ("rate to 0", lambda v: layers.Dropout(v, seed=3), ".rate", (0.6, 0.0)),
        (
            "rate noise_shape",
            lambda v: layers.Dropout(v, noise_shape=(None, 1), seed=3),
            ".rate",
            (0.2, 0.6),
        ),
        ("stddev noise", lambda v: layers.GaussianNoise(v, seed=3), ".stddev", (0.1, 0.7)),
        ("stddev from 0", lambda v: layers.GaussianNoise(v, seed=3), ".stddev", (0.0, 0.7)),
    ]
] + [spatial_case(rank) for rank in (1, 2, 3)]


def two_outputs(weights, order=("a", "b"), as_dict=True, dict_outputs=False, names=("a", "b")):
    """Two heads; losses in the given order, weights by output or as a list."""
    inputs = keras.Input((6,))
    hidden = dense(5, activation="tanh")(inputs)
    heads = {name: dense(2 + i, name=name)(hidden) for i, name in enumerate(names)}
    outputs = heads if dict_outputs else list(heads.values())
    model = keras.Model(inputs, outputs)
    losses = {"a": "mse", "b": "mae"}
    model.compile(
        optimizer=optimizers.SGD(0.1),
        loss={name: losses[name] for name in order} if as_dict else [losses[n] for n in names],
        loss_weights={n: weights[n] for n in order} if as_dict else [weights[n] for n in names],
    )
    return model


WIDE = RNG.normal(size=(8, 3)).astype("float32")
LOSS_CASES = [
    handle_case(
        "smoothing categorical",
        lambda v: mlp(
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=v),
            units=3,
            activation="softmax",
        ),
        "label_smoothing",
        (0.1, 0.5),
        (X, ONE_HOT),
    ),
    handle_case(
        "smoothing from 0",
        lambda v: mlp(
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=v, from_logits=True), units=3
        ),
        "label_smoothing",
        (0.0, 0.5),
        (X, ONE_HOT),
    ),
    handle_case(
        "smoothing binary",
        lambda v: mlp(
            loss=keras.losses.BinaryCrossentropy(label_smoothing=v), activation="sigmoid"
        ),
        "label_smoothing",
        (0.1, 0.5),
        (X, BITS),
    ),
    handle_case(
        "weight list",
        lambda v: two_outputs({"a": 0.7, "b": v}, as_dict=False),
        "loss_weights[1]",
        (0.3, 2.0),
        (X, (Y, WIDE)),
    ),
    handle_case(
        "weight dict",
        lambda v: two_outputs({"a": 0.7, "b": v}),
        "loss_weights[b]",
        (0.3, 2.0),
        (X, {"a": Y, "b": WIDE}),
    ),
    handle_case(
        "weight dict other order",
        lambda v: two_outputs({"a": 0.7, "b": v}, order=("b", "a")),
        "loss_weights[b]",
        (0.3, 2.0),
        (X, {"a": Y, "b": WIDE}),
    ),
    handle_case(
        "weight dict outputs",
        lambda v: two_outputs({"a": 0.7, "b": v}, order=("b", "a"), dict_outputs=True),
        "loss_weights[b]",
        (0.3, 2.0),
        (X, {"a": Y, "b": WIDE}),
    ),
    handle_case(
        "weight dict names unsorted",
        lambda v: two_outputs({"a": 0.7, "b": v}, names=("b", "a")),
        "loss_weights[b]",
        (0.3, 2.0),
        (X, {"a": WIDE, "b": Y}),
    ),
]


def scaled_loss(value):
    """Mean squared error and an L2 penalty, both times a number."""
    if value == 1.0:
        return mlp(kernel_regularizer=L2(0.1))
    return mlp(
        loss=lambda y, p: value * keras.losses.mean_squared_error(y, p),
        kernel_regularizer=L2(0.1 * value),
    )


def two_penalties(first, second):
    return mlp(
        middle=[dense(4, kernel_regularizer=L1L2(l2=first), bias_regularizer=L2(0.0))],
        kernel_regularizer=L2(second),
    )


SCALE_CASES = [
    BindingCase("loss_scale", scaled_loss, LossScaleBinding, (1.0, 0.2), (X, Y), kept=False),
    BindingCase(
        "l2_scale all",
        lambda v: two_penalties(0.1 * v, 0.2 * v),
        lambda: PenaltyScaleBinding("all"),
        (1.0, 3.0),
        (X, Y),
    ),
    BindingCase(
        "two handles",
        lambda v: two_penalties(0.5 * v, v),
        lambda: HandleBinding("l2", TWO_PENALTIES),
        (0.1, 0.3),
        (X, Y),
    ),
]
TWO_PENALTIES = [("3:Dense.kernel_regularizer.l2", 0.5), ("4:Dense.kernel_regularizer.l2", 1.0)]


def mixed(policy: str, case: BindingCase) -> BindingCase:
    """The same under a mixed-precision policy; the policy is global while a model is built."""

    def build(value: float) -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(f"mixed_{policy}")
        try:
            return case.build(value)
        finally:
            keras.config.set_dtype_policy(before)

    # Rounding shows at once in half precision; and a model must be loaded under its own policy.
    return replace(
        case, name=f"{case.name} {policy}", build=build, tolerance=2e-4, eager=False, saved=False
    )


def named(*names: str) -> list[BindingCase]:
    every = [*OPTIMIZER_CASES, *REGULARIZER_CASES, *NOISE_CASES, *LOSS_CASES, *SCALE_CASES]
    return [next(case for case in every if case.name == name) for name in names]


# float16 wraps the optimizer, bfloat16 does not.
MIXED_CASES = [
    *(mixed("float16", c) for c in named("learning_rate adam", "momentum sgd", "rate dropout")),
    *(mixed("bfloat16", c) for c in named("l2 kernel", "rate dropout", "stddev noise")),
    *(mixed("float16", c) for c in named("smoothing categorical", "loss_scale")),
]

CASES = [
    *OPTIMIZER_CASES,
    *REGULARIZER_CASES,
    *NOISE_CASES,
    *LOSS_CASES,
    *SCALE_CASES,
    *MIXED_CASES,
]


# On other backends one of each kind, for time.
BACKEND_CASES = {
    *("learning_rate adam", "learning_rate multiplier", "momentum from 0", "weight_decay adamw"),
    *("clipnorm sgd", "l2 kernel", "l2 custom layer", "rate from 0", "rate spatial 2d"),
    *("stddev noise", "smoothing categorical", "weight dict", "loss_scale"),
    "rate dropout bfloat16",
}


def marked(case: BindingCase):
    marks = [pytest.mark.backend] if case.name in BACKEND_CASES else []
    return pytest.param(case, id=case.name.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
class TestBindings(BindingConformance):
    pass
