"""The sequential executor: the suite, and what only it does: several structures, idle models."""

from __future__ import annotations

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent.data import prepare
from keras_popdescent.errors import ArgumentError, DataError, ModelError, ObjectiveError
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.executor import Setup
from keras_popdescent.population.objective import objective_of
from keras_popdescent.strategies import Offspring, PopDescent, ScoringPlan, TrainingPlan
from keras_popdescent.testing.executors import ExecutorConformance
from keras_popdescent.tuners.blueprint import TunerBlueprint

layers = keras.layers
SGD = keras.optimizers.SGD
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2))).astype("float32")
VALIDATION = (X[40:], Y[40:])
RATE = "popdescent/learning_rate"


@pytest.mark.backend
class TestSequential(ExecutorConformance):
    def make_executor(self):
        return SequentialExecutor()


def network(*middle, optimizer=None, loss="mse", **arguments):
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2)])
    model.compile(SGD(0.05) if optimizer is None else optimizer, loss, **arguments)
    return model


def start(blueprint, values, data=None, objective="val_loss", **changes):
    executor = SequentialExecutor()
    if data is None:
        data = prepare(X[:40], Y[:40], batch_size=8, validation_data=VALIDATION)
    setup = Setup(
        blueprint=blueprint,
        values=values,
        data=data,
        objective=objective_of(objective),
        training=changes.pop("training", TrainingPlan()),
        scoring=changes.pop("scoring", ScoringPlan()),
        seed=np.random.SeedSequence(0),
    )
    executor.start(setup)
    return executor


def weights(executor, slot):
    state = executor.capture(slot)
    own = state.weights[: state.num_plain[0]]
    return [np.array(keras.ops.convert_to_numpy(tensor)) for tensor in own]


def score_of(model, data=VALIDATION):
    return float(np.mean(np.square(model.predict(data[0], verbose=0) - data[1])))


# --- Several structures in one population ----------------------------------------------------


def build(hp):
    """Structural, rebuild and live hyperparameters; each builds another model."""
    rate = hp.Float("lr", 1e-3, 1e-1, sampling="log", default=1e-2)
    optimizers = {
        "sgd": lambda: SGD(rate, momentum=0.9),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate),
    }
    return network(
        layers.Dense(hp.Int("units", 2, 6, step=2), hp.Choice("act", ["tanh", "relu"])),
        *([layers.Dropout(0.5)] if hp.Boolean("drop") else []),
        optimizer=optimizers[hp.Choice("optimizer", ["sgd", "rmsprop"])](),
    )


@pytest.fixture(scope="module")
def blueprint():
    hp = keras_tuner.HyperParameters()
    build(hp)
    return TunerBlueprint(build, hp, PopDescent())


BASE = {"units": 2, "act": "tanh", "drop": False, "optimizer": "sgd", "lr": 0.01}


def test_members_of_several_structures(blueprint):
    kinds = {name: found.kind for name, found in blueprint.kinds.items()}
    assert kinds == {
        **{"units": "structural", "lr": "live"},
        **{"act": "rebuild", "drop": "rebuild", "optimizer": "rebuild"},
    }
    values = [BASE, {**BASE, "units": 4}, {**BASE, "lr": 0.1}, {**BASE, "act": "relu"}]
    executor = start(blueprint, values)
    assert len(executor._stages) == 3
    for _ in range(2):
        reports = executor.advance([0, 1, 2, 3], 3)
    for slot, report in enumerate(reports):
        model = executor.export(values[slot], executor.capture(slot))
        assert report.score == pytest.approx(score_of(model), rel=1e-4)
        assert model.layers[0].units == values[slot]["units"]
        assert model.layers[0].activation.__name__ == values[slot]["act"]
        assert executor.values_in_use(slot) == pytest.approx({"lr": values[slot]["lr"]})


def test_alone_or_beside_other_structures_a_member_is_the_same(blueprint):
    mixed = start(blueprint, [BASE, {**BASE, "act": "relu"}, {**BASE, "units": 6}])
    alike = start(blueprint, [BASE, BASE, BASE])
    for executor in (mixed, alike):
        executor.advance([0, 1, 2], 3)
        executor.advance([2, 0, 1], 3)
    for one, other in zip(weights(mixed, 0), weights(alike, 0), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", [{"act": "relu"}, {"drop": True}, {"optimizer": "rmsprop"}, {"lr": 0.1}]
)
def test_a_child_that_is_rebuilt_takes_the_weights_along(blueprint, change):
    executor = start(blueprint, [BASE, BASE])
    executor.advance([0, 1], 4)
    parent = weights(executor, 0)
    child = {**BASE, **change}
    executor.apply([Offspring(1, (0,), child)])
    for one, other in zip(weights(executor, 1), parent, strict=True):
        np.testing.assert_array_equal(one, other)
    slots = [np.asarray(t) for t in executor.capture(1).optimizer]
    kept = change.get("optimizer") is None
    # Another class of optimizer starts afresh: what SGD calls a momentum is none of RMSprop's.
    assert int(slots[0]) == (4 if kept else 0)
    reports = executor.advance([0, 1], 4)
    model = executor.export(child, executor.capture(1))
    assert reports[1].score == pytest.approx(score_of(model), rel=1e-4)
    assert executor.values_in_use(1) == pytest.approx({"lr": child["lr"]})
    back = Offspring(0, (1,), dict(BASE))
    executor.apply([back])
    executor.advance([0, 1], 1)


