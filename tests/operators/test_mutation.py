from __future__ import annotations

import numpy as np
import pytest

from keras_popdescent.operators.mutation import log_normal, reflect
from keras_popdescent.testing import ScriptedGenerator

FLOAT32 = np.finfo(np.float32)


@pytest.mark.parametrize(
    ("value", "sd_octaves", "draw", "expected"),
    [
        (0.001, 15.0, 0.2, 0.008),  # 2 ** 3
        (0.001, 15.0, -0.2, 0.000125),
        (-3.0, 2.0, 0.5, -6.0),
        (0.5, 0.0, 3.0, 0.5),
        (0.0, 15.0, 1.0, 0.0),
        # One standard deviation of one decade is a factor of ten.
        (0.2, float(np.log2(10.0)), 1.0, 2.0),
        # Kept within float32's normal numbers.
        (1.0, 100.0, 2.0, float(FLOAT32.max)),
        (1.0, 100.0, -2.0, float(FLOAT32.tiny)),
        (-1.0, 1e6, 1.0, float(FLOAT32.min)),
    ],
)
def test_log_normal_by_hand(value, sd_octaves, draw, expected):
    mutated = log_normal(value, sd_octaves, ScriptedGenerator(standard_normal=[draw]))
    assert mutated == pytest.approx(expected, rel=1e-12, abs=0.0)


def test_log_normal_has_the_given_spread_in_octaves():
    rng = np.random.default_rng(0)
    octaves = np.log2([log_normal(1e-3, 1.67, rng) / 1e-3 for _ in range(4000)])
    # Standard errors: 0.026 of the mean, 0.019 of the spread.
    assert octaves.mean() == pytest.approx(0.0, abs=0.11)
    assert octaves.std() == pytest.approx(1.67, abs=0.08)


@pytest.mark.parametrize("value", [1e-30, 3e-4, 1.0, 7e20, -0.1])
def test_log_normal_of_spread_0_is_the_identity(value):
    assert log_normal(value, 0.0, np.random.default_rng(0)) == value


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (1.2, 0.8), (-0.2, 0.2), (2.0, 0.0), (2.4, 0.4),
        (-1.0, 1.0), (-1.7, 0.3), (3.5, 0.5), (-2.1, 0.1),
    ],
)  # fmt: skip
def test_reflect(position, expected):
    assert reflect(position) == pytest.approx(expected, abs=1e-12)
