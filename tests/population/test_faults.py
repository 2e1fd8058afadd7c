"""Members that diverge, and global generators: what must never leak into a search or out of it."""

from __future__ import annotations

import random
import warnings

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent.errors import DivergedError, ModelError, OutOfMemoryError
from keras_popdescent.population import Observer, Population
from keras_popdescent.population.state import MemberState, is_finite
from keras_popdescent.strategies import Offspring, PopDescent
from keras_popdescent.testing import FixedStrategy
from keras_popdescent.tuners.blueprint import TunerBlueprint

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4)).astype("float32")
Y = (X[:, :2].sum(axis=1) > 0).astype("int32")
VALIDATION = (X[60:], Y[60:])
RATE = "popdescent/learning_rate"


class Poison(keras.layers.Layer):
    """Passes on its input, times a weight that a test can set to something else."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        return x * self.factor


def build():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), Poison(), layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    return model


class Injects(Observer):
    """Changes a member's model before an iteration."""

    def __init__(self, slots, iterations, change):
        self.slots, self.iterations, self.change = slots, iterations, change
        self.hurt = []

    def search_begin(self, loop):
        self.loop = loop

    def iteration_end(self, record):
        self.wanted = record.iteration in self.iterations

    def births(self, members):
        # The last that is told: after this nothing happens until the next iteration.
        if getattr(self, "wanted", False):
            for slot in self.slots:
                self.loop.executor.visit(slot, self.change)
                self.hurt.append(self.loop.members[slot].member_id)


def fit(population, **changes):
    arguments = {
        **{"validation_data": VALIDATION, "iterations": 5, "batches_per_iteration": 3},
        **{"batch_size": 16, "verbose": 0},
        **changes,
    }
    return population.fit(X[:60], Y[:60], **arguments)


def set_factor(value):
    def change(model):
        model.layers[1].factor.assign(value)

    return change


def set_kernel(value):
    def change(model):
        kernel = np.array(keras.ops.convert_to_numpy(model.layers[2].kernel))
        kernel[1, 1] = value
        model.layers[2].kernel.assign(kernel)

    return change


@pytest.mark.backend
def test_members_that_train_together():
    """The vectorized executor looks at all of them in one call."""
    if keras.backend.backend() != "jax":
        pytest.skip("JAX only")
    injects = Injects([1], {2}, set_kernel(np.nan))
    population = Population.from_model(
        build, 4, 2, objective="val_accuracy", executor="vectorized", seed=0
    )
    third = fit(population, observers=[injects]).iterations()[2]
    assert [bool(np.isnan(member.score)) for member in third.members] == [False, True, False, False]
    assert 1 in {birth.slot for birth in third.births}


@pytest.mark.backend
@pytest.mark.parametrize("objective", ["val_loss", "val_accuracy", "loss", "accuracy"])
@pytest.mark.parametrize(
    "change",
    [set_factor(np.nan), set_factor(np.inf), set_kernel(np.nan), set_kernel(-np.inf)],
    ids=["nan state", "inf state", "nan weight", "inf weight"],
)
def test_a_diverged_member_is_replaced_and_never_copied(objective, change):
    injects = Injects([0, 2], {2}, change)
    strategy = PopDescent(focus=None)
    population = Population.from_model(build, 4, 2, objective=objective, strategy=strategy, seed=0)
    history = fit(population, observers=[injects])
    assert len(injects.hurt) == 2
    third = history.iterations()[2]
    scores = {member.member_id: (member.score, member.fitness) for member in third.members}
    for member_id in injects.hurt:
        assert np.isnan(scores[member_id][0]) and scores[member_id][1] == 0.0
        assert member_id in {birth.replaced for birth in third.births}
        assert not any(member_id in birth.parents for birth in third.births)
    assert history.num_diverged == 2
    before = set()
    if keras.backend.backend() == "torch":
        # With PyTorch's initial weights one of them was the best before.
        earlier = history.iterations()[:2]
        before = {member.member_id for record in earlier for member in record.members}
    assert history.best()[0] not in set(injects.hurt) - before
    assert np.isfinite(population.best_score())
    for model in [population.best_model(), *population.models()]:
        assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_where_all_diverge_the_error_names_their_values():
    injects = Injects([0, 1], {1, 2, 3, 4, 5}, set_factor(np.nan))
    population = Population.from_model(build, 2, 1, objective="val_accuracy", seed=0)
    message = r"No member had a finite score for 3 iterations.*Lower.*popdescent/learning_rate"
    with pytest.raises(DivergedError, match=message):
        fit(population, iterations=9, observers=[injects])
    # What was trained is still there.
    assert np.isfinite(population.best_score())
    assert all(np.isfinite(weight).all() for weight in population.best_model().get_weights())


