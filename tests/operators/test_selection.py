from __future__ import annotations

import numpy as np
import pytest

from keras_popdescent.operators import choose_parents, weakest


@pytest.mark.parametrize(
    ("costs", "count", "expected"),
    [
        ([0.1, 0.9, 0.5], 2, [1, 2]),
        ([0.1, 0.9, 0.5], 3, [1, 2, 0]),
        ([0.1, 0.9, 0.5], 0, []),
        # Of two that are equal, the higher slot is the weaker one.
        ([0.5, 0.5, 0.5, 0.1], 2, [2, 1]),
        ([3.0, np.inf, 3.0, np.inf], 3, [3, 1, 2]),
        ([-1.0, -2.0], 1, [0]),
        ([1.0], 1, [0]),
    ],
)
def test_weakest(costs, count, expected):
    assert weakest(np.array(costs), count) == expected


def test_parents_are_drawn_with_probability_fitness_over_sum():
    fitness = np.array([1.0, 0.5, 0.25, 0.0, 0.25])
    drawn = choose_parents(fitness, 20_000, np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    # The largest standard deviation of a share is 0.0035.
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.125, 0.0, 0.125], atol=0.015)
    assert shares[3] == 0.0


def test_draws_are_with_replacement():
    assert len(choose_parents(np.array([0.2, 0.4]), 5, np.random.default_rng(0))) == 5


def test_parents_are_plain_integers():
    assert [type(p) for p in choose_parents(np.ones(3), 2, np.random.default_rng(0))] == [int, int]


def test_no_parents_asked_for():
    assert choose_parents(np.array([0.2, 0.4]), 0, np.random.default_rng(0)) == []


def test_only_one_candidate():
    drawn = choose_parents(np.array([0.0, 1e-12, 0.0]), 4, np.random.default_rng(0))
    assert drawn == [1, 1, 1, 1]
