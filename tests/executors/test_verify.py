"""A hyperparameter that is said to be live must change the train step: tried before a search."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.data import prepare
from keras_popdescent.errors import BindingError
from keras_popdescent.executors import SequentialExecutor, sequential
from keras_popdescent.hyperparameters import Binding, HandleBinding
from keras_popdescent.population.blueprint import Blueprint, ModelBlueprint
from keras_popdescent.population.executor import Setup
from keras_popdescent.population.objective import objective_of
from keras_popdescent.population.state import to_numpy
from keras_popdescent.strategies import (
    LinearDimension,
    LogDimension,
    ScoringPlan,
    SearchSpace,
    TrainingPlan,
)

layers = keras.layers
SGD = keras.optimizers.SGD
TENSORFLOW = keras.backend.backend() == "tensorflow"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


class Given(Blueprint):
    """A function and one binding, of a hyperparameter from 0.01 to 1."""

    def __init__(self, build, binding):
        self.space = SearchSpace([LogDimension("hp", 0.01, 1.0, 0.1)])
        self._build = build
        self._binding = binding

    def build(self, values):
        return self._build()

    def bindings(self, values):
        return {"hp": self._binding()}


def network(*middle, cls=keras.Sequential, optimizer=None, **arguments):
    model = cls([keras.Input((4,)), layers.Dense(3, "tanh"), *middle, layers.Dense(2)])
    model.compile(SGD(0.1) if optimizer is None else optimizer, "mse", **arguments)
    return model


def start(blueprint, values=None, y=Y, data=None):
    values = {"hp": 0.1} if values is None else values
    executor = SequentialExecutor()
    executor.start(
        Setup(
            blueprint=blueprint,
            values=values if isinstance(values, list) else [values],
            data=prepare(X, y, batch_size=8) if data is None else data,
            objective=objective_of("loss"),
            training=TrainingPlan(),
            scoring=ScoringPlan(),
            seed=np.random.SeedSequence(0),
        )
    )
    return executor


def bound(path):
    return lambda: HandleBinding("hp", [(path, 1.0)])


def penalised(units=3):
    return layers.Dense(units, kernel_regularizer=keras.regularizers.L2(0.1))


class NoPenalties(keras.Sequential):
    """Leaves the penalties, which are in `self.losses`, out of its loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y - y_pred))


@pytest.mark.backend
def test_penalties_that_the_loss_leaves_out_are_found():
    path = "3:Dense.kernel_regularizer.l2"
    message = r"`hp` is said to be live.*`self.losses`.*bindings=\{\"hp\": \"rebuild\"\}"
    with pytest.raises(BindingError, match=message):
        start(Given(lambda: network(penalised(), cls=NoPenalties), bound(path)))
    start(Given(lambda: network(penalised()), bound(path)))


@pytest.mark.skipif(not TENSORFLOW, reason="The custom train step is TensorFlow's.")
def test_penalties_that_a_custom_train_step_leaves_out_are_found():
    import tensorflow as tf

    class Custom(keras.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = keras.ops.mean(keras.ops.square(self(x, training=True) - y))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    with pytest.raises(BindingError, match="`popdescent/l2` is said to be live"):
        start(ModelBlueprint(lambda: network(penalised(), cls=Custom)), values={})
    start(ModelBlueprint(lambda: network(penalised(), cls=Custom), ("learning_rate",)), values={})


class Kinds(Blueprint):
    """A switch that needs another model: with it on, the loss leaves the penalties out."""

    def __init__(self):
        switch = LinearDimension("off", 0.0, 1.0, 0.0, kind="rebuild")
        self.space = SearchSpace([LogDimension("hp", 0.01, 1.0, 0.1), switch])
        self.built = []

    def build(self, values):
        self.built.append(values["off"])
        return network(penalised(), cls=NoPenalties if values["off"] else keras.Sequential)

    def bindings(self, values):
        return {"hp": HandleBinding("hp", [("3:Dense.kernel_regularizer.l2", 1.0)])}


ON, OFF = {"hp": 0.1, "off": 0.0}, {"hp": 0.2, "off": 1.0}
NO_EFFECT = r"`hp` is said to be live.*bindings=\{\"hp\": \"rebuild\"\}.*'off': 1.0"


@pytest.mark.backend
def test_each_structure_of_the_first_members_is_tried():
    with pytest.raises(BindingError, match=NO_EFFECT):
        start(Kinds(), [ON, OFF])


@pytest.mark.backend
def test_a_structure_that_comes_up_later_is_tried_and_stays_refused():
    executor = start(Kinds(), [ON])
    for _ in range(2):
        with pytest.raises(BindingError, match=NO_EFFECT):
            executor.prepare(OFF)
    executor.advance([0], 1)


def test_a_structure_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(sequential, "verify_bindings", lambda live, *rest: tried.append(live))
    monkeypatch.setattr(sequential, "_MAX_IDLE_MODELS", 0)
    blueprint = Kinds()
    executor = start(blueprint, [ON, ON])
    for values in (OFF, ON, OFF, {"hp": 0.1, "off": 0.5}, OFF):
        executor.prepare(values)
    # A model that was dropped and built again is the same structure.
    assert len(blueprint.built) > 4
    assert len(tried) == 3


def test_a_batch_size_of_its_own_needs_no_other_trace():
    class Sized(Given):
        def __init__(self):
            super().__init__(lambda: network(), bound("optimizer.learning_rate"))
            size = LinearDimension("batch_size", 2.0, 8.0, 4.0, kind="live")
            self.space = SearchSpace([*self.space, size])

    executor = start(Sized(), [{"hp": 0.1, "batch_size": 4}])
    (stage,) = executor._stages.values()
    executor.advance([0], 2)
    if TENSORFLOW:
        assert [size for kind, _, size in stage.stepper._loops if kind == "train"] == [4]


class Silent(Binding):
    """Remembers what was written, and does nothing with it."""

    value = 0.1

    def attach(self, model):
        pass

    def read(self):
        return self.value

    def write(self, value):
        self.value = value


class Gain(layers.Layer):
    """Multiplies by a number that can be another one."""

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, inputs):
        return inputs * self.gain