def test_a_child_cannot_have_weights_of_another_shape(blueprint):
    executor = start(blueprint, [BASE, {**BASE, "units": 4}])
    with pytest.raises(ArgumentError, match="`units`.*the parent's"):
        executor.apply([Offspring(1, (0,), {**BASE, "units": 4})])
    with pytest.raises(ArgumentError, match="`units`"):
        executor.apply([Offspring(1, (0, 1), dict(BASE))])


def test_models_that_nobody_needs_are_dropped(blueprint):
    executor = start(blueprint, [BASE])
    structures = [
        {**BASE, "act": act, "drop": drop, "optimizer": optimizer}
        for act in ("relu", "tanh")
        for drop in (True, False)
        for optimizer in ("sgd", "rmsprop")
    ]
    for values in structures:
        executor.apply([Offspring(0, (0,), values)])
        executor.advance([0], 1)
        assert len(executor._stages) <= 4  # the one in use, the last one, and two idle ones


# --- Data and plans --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    return ModelBlueprint(network)


class Batches(keras.utils.PyDataset):
    def __init__(self, size, first=0, last=40):
        super().__init__()
        self.size, self.first, self.last = size, first, last

    def __len__(self):
        return -(-(self.last - self.first) // self.size)

    def __getitem__(self, index):
        begin = self.first + index * self.size
        rows = slice(begin, min(begin + self.size, self.last))
        return X[rows], Y[rows]


@pytest.mark.backend
def test_a_data_set_of_batches(plain):
    """One stream for all: with two slots, each takes the batches that come next."""
    data = prepare(Batches(8), validation_data=Batches(8, 40, 60), shuffle=False)
    executor = start(plain, [{RATE: 0.05}] * 2, data)
    model = executor.export({RATE: 0.05}, executor.capture(0))
    reports = executor.advance([0, 1], 2)
    for index in range(2):
        model.train_on_batch(*Batches(8)[index])
    for one, other in zip(weights(executor, 0), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert reports[0].score == pytest.approx(score_of(model), rel=1e-4)
    assert reports[1].gradient_steps == 2


@pytest.mark.backend
def test_each_member_sees_all_of_an_unshuffled_data_set(plain):
    """With as many batches an iteration as there are, each slot has other ones the next time."""
    data = prepare(Batches(20), validation_data=VALIDATION, shuffle=False)
    executor = start(plain, [{RATE: 0.05}] * 2, data)
    model = executor.export({RATE: 0.05}, executor.capture(1))
    for _ in range(2):
        reports = executor.advance([0, 1], 1)
    assert [report.slot for report in reports] == [0, 1]
    for index in (1, 0):
        model.train_on_batch(*Batches(20)[index])
    for one, other in zip(weights(executor, 1), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data is TensorFlow's.")
def test_a_tf_data_set(plain):
    import tensorflow as tf

    def dataset(first, last):
        return tf.data.Dataset.from_tensor_slices((X[first:last], Y[first:last])).batch(8)

    tensors = prepare(dataset(0, 40), validation_data=dataset(40, 60))
    batches = prepare(Batches(8), validation_data=Batches(8, 40, 60), shuffle=False)
    reports = []
    for data in (tensors, batches):
        executor = start(plain, [{RATE: 0.05}], data)
        # Over the end of the data set, which starts anew.
        reports.append([executor.advance([0], 4)[0].score for _ in range(2)])
    assert reports[0] == pytest.approx(reports[1], rel=1e-6)


def test_a_model_whose_weights_appear_with_the_first_batch():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = layers.Dense(3, "tanh"), layers.Dense(2)

        def call(self, inputs):
            return self.out(self.hidden(inputs))

    def build_own():
        model = Own()
        model.compile("adam", "mse")
        return model

    executor = start(ModelBlueprint(build_own), [{RATE: 0.01}, {RATE: 0.02}])
    reports = executor.advance([0, 1], 4)
    models = [executor.export({RATE: 0.01}, executor.capture(slot)) for slot in (0, 1)]
    for report, model in zip(reports, models, strict=True):
        assert type(model) is Own
        assert report.score == pytest.approx(score_of(model), rel=1e-4)
    assert reports[0].score != reports[1].score


def test_a_plan_of_several_passes(plain):
    """A random subset for each slot, in fixed order, twice."""
    plan = TrainingPlan("subset", passes=2)
    executor = start(plain, [{RATE: 0.05}] * 2, training=plan)
    reports = executor.advance([0, 1], 3)
    assert [report.gradient_steps for report in reports] == [6, 6]
    assert int(np.asarray(executor.capture(0).optimizer[0])) == 6


def test_the_batch_size_is_a_members_own():
    def build_sized(hp):
        hp.Int("batch_size", 4, 20, step=4)
        return network(layers.BatchNormalization(momentum=0.0))

    hp = keras_tuner.HyperParameters()
    build_sized(hp)
    executor = start(
        TunerBlueprint(build_sized, hp, PopDescent(), implicit_mutation=False),
        [{"batch_size": 4}, {"batch_size": 20}],
        prepare(X[:40], Y[:40], batch_size=8, shuffle=False, validation_data=VALIDATION),
    )
    executor.advance([0, 1], 1)
    # Without momentum, batch normalization remembers the mean of the last batch.
    for slot, size in ((0, 4), (1, 20)):
        np.testing.assert_allclose(weights(executor, slot)[2], X[:size].mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize(("sample", "equal"), [("common", True), ("own", False)])
def test_members_are_scored_on_a_part(plain, sample, equal):
    """Equal members score equally on a common part, not on parts of their own."""
    executor = start(plain, [{RATE: 0.0}] * 2, scoring=ScoringPlan(sample, 5))
    executor.apply([Offspring(1, (0,), {RATE: 0.0})])
    scores = [report.score for report in executor.advance([0, 1], 1)]
    assert (scores[0] == scores[1]) is equal
    # Each iteration has a part of its own.
    assert executor.advance([0], 1)[0].score != scores[0]
    assert min(scores) > 0.0


def test_without_validation_data_the_training_loss_scores(plain):
    data = prepare(X[:40], Y[:40], batch_size=8)
    executor = start(plain, [{RATE: 0.05}], data, "loss", scoring=ScoringPlan("common"))
    (report,) = executor.advance([0], 3)
    assert report.score == report.logs["loss"] and set(report.logs) == {"loss"}


def test_what_a_callback_changes_stays_for_the_members_life(plain):
    """Values are written once, at birth; `ReduceLROnPlateau` may lower the rate later."""
    executor = start(plain, [{RATE: 0.05}, {RATE: 0.02}])
    executor.advance([0, 1], 1)

    def lower(model):
        model.optimizer.learning_rate = 0.001

    executor.visit(0, lower)
    executor.advance([1, 0, 1], 1)
    assert executor.values_in_use(0) == {RATE: 0.001}
    assert executor.values_in_use(1) == pytest.approx({RATE: 0.02})
    executor.apply([Offspring(1, (0,), {RATE: 0.03})])
    assert executor.values_in_use(1) == pytest.approx({RATE: 0.03})


def test_a_custom_train_step_may_report_the_objective():
    class Own(keras.Sequential):
        def train_step(self, *arguments):
            logs = super().train_step(*arguments)
            if keras.backend.backend() == "jax":
                return {**logs[0], "twice": 2.0 * logs[0]["loss"]}, logs[1]
            return {**logs, "twice": 2.0 * logs["loss"]}

    def build_own():
        model = Own([keras.Input((4,)), layers.Dense(2)])
        model.compile(SGD(0.05), "mse")
        return model

    executor = start(ModelBlueprint(build_own), [{RATE: 0.05}], objective=("twice", "min"))
    (report,) = executor.advance([0], 1)
    assert report.score == pytest.approx(2.0 * report.logs["loss"])
    executor = start(ModelBlueprint(build_own), [{RATE: 0.05}], objective=("thrice", "min"))
    with pytest.raises(ObjectiveError, match="It reports: .*twice"):
        executor.advance([0], 1)


@pytest.mark.backend
def test_labels_that_the_loss_masks():
    def masked(truth, predicted):
        known = keras.ops.isfinite(truth)
        error = keras.ops.where(known, truth, 0.0) - keras.ops.where(known, predicted, 0.0)
        return keras.ops.mean(keras.ops.square(error), axis=-1)

    labels = Y.copy()
    labels[::3, 0] = np.nan
    with pytest.warns(UserWarning, match="not finite.*part='y'"):
        data = prepare(X[:40], labels[:40], validation_data=(X[40:], labels[40:]))
    executor = start(ModelBlueprint(lambda: network(loss=masked)), [{RATE: 0.05}], data)
    first, *_, last = [executor.advance([0], 5)[0].score for _ in range(3)]
    assert last < first


def test_models_that_cannot_be_trained_are_refused():
    uncompiled = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    for returned in (None, uncompiled):
        calls = []

        def once(returned=returned, calls=calls):
            calls.append(1)
            return network() if len(calls) == 1 else returned

        with pytest.raises(ModelError):
            start(ModelBlueprint(once), [{RATE: 0.05}])


def test_labels_that_the_loss_does_not_take():
    blueprint = ModelBlueprint(lambda: network(loss="sparse_categorical_crossentropy"))
    with pytest.raises(DataError, match="does not take the data"):
        start(blueprint, [{RATE: 0.05}])
