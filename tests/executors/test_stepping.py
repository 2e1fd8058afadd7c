"""Many of Keras's own train steps in one call equal those of `model.fit`."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest

from keras_popdescent.data import prepare
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.executors.stepping.chunks import Chunks
from keras_popdescent.strategies import TrainingPlan

layers = keras.layers
RNG = np.random.default_rng(0)
N = 52  # in batches of 16: 16, 16, 16, 4
X = RNG.normal(size=(N, 6)).astype("float32")
Y = RNG.normal(size=(N, 2)).astype("float32")
LABELS = RNG.integers(3, size=N)
WEIGHTS = RNG.uniform(0.1, 2.0, size=N).astype("float32")
BACKEND = keras.backend.backend()


def mlp(*middle, units=2, cls=keras.Sequential, **compiled):
    model = cls([keras.Input((6,)), layers.Dense(5, "tanh"), *middle, layers.Dense(units)])
    compiled.setdefault("loss", "mse")
    model.compile(compiled.pop("optimizer", keras.optimizers.Adam(0.02)), **compiled)
    return model


def classifier(**compiled):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return mlp(units=3, loss=loss, metrics=["accuracy"], weighted_metrics=["accuracy"], **compiled)


def several():
    """Two inputs by name, two outputs, each with a loss and metrics."""
    first, second = keras.Input((6,), name="first"), keras.Input((2,), name="second")
    hidden = layers.Concatenate()([layers.Dense(4, "tanh")(first), second])
    outputs = {"a": layers.Dense(2, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)}
    model = keras.Model({"first": first, "second": second}, outputs)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss={"a": "mse", "b": "mae"},
        loss_weights={"a": 1.0, "b": 0.5},
        metrics={"a": ["mae"], "b": ["mse", "mae"]},
    )
    return model


class OwnLogs(keras.Sequential):
    """A train step of its own that reports what is no metric."""

    def train_step(self, *arguments):
        result = super().train_step(*arguments)
        if BACKEND == "jax":
            logs, state = result
            return {"loss": logs["loss"], "twice": 2.0 * logs["loss"]}, state
        return {"loss": result["loss"], "twice": 2.0 * result["loss"]}


class AddsLoss(layers.Layer):
    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def recurrent():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Reshape((3, 2)), layers.SimpleRNN(3, seed=1), layers.Dense(2)]
    )
    model.compile("adam", "mse")
    return model


def convolutional():
    image = [keras.Input((6,)), layers.Reshape((6, 1)), layers.Conv1D(3, 2), layers.Flatten()]
    model = keras.Sequential([*image, layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.02), loss="mse")
    return model


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
# name -> (function that builds, data as given to `fit`)
CASES = {
    "plain": (lambda: mlp(metrics=["mae"]), {"x": X, "y": Y}),
    "dropout": (lambda: mlp(layers.Dropout(0.4, seed=3)), {"x": X, "y": Y}),
    "batch norm": (lambda: mlp(layers.BatchNormalization()), {"x": X, "y": Y}),
    "xla": (lambda: mlp(jit_compile=True), {"x": X[:48], "y": Y[:48]}),
    "no xla": (lambda: mlp(layers.Dropout(0.4, seed=3), jit_compile=False), {"x": X, "y": Y}),
    "sample weight": (classifier, {"x": X, "y": LABELS, "sample_weight": WEIGHTS}),
    "class weight": (classifier, {"x": X, "y": LABELS, "class_weight": {0: 0.2, 2: 3.0}}),
    "several": (
        several,
        # Whole batches: of a smaller last one `fit` counts each output's loss in full.
        {"x": {"first": X[:48], "second": Y[:48]}, "y": {"a": Y[:48], "b": Y[:48, :1]}},
    ),
    "own logs": (lambda: mlp(cls=OwnLogs), {"x": X, "y": Y}),
    "eagerly": (
        lambda: mlp(layers.Dropout(0.4, seed=3), metrics=["mae"], run_eagerly=True),
        {"x": X, "y": Y},
    ),
    "no labels": (
        lambda: mlp(AddsLoss(), loss=None),
        {"x": X},
    ),
    "schedule": (lambda: mlp(optimizer=keras.optimizers.SGD(SCHEDULE)), {"x": X, "y": Y}),
    "moving average": (
        lambda: mlp(optimizer=keras.optimizers.Adam(0.02, use_ema=True, ema_overwrite_frequency=3)),
        {"x": X, "y": Y},
    ),
    "gradient accumulation": (
        lambda: mlp(optimizer=keras.optimizers.Adam(0.02, gradient_accumulation_steps=2)),
        {"x": X, "y": Y},
    ),
    "steps per execution": (lambda: mlp(steps_per_execution=2), {"x": X[:48], "y": Y[:48]}),
    "metric of many numbers": (
        lambda: mlp(
            units=1,
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
        ),
        {"x": X, "y": (Y[:, :1] > 0).astype("float32")},
    ),
    "recurrent": (recurrent, {"x": X, "y": Y}),
    # On JAX these two have a loop on an accelerator only.
    "convolutional": (convolutional, {"x": X, "y": Y}),
    "large": (lambda: mlp(layers.Dense(500), layers.Dense(500)), {"x": X, "y": Y}),
}
# On other backends a few, for time.
ON_EVERY_BACKEND = {"dropout", "batch norm", "sample weight", "own logs"}
EPOCHS = 2


def marked(name):
    return pytest.param(
        name, id=name, marks=[pytest.mark.backend] if name in ON_EVERY_BACKEND else []
    )


def pair(name):
    """Two models of the same weights and seeds; the second one built, as a live model is."""
    build, given = CASES[name]
    plain, model = build(), build()
    model.set_weights(plain.get_weights())
    data = prepare(**given, batch_size=16, shuffle=False).training
    data.start([np.random.SeedSequence(0)])
    model.test_on_batch(*data.first_batch())
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)
    return plain, model, data, given


def assert_same_variables(first, second, atol=1e-6):
    pairs = zip(
        [*first.variables, *first.optimizer.variables],
        [*second.variables, *second.optimizer.variables],
        strict=True,
    )
    for one, other in pairs:
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one),
            keras.ops.convert_to_numpy(other),
            atol=atol,
            rtol=1e-5,
            err_msg=one.path,
        )


def fit(model, given, epochs=EPOCHS):
    return model.fit(**given, batch_size=16, shuffle=False, epochs=epochs, verbose=0).history


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_steps_by_index_equal_fit(name):
    """Weights, optimizer state, seeds, and what is reported at the end of each epoch."""
    check_equal_to_fit(name)


@pytest.mark.backend
@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
@pytest.mark.parametrize("name", [name for name in CASES if name != "eagerly"])
def test_on_an_accelerator_the_steps_of_a_block_are_scanned_and_equal_fit(name, monkeypatch):
    """Any network's, compiled for the CPU here; none takes the loop that is the CPU's."""
    import jax

    from keras_popdescent.executors.stepping import jax as stepping

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delattr(stepping, "_looped")
    stepper = check_equal_to_fit(name)
    [loop] = stepper._loops.values()
    assert loop is not None


def check_equal_to_fit(name):
    plain, model, data, given = pair(name)
    history = fit(plain, given)
    stepper = make_stepper(model)
    arrays = stepper.load(data.arrays)
    for epoch in range(EPOCHS):
        stepper.reset()
        (blocks,) = data.take([0], data.steps_per_epoch(), TrainingPlan(), [16])
        stepper.train_indices(arrays, blocks)
        reported = stepper.logs()
        assert set(reported) == set(history)
        for key, values in history.items():
            assert reported[key] == pytest.approx(values[epoch], rel=1e-4, abs=1e-6), key
    # What `fit` does at its end: an optimizer with a moving average puts it into the weights.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_same_variables(model, plain)
    return stepper


@pytest.mark.parametrize("name", [marked(name) for name in ("several", "plain", "own logs")])
def test_steps_by_batch_equal_fit(name):
    plain, model, data, given = pair(name)
    history = fit(plain, given, epochs=1)
    stepper = make_stepper(model)
    stepper.reset()
    (blocks,) = data.take([0], data.steps_per_epoch(), TrainingPlan(), [16])
    for block in blocks:
        for row in block:
            stepper.train_batch(data.gather(row))
    assert stepper.logs() == pytest.approx({k: v[0] for k, v in history.items()}, rel=1e-4)
    assert_same_variables(model, plain)


@pytest.mark.parametrize("name", [marked("sample weight"), "eagerly"])
def test_scores_equal_evaluate(name):
    plain, model, data, given = pair(name)
    arguments = {k: v for k, v in given.items() if k != "class_weight"}
    expected = plain.evaluate(**arguments, batch_size=16, verbose=0, return_dict=True)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    stepper = make_stepper(model)
    (blocks,) = data.take([0], data.steps_per_epoch(), TrainingPlan(), [16])
    stepper.reset()
    stepper.test_indices(stepper.load(data.arrays), blocks)
    assert stepper.logs() == pytest.approx(expected, rel=1e-4)
    stepper.reset()
    for block in blocks:
        for row in block:
            stepper.test_batch(data.gather(row))
    assert stepper.logs() == pytest.approx(expected, rel=1e-4)
    for variable, held in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), held)


@pytest.mark.backend
def test_reset_forgets_and_does_not_touch_the_weights():
    _, model, data, _ = pair("plain")
    stepper = make_stepper(model)
    stepper.train_batch(data.first_batch())
    first = stepper.logs()
    held = model.get_weights()
    stepper.reset()
    assert stepper.logs() == {"loss": 0.0, "mae": 0.0}
    for one, other in zip(held, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    stepper.train_batch(data.first_batch())
    assert stepper.logs()["loss"] < first["loss"]


@pytest.mark.backend
def test_the_number_of_steps_in_a_call_is_free():
    _, one, data, _ = pair("dropout")
    _, many, _, _ = pair("dropout")
    many.set_weights(one.get_weights())
    steppers = make_stepper(one), make_stepper(many)
    rows = RNG.integers(N, size=(6, 8)).astype("int32")
    arrays = [stepper.load(data.arrays) for stepper in steppers]
    steppers[0].train_indices(arrays[0], [rows])
    for row in rows:
        steppers[1].train_indices(arrays[1], [row[np.newaxis]])
    assert_same_variables(one, many)


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is traced there")
def test_a_step_is_traced_once_for_each_batch_size():
    class Counting(keras.Sequential):
        traces = 0

        def train_step(self, *arguments):
            Counting.traces += 1
            return super().train_step(*arguments)

    model = mlp(cls=Counting)
    model.test_on_batch(X[:16], Y[:16])
    model.optimizer.build(model.trainable_variables)
    stepper = make_stepper(model)
    arrays = stepper.load((X, Y))
    rows = np.arange(48, dtype=np.int32)
    for _ in range(3):
        stepper.train_indices(arrays, [rows.reshape(3, 16)])
        stepper.train_indices(arrays, [rows[:32].reshape(2, 16)])
    assert Counting.traces == 1
    for _ in range(3):
        stepper.train_indices(arrays, [rows.reshape(3, 16), rows[:4].reshape(1, 4)])
    assert Counting.traces == 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="The loop around the step is TensorFlow's.")
def test_a_loop_is_built_once_for_each_batch_size():
    _, model, data, _ = pair("plain")
    stepper = make_stepper(model)
    arrays = stepper.load(data.arrays)
    rows = np.arange(48, dtype=np.int32)
    for _ in range(3):
        stepper.train_indices(arrays, [rows.reshape(3, 16), rows[:4].reshape(1, 4)])
        stepper.test_indices(arrays, [rows.reshape(3, 16)])
    assert len(stepper._loops) == 3


def rows_of(batch_size=16, steps=3):
    return np.arange(batch_size * steps, dtype=np.int32).reshape(steps, batch_size)


@pytest.mark.parametrize(
    "name", [marked("sample weight"), marked("batch norm"), "several", "metric of many numbers"]
)
def test_logs_are_the_metrics_results(name):
    """The last step's own, which are not computed again."""
    _, model, data, _ = pair(name)
    stepper = make_stepper(model)
    arrays = stepper.load(data.arrays)
    for run in (stepper.train_indices, stepper.test_indices):
        stepper.reset()
        run(arrays, [rows_of(), rows_of(4, 1)])
        results = {}
        for key, value in model.get_metrics_result().items():
            results.update(value if isinstance(value, dict) else {key: value})
        expected = {key: float(value) for key, value in results.items()}
        assert stepper.logs() == pytest.approx(expected, rel=1e-6)


