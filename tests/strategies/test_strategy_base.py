"""The policies that all strategies share, and what a strategy is shown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.operators import NoiseSpec
from keras_popdescent.strategies import Offspring, PopulationView, ScoringPlan, SearchSpace
from keras_popdescent.testing import FixedStrategy, mixed_space

NAN = float("nan")
CHILDREN = (Offspring(2, (0,), {}), Offspring(1, (0,), {}))


def view(scores, num_elites=1, **attributes):
    defaults = {"iteration": 1, "num_iterations": 10, "space": SearchSpace()}
    return PopulationView(
        np.array(scores), [{}] * len(scores), num_elites=num_elites, **{**defaults, **attributes}
    )


@pytest.mark.parametrize(
    ("scores", "num_elites", "expected"),
    [
        ([1.0, 2.0, 3.0], 2, 1),
        ([1.0, 2.0, 3.0], 3, 0),
        ([1.0, 2.0, 3.0], 0, 3),
        ([1.0, NAN, 3.0], 3, 1),
        ([1.0, NAN, NAN], 2, 2),
        ([1.0, NAN, 3.0], 1, 2),
    ],
)
def test_num_replaced(scores, num_elites, expected):
    assert view(scores, num_elites).num_replaced == expected


def test_the_view_computes_fitness_in_the_users_direction():
    np.testing.assert_allclose(view([2.0, 0.0]).fitness, [0.5, 1.0])
    np.testing.assert_allclose(view([0.25, 0.75], direction="max").fitness, [0.25, 0.75])


def test_the_view_is_frozen():
    with pytest.raises(FrozenInstanceError):
        view([1.0]).iteration = 2


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, [2, 1]),
        ({"births_left": None}, [2, 1]),
        ({"births_left": 2}, [2, 1]),
        ({"births_left": 1}, [2]),
        ({"births_left": 0}, []),
        ({"num_iterations": 2}, [2, 1]),
        ({"num_iterations": 1}, []),
    ],
)
def test_shared_policies(attributes, expected):
    shown = view([0.1, 0.2, 0.3], **attributes)
    offspring = FixedStrategy({1: CHILDREN}).evolve(shown, np.random.default_rng(0))
    assert [child.slot for child in offspring] == expected


@pytest.mark.parametrize(("scores", "num_children"), [([NAN, NAN], 0), ([NAN, 5.0], 2)])
def test_without_a_finite_member_nobody_is_replaced(scores, num_children):
    offspring = FixedStrategy({1: CHILDREN}).evolve(view(scores), np.random.default_rng(0))
    assert len(offspring) == num_children


def test_a_strategy_starts_with_what_the_space_has():
    class Scaled(FixedStrategy):
        multipliers = ("loss_scale",)

    first = [{"popdescent/loss_scale": 2.0}]
    rng = np.random.default_rng(0)
    assert Scaled(first=first).start(1, SearchSpace(), rng) == first
    message = r"`FixedStrategy` starts with.*There are: none.*unknown=\['popdescent/loss_scale'\]"
    with pytest.raises(ArgumentError, match=message):
        FixedStrategy(first=first).start(1, SearchSpace(), rng)


def test_first_member_has_the_defaults_and_the_others_are_drawn():
    class Common(FixedStrategy):
        def _start(self, size, space, rng):
            return super(FixedStrategy, self)._start(size, space, rng)

    first, *others = Common().start(30, mixed_space(), np.random.default_rng(0))
    assert first == mixed_space().defaults()
    assert len({member["units"] for member in others}) > 5
    assert {member["learning_rate"] for member in others} == {1e-3}


def test_a_strategy_without_state_takes_its_own_state_back():
    strategy = FixedStrategy()
    strategy.set_state(strategy.get_state())
    assert strategy.get_state() == {}
    assert strategy.get_config() == {"class": "FixedStrategy"}


def test_the_fixed_strategy_notes_what_it_is_shown():
    space = mixed_space()
    strategy = FixedStrategy(first=[{**space.defaults(), "units": 24}])
    first, second = strategy.start(2, space, np.random.default_rng(0))
    assert first == {**space.defaults(), "units": 24}
    assert second == space.defaults()
    shown = view([1.0])
    strategy.evolve(shown, np.random.default_rng(0))
    assert strategy.views == [shown]


def test_a_part_of_the_whole_is_refused():
    with pytest.raises(ArgumentError, match=r"size of a random part.*'common'.*num_samples=8"):
        ScoringPlan(num_samples=8)
    assert ScoringPlan("common", 8).num_samples == 8
    assert ScoringPlan("own").num_samples is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoiseSpec("gausian", 0.1, 1),
        lambda: NoiseSpec("gaussian", -0.1, 1),
        lambda: NoiseSpec("gaussian", float("nan"), 1),
        lambda: Offspring(0, (0,), {}, optimizer_state="fresh_slot"),
    ],
)
def test_records_of_an_own_strategy_are_checked(make):
    with pytest.raises(ArgumentError, match="must be"):
        make()
