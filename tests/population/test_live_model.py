"""One compiled model through which members take turns."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.errors import BindingError, DataError
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.hyperparameters import HandleBinding, LossScaleBinding, PenaltyScaleBinding
from keras_popdescent.population.blueprint import Blueprint, ModelBlueprint
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies import SearchSpace

pytestmark = pytest.mark.backend

layers = keras.layers
SGD = keras.optimizers.SGD
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")


class Given(Blueprint):
    """A function and bindings, as they are."""

    def __init__(self, build, **bindings):
        self.space = SearchSpace()
        self._build = build
        self._bindings = bindings

    def build(self, values):
        return self._build()

    def bindings(self, values):
        return {name: make() for name, make in self._bindings.items()}


def network(*middle, optimizer=None, loss="mse", **arguments):
    model = keras.Sequential([keras.Input((3,)), *middle, layers.Dense(2)])
    model.compile(optimizer=SGD(0.1) if optimizer is None else optimizer, loss=loss, **arguments)
    return model


def handle(*paths):
    return lambda: HandleBinding("hp", [(path, 1.0) for path in paths])


def rich():
    return network(
        layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1)),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        optimizer=keras.optimizers.Adam(0.01),
    )


RICH = Given(
    rich,
    rate=handle("4:Dropout.rate"),
    l2=handle("2:Dense.kernel_regularizer.l2"),
    beta_1=handle("optimizer.beta_1"),
    learning_rate=handle("optimizer.learning_rate"),
)


def arrays(live):
    return [np.array(keras.ops.convert_to_numpy(tensor)) for tensor in live.read_variables()]


def test_variables_are_in_the_order_that_their_indices_say():
    live = LiveModel(RICH, {}, 0, (X, Y))
    names = [v.name for v in live.weight_variables]
    assert names[: live.num_plain[0]] == [
        *("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias")
    ]
    trainable = [live.weight_variables[i] for i in live.trainable_indices]
    assert [id(v) for v in trainable] == [id(v) for v in live.model.trainable_variables]
    assert [names[i] for i in live.seed_indices] == ["seed_generator_state"]
    every = [*live.weight_variables, *live.optimizer_variables]
    assert len(every) == len(live.model.variables) + len(live.model.optimizer.variables)
    live_names = {every[i].name for i in live.live_indices}
    assert live_names == {"live_4_Dropout_rate", "live_2_Dense_kernel_regularizer_l2", "beta_1"}
    counters = [live.optimizer_variables[i].name for i in live.step_counter_indices]
    assert counters == ["iteration"]


def test_what_the_model_has_of_its_own_comes_first():
    """So that members of structures with the same weights can take over each other's state."""
    live, plain = LiveModel(RICH, {}, 0, (X, Y)), rich()
    plain.optimizer.build(plain.trainable_variables)
    count, slots = live.num_plain
    shapes = [tuple(v.shape) for v in live.weight_variables[:count]]
    assert shapes == [tuple(v.shape) for v in plain.weights]
    shapes = [tuple(v.shape) for v in live.optimizer_variables[:slots]]
    assert shapes == [tuple(v.shape) for v in plain.optimizer.variables]


def test_what_was_read_can_be_written_back():
    live = LiveModel(RICH, {}, 0, (X, Y))
    before = live.read_variables()
    held = arrays(live)
    make_stepper(live.model).train_batch((X, Y))
    assert any(np.abs(a - b).max() > 0 for a, b in zip(held, arrays(live), strict=True))
    live.write_variables(before)
    for first, second in zip(held, arrays(live), strict=True):
        np.testing.assert_array_equal(first, second)


def test_building_trains_nothing_and_leaves_no_metrics():
    live = LiveModel(RICH, {}, 0, (X, Y))
    fresh = RICH.build_seeded({}, 0)
    for built, own in zip(fresh.weights, live.weight_variables, strict=False):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(built), keras.ops.convert_to_numpy(own)
        )
    assert float(live.model.get_metrics_result()["loss"]) == 0.0
    assert int(keras.ops.convert_to_numpy(live.model.optimizer.iterations)) == 0


def test_a_model_without_an_input_shape_is_built_by_the_batch():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layers.Dense(2)

        def call(self, inputs):
            return self.layer(inputs["features"])

    def build():
        model = Own()
        model.compile(optimizer="adam", loss="mse")
        return model

    for full in (True, False):
        live = LiveModel(ModelBlueprint(build), {}, 0, ({"features": X}, Y), full=full)
        assert [tuple(v.shape) for v in live.model.weights] == [(3, 2), (2,)]
        assert live.model.optimizer.built


