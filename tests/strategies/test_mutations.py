"""The three ways to mutate, by hand under draws that are given, and by their statistics."""

from __future__ import annotations

from math import log2, log10

import numpy as np
import pytest

from keras_popdescent.strategies import (
    LogDimension,
    LogNormalMutation,
    ReferenceMutation,
    SearchSpace,
    UnitMutation,
)
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE
from keras_popdescent.testing import ChoiceDimension, GridDimension, ScriptedGenerator, mixed_space

RATE = LogDimension("learning_rate", 1e-4, 1e-1, 1e-3)
MOMENTUM = LogDimension("momentum", 0.01, 1.0, 0.1, unbounded=False)
BATCH = GridDimension("batch_size", 16, 64, 16)  # shares end at 0.25, 0.5, 0.75
ACTIVATION = ChoiceDimension("activation", ("relu", "tanh", "gelu", "elu"))
UNITS = GridDimension("units", 8, 128, 8, kind="structural")


def mutated(mutation, dimension, value, strength, **draws):
    """Mutate a single value; all draws of the script must be used."""
    rng = ScriptedGenerator(**draws)
    space = SearchSpace([dimension])
    result = mutation.mutate({dimension.name: value}, strength, space, rng)
    assert not any(rng.remaining.values())
    return result[dimension.name]


@pytest.mark.parametrize(
    ("dimension", "value", "strength", "draw", "expected"),
    [
        # u = 1/3, moved by 0.2 * 1: 1e-4 * 1000 ** (1/3 + 0.2)
        (RATE, 1e-3, 0.2, 1.0, 10 ** (-4 + 3 * (1 / 3 + 0.2))),
        (RATE, 1e-3, 0.2, -1.0, 10 ** (-4 + 3 * (1 / 3 - 0.2))),
        # Reflected at both ends.
        (RATE, 1e-1, 0.1, 1.0, 10 ** (-4 + 3 * 0.9)),
        (RATE, 1e-4, 0.1, -2.0, 10 ** (-4 + 3 * 0.2)),
        (RATE, 1e-3, 0.0, 5.0, 1e-3),
        # The middle of the share of 32 is 0.375.
        (BATCH, 32, 0.1, 1.0, 32),
        (BATCH, 32, 0.1, 1.3, 48),
        (BATCH, 16, 0.5, -1.5, 48),  # 0.125 - 0.75, reflected
        (BATCH, 64, 1.0, -0.7, 16),
    ],
)
def test_unit_mutation_of_numbers(dimension, value, strength, draw, expected):
    result = mutated(
        UnitMutation(), dimension, value, strength, standard_normal=[draw], random=[0.5]
    )
    assert result == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("strength", "moved"), [(0.0, 0.1), (0.1, 0.1), (0.5, 0.25)])
def test_no_child_moves_less_than_the_least(strength, moved):
    rule = UnitMutation(0.5, least=0.1)
    result = mutated(rule, RATE, 1e-3, strength, standard_normal=[1.0], random=[0.5])
    assert result == pytest.approx(10 ** (-4 + 3 * (1 / 3 + moved)), rel=1e-9)


def test_the_width_scales_the_strength():
    result = mutated(UnitMutation(0.5), RATE, 1e-3, 0.4, standard_normal=[1.0], random=[0.5])
    assert result == pytest.approx(10 ** (-4 + 3 * (1 / 3 + 0.2)), rel=1e-9)


@pytest.mark.parametrize(
    ("strength", "chance", "integers", "expected"),
    [
        (0.3, 0.29, [2], "gelu"),
        (0.3, 0.30, [], "tanh"),
        (0.0, 0.0, [], "tanh"),
        (1.0, 0.999, [3], "elu"),
        (0.3, 0.0, [1], "tanh"),  # drawn anew, and the same again
    ],
)
def test_unit_mutation_of_choices(strength, chance, integers, expected):
    result = mutated(
        UnitMutation(), ACTIVATION, "tanh", strength,
        standard_normal=[9.0], random=[chance], integers=integers,
    )  # fmt: skip
    assert result == expected


@pytest.mark.parametrize("mutation", [UnitMutation(), LogNormalMutation()])
def test_structural_values_are_not_even_drawn_for(mutation):
    assert mutated(mutation, UNITS, 24, 1.0) == 24


