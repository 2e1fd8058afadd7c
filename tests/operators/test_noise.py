from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from keras_popdescent.operators import NO_NOISE, NoiseSpec


@pytest.mark.parametrize(
    ("noise", "is_zero"),
    [
        (NO_NOISE, True),
        (NoiseSpec("gaussian", 0.0), True),
        (NoiseSpec("none", 0.1), True),
        (NoiseSpec("gaussian", 0.1), False),
        (NoiseSpec("relative", 1e-9), False),
        (NoiseSpec("scalar", 0.1), False),
    ],
)
def test_is_zero(noise, is_zero):
    assert noise.is_zero is is_zero


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        NO_NOISE.sd = 1.0
