"""Members that diverge, and global generators: what must never leak into a search or out of it."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest

from keras_popdescent.errors import DivergedError
from keras_popdescent.population import Observer, Population
from keras_popdescent.population.state import MemberState, is_finite
from keras_popdescent.strategies import PopDescent

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
@pytest.mark.parametrize("objective", ["val_loss", "val_accuracy", "loss", "accuracy"])
@pytest.mark.parametrize(
    "change",
    [set_factor(np.nan), set_factor(np.inf), set_kernel(np.nan), set_kernel(-np.inf)],
    ids=["nan state", "inf state", "nan weight", "inf weight"],
)
def test_a_diverged_member_is_replaced_and_never_copied(objective, change):
    injects = Injects([0, 2], {2}, change)
    population = Population.from_model(build, 4, 2, objective=objective, seed=0)
    history = fit(population, observers=[injects])
    assert len(injects.hurt) == 2
    third = history.iterations()[2]
    scores = {member.member_id: (member.score, member.fitness) for member in third.members}
    for member_id in injects.hurt:
        assert np.isnan(scores[member_id][0]) and scores[member_id][1] == 0.0
        assert member_id in {birth.replaced for birth in third.births}
        assert not any(member_id in birth.parents for birth in third.births)
    assert history.num_diverged == 2
    assert history.best()[0] not in injects.hurt
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