def test_unit_mutation_has_the_given_spread():
    rng, space = np.random.default_rng(0), SearchSpace([RATE])
    moved = [
        UnitMutation(2.0).mutate({"learning_rate": 10**-2.5}, 0.05, space, rng)["learning_rate"]
        for _ in range(2000)
    ]
    positions = np.array([RATE.to_unit(value) for value in moved])
    # Far from the ends; standard errors 0.0022 and 0.0016.
    assert positions.mean() == pytest.approx(0.5, abs=0.01)
    assert positions.std() == pytest.approx(0.1, abs=0.008)


def test_choices_are_drawn_anew_with_probability_strength():
    rng, space = np.random.default_rng(0), SearchSpace([ACTIVATION])
    drawn = [
        UnitMutation().mutate({"activation": "tanh"}, 0.4, space, rng)["activation"]
        for _ in range(3000)
    ]
    # 0.6 stay, and a quarter of the 0.4 are drawn the same.
    assert drawn.count("tanh") / 3000 == pytest.approx(0.7, abs=0.04)
    assert drawn.count("elu") / 3000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("beta_2", "strength", "draw", "factor"),
    [
        (1.0, 0.5, 1.0, 10**0.5),
        (1.0, 1.0, -2.0, 0.01),
        (2.0, 0.25, 4.0, 100.0),
        (None, 0.2, 1.0, 8.0),  # 15 octaves by default
    ],
)
def test_log_normal_mutation_is_in_decades(beta_2, strength, draw, factor):
    mutation = LogNormalMutation() if beta_2 is None else LogNormalMutation(beta_2)
    # Its unit move is drawn first and overwritten.
    result = mutated(mutation, RATE, 1e-3, strength, standard_normal=[0.0, draw], random=[0.5])
    assert result == pytest.approx(1e-3 * factor, rel=1e-9)


def test_log_normal_mutation_leaves_the_bounds_of_scales():
    result = mutated(
        LogNormalMutation(1.0), RATE, 1e-1, 1.0, standard_normal=[0.0, 3.0], random=[0.5]
    )
    assert result == pytest.approx(100.0)


def test_log_normal_mutation_moves_the_rest_in_the_unit_interval():
    result = mutated(
        LogNormalMutation(1.0), MOMENTUM, 0.1, 0.25, standard_normal=[1.0], random=[0.5]
    )
    assert result == pytest.approx(10 ** (-2 + 2 * 0.75))


def test_log_normal_default_is_the_authors_input_factor():
    assert LogNormalMutation().beta_2 * log2(10.0) == pytest.approx(15.0)
    assert LogNormalMutation().beta_2 == pytest.approx(15.0 * log10(2.0))


def test_reference_mutation_by_hand():
    values = {**mixed_space().defaults(), LOSS_SCALE: 1e-4, L2_SCALE: 3.0}
    rng = ScriptedGenerator(standard_normal=[1.0, -2.0])
    mutated_values = ReferenceMutation().mutate(values, 0.2, mixed_space(), rng)
    assert mutated_values == {
        **mixed_space().defaults(),
        L2_SCALE: pytest.approx(3.0 * 2**3),
        LOSS_SCALE: pytest.approx(1e-4 * 2**-6),
    }


def test_reference_mutation_takes_another_input_factor():
    rng = ScriptedGenerator(standard_normal=[1.0, 1.0])
    values = {LOSS_SCALE: 1.0, L2_SCALE: 1.0}
    assert ReferenceMutation(4.0).mutate(values, 0.5, SearchSpace(), rng) == {
        LOSS_SCALE: 4.0,
        L2_SCALE: 4.0,
    }


def test_reference_start_by_hand():
    rng = ScriptedGenerator(standard_normal=[0.5, -1.0, 0.0, 2.0])
    first, second = ReferenceMutation().start(2, SearchSpace([UNITS]), rng)
    assert first == {"units": 8, LOSS_SCALE: pytest.approx(1e-3), L2_SCALE: pytest.approx(1e-2)}
    assert second == {"units": 8, LOSS_SCALE: pytest.approx(1e-4), L2_SCALE: pytest.approx(1e4)}


def test_reference_start_distribution():
    members = ReferenceMutation().start(3000, SearchSpace(), np.random.default_rng(0))
    loss, penalty = (np.log10([m[name] for m in members]) for name in (LOSS_SCALE, L2_SCALE))
    # Standard errors: 0.037 of a mean, 0.026 of a spread, 0.018 of the correlation.
    assert (loss.mean(), penalty.mean()) == pytest.approx((-4.0, 0.0), abs=0.15)
    assert (loss.std(), penalty.std()) == pytest.approx((2.0, 2.0), abs=0.1)
    assert np.corrcoef(loss, penalty)[0, 1] == pytest.approx(0.0, abs=0.08)