@pytest.mark.backend
def test_a_model_that_has_its_own_word_on_results_is_asked():
    class Doubled(keras.Sequential):
        def get_metrics_result(self):
            results = super().get_metrics_result()
            return {key: 2.0 * value for key, value in results.items()}

        def compute_metrics(self, *arguments, **keywords):
            super().compute_metrics(*arguments, **keywords)
            return super().get_metrics_result()

    model = mlp(cls=Doubled)
    model.test_on_batch(X[:16], Y[:16])
    stepper = make_stepper(model)
    stepper.reset()
    stepper.test_batch((X[:16], Y[:16]))
    error = np.mean((model.predict(X[:16], verbose=0) - Y[:16]) ** 2)
    assert stepper.logs()["loss"] == pytest.approx(2.0 * error, rel=1e-4)


@pytest.mark.backend
def test_reset_gives_metrics_their_first_values_again_and_again():
    class FromTen(keras.metrics.Metric):
        """Starts at 10: what its own `reset_state` says counts."""

        def __init__(self):
            super().__init__(name="from_ten")
            self.total = self.add_variable((), "zeros", name="total")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(1.0)

        def result(self):
            return self.total + 0.0

        def reset_state(self):
            self.total.assign(10.0)

    for metrics in (["mae"], [FromTen()]):
        model = mlp(metrics=metrics)
        model.test_on_batch(X[:16], Y[:16])
        stepper = make_stepper(model)
        arrays = stepper.load((X, Y))
        seen = []
        for _ in range(3):
            stepper.reset()
            stepper.test_indices(arrays, [rows_of()])
            seen.append(stepper.logs())
        assert seen[0] == seen[1] == seen[2]
    assert seen[0]["from_ten"] == 13.0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="The loop around the step is TensorFlow's.")
