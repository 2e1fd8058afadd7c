"""Hyperparameters that do nothing beside the defaults, or that KerasTuner declares in odd ways."""

from __future__ import annotations

import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

from keras_popdescent import PopDescent, PopDescentTuner, UnitMutation
from keras_popdescent.errors import DataError

FIT = {"epochs": 3, "batch_size": 32, "validation_split": 0.2, "verbose": 0}


def compiled(hp, *parts):
    model = keras.Sequential([keras.Input((8,)), *parts, layers.Dense(3)])
    model.compile(
        keras.optimizers.Adam(hp.Float("lr", 1e-4, 1e-2, sampling="log")),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def width_of_a_branch(hp):
    units, deep = hp.Int("units", 8, 32, step=8), hp.Boolean("deep")
    return compiled(hp, layers.Dense(8), *([layers.Dense(units)] if deep else []))


def width_of_cells(hp):
    cell, units = hp.Choice("cell", ["none", "simple", "gru"]), hp.Int("units", 4, 16, step=4)
    kinds = {"none": layers.Flatten, "simple": layers.SimpleRNN, "gru": layers.GRU}
    layer = layers.Flatten() if cell == "none" else kinds[cell](units)
    return compiled(hp, layers.Reshape((4, 2)), layer)


def live_in_a_branch(hp):
    l2, rate = hp.Float("l2", 1e-5, 1e-2, sampling="log"), hp.Float("rate", 0.0, 0.5)
    penalty = keras.regularizers.L2(l2)
    branch = [layers.Dense(8, kernel_regularizer=penalty), layers.Dropout(rate)]
    return compiled(hp, layers.Dense(8), *(branch if hp.Boolean("deep") else []))


def powers_of_two(hp):
    units = hp.Int("units", 4, 32, step=2, sampling="log")
    return compiled(hp, layers.Dense(units), layers.Dropout(0.1))


def many_kinds(hp):
    kind = hp.Choice("kind", list("abcdefgh"))
    parts = [layers.Dense(8)]
    if kind in "bf":
        parts.append(layers.Dropout(hp.Float("rate_" + kind, 0.1, 0.5)))
    if kind == "g":
        parts.append(layers.Activation(hp.Choice("activation", ["relu", "tanh"])))
    return compiled(hp, *parts)


def two_switches(hp):
    # No value of one hyperparameter alone shows what `units` is.
    first, second = hp.Boolean("first"), hp.Boolean("second")
    units = hp.Int("units", 8, 32, step=8)
    return compiled(hp, layers.Dense(8), *([layers.Dense(units)] if first and second else []))


def searched(build, directory, data, **changes):
    arguments = {"objective": "val_loss", "seed": 0, "batches_per_iteration": 4, **changes}
    tuner = PopDescentTuner(build, directory=directory, **arguments)
    tuner.search(*data, **FIT)
    return tuner


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (width_of_a_branch, {"units": "structural", "deep": "structural"}),
        (width_of_cells, {"units": "structural", "cell": "structural"}),
        (live_in_a_branch, {"l2": "live", "rate": "live", "deep": "structural"}),
        (powers_of_two, {"units": "structural"}),
        (many_kinds, {"kind": "rebuild", "rate_b": "live", "rate_f": "live",
                      "activation": "rebuild"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_kinds(build, expected, tmp_path, data):
    tuner = searched(build, tmp_path, data)
    kinds = {d.name: d.kind for d in tuner._blueprint.space if d.name != "lr"}
    assert kinds == expected
    for model in tuner.get_best_models(5):
        assert model.predict(data[0][:2], verbose=0).shape == (2, 3)


def test_the_width_of_a_branch_under_training_of_ones_own(tmp_path, data):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            return width_of_a_branch(hp)

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **kwargs)

    tuner = searched(Own(), tmp_path, data, population_size=3, iterations=2)
    assert tuner._blueprint.kinds["units"].kind == "structural"


def test_a_tuned_penalty_of_a_branch_is_not_in_the_score(tmp_path, data):
    deep = {"deep": True, "l2": 1e-2, "rate": 0.0}
    tuner = searched(
        live_in_a_branch, tmp_path, data, population_size=1, initial_hyperparameters=[deep]
    )
    [trial] = tuner.oracle.get_best_trials(1)
    model = tuner.get_best_models()[0]
    x, y = (array[-64:] for array in data)
    measured = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    penalty = float(sum(keras.ops.convert_to_numpy(loss) for loss in model.losses))
    assert penalty > 1e-3
    assert trial.score == pytest.approx(measured - penalty, rel=1e-4)


def test_weights_of_other_shapes_are_never_inherited(tmp_path, data):
    strategy = PopDescent(UnitMutation(2.0), focus=None)
    given = [{"first": True, "second": True, "units": 8}] * 5
    with pytest.warns(UserWarning, match="decides shapes of weights beside other values"):
        tuner = searched(
            two_switches, tmp_path, data, strategy=strategy, initial_hyperparameters=given
        )
    for birth in tuner.history.births().values():
        assert birth.values["units"] == 8
    for model in tuner.get_best_models(5):
        for layer in model.layers:
            assert layer.kernel.shape[-1] == layer.units


def test_a_hyperparameter_at_which_nothing_can_be_built(tmp_path, data):
    def build(hp):
        rate = hp.Float("rate", 0.1, 0.3, default=0.2)
        if rate != 0.2:
            raise ValueError("not today")
        return compiled(hp, layers.Dropout(rate))

    with pytest.warns(UserWarning, match="`rate` is taken for rebuild.*not today"):
        PopDescentTuner(build, directory=tmp_path, population_size=1, seed=0).search(*data, **FIT)


def test_a_number_that_is_no_live_one_is_told_of(tmp_path, data, capsys):
    def build(hp):
        rate = hp.Float("inside", 0.0, 0.5)
        recurrent = layers.SimpleRNN(4, dropout=rate)
        return compiled(hp, layers.Reshape((4, 2)), recurrent, layers.Dropout(hp.Float("d", 0, 1)))

    tuner = PopDescentTuner(build, directory=tmp_path, population_size=1, seed=0)
    tuner.search(*data, **{**FIT, "epochs": 1, "verbose": 1})
    [note] = [line for line in capsys.readouterr().out.split("\n") if "compiled anew" in line]
    assert "`inside`;" in note


def test_a_value_that_is_fixed_is_not_mutated(tmp_path, data):
    def build(hp):
        penalty = keras.regularizers.L2(1e-3)
        model = keras.Sequential(
            [keras.Input((8,)), layers.Dense(hp.Choice("units", [8, 16])),
             layers.Dense(3, kernel_regularizer=penalty)]
        )  # fmt: skip
        model.compile(
            keras.optimizers.Adam(hp.Fixed("learning_rate", 1e-3)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    tuner = searched(build, tmp_path, data)
    assert tuner._blueprint.space.names() == ["units", "popdescent/l2"]
    for model in tuner.get_best_models(5):
        assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


class Reconstructs(keras.Sequential):
    """Its steps use the samples as `fit` hands them over: alone, in no tuple."""

    def loss_of(self, data):
        assert len(data.shape) == 2, data.shape
        return keras.ops.mean(keras.ops.sum((data - self(data)) ** 2, axis=1))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.loss_of(x)

    def train_step(self, *arguments):
        assert not isinstance(arguments[-1], tuple)
        return super().train_step(*arguments)

    def test_step(self, *arguments):
        assert not isinstance(arguments[-1], tuple)
        return super().test_step(*arguments)


def batches(x):
    while True:
        yield x[:32]


@pytest.mark.backend
@pytest.mark.parametrize("form", ["array", "generator"])
@pytest.mark.parametrize("executor", ["sequential", "vectorized"])
def test_samples_alone_are_no_tuple(form, executor, tmp_path):
    if executor == "vectorized" and keras.backend.backend() != "jax":
        pytest.skip("JAX only")
    x = np.random.default_rng(0).normal(size=(160, 8)).astype("float32")

    def build(hp):
        model = Reconstructs([keras.Input((8,)), layers.Dense(4), layers.Dense(8)])
        model.compile(keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-2)))
        return model

    tuner = PopDescentTuner(
        build, "val_loss", directory=tmp_path, seed=0, population_size=2, executor=executor
    )
    given = x if form == "array" else batches(x)
    tuner.search(
        given, validation_data=(x,) if form == "array" else x, epochs=2, steps_per_epoch=3,
        batch_size=32 if form == "array" else None, verbose=0,
    )  # fmt: skip
    model = tuner.get_best_models()[0]
    loss = float(keras.ops.convert_to_numpy(model.loss_of(keras.ops.convert_to_tensor(x))))
    assert tuner.oracle.get_best_trials(1)[0].score == pytest.approx(loss, rel=1e-4)


class TrainsByItself(keras.Sequential):
    """Only its own `train_step` knows a loss; nothing is compiled but the optimizer."""

    def train_step(self, data):
        import tensorflow as tf

        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def by_itself(hp):
    model = TrainsByItself([keras.Input((8,)), layers.Dense(3)])
    model.compile(keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-2)))
    return model


def test_a_loss_that_only_the_train_step_knows(tmp_path, data):
    objective = keras_tuner.Objective("loss", "min")
    tuner = PopDescentTuner(by_itself, objective, directory=tmp_path, seed=0, population_size=2)
    tuner.search(*data, epochs=2, verbose=0)
    assert np.isfinite(tuner.oracle.get_best_trials(1)[0].score)


def test_validation_then_needs_a_test_step(tmp_path, data):
    tuner = PopDescentTuner(by_itself, "val_loss", directory=tmp_path, seed=0, population_size=2)
    with pytest.raises(DataError, match="Override `test_step`"):
        tuner.search(*data, **FIT)
