from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_popdescent.operators import cost, fitness

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # 2 / (2 + loss)
        ([0.0, 2.0, 6.0], [1.0, 0.5, 0.25]),
        ([0.25, 0.3, 2.6], [2 / 2.25, 2 / 2.3, 2 / 4.6]),
        # Below zero: shifted until the lowest is 0.
        ([-4.0, -2.0, 2.0], [1.0, 0.5, 0.25]),
        # Not finite: 0, and of no influence on the others.
        ([NAN, 2.0, INF, -INF], [0.0, 0.5, 0.0, 0.0]),
        ([NAN, INF], [0.0, 0.0]),
        # Finite, however bad, is better than not finite.
        ([1e30, 0.0], [1e-12, 1.0]),
        ([3.0], [0.4]),
        # So large that 2 is lost beside them.
        ([-1e17], [1.0]),
    ],
)
def test_of_losses(scores, expected):
    np.testing.assert_allclose(fitness(np.array(scores)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # A rate is its own fitness; 0 is finite and therefore not 0.
        ([0.1, 0.9, 1.0], [0.1, 0.9, 1.0]),
        ([0.0, 0.5], [1e-12, 0.5]),
        ([NAN, 0.7], [0.0, 0.7]),
        # Anything else: 2 / (2 + shortfall from the best).
        ([10.0, 8.0, 4.0], [1.0, 0.5, 0.25]),
        ([0.5, 1.5, 1.0], [2 / 3, 1.0, 0.8]),
        ([-1.0, 0.5, -5.5], [2 / 3.5, 1.0, 0.25]),
        ([INF, 3.0, 1.0], [0.0, 1.0, 0.5]),
    ],
)
def test_of_scores_to_maximise(scores, expected):
    np.testing.assert_allclose(fitness(np.array(scores), "max"), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("score", "direction", "expected"),
    [(0.5, "min", 0.5), (0.5, "max", -0.5), (-2.0, "max", 2.0), (None, "min", INF)]
    + [(bad, direction, INF) for bad in (NAN, INF, -INF) for direction in ("min", "max")],
)
def test_cost(score, direction, expected):
    assert cost(score, direction) == expected


def test_the_scores_are_left_as_they_are():
    scores = np.array([-1.0, NAN])
    fitness(scores)
    np.testing.assert_array_equal(scores, [-1.0, NAN])


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    st.sampled_from(["min", "max"]),
)
def test_order_and_range(scores, direction):
    result = fitness(np.array(scores), direction)
    for first, one in zip(scores, result, strict=True):
        assert (one == 0.0) == (not np.isfinite(first))
        assert 0.0 <= one <= 1.0
        for second, other in zip(scores, result, strict=True):
            better = first < second if direction == "min" else first > second
            if np.isfinite(first) and np.isfinite(second) and better:
                assert one >= other