def test_other_data_of_the_same_form_needs_no_other_loop_and_the_first_are_not_held():
    _, model, _, _ = pair("plain")
    stepper = make_stepper(model)
    first, second = stepper.load((X, Y)), stepper.load((X[:32] + 1.0, Y[:32]))
    stepper.reset()
    stepper.test_indices(first, [rows_of()])
    gone = weakref.ref(first[0])
    stepper.reset()
    stepper.test_indices(second, [rows_of(16, 2)])
    assert len(stepper._loops) == 1
    expected = model.evaluate(X[:32] + 1.0, Y[:32], verbose=0, return_dict=True)
    assert stepper.logs() == pytest.approx(expected, rel=1e-4)
    del first
    gc.collect()
    assert gone() is None


@pytest.mark.backend
@pytest.mark.skipif(BACKEND != "jax", reason="On JAX a loop is only sometimes faster.")
@pytest.mark.parametrize(
    ("build", "loops"),
    [
        (lambda: mlp(layers.Dropout(0.4, seed=3), metrics=["mae"]), True),
        (recurrent, True),
        (convolutional, False),
        (lambda: mlp(layers.Dense(500), layers.Dense(500)), False),
    ],
)
def test_small_networks_without_convolutions_run_in_a_loop_that_computes_the_same(build, loops):
    models = [build(), build()]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        model.test_on_batch(X[:16], Y[:16])
        model.optimizer.build(model.trainable_variables)
    steppers = [make_stepper(model) for model in models]
    arrays = steppers[0].load((X, Y))
    for stepper in steppers:
        stepper.reset()
    steppers[0].train_indices(arrays, [rows_of()])
    for row in rows_of():
        steppers[1].train_indices(arrays, [row[np.newaxis]])
    assert [loop is not None for loop in steppers[0]._loops.values()] == [loops]
    assert steppers[1]._loops == {}
    assert steppers[0].logs() == steppers[1].logs()
    assert_same_variables(*models, atol=1e-7)