def test_one_seed_one_model():
    first, second, other = (LiveModel(RICH, {}, seed, (X, Y)) for seed in (3, 3, 4))
    for a, b in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(arrays(first), arrays(other), strict=True))


def test_values_are_written_and_read_back():
    live = LiveModel(RICH, {}, 0, (X, Y))
    live.write_values({"rate": 0.25, "l2": 1e-30, "beta_1": 0.5, "learning_rate": 1e-3, "x": "y"})
    read = live.read_values(["learning_rate", "rate", "beta_1", "unknown"])
    assert read == {"learning_rate": 0.001, "rate": 0.25, "beta_1": 0.5}


@pytest.mark.parametrize("value", [float("inf"), 1e-45, 1e38])
def test_extreme_values_do_not_end_a_search(value):
    """The paper's mutation is unbounded; float32 ends somewhere."""
    LiveModel(RICH, {}, 0, (X, Y)).write_values({"learning_rate": value, "l2": value})


def test_a_binding_that_does_not_arrive_is_an_error():
    live = LiveModel(RICH, {}, 0, (X, Y))
    live.bindings["rate"].read = lambda: 0.125
    with pytest.raises(BindingError, match="`rate` was written and did not arrive.*used=0.125"):
        live.write_values({"rate": 0.25})


def comparable():
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    penalised = layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1))
    return network(penalised, layers.Dropout(0.5), loss=loss, loss_weights=0.5)


COMPARABLE = Given(
    comparable,
    scale=LossScaleBinding,
    r=PenaltyScaleBinding,
    weight=handle("loss_weights"),
    smoothing=handle("loss[0].label_smoothing"),
    rate=handle("3:Dropout.rate"),
)
WRITTEN = {"scale": 8.0, "r": 4.0, "weight": 0.25, "smoothing": 0.375, "rate": 0.125}


def test_neutral_is_what_members_are_compared_under():
    """The loss alone: no penalty, no smoothing, no factor, the model's own loss weights."""
    live = LiveModel(COMPARABLE, {}, 0, (X, Y))
    live.write_values(WRITTEN)
    labels = (Y > 0).astype("float32")
    with live.neutral():
        loss = live.model.test_on_batch(X, labels, return_dict=True)["loss"]
        assert live.read_values(["rate"]) == {"rate": 0.125}
    logits = keras.ops.convert_to_numpy(live.model(X))
    expected = np.mean(np.log1p(np.exp(logits)) - labels * logits)
    assert loss == pytest.approx(0.5 * expected, rel=1e-5)
    assert live.read_values(list(WRITTEN)) == pytest.approx(WRITTEN)


def test_after_an_error_the_members_own_values_are_back():
    live = LiveModel(COMPARABLE, {}, 0, (X, Y))
    live.write_values(WRITTEN)
    with pytest.raises(RuntimeError), live.neutral():
        raise RuntimeError
    assert live.read_values(list(WRITTEN)) == pytest.approx(WRITTEN)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X[:, :2], Y), "The model does not take the data.*Check the shapes"),
        ((X, Y[:, :1].repeat(3, axis=1)), "The model does not take the data"),
        (({"other": X}, Y), "The model does not take the data"),
        ((X, (Y, Y)), "The model does not take the data"),
    ],
    ids=["inputs", "labels", "keys", "outputs"],
)
def test_data_that_the_model_does_not_take(batch, message):
    with pytest.raises(DataError, match=message):
        LiveModel(RICH, {}, 0, batch)


def test_why_the_model_does_not_take_the_data():
    """Not where Keras was, but what it found."""
    with pytest.raises(DataError) as raised:
        LiveModel(RICH, {}, 0, (X[0], Y))
    assert "Exception encountered" not in str(raised.value)


def test_detach_leaves_a_plain_model(tmp_path):
    live = LiveModel(RICH, {}, 0, (X, Y))
    live.write_values({"rate": 0.25, "l2": 0.5, "beta_1": 0.5, "learning_rate": 0.125})
    live.detach()
    model = live.model
    assert (model.layers[2].rate, model.layers[0].kernel_regularizer.l2) == (0.25, 0.5)
    assert type(model.optimizer.beta_1) is float and model.optimizer.beta_1 == 0.5
    assert len(model.weights) == len(rich().weights)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config()["beta_1"] == 0.5
    assert float(loaded.optimizer.learning_rate) == 0.125
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5)
    loaded.fit(X, Y, verbose=0)
