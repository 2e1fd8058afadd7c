"""Each private API of Keras that is used: the tests fail when one of them changes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.hyperparameters import _keras_internals

pytestmark = pytest.mark.backend

layers = keras.layers
X = np.ones((4, 3), dtype="float32")


def compiled(loss="mse", **arguments) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile(optimizer="sgd", loss=loss, **arguments)
    return model


class Holder(layers.Layer):
    """A layer that holds another one."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Dropout(0.5)

    def call(self, inputs):
        return self.inner(inputs)


def test_flatten_layers_goes_depth_first_into_everything():
    inner = keras.Sequential([layers.Dense(3), Holder()])
    inputs = keras.Input((5, 3))
    hidden = layers.TimeDistributed(inner)(inputs)
    outputs = layers.RNN(layers.LSTMCell(2))(hidden)
    model = keras.Model(inputs, outputs)
    found = [type(layer).__name__ for layer in _keras_internals.flatten_layers(model)]
    assert found == [
        *("Functional", "InputLayer", "TimeDistributed", "Sequential", "InputLayer", "Dense"),
        *("Holder", "Dropout", "RNN", "LSTMCell"),
    ]
    assert len(model.layers) == 3
    keras_own = model._flatten_layers(include_self=True, recursive=True)
    assert set(map(id, keras_own)) == set(map(id, _keras_internals.flatten_layers(model)))


def test_flatten_layers_has_each_layer_once():
    shared = layers.Dense(3)
    model = keras.Sequential([keras.Input((3,)), shared, keras.Sequential([shared, Holder()])])
    found = _keras_internals.flatten_layers(model)
    assert sum(layer is shared for layer in found) == 1


def test_a_built_layer_is_locked_but_can_be_unlocked():
    layer = layers.Dense(2)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(shape=(), name="refused")
    with _keras_internals.unlocked(layer):
        layer.add_weight(shape=(), name="added")
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(shape=(), name="refused")
    assert [weight.name for weight in layer.weights] == ["kernel", "bias", "added"]


def test_unlocking_an_error_locks_again():
    layer = layers.Dense(2)
    layer.build((None, 3))
    with pytest.raises(RuntimeError), _keras_internals.unlocked(layer):
        raise RuntimeError
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(shape=())


def test_an_unbuilt_layer_stays_unlocked():
    layer = layers.Dense(2)
    with _keras_internals.unlocked(layer):
        pass
    layer.build((None, 3))
    assert len(layer.weights) == 2


def test_untrack_takes_a_variable_out_of_a_model():
    model = compiled()
    with _keras_internals.unlocked(model):
        added = model.add_weight(shape=(), trainable=False, name="added")
    assert any(variable is added for variable in model.non_trainable_variables)
    _keras_internals.untrack(model, added)
    assert not any(variable is added for variable in model.variables)
    assert len(model.weights) == 2


def test_untrack_takes_a_variable_out_of_an_optimizer():
    optimizer = keras.optimizers.SGD()
    added = optimizer.add_variable(shape=(), name="added")
    assert any(variable is added for variable in optimizer.variables)
    _keras_internals.untrack(optimizer, added)
    assert [variable.name for variable in optimizer.variables] == ["iteration", "learning_rate"]


@pytest.mark.parametrize(
    "make", [keras.losses.CategoricalCrossentropy, keras.losses.BinaryCrossentropy]
)
def test_the_arguments_of_a_loss_are_read_at_every_call(make):
    y, p = np.eye(3, dtype="float32"), np.diag([0.1, 0.5, 0.8]).astype("float32") + 0.1
    loss, other = make(), make(label_smoothing=0.4)
    before = float(loss(y, p))
    _keras_internals.loss_arguments(loss)["label_smoothing"] = 0.4
    assert float(loss(y, p)) == pytest.approx(float(other(y, p)))
    assert before != pytest.approx(float(loss(y, p)))


def test_a_loss_without_such_arguments_has_none():
    class Own(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return y_pred

    assert _keras_internals.loss_arguments(Own()) == {}


def two_heads(**arguments) -> keras.Model:
    """Outputs "b" (0 for any input, loss 1) and "a" (0 too, loss 4)."""
    inputs = keras.Input((3,))
    heads = [layers.Dense(1, kernel_initializer="zeros", name=name)(inputs) for name in ("b", "a")]
    model = keras.Model(inputs, heads)
    model.compile(optimizer="sgd", **arguments)
    return model


LABELS = {"b": np.ones((4, 1), dtype="float32"), "a": 2.0 * np.ones((4, 1), dtype="float32")}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    ("weights", "key"),
    [
        ({"b": 10.0, "a": 100.0}, "a"),
        ({"a": 100.0, "b": 10.0}, "a"),
        ([10.0, 100.0], 1),
    ],
)
def test_a_loss_weight_is_replaced_before_and_after_the_losses_are_built(weights, key, built):
    loss = {"b": "mse", "a": "mse"} if isinstance(weights, dict) else ["mse", "mse"]
    labels = LABELS if isinstance(weights, dict) else list(LABELS.values())
    model = two_heads(loss=loss, loss_weights=weights)
    if built:
        before = model.test_on_batch(X, labels, return_dict=True)
        assert before["loss"] == pytest.approx(10.0 + 400.0)
        model.test_function = None  # traced under the old weight
    _keras_internals.set_loss_weight(model, key, 1000.0)
    after = model.test_on_batch(X, labels, return_dict=True)
    assert after["loss"] == pytest.approx(10.0 + 4000.0)
    saved = model.get_compile_config()["loss_weights"]
    assert (saved if isinstance(saved, dict) else dict(enumerate(saved)))[key] == 1000.0
    assert weights in ([10.0, 100.0], {"b": 10.0, "a": 100.0})  # the user's own are left alone


