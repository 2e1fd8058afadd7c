"""The laws that the issue of the core names: one trace, plain `fit` for one member, one seed."""

import random

import keras
import numpy as np
import pytest

from keras_popdescent import PopDescent, Population
from keras_popdescent.strategies import UnitMutation


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(300, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    return x, y


class Counting(keras.Sequential):
    """Counts how often its train step is traced."""

    traces = 0

    def train_step(self, *args):
        Counting.traces += 1
        return super().train_step(*args)


def build(cls=keras.Sequential, optimizer=None, batch_norm=False, dropout=0.2):
    layers = [
        keras.layers.Input((6,)),
        keras.layers.Dense(12, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-2)),
        *([keras.layers.BatchNormalization()] if batch_norm else []),
        *([keras.layers.Dropout(dropout, seed=3)] if dropout is not None else []),
        keras.layers.Dense(3),
    ]
    model = cls(layers)
    model.compile(
        optimizer or keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def dropout_path(model):
    from keras_popdescent import find_handles

    return next(path for path in find_handles(model) if path.endswith("Dropout.rate"))


@pytest.mark.backend
def test_the_train_step_is_traced_once_for_a_whole_search(data):
    x, y = data
    Counting.traces = 0
    population = Population.from_model(
        lambda: build(Counting),
        size=5,
        mutate=("learning_rate", "l2", dropout_path(build())),
        seed=0,
    )
    history = population.fit(
        x[:256], y[:256], validation_data=(x[256:], y[256:]), iterations=20,
        batches_per_iteration=4, batch_size=32, verbose=0,
    )  # fmt: skip
    if keras.backend.backend() != "torch":  # which traces nothing
        assert Counting.traces == 1
    births = history.births().values()
    for name in population.blueprint.space.names():
        assert len({birth.values[name] for birth in births}) > 15


CASES = {
    "adam": {},
    "sgd with momentum": {"optimizer": lambda: keras.optimizers.SGD(0.05, momentum=0.9)},
    "batch normalization": {"batch_norm": True},
    "no dropout": {"dropout": None},
    "a schedule": {
        "optimizer": lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)
        )
    },
}


@pytest.mark.backend
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [32, 37])
def test_population_of_one_without_mutation_equals_plain_fit(data, case, batch_size):
    # 300 samples in batches of 37: the last batch of an epoch is smaller.
    x, y = data
    options = dict(CASES[case])
    optimizer = options.pop("optimizer", lambda: keras.optimizers.Adam(1e-2))
    keras.utils.set_random_seed(1)
    model = build(optimizer=optimizer(), **options)
    population = Population.from_model(model, size=1, num_elites=1, objective="loss", seed=0)
    # The same initial weights and the same seeds of dropout as the member.
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile(
        optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )  # fmt: skip
    steps = -(-300 // batch_size)
    history = population.fit(
        x, y, batch_size=batch_size, iterations=6, batches_per_iteration=steps // 2,
        shuffle=False, verbose=0,
    )  # fmt: skip
    assert history.gradient_steps == 6 * (steps // 2)
    _copy_first_seeds(population, plain)
    batches = [
        (x[start : start + batch_size], y[start : start + batch_size])
        for start in range(0, 300, batch_size)
    ]
    for step in range(6 * (steps // 2)):
        plain.train_on_batch(*batches[step % steps])
    member = population.models()[0]
    for expected, actual in zip(plain.get_weights(), member.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def _copy_first_seeds(population, plain):
    """Give a plain model the seed states that the member had at its birth."""
    live = next(iter(population.executor._stages.values())).live
    values = [np.array(keras.ops.convert_to_numpy(live.weight_variables[i]))
              for i in live.seed_indices]  # fmt: skip
    weights = {id(variable) for variable in plain.weights}
    states = [variable for variable in plain.variables if id(variable) not in weights]
    for state, value in zip(states, values, strict=True):
        # The counter, in the second place, runs from 0.
        state.assign(np.array([value[0], 0], dtype=value.dtype))


def _numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - the global state is looked at


def lineage(history):
    return [
        (
            [(member.member_id, member.score) for member in record.members],
            [(birth.slot, birth.parents, birth.values) for birth in record.births],
        )
        for record in history
    ]


@pytest.mark.backend
def test_one_seed_one_search_and_the_globals_untouched(data):
    x, y = data
    before = random.getstate(), _numpy_state()
    searches = []
    for seed in (3, 3, 4):
        population = Population.from_model(lambda: build(), size=4, num_elites=2, seed=seed)
        history = population.fit(
            x, y, validation_split=0.2, iterations=6, batches_per_iteration=4, verbose=0
        )
        searches.append(lineage(history))
    assert searches[0] == searches[1]
    assert searches[0] != searches[2]
    assert (random.getstate(), _numpy_state()) == before


@pytest.mark.backend
def test_selection_alone_lowers_no_learning_rate(data):
    x, y = data
    strategy = PopDescent(UnitMutation(0.0))
    population = Population.from_model(build(), size=3, num_elites=1, strategy=strategy, seed=0)
    population.fit(x, y, validation_split=0.2, iterations=4, batches_per_iteration=3, verbose=0)
    for model in population.models():
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        assert rate == pytest.approx(1e-2)


@pytest.mark.backend
def test_the_models_are_independent_of_each_other_and_of_the_given_one(data):
    x, y = data
    model = build()
    weights = [weight.copy() for weight in model.get_weights()]
    population = Population.from_model(
        model, size=3, num_elites=1, seed=0, strategy=PopDescent(focus=None)
    )
    population.fit(x, y, validation_split=0.2, iterations=3, batches_per_iteration=3, verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    first, second, _ = population.models()
    held = [weight.copy() for weight in second.get_weights()]
    first.fit(x, y, epochs=1, verbose=0)
    for before, after in zip(held, second.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    # The optimizer's state came along.
    assert int(keras.ops.convert_to_numpy(second.optimizer.iterations)) == 9
