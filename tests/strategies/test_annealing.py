"""The factor on the learning rates: its shape, its bounds, and which presets have one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.strategies import Annealing, PopDescent


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 1.0), (0.25, 0.5 + math.sqrt(0.5) / 2), (0.5, 0.5), (1.0, 0.0), (-1.0, 1.0), (2.0, 0.0)],
)
def test_half_a_cosine(progress, factor):
    assert Annealing().factor(progress) == pytest.approx(factor, abs=1e-12)


def test_it_stays_at_one_until_it_begins_and_ends_at_the_floor():
    annealing = Annealing(floor=0.2, begin=0.5)
    assert [annealing.factor(u) for u in (0.0, 0.3, 0.5)] == [1.0, 1.0, 1.0]
    assert annealing.factor(0.75) == pytest.approx(0.6)
    assert annealing.factor(1.0) == pytest.approx(0.2)


def test_it_never_rises():
    factors = [Annealing(0.05, 0.3).factor(u) for u in np.linspace(0.0, 1.0, 101)]
    assert all(later <= earlier for earlier, later in zip(factors, factors[1:], strict=False))


@pytest.mark.parametrize(
    "arguments",
    [{"floor": -0.1}, {"floor": 1.1}, {"begin": 1.0}, {"begin": -1.0}, {"floor": math.nan}],
)
def test_what_is_no_annealing_is_refused(arguments):
    with pytest.raises(ArgumentError, match="Received"):
        Annealing(**arguments)


def test_what_is_something_else_is_refused():
    with pytest.raises(ArgumentError, match="annealing"):
        PopDescent(annealing=0.5)


def test_the_presets_have_none():
    assert PopDescent().annealing is None
    assert PopDescent.paper().annealing is None
    assert PopDescent.reference().annealing is None


def test_it_is_in_the_record_of_a_search():
    config = json.loads(json.dumps(PopDescent(annealing=Annealing(0.1, 0.5)).get_config()))
    assert config["annealing"] == {"floor": 0.1, "begin": 0.5}
    assert PopDescent(annealing=None).get_config()["annealing"] is None