def test_the_only_loss_weight_is_replaced():
    model = compiled(loss=keras.losses.MeanSquaredError(), loss_weights=10.0)
    _keras_internals.set_loss_weight(model, None, 3.0)
    plain = compiled(loss="mse")
    plain.set_weights(model.get_weights())
    y = np.zeros((4, 2), dtype="float32")
    losses = [m.test_on_batch(X, y, return_dict=True)["loss"] for m in (model, plain)]
    assert losses[0] == pytest.approx(3.0 * losses[1])


def test_user_loss_weights():
    assert _keras_internals.user_loss_weights(compiled()) is None
    assert _keras_internals.user_loss_weights(compiled(loss_weights=0.5)) == 0.5
    assert _keras_internals.user_loss_weights(compiled(loss=None)) is None
    weights = {"a": 0.5, "b": 2.0}
    model = two_heads(loss={"a": "mse", "b": "mse"}, loss_weights=weights)
    assert _keras_internals.user_loss_weights(model) == weights


def test_user_metrics():
    def own(y, p):
        return keras.ops.mean(y - p)

    metric = keras.metrics.MeanAbsoluteError()
    assert _keras_internals.user_metrics(compiled()) == []
    model = compiled(metrics=["mae", own], weighted_metrics=[metric])
    assert _keras_internals.user_metrics(model) == ["mae", own, metric]
    model = two_heads(loss="mse", metrics={"a": [own, None], "b": "mae"})
    assert _keras_internals.user_metrics(model) == [own, "mae"]


def test_learning_rate_setting_is_the_variable_or_the_schedule():
    plain = keras.optimizers.SGD(0.5)
    setting = _keras_internals.learning_rate_setting(plain)
    assert isinstance(setting, keras.Variable)
    setting.assign(0.25)
    assert float(plain.learning_rate) == 0.25
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    optimizer = keras.optimizers.SGD(schedule)
    assert _keras_internals.learning_rate_setting(optimizer) is schedule


@pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.RMSprop])
def test_an_optimizer_that_was_built_without_momentum_gets_its_slots(make):
    variables = [keras.Variable(np.ones(2, dtype="float32")) for _ in range(2)]
    late, early = make(0.1), make(0.1, momentum=0.5)
    for optimizer in (late, early):
        optimizer.build(variables)
    assert len(late.variables) == len(early.variables) - 2
    late.momentum = 0.5
    for _ in range(2):  # once is enough, twice does no harm
        _keras_internals.add_momentum_slots(late)
        _keras_internals.add_momentum_slots(early)
    assert len(late.variables) == len(early.variables)
    results = []
    for optimizer in (late, early):
        for variable in variables:
            variable.assign(np.ones(2, dtype="float32"))
        for _ in range(3):
            optimizer.apply([keras.ops.ones(2)] * 2)
        results.append(keras.ops.convert_to_numpy(variables[1]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_an_optimizer_without_momentum_or_not_built_is_left_alone():
    adam, unbuilt = keras.optimizers.Adam(), keras.optimizers.SGD()
    adam.build([keras.Variable(np.ones(2, dtype="float32"))])
    before = len(adam.variables)
    for optimizer in (adam, unbuilt):
        _keras_internals.add_momentum_slots(optimizer)
    assert len(adam.variables) == before and not unbuilt.built


def test_averages_of_weights_are_those_that_fit_ends_with():
    y = np.zeros((4, 2), dtype="float32")
    model = compiled()
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    model.fit(X, y, batch_size=1, verbose=0)
    pairs = _keras_internals.weight_averages(model.optimizer)
    assert [id(weight) for weight, _ in pairs] == [id(v) for v in model.trainable_variables]
    for weight, average in pairs:
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, average)))
    assert _keras_internals.weight_averages(keras.optimizers.SGD(0.1)) == []
    assert _keras_internals.weight_averages(keras.optimizers.SGD(0.1, use_ema=True)) == []


def test_sync_from_fit_shows_the_weights_of_the_last_batch():
    model, seen = compiled(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            _keras_internals.sync_from_fit(self.model)
            seen.append(np.array(keras.ops.convert_to_numpy(self.model.trainable_variables[0])))

    y = np.zeros((4, 2), dtype="float32")
    model.fit(X, y, batch_size=1, shuffle=False, verbose=0, callbacks=[Watch()])
    assert len(seen) == 4
    assert all(np.abs(a - b).max() > 0.0 for a, b in zip(seen, seen[1:], strict=False))
    np.testing.assert_array_equal(
        seen[-1], keras.ops.convert_to_numpy(model.trainable_variables[0])
    )


def test_fresh_names_count_from_the_beginning_and_put_the_counters_back():
    first = keras.metrics.AUC().name
    with _keras_internals.fresh_names():
        assert keras.metrics.AUC().name == "auc"
        assert keras.layers.Dense(1).name == "dense"
    number = int(first.removeprefix("auc").removeprefix("_") or 0)
    assert keras.metrics.AUC().name == f"auc_{number + 1}"


def test_a_tracked_variable_is_state_again():
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    variable = keras.Variable(0.0, trainable=False)
    _keras_internals.track(layer, variable)
    assert any(weight is variable for weight in layer.non_trainable_weights)
    _keras_internals.untrack(layer, variable)
    assert not any(weight is variable for weight in layer.weights)
    with pytest.raises(ValueError, match="already built"):
        layer.extra = keras.Variable(0.0)
