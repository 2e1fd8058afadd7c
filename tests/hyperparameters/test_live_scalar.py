"""A `LiveScalar` stands for a number: arithmetic, conversion, truth, precision."""

from __future__ import annotations

import operator

import keras
import numpy as np
import pytest

from keras_popdescent.hyperparameters import LiveScalar

pytestmark = pytest.mark.backend

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


def live(value: float = 0.5) -> LiveScalar:
    return LiveScalar(keras.Variable(value, dtype="float32", name="rate"))


def number(tensor) -> float:
    return float(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("compute", OPERATORS, ids=lambda compute: compute.__name__)
@pytest.mark.parametrize("other", [2.0, 3])
def test_arithmetic_with_numbers_is_that_of_the_value(compute, other):
    assert number(compute(live(), other)) == pytest.approx(compute(0.5, other))
    assert number(compute(other, live())) == pytest.approx(compute(other, 0.5))


@pytest.mark.parametrize("compute", OPERATORS, ids=lambda compute: compute.__name__)
def test_arithmetic_with_tensors_is_that_of_the_value(compute):
    tensor = keras.ops.convert_to_tensor([2.0, 3.0])
    for result, expected in (
        (compute(live(), tensor), compute(0.5, np.array([2.0, 3.0]))),
        (compute(tensor, live()), compute(np.array([2.0, 3.0]), 0.5)),
    ):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(result), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_it_takes_the_precision_of_the_other_operand(dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is switched on.")
    tensor = keras.ops.cast(keras.ops.convert_to_tensor([2.0]), dtype)
    for compute in OPERATORS:
        assert keras.backend.standardize_dtype(compute(live(), tensor).dtype) == dtype


def test_negative():
    assert number(-live()) == -0.5


def test_it_follows_its_variable():
    scalar = live()
    scalar.variable.assign(0.25)
    assert scalar.read() == float(scalar) == 0.25
    assert number(scalar * 4.0) == 1.0
    assert number(scalar.tensor()) == 0.25
    np.testing.assert_array_equal(np.asarray(scalar), np.float32(0.25))


def test_keras_takes_it_as_an_operand():
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.multiply(keras.ops.ones(3), live())), 0.5
    )
    assert number(keras.ops.cast(live(), "float32")) == 0.5
    assert number(keras.ops.maximum(0.1, live())) == 0.5


def test_it_is_a_scalar_of_its_variables_dtype():
    assert live().shape == () and live().ndim == 0
    assert live().dtype == "float32"
    assert "rate" in repr(live())


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_truth_and_comparison_keep_the_branch_of_a_number_above_0(value):
    """Keras leaves out what a number of 0 has no use for; the branch must be there for later."""
    scalar = live(value)
    assert scalar and scalar != 0 and scalar > 0 and scalar >= 0
    assert not scalar == 0 and not scalar < 0 and not scalar <= 0
    assert scalar == scalar
    assert len({scalar, scalar, live(value)}) == 2