class GainBinding(Binding):
    def attach(self, model):
        self.layer = next(layer for layer in model.layers if isinstance(layer, Gain))

    def read(self):
        return float(keras.ops.convert_to_numpy(self.layer.gain))

    def write(self, value):
        self.layer.gain.assign(value)


@pytest.mark.backend
def test_a_users_binding_that_does_nothing_is_found():
    with pytest.raises(BindingError, match="`hp` is said to be live.*binding='Silent'"):
        start(Given(network, Silent))


@pytest.mark.backend
def test_a_users_binding_that_acts_passes_and_is_written():
    executor = start(Given(lambda: network(Gain()), GainBinding))
    executor.advance([0], 2)
    assert executor.values_in_use(0) == pytest.approx({"hp": 0.1})


def test_a_dropout_that_never_drops_is_found():
    class Off(layers.Layer):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)

        def call(self, inputs):
            return self.drop(inputs, training=False)

    path = "4:Dropout.rate"
    with pytest.raises(BindingError, match="`hp` is said to be live"):
        start(Given(lambda: network(Off()), bound(path)))


HANDLES = {
    "optimizer.learning_rate": lambda: network(optimizer=keras.optimizers.Adam(1e-3)),
    "optimizer.momentum": lambda: network(optimizer=SGD(0.1, momentum=0.0)),
    "optimizer.beta_1": lambda: network(optimizer="adam"),
    "optimizer.beta_2": lambda: network(optimizer="adam"),
    "optimizer.rho": lambda: network(optimizer="rmsprop"),
    "optimizer.weight_decay": lambda: network(optimizer="adamw"),
    # Its gradients are the same under any threshold above their norm: nothing can be told.
    "optimizer.clipnorm": lambda: network(optimizer=SGD(0.1, clipnorm=100.0)),
    "3:Dense.bias_regularizer.l1": lambda: network(
        layers.Dense(3, bias_regularizer=keras.regularizers.L1(0.1))
    ),
    "3:GaussianNoise.stddev": lambda: network(layers.GaussianNoise(0.1)),
    # Adam divides a factor on the loss out; only its slots tell.
    "loss_weights": lambda: network(optimizer="adam", loss_weights=1.0),
}


@pytest.mark.parametrize("path", HANDLES)
def test_what_acts_passes(path):
    start(Given(HANDLES[path], bound(path)))


def test_nothing_is_trained_by_it(monkeypatch):
    """The members go on as those whose bindings were never tried."""
    blueprint = ModelBlueprint(lambda: network(penalised(), layers.Dropout(0.5)))
    values = {"popdescent/learning_rate": 0.1, "popdescent/l2": 0.1}
    tried = start(blueprint, values)
    monkeypatch.setattr(sequential, "verify_bindings", lambda *arguments: None)
    untried = start(blueprint, values)
    for executor in (tried, untried):
        executor.advance([0], 3)
    states = [to_numpy(executor.capture(0)) for executor in (tried, untried)]
    pairs = zip(*((*s.weights, *s.optimizer) for s in states), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_batches_of_a_data_set_are_not_used_up():
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
    drawn = []

    def stream():
        for batch in batches * 10:
            drawn.append(1)
            yield batch

    data = prepare(stream(), steps_per_epoch=3)
    executor = start(Given(network, bound("optimizer.learning_rate")), data=data)
    assert len(drawn) == 1
    executor.advance([0], 3)
    assert len(drawn) == 3


def test_steps_that_train_nothing_tell_nothing():
    """A learning rate of 0; half-precision gradients that overflow and are skipped."""
    path = "3:Dropout.rate"
    start(Given(lambda: network(layers.Dropout(0.5), optimizer=SGD(0.0)), bound(path)))
    start(Given(lambda: network(layers.Dropout(0.5), optimizer=SGD(1e30)), bound(path)))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        start(Given(lambda: network(layers.Dropout(0.5)), bound(path)), y=1e4 * Y)
    finally:
        keras.config.set_dtype_policy(before)
