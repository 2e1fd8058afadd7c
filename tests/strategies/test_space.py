from __future__ import annotations

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.strategies import LinearDimension, LogDimension, SearchSpace
from keras_popdescent.testing import ChoiceDimension, GridDimension
from keras_popdescent.testing.spaces import is_valid, mixed_space, spread_values

RATE = LogDimension("learning_rate", 1e-4, 1e-1, 1e-3)


@pytest.mark.parametrize(
    ("value", "position"), [(1e-4, 0.0), (1e-3, 1 / 3), (10**-2.5, 0.5), (1e-1, 1.0)]
)
def test_log_dimension_by_hand(value, position):
    assert RATE.to_unit(value) == pytest.approx(position, abs=1e-12)
    assert RATE.from_unit(position) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("value", "position"), [(1e-9, 0.0), (5.0, 1.0)])
def test_log_dimension_takes_values_beyond_its_bounds(value, position):
    assert RATE.to_unit(value) == position


@pytest.mark.parametrize(("position", "value"), [(-0.5, 1e-4), (1.5, 1e-1)])
def test_log_dimension_keeps_its_bounds(position, value):
    assert RATE.from_unit(position) == value


@pytest.mark.parametrize(
    ("value", "position"), [(0.5, 0.0), (0.6, 0.25), (0.7, 0.5), (0.9, 1.0), (0.1, 0.0), (2.0, 1.0)]
)
def test_linear_dimension_by_hand(value, position):
    dimension = LinearDimension("momentum", 0.5, 0.9, 0.8)
    assert dimension.to_unit(value) == pytest.approx(position)
    assert dimension.from_unit(position) == pytest.approx(min(max(value, 0.5), 0.9))
    assert dimension.initial(np.random.default_rng(0)) == dimension.default == 0.8
    assert not dimension.unbounded


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (-0.42, 0.026), (-1e-3, 1e3), (0.1, 0.3)])
@pytest.mark.parametrize("position", [-0.5, 0.0, 1.0, 1.5])
def test_linear_dimension_keeps_its_bounds(low, high, position):
    assert low <= LinearDimension("x", low, high, low).from_unit(position) <= high


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0)])
def test_linear_bounds_that_are_no_interval(low, high):
    with pytest.raises(ArgumentError, match=r"Expected low < high\. Received: low="):
        LinearDimension("x", low, high, 1.0)


def test_log_dimension_starts_from_the_models_own_value():
    assert RATE.initial(np.random.default_rng(0)) == 1e-3
    assert RATE.default == 1e-3


def test_samples_are_uniform_in_the_unit_interval():
    rng = np.random.default_rng(0)
    positions = [RATE.to_unit(RATE.sample(rng)) for _ in range(2000)]
    quarters = np.histogram(positions, bins=4, range=(0.0, 1.0))[0] / 2000
    np.testing.assert_allclose(quarters, 0.25, atol=0.05)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_are_no_interval(low, high):
    with pytest.raises(ArgumentError, match=r"0 < low < high.*Received: low="):
        LogDimension("rate", low, high, 0.5)


def test_space_by_name_and_kind():
    space = mixed_space()
    assert len(space) == 5
    assert [dimension.name for dimension in space] == space.names()
    assert space.names("live") == ["learning_rate", "momentum", "batch_size"]
    assert space.names("rebuild", "structural") == ["activation", "units"]
    assert "units" in space and "layers" not in space
    assert space["units"].kind == "structural"
    assert space.defaults() == {
        "learning_rate": 1e-3, "momentum": 0.1, "batch_size": 16, "activation": "relu", "units": 8,
    }  # fmt: skip


def test_initial_values_are_the_dimensions_own():
    drawn = [mixed_space().initial(np.random.default_rng(seed)) for seed in range(30)]
    assert {values["learning_rate"] for values in drawn} == {1e-3}
    assert {values["activation"] for values in drawn} == {"relu", "tanh", "gelu", "elu"}


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (GridDimension("units", 8, 64, 8), 8, [64]),
        (GridDimension("units", 8, 64, 8), 32, [8, 64]),
        (ChoiceDimension("activation", ("relu", "tanh")), "relu", ["tanh"]),
        (ChoiceDimension("activation", ("relu", "tanh", "gelu")), "tanh", ["relu", "gelu"]),
    ],
)
def test_values_to_try_beside_one(dimension, value, expected):
    assert dimension.probes_beside(value) == expected


def test_two_dimensions_of_one_name():
    with pytest.raises(ArgumentError, match="same name"):
        SearchSpace([RATE, GridDimension("learning_rate", 1, 2)])


@pytest.mark.parametrize("dimension", list(mixed_space()))
def test_doubles_return_from_the_unit_interval(dimension):
    for position in np.linspace(0.0, 1.0, 41):
        value = dimension.from_unit(float(position))
        assert is_valid(dimension, value)
        assert 0.0 <= dimension.to_unit(value) <= 1.0


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        (GridDimension("units", 8, 64, 8), 12),
        (GridDimension("units", 8, 64, 8), 72),
        (GridDimension("units", 8, 64, 8), 0),
        (ChoiceDimension("activation", ("relu", "tanh")), "gelu"),
        (RATE, 0.2),
        (RATE, 9e-5),
    ],
)
def test_what_is_not_valid(dimension, value):
    assert not is_valid(dimension, value)


def test_spread_values_differ_in_every_dimension():
    values = spread_values(mixed_space(), 4)
    for name in mixed_space().names():
        assert len({member[name] for member in values}) == 4
