"""A member's state: captured, restored, inherited."""

from __future__ import annotations

from contextlib import contextmanager

import keras
import numpy as np
import pytest

from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.operators import NO_NOISE, NoiseSpec
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.state import capture, inherit, restore, to_numpy

pytestmark = pytest.mark.backend

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")
MUTATE = ("learning_rate", "l2", "4:Dropout.rate")
VALUES = {"popdescent/learning_rate": 0.01, "popdescent/l2": 0.1, "4:Dropout.rate": 0.5}


def build(optimizer=None, jit_compile=False, dropout=True):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(40, "tanh", kernel_regularizer=keras.regularizers.L2(0.1)),
            layers.BatchNormalization(),
            *([layers.Dropout(0.5)] if dropout else []),
            layers.Dense(2),
        ]
    )
    optimizer = keras.optimizers.Adam(0.01) if optimizer is None else optimizer
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def make_live(mutate=MUTATE, **arguments):
    blueprint = ModelBlueprint(lambda: build(**arguments), mutate)
    return LiveModel(blueprint, {}, 0, (X, Y))


@pytest.fixture(scope="module")
def live():
    """Shared: a test that changes it restores it."""
    return make_live()


@pytest.fixture(scope="module")
def stepper(live):
    return make_stepper(live.model)


@contextmanager
def swapped_in(live, state):
    """Put a state into a live model for the length of a block, then what was there before."""
    before = capture(live)
    restore(live, state)
    yield
    restore(live, before)


@pytest.fixture(autouse=True)
def _same_start(live):
    with swapped_in(live, capture(live)):
        yield


def copied(state):
    return to_numpy(state)


