"""What `find_handles` finds, and how bindings write to it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.errors import BindingError
from keras_popdescent.hyperparameters import HandleBinding, PenaltyScaleBinding, find_handles
from keras_popdescent.hyperparameters.binding import PenaltyBinding
from keras_popdescent.hyperparameters.optimizer import ScaledSchedule

layers = keras.layers
L1, L2, L1L2 = keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2


def network(*middle, optimizer="sgd", loss="mse", **arguments):
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(1)])
    model.compile(optimizer=optimizer, loss=loss, **arguments)
    return model


def penalised():
    """Terms: l2 0.1, l1 0.2 and l2 0.3 in one object, an l2 of 0, l2 0.4."""
    return network(
        layers.Dense(3, kernel_regularizer=L2(0.1), bias_regularizer=L2(0.0)),
        keras.Sequential([layers.Dense(3, kernel_regularizer=L1L2(0.2, 0.3)), layers.Dense(3)]),
        layers.Dense(3, kernel_regularizer=L2(0.4)),
    )


def coefficients(model):
    """The coefficients by path, rounded: float32."""
    return {
        path.split(".")[0].split(":")[0] + path[-3:]: round(handle.read(), 6)
        for path, handle in find_handles(model).items()
        if path.endswith((".l1", ".l2")) and "bias" not in path
    }


def test_every_kind_is_found_once_with_its_number():
    shared = L2(0.02)
    model = network(
        layers.Dense(3, kernel_regularizer=shared, activity_regularizer=L1(0.03)),
        layers.Dropout(0.25),
        layers.GaussianNoise(0.125),
        layers.Dense(3, kernel_regularizer=shared),
        optimizer=keras.optimizers.AdamW(0.01, beta_1=0.8, weight_decay=0.005, clipnorm=2.0),
        loss=keras.losses.BinaryCrossentropy(label_smoothing=0.1),
        loss_weights=0.5,
    )
    numbers = {path: handle.static for path, handle in find_handles(model).items()}
    expected = {
        "optimizer.learning_rate": 0.01,
        "optimizer.beta_1": 0.8,
        "optimizer.beta_2": 0.999,
        "optimizer.weight_decay": 0.005,
        "optimizer.clipnorm": 2.0,
        "2:Dense.activity_regularizer.l1": 0.03,
        "2:Dense.kernel_regularizer.l2": 0.02,
        "3:Dropout.rate": 0.25,
        "4:GaussianNoise.stddev": 0.125,
        "loss[0].label_smoothing": 0.1,
        "loss_weights": 0.5,
    }
    assert list(numbers) == list(expected)
    assert numbers == pytest.approx(expected)


def test_what_is_not_a_plain_number_is_no_handle():
    class Own(L2):
        """Its call may be anything."""

    class Kept(layers.Dropout):
        def call(self, inputs, training=False):
            return super().call(inputs, training=True)

    model = network(
        layers.Dense(3, kernel_regularizer=Own(0.1)),
        Kept(0.5),
        layers.AlphaDropout(0.1),
        optimizer=keras.optimizers.SGD(lambda: 0.1, clipnorm=0.0),
        loss="binary_crossentropy",
    )
    assert list(find_handles(model)) == ["optimizer.momentum"]


def test_two_models_of_one_function_have_the_same_paths():
    assert list(find_handles(penalised())) == list(find_handles(penalised()))


def test_a_handle_cannot_be_written_before_it_is_attached():
    handle = find_handles(network(layers.Dropout(0.5)))["2:Dropout.rate"]
    with pytest.raises(BindingError, match=r"`2:Dropout.rate` is not live.*Received: value=0.1"):
        handle.write(0.1)


def test_a_path_that_is_not_there_is_an_error_that_lists_those_that_are():
    with pytest.raises(BindingError, match=r"`hp` has nothing to control.*optimizer.momentum.*7:"):
        HandleBinding("hp", [("7:Dropout.rate", 1.0)]).attach(network())


def test_attaching_twice_changes_nothing():
    model = network(layers.Dropout(0.5))
    handle = find_handles(model)["2:Dropout.rate"]
    handle.attach(model)
    variable = handle.variable
    handle.attach(model)
    assert handle.variable is variable
    assert sum(v is variable for v in model.variables) == 1


def test_a_factor_scales_what_is_written():
    model = network(layers.Dropout(0.1), layers.Dropout(0.2))
    binding = HandleBinding("rate", [("2:Dropout.rate", 1.0), ("3:Dropout.rate", 2.0)])
    binding.attach(model)
    binding.write(0.3)
    assert binding.read() == pytest.approx(0.3)
    assert [handle.read() for handle in binding.handles] == pytest.approx([0.3, 0.6])


def test_set_plain_puts_a_plain_number_into_the_model():
    model = penalised()
    model.optimizer.learning_rate = 0.5
    handles = find_handles(model)
    handles["optimizer.learning_rate"].set_plain(model, 0.25)
    handles["2:Dense.kernel_regularizer.l2"].set_plain(model, 0.5)
    assert float(model.optimizer.learning_rate) == 0.25
    assert type(model.layers[0].kernel_regularizer.l2) is float
    assert find_handles(model)["2:Dense.kernel_regularizer.l2"].static == 0.5


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("all", {"2.l2": 0.3, "5.l1": 0.6, "5.l2": 0.9, "7.l2": 1.2}),
        ("first", {"2.l2": 0.3, "5.l1": 0.0, "5.l2": 0.0, "7.l2": 0.0}),
        ("unused", {"2.l2": 0.1, "5.l1": 0.2, "5.l2": 0.3, "7.l2": 0.4}),
    ],
)
def test_the_multiplier_on_penalties(terms, expected):
    """r = 3 times the coefficients; `"first"` is the first term in the order of the weights."""
    model = penalised()
    binding = PenaltyScaleBinding(terms)
    binding.attach(model)
    binding.write(3.0)
    assert coefficients(model) == expected
    assert binding.read() == pytest.approx(3.0)
    binding.write(1.0)
    assert binding.read() == pytest.approx(1.0)


def test_the_first_term_keeps_both_of_its_norms():
    model = network(
        layers.Dense(3, kernel_regularizer=L1L2(0.1, 0.2)),
        layers.Dense(3, kernel_regularizer=L2(0.1)),
    )
    binding = PenaltyScaleBinding("first")
    binding.attach(model)
    binding.write(2.0)
    assert coefficients(model) == {"2.l1": 0.2, "2.l2": 0.4, "3.l2": 0.0}


@pytest.mark.parametrize("terms", ["all", "first", "unused"])
def test_a_multiplier_on_no_penalties(terms):
    for model in (network(), network(layers.Dense(3, kernel_regularizer=L2(0.0)))):
        binding = PenaltyScaleBinding(terms)
        binding.attach(model)
        binding.write(3.0)
        assert binding.read() == 3.0
        binding.detach(model)


def test_penalties_move_together_around_their_own_values():
    model = penalised()
    binding = PenaltyBinding(own=0.1)
    binding.attach(model)
    binding.write(0.05)
    assert coefficients(model) == {"2.l2": 0.05, "5.l1": 0.1, "5.l2": 0.15, "7.l2": 0.2}
    assert binding.read() == pytest.approx(0.05)
    assert len(binding.handles) == 4  # the coefficient of 0 stays as it is


def test_a_multiplier_that_is_taken_off_at_1_leaves_the_users_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model = network(optimizer=keras.optimizers.SGD(schedule))
    binding = HandleBinding("multiplier", [("optimizer.learning_rate_multiplier", 1.0)])
    binding.attach(model)
    assert isinstance(model.optimizer._learning_rate, ScaledSchedule)
    binding.detach(model)
    assert model.optimizer._learning_rate is schedule


def test_a_scaled_schedule_is_saved_with_its_multiplier():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    config = keras.saving.serialize_keras_object(ScaledSchedule(schedule, 0.5))
    loaded = keras.saving.deserialize_keras_object(config)
    assert float(loaded(10)) == pytest.approx(0.5 * 0.1 * 0.5)


def test_a_scaled_schedule_is_scaled_again_and_not_twice():
    model = network(
        optimizer=keras.optimizers.SGD(
            ScaledSchedule(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), 0.5)
        )
    )
    handle = find_handles(model)["optimizer.learning_rate_multiplier"]
    assert handle.static == 0.5
    handle.attach(model)
    handle.write(2.0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.2)


def test_a_rate_is_read_as_it_was_written():
    """Not as 0.0010000000474974513: hyperparameters are compared and shown."""
    model = network(optimizer=keras.optimizers.Adam(0.001))
    handle = find_handles(model)["optimizer.learning_rate"]
    assert handle.static == handle.read() == 0.001
    handle.write(np.float64(1 / 3))
    assert handle.read() == pytest.approx(1 / 3, rel=1e-6)
