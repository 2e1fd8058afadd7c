"""From a member to a plain Keras model of its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.population import Population
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies import Offspring
from keras_popdescent.testing import FixedStrategy

layers = keras.layers
SGD = keras.optimizers.SGD
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype("float32")
Y = np.stack([X.sum(axis=1), X[:, 0]], axis=1)


def network(*middle, optimizer=None, **arguments):
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2)])
    model.compile(SGD(0.05) if optimizer is None else optimizer, "mse", **arguments)
    return model


def trained(build, mutate=("learning_rate", "l2"), steps=5, **arguments):
    """A population of one after a few steps, on unshuffled data, and its only model."""
    population = Population(
        ModelBlueprint(build, mutate), size=1, objective="loss", seed=0, **arguments
    )
    population.fit(X, Y, batch_size=8, iterations=1, batches_per_iteration=steps,
                   shuffle=False, verbose=0)  # fmt: skip
    return population, population.best_model()


def assert_close(first, second, tolerance=1e-6):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one),
            keras.ops.convert_to_numpy(other),
            rtol=tolerance,
            atol=tolerance,
        )


def rich():
    return network(
        layers.Dense(6, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
        layers.BatchNormalization(),
        optimizer=keras.optimizers.Adam(0.02),
    )


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.02),
    "momentum": lambda: SGD(0.02, momentum=0.9),
    "nesterov": lambda: SGD(0.02, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "schedule": lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.backend] if n in ("adam", "schedule") else [])
        for n in OPTIMIZERS
    ],
)
def test_an_exported_model_goes_on_as_the_member_would(name):
    """Weights, slots and step counter came along: both train on to the same weights."""
    population, model = trained(
        lambda: network(layers.Dense(6, "tanh"), optimizer=OPTIMIZERS[name]())
    )
    population.fit(X, Y, batch_size=8, iterations=1, batches_per_iteration=6,
                   shuffle=False, verbose=0)  # fmt: skip
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_close(model.get_weights(), population.models()[0].get_weights())
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 11


@pytest.mark.backend
def test_an_exported_model_is_saved_and_loaded_without_this_package(tmp_path):
    _, model = trained(rich)
    model.save(tmp_path / "model.keras")
    config = (model.to_json(), str(model.get_compile_config()))
    assert not any("popdescent" in part for part in config)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded.get_weights(), model.get_weights())
    assert_close(loaded.optimizer.variables, model.optimizer.variables)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5)
    for one in (loaded, model):
        one.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_close(loaded.get_weights(), model.get_weights())


def test_a_multiplier_of_1_leaves_the_users_schedule():
    def build():
        return network(optimizer=SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)))

    _, model = trained(build)
    assert "popdescent" not in str(model.get_compile_config())
    # After five steps of a decay by half every four.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 0.5 ** (5 / 4))


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_live_momentum_may_have_begun_at_0(start):
    """Slots appear where there is a momentum; where there is none, nothing is lost with them."""
    path = "optimizer.momentum"
    strategy = FixedStrategy([[], []])
    for source in (
        network(optimizer=SGD(0.02, momentum=start)),
        lambda: network(optimizer=SGD(0.02, momentum=start)),
    ):
        population = Population.from_model(
            source, size=2, objective="loss", mutate=(path,), strategy=strategy, seed=0
        )
        population.fit(X, Y, batch_size=8, iterations=1, batches_per_iteration=3,
                       shuffle=False, verbose=0)  # fmt: skip
        executor = population.executor
        executor.apply([Offspring(1, (0,), {path: 0.75})])
        executor.advance([0, 1], 3)
        for slot, momentum in ((0, start), (1, 0.75)):
            model = executor.export({path: momentum}, executor.capture(slot))
            assert model.optimizer.momentum == pytest.approx(momentum)
            assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6
            before = model.get_weights()
            model.fit(X[:24], Y[:24], batch_size=8, shuffle=False, verbose=0)
            reference = network(optimizer=SGD(0.02, momentum=momentum))
            reference.set_weights(before)
            reference.fit(X[:24], Y[:24], batch_size=8, shuffle=False, verbose=0)
            equal = np.allclose(reference.get_weights()[0], model.get_weights()[0], atol=1e-6)
            assert equal == (momentum == 0.0)


def test_a_subclassed_model_is_exported():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = layers.Dense(3, "tanh"), layers.Dense(2)

        def call(self, inputs):
            return self.out(self.hidden(inputs["features"]))

    def build():
        model = Own()
        model.compile("adam", "mse")
        return model

    population = Population(ModelBlueprint(build), size=1, objective="loss", seed=0)
    x = {"features": X}
    population.fit(x, Y, iterations=1, batches_per_iteration=2, batch_size=8, verbose=0)
    model = population.best_model()
    state = population.executor.capture(0)
    assert_close(model.get_weights(), state.weights[: state.num_plain[0]], 0.0)
    model.fit(x, Y, verbose=0)


def test_mixed_precision_is_exported():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        population, model = trained(rich)
        state = population.executor.capture(0)
        assert_close(model.get_weights(), state.weights[: state.num_plain[0]], 0.0)
        assert_close(model.optimizer.variables, state.optimizer[: state.num_plain[1]], 1e-7)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
        model.fit(X, Y, batch_size=8, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)


def test_an_exported_model_has_the_members_values_not_the_states():
    """A child's state holds its parent's learning rate until the child has trained."""
    population, _ = trained(rich)
    executor = population.executor
    values = {"popdescent/learning_rate": 0.125, "popdescent/l2": 0.5}
    executor.apply([Offspring(0, (0,), values)])
    model = executor.export(values, executor.capture(0))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.125)
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(0.5)
    assert type(model.layers[0].kernel_regularizer.l2) is float


def test_a_state_as_arrays_is_exported_too():
    """What was kept or read from a file."""
    population, model = trained(rich)
    state = population.executor.capture(0)
    arrays = MemberState(
        tuple(np.asarray(t) for t in state.weights),
        tuple(np.asarray(t) for t in state.optimizer),
        state.num_plain,
    )
    again = population.executor.export(population.best_values(), arrays)
    assert again is not model
    assert_close(again.get_weights(), model.get_weights(), 0.0)
    assert_close(again.optimizer.variables, model.optimizer.variables, 0.0)


def test_the_sequential_executor_exports_after_it_was_closed_with_no_member_lost():
    population, model = trained(rich)
    assert isinstance(population.executor, SequentialExecutor)
    population.executor.close()
    assert_close(population.best_model().get_weights(), model.get_weights(), 0.0)


@pytest.mark.backend
@pytest.mark.parametrize("trainable", [True, False])
def test_layers_that_builds_share_hold_the_weights_of_the_best(trainable):
    shared = layers.Dense(6, "tanh", trainable=trainable, name="shared")
    population = Population(
        ModelBlueprint(lambda: network(shared), ("learning_rate",)), size=3, seed=0
    )
    history = population.fit(X, Y, validation_data=(X, Y), batch_size=8, iterations=3,
                             batches_per_iteration=4, verbose=0)  # fmt: skip
    if trainable:
        with pytest.warns(UserWarning, match="share trainable weights"):
            models = population.models()
    else:
        models = population.models()
    scores = [model.evaluate(X, Y, verbose=0) for model in models]
    last = sorted(member.score for member in history.iterations()[-1].members)
    assert scores[0] == pytest.approx(last[0], rel=1e-4)
    assert (scores == pytest.approx(last, rel=1e-4)) is not trainable
    # The members themselves have weights of their own, and go on from them.
    more = population.fit(X, Y, validation_data=(X, Y), batch_size=8, iterations=4,
                          batches_per_iteration=4, verbose=0)  # fmt: skip
    assert min(member.score for member in more.iterations()[-1].members) < last[0] * 1.2