def test_lengths_of_loops_are_few():
    """The first of a batch size whole, others in powers of two; every step once, in order."""
    chunks = Chunks()
    for steps, batch_size, expected in (
        (100, 64, [100]),
        (93, 64, [64, 16, 8, 4, 1]),
        (100, 64, [100]),
        (7, 64, [4, 2, 1]),
        (128, 64, [128]),
        (1, 32, [1]),
        (100, 32, [64, 32, 4]),
        (0, 64, []),
    ):
        spans = list(chunks.spans(steps, batch_size))
        assert [span.stop - span.start for span in spans] == expected
        assert [step for span in spans for step in range(steps)[span]] == list(range(steps))


@pytest.mark.backend
def test_no_blocks_are_no_steps():
    _, model, data, _ = pair("plain")
    held = model.get_weights()
    stepper = make_stepper(model)
    stepper.train_indices(stepper.load(data.arrays), [])
    for one, other in zip(held, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow runs on this backend only.")
def test_eager_models_get_the_stepper_that_runs_eagerly():
    calls = []

    class Printing(keras.Sequential):
        def train_step(self, data):
            calls.append(float(keras.ops.mean(data[0])))  # fails in a graph
            return super().train_step(data)

    model = mlp(cls=Printing, run_eagerly=True)
    make_stepper(model).train_batch((X[:4], Y[:4]))
    assert calls == [pytest.approx(float(X[:4].mean()))]
