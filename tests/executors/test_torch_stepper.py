"""What only PyTorch's stepper has to see to: what steps draw from the global generators."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.executors.stepping import make_stepper

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch only"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.normal(size=(32, 2)).astype("float32")
ROWS = np.arange(32, dtype=np.int32).reshape(4, 8)


def mlp(*middle):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), *(make() for make in middle), keras.layers.Dense(2)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def dropout():
    return keras.layers.Dropout(0.5)


def trained(model, blocks=(ROWS,), global_seed=0):
    stepper = make_stepper(model)
    arrays = stepper.load((X, Y))
    torch.manual_seed(global_seed)
    for block in blocks:
        stepper.train_indices(arrays, [block])
    return model.get_weights()


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_dropout_without_a_seed_draws_nothing_from_the_global_generator():
    dropped = trained(mlp(dropout))
    assert_same(trained(mlp(dropout), global_seed=7), dropped)
    plain = trained(mlp())
    assert any(np.any(one != other) for one, other in zip(dropped, plain, strict=True))


def test_the_global_generator_is_left_as_it_was():
    stepper = make_stepper(mlp(dropout))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    stepper.train_indices(stepper.load((X, Y)), [ROWS])
    stepper.train_batch((X[:8], Y[:8]))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_step_has_a_mask_of_its_own_however_steps_are_cut():
    whole = trained(mlp(dropout))
    assert_same(trained(mlp(dropout), [row[np.newaxis] for row in ROWS]), whole)
    same_data = np.tile(ROWS[:1], (2, 1))
    masks = []
    model = mlp(dropout)
    call = model.layers[0].call
    model.layers[0].call = lambda *a, **k: masks.append(call(*a, **k)) or masks[-1]
    trained(model, [same_data])
    first, second = (np.asarray(mask.detach()) == 0.0 for mask in masks)
    assert np.any(first != second)


def test_a_step_that_raises_leaves_the_model_as_for_scoring():
    class Raises(keras.Sequential):
        def train_step(self, data):
            raise RuntimeError("no")

    model = Raises([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    stepper = make_stepper(model)
    with pytest.raises(RuntimeError):
        stepper.train_batch((X, Y))
    assert not model.training