def assert_equal(first, second):
    for a, b in zip(
        (*first.weights, *first.optimizer), (*second.weights, *second.optimizer), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def differ(first, second):
    pairs = zip(first, second, strict=True)
    return [bool(np.any(np.asarray(a) != np.asarray(b))) for a, b in pairs]


def train(stepper, steps=3):
    for _ in range(steps):
        stepper.train_batch((X, Y))


def child_of(live, *parents, optimizer="inherit", seed=9, noise=NO_NOISE, fresh=None):
    fresh = capture(live) if fresh is None else fresh
    return inherit(parents, live, optimizer=optimizer, fresh=fresh, seed=seed, noise=noise)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_captured_state_does_not_change_when_training_goes_on(jit_compile):
    """No tensor is copied when it is captured; TensorFlow must copy on write, with XLA too."""
    live = make_live(jit_compile=jit_compile)
    stepper = make_stepper(live.model)
    train(stepper, 1)
    state = capture(live)
    held = copied(state)
    arrays = stepper.load((X, Y))
    stepper.train_indices(arrays, [np.arange(16, dtype=np.int32).reshape(4, 4)])
    train(stepper)
    assert_equal(copied(state), held)
    moved = copied(capture(live))
    changed = differ(moved.weights, held.weights)
    # On PyTorch a dropout without a seed leaves its generator alone.
    seeds = () if keras.backend.backend() == "torch" else live.seed_indices
    assert all(changed[i] for i in (*live.trainable_indices, *seeds))
    restore(live, state)
    assert_equal(copied(capture(live)), held)


def test_training_goes_on_from_a_restored_state_as_if_nothing_had_been(live, stepper):
    train(stepper)
    state = capture(live)
    train(stepper)
    first = copied(capture(live))
    restore(live, state)
    train(stepper)
    assert_equal(copied(capture(live)), first)


def test_two_members_in_turns_are_two_models(live, stepper):
    start = capture(live)
    states, expected = [], []
    for seed in (1, 2):
        member = child_of(live, start, seed=seed)
        restore(live, member)
        train(stepper, 4)
        expected.append(copied(capture(live)))
        states.append(member)
    for _ in range(4):
        for slot in (0, 1):
            restore(live, states[slot])
            train(stepper, 1)
            states[slot] = capture(live)
    for state, other in zip(states, expected, strict=True):
        assert_equal(copied(state), other)
    assert any(differ(expected[0].weights, expected[1].weights))


def test_a_copy_differs_in_its_seeds_only(live, stepper):
    train(stepper)
    parent = capture(live)
    child = child_of(live, parent)
    changed = differ(child.weights, parent.weights)
    assert [i for i, is_changed in enumerate(changed) if is_changed] == live.seed_indices
    assert not any(differ(child.optimizer, parent.optimizer))
    assert child.num_plain == parent.num_plain


def masks(live, state):
    """Which of the units the dropout layer keeps."""
    layer = live.model.get_layer(index=2)
    with swapped_in(live, state):
        return np.asarray(keras.ops.convert_to_numpy(layer(keras.ops.ones((8, 40)), training=True)))


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="a dropout without a seed draws elsewhere there"
)
def test_a_child_has_masks_of_its_own(live, stepper):
    train(stepper)
    parent = capture(live)
    first, second, third = (child_of(live, parent, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(masks(live, parent), masks(live, parent))
    np.testing.assert_array_equal(masks(live, first), masks(live, second))
    for one, other in ((first, parent), (third, parent), (first, third)):
        assert np.any(masks(live, one) != masks(live, other))


def test_values_are_written_after_the_copy(live, stepper):
    """The optimizer's state holds the parent's learning rate; the child reads its own."""
    live.write_values({**VALUES, "popdescent/learning_rate": 0.5})
    train(stepper)
    parent = capture(live)
    restore(live, child_of(live, parent))
    assert live.read_values(list(VALUES))["popdescent/learning_rate"] == 0.5
    own = {"popdescent/learning_rate": 0.125, "popdescent/l2": 0.25, "4:Dropout.rate": 0.75}
    live.write_values(own)
    assert live.read_values(list(own)) == own
    child = capture(live)
    restore(live, parent)
    assert live.read_values(list(VALUES))["popdescent/learning_rate"] == 0.5
    slots = [i for i in range(live.num_plain[1]) if np.ndim(np.asarray(child.optimizer[i]))]
    assert len(slots) == 12  # two moments of six weights
    assert not any(
        differ([child.optimizer[i] for i in slots], [parent.optimizer[i] for i in slots])
    )


def test_what_the_optimizer_starts_with(live, stepper):
    fresh = capture(live)
    train(stepper)
    parent = capture(live)
    (counter,) = live.step_counter_indices
    assert int(np.asarray(parent.optimizer[counter])) == 3
    inherited = child_of(live, parent, fresh=fresh)
    assert_equal(copied(inherited), copied(child_of(live, parent, optimizer="inherit")))
    assert not any(differ(inherited.optimizer, parent.optimizer))
    new = child_of(live, parent, optimizer="fresh", fresh=fresh)
    assert not any(differ(new.optimizer, fresh.optimizer))
    shared = child_of(live, parent, optimizer="fresh_slots", fresh=fresh)
    assert int(np.asarray(shared.optimizer[counter])) == 3
    others = [i for i in range(len(fresh.optimizer)) if i != counter]
    assert not any(
        differ([shared.optimizer[i] for i in others], [fresh.optimizer[i] for i in others])
    )


def test_slots_of_another_class_of_optimizer_are_not_taken_over():
    """Momentum and RMSprop have slots of the same shapes, which mean something else."""
    sgd = make_live(mutate=(), optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    rms = make_live(mutate=(), optimizer=keras.optimizers.RMSprop(0.01))
    train(make_stepper(sgd.model))
    parent, fresh = capture(sgd), capture(rms)
    child = child_of(rms, parent, fresh=fresh)
    assert not any(differ(child.optimizer, fresh.optimizer))
    kept = range(len(parent.weights) - 1)
    assert not any(differ([child.weights[i] for i in kept], [parent.weights[i] for i in kept]))


def test_a_child_of_another_structure_with_the_same_weights():
    """A layer of dropout more: its seed and its rate are the child's, the rest is the parent's."""
    without = make_live(("learning_rate", "l2"), dropout=False)
    with_it = make_live()
    train(make_stepper(without.model))
    parent, fresh = capture(without), capture(with_it)
    child = child_of(with_it, parent, fresh=fresh, seed=5)
    count, slots = with_it.num_plain
    assert not any(differ(child.weights[:count], parent.weights[:count]))
    assert not any(differ(child.optimizer[:slots], parent.optimizer[:slots]))
    assert len(child.weights) == len(fresh.weights) == len(parent.weights) + 2
    restore(with_it, child)
    train(make_stepper(with_it.model))
    back = child_of(without, capture(with_it), fresh=capture(without))
    assert len(back.weights) == len(parent.weights)


def test_several_parents_are_averaged(live, stepper):
    first = capture(live)
    train(stepper)
    second = capture(live)
    child = child_of(live, first, second)
    for index in live.trainable_indices:
        mean = (np.asarray(first.weights[index]) + np.asarray(second.weights[index])) / 2.0
        np.testing.assert_allclose(np.asarray(child.weights[index]), mean, rtol=1e-6, atol=1e-7)
    others = set(range(len(first.weights))) - set(live.trainable_indices) - set(live.seed_indices)
    assert others
    for index in others:
        np.testing.assert_array_equal(
            np.asarray(child.weights[index]), np.asarray(first.weights[index])
        )
    assert not any(differ(child.optimizer, first.optimizer))


def shifts(live, parent, noise):
    """What was added to each trainable tensor."""
    child = child_of(live, parent, noise=noise)
    trainable = live.trainable_indices
    rest = set(range(len(parent.weights))) - set(trainable) - set(live.seed_indices)
    assert not any(differ([child.weights[i] for i in rest], [parent.weights[i] for i in rest]))
    return [np.asarray(child.weights[i]) - np.asarray(parent.weights[i]) for i in trainable]


@pytest.mark.parametrize(
    "noise",
    [NO_NOISE, NoiseSpec("gaussian", 0.0, 1), NoiseSpec("none", 0.5, 1), NoiseSpec("scalar", 0.0)],
)
def test_noise_of_strength_0_is_the_identity(live, noise):
    assert not any(np.any(shift) for shift in shifts(live, capture(live), noise))


def test_gaussian_noise_is_independent_for_every_weight(live):
    sd = 0.25
    kernel, bias, *_ = added = shifts(live, capture(live), NoiseSpec("gaussian", sd, 3))
    every = np.concatenate([np.ravel(shift) for shift in added])
    assert len(np.unique(every)) > 0.99 * len(every)
    # 402 weights: the mean has a spread of 0.05 sd, the standard deviation one of 0.035 sd.
    assert abs(every.mean()) < 0.2 * sd
    assert every.std() == pytest.approx(sd, rel=0.15)
    assert kernel.std() == pytest.approx(sd, rel=0.2)
    assert bias.std() == pytest.approx(sd, rel=0.5)


def test_relative_noise_is_scaled_to_the_spread_of_each_tensor(live, stepper):
    train(stepper)
    parent = capture(live)
    plain = shifts(live, parent, NoiseSpec("gaussian", 0.25, 3))
    scaled = shifts(live, parent, NoiseSpec("relative", 0.25, 3))
    weights = [np.asarray(parent.weights[i]) for i in live.trainable_indices]
    for one, other, weight in zip(scaled, plain, weights, strict=True):
        np.testing.assert_allclose(one, other * weight.std(), rtol=1e-3, atol=1e-6)


def test_scalar_noise_is_one_number_everywhere(live):
    added = shifts(live, capture(live), NoiseSpec("scalar", 0.25, 3))
    every = np.concatenate([np.ravel(shift) for shift in added])
    assert abs(every[0]) > 1e-3
    np.testing.assert_allclose(every, every[0], atol=1e-6)
    drawn = [
        np.ravel(shifts(live, capture(live), NoiseSpec("scalar", 1.0, seed))[1])[0]
        for seed in range(200)
    ]
    assert np.std(drawn) == pytest.approx(1.0, rel=0.25)
    assert abs(np.mean(drawn)) < 0.3


@pytest.mark.parametrize("kind", ["gaussian", "relative", "scalar"])
def test_noise_follows_from_its_seed(live, kind):
    parent = capture(live)
    first, second, other = (shifts(live, parent, NoiseSpec(kind, 0.25, seed)) for seed in (3, 3, 4))
    assert not any(differ(first, second))
    assert any(differ(first, other))


def test_a_state_as_arrays_is_the_same_state(live, stepper):
    train(stepper)
    state = capture(live)
    held = to_numpy(state)
    assert all(type(array) is np.ndarray for array in (*held.weights, *held.optimizer))
    train(stepper)
    restore(live, held)
    assert_equal(copied(capture(live)), held)
    assert held.num_plain == state.num_plain


def test_the_size_of_a_state():
    live = make_live(mutate=(), optimizer=keras.optimizers.SGD(0.1), dropout=False)
    floats = 6 * 40 + 40 + 4 * 40 + 40 * 2 + 2 + 1  # weights, and the learning rate
    counter = 8 if keras.backend.backend() == "tensorflow" else 4
    assert capture(live).num_bytes() == 4 * floats + counter


def test_what_a_child_draws_in_training_follows_from_its_seed(live, stepper):
    parent = capture(live)
    trained = []
    for seed in (1, 1, 2):
        restore(live, child_of(live, parent, seed=seed))
        train(stepper)
        trained.append(copied(capture(live)))
    first, second, third = trained
    assert_equal(first, second)
    assert any(differ(first.weights[: live.num_plain[0]], third.weights[: live.num_plain[0]]))