def test_rates_that_diverge_by_themselves():
    given = [{RATE: 1e30}, {RATE: 0.05}, {RATE: 0.05}]
    population = Population.from_model(build, 3, 1, objective="val_accuracy", seed=0)
    history = fit(population, initial_hyperparameters=given)
    assert history.num_diverged >= 1
    assert all(0 not in birth.parents for birth in history.births().values())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([np.ones(3, "float32")], True),
        ([np.full(9, 3e38, "float32")] * 3, True),  # their sum is not finite
        ([np.ones(3, "float32"), np.array([1, np.nan], "float16")], False),
        ([np.array([np.inf, -np.inf])], False),
        ([np.array([7], "int32")], True),
        ([], True),
    ],
)
def test_is_finite(weights, expected):
    tensors = tuple(keras.ops.convert_to_tensor(weight) for weight in weights)
    bad = keras.ops.convert_to_tensor(np.float32(np.nan))
    # What follows the weights (seeds, live scalars) and the optimizer is not looked at.
    assert is_finite(MemberState((*tensors, bad), (bad,), (len(tensors), 1))) == expected


@pytest.mark.backend
@pytest.mark.parametrize("strategy", [PopDescent, PopDescent.reference])
def test_global_generators_are_as_they_were(strategy, tmp_path):
    """Whatever they are set to changes nothing in a search, which changes nothing in them."""
    outcomes = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what this is about
        keras.utils.set_random_seed(seed)
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        population = Population.from_model(build, 3, 1, strategy=strategy(), seed=0)
        history = fit(population, checkpoint_dir=tmp_path / str(seed))
        assert random.getstate() == before[0]
        np.testing.assert_equal(np.random.get_state(), before[1])  # noqa: NPY002
        outcomes.append([m.score for record in history for m in record.members])
        outcomes.append(population.best_model().get_weights()[0].tolist())
    assert outcomes[:2] == outcomes[2:]


# --- A build function that raises for certain values -----------------------------------------


class Unlucky(Exception):
    """What a user's build function raises."""


def structured(refused, seed=0, size=5):
    """A population over two activations and two widths, some of which cannot be built."""

    def build(hp):
        units, activation = hp.Choice("units", [2, 4, 8]), hp.Choice("act", ["tanh", "relu", "elu"])
        rate = hp.Float("lr", 1e-3, 1e-1, sampling="log")
        if refused(units, activation):
            raise Unlucky(f"{units} {activation}")
        hidden = layers.Dense(units, activation)
        model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate), loss)
        return model

    hp = keras_tuner.HyperParameters()
    hp.Choice("units", [2, 4, 8]), hp.Choice("act", ["tanh", "relu", "elu"])
    hp.Float("lr", 1e-3, 1e-1, sampling="log")
    return Population(TunerBlueprint(build, hp, PopDescent()), size, 1, seed=seed)


def test_a_build_that_raises_costs_a_member_its_new_values(tmp_path):
    """A first member gets others of the space, a child its parent's."""
    good, bad = {"units": 8, "act": "relu", "lr": 0.01}, {"units": 8, "act": "elu", "lr": 0.02}
    strategy = FixedStrategy(
        {1: [Offspring(2, (0,), bad), Offspring(0, (0,), {**good, "act": "tanh"})]},
        first=[good, bad, good],
    )
    population = structured(lambda units, act: units > 2 and act == "elu", size=3)
    assert len(population.blueprint.space) == 3  # it was classified although probes raise
    population.strategy = strategy
    with pytest.warns(UserWarning, match="raised Unlucky.*gets other values: 8 elu") as told:
        history = fit(population, checkpoint_dir=tmp_path)
    assert len([one for one in told if "Unlucky" in str(one.message)]) >= 2
    births = history.births()
    assert births[0].values == births[2].values == good
    assert births[1].values != bad
    assert [births[number].values["act"] for number in (3, 4)] == ["relu", "tanh"]
    assert births[3].values == good
    assert all(np.isfinite(m.score) for record in history for m in record.members)


def test_too_many_in_a_row_end_the_search():
    message = r"raised for 3 members in a row.*Unlucky: \d \w+.*Narrow the search space.*'units'"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        population = structured(lambda units, act: (units, act) != (2, "tanh"))
        with pytest.raises(ModelError, match=message):
            fit(population, iterations=30)


# --- Memory ----------------------------------------------------------------------------------


def test_out_of_memory_says_what_was_needed():
    tf = pytest.importorskip("tensorflow")
    population = Population.from_model(build, 4, 2, seed=0)
    inner = population.executor._advance_one
    calls = []

    def advance(*arguments):
        calls.append(arguments)
        if len(calls) > 6:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return inner(*arguments)

    population.executor._advance_one = advance
    message = (
        r"no memory left. 4 members of \S+ MB.*twice.*1 that are kept.*are \S+ MB.*"
        r"smaller population, a smaller batch size.*mixed_float16.*population_size=4"
    )
    with pytest.raises(OutOfMemoryError, match=message) as caught:
        fit(population)
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)
    # What was trained is still there.
    assert len(population.history) == 1
    assert np.isfinite(population.best_model().predict(X[:3], verbose=0)).all()


def test_other_errors_are_what_they_were():
    population = Population.from_model(build, 2, 1, seed=0)

    def advance(*arguments):
        raise Unlucky

    population.executor._advance_one = advance
    with pytest.raises(Unlucky):
        fit(population)
