"""The laws that every strategy keeps, as tests: a new strategy is checked by the same ones.

Subclass `StrategyConformance` in a test module; pytest finds the laws by themselves:

    class TestMyStrategy(StrategyConformance):
        def make_strategy(self):
            return MyStrategy()

With `pytest.register_assert_rewrite("keras_popdescent.testing.strategies")` in a `conftest.py`, a
law that is broken shows the values in question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any
from unittest import SkipTest

import numpy as np

from keras_popdescent.operators.fitness import Direction
from keras_popdescent.strategies.base import Offspring, PopulationView, Strategy
from keras_popdescent.strategies.space import SearchSpace, Values
from keras_popdescent.testing.spaces import is_valid, mixed_space, spread_values

NAN, INF = float("nan"), float("inf")
# Losses that differ in every slot, in no order.
SCORES = (0.9, 0.2, 4.0, 1.5, 0.05, 0.6)
# Repetitions where a law is about what may be drawn.
NUM_SEEDS = 20


class StrategyConformance:
    """The laws of strategies; a subclass says which strategy.

    Attributes:
        bounded: Whether mutated values keep the bounds of the search space. False exempts
            dimensions without a natural upper end (`Dimension.unbounded`), which then need only be
            positive and finite.
        strength_is_shortfall: Whether the strength of a mutation is 1 - fitness(parent).
        strength_0_is_identity: Whether a perfect parent is copied as it is. False for strategies
            that mutate whatever the fitness.
    """

    bounded: bool = True
    strength_is_shortfall: bool = True
    strength_0_is_identity: bool = True

    def make_strategy(self) -> Strategy:
        """Return a new strategy, always the same."""
        raise NotImplementedError("Override `make_strategy`.")

    def make_space(self) -> SearchSpace:
        """Return the search space to test on."""
        return mixed_space()

    def make_view(
        self, strategy: Strategy, scores: Sequence[float] = SCORES, **changes: Any
    ) -> PopulationView:
        """Return what the strategy is shown: members whose values all differ, halfway a search.

        Args:
            strategy: The strategy; values beyond the space's are those it starts with.
            scores: One score a member.
            **changes: Other attributes of the view.
        """
        space, size = self.make_space(), len(scores)
        own = strategy.start(size, space, np.random.default_rng(0))
        spread = spread_values(space, size)
        view = PopulationView(
            scores=np.array(scores, dtype=np.float64),
            values=[{**first, **second} for first, second in zip(own, spread, strict=True)],
            iteration=3,
            num_iterations=10,
            num_elites=3,
            space=space,
        )
        return replace(view, **changes)

    def _litters(
        self, scores: Sequence[float] = SCORES, **changes: Any
    ) -> Iterator[tuple[PopulationView, list[Offspring]]]:
        """Yield the view and the offspring for a number of seeds."""
        for seed in range(NUM_SEEDS):
            strategy = self.make_strategy()
            view = self.make_view(strategy, scores, **changes)
            yield view, strategy.evolve(view, np.random.default_rng(seed))

    def test_start_gives_every_member_valid_values(self) -> None:
        """One dict a slot; every dimension of the space has a value that it allows."""
        space = self.make_space()
        first = self.make_strategy().start(5, space, np.random.default_rng(0))
        assert len(first) == 5
        for values in first:
            assert set(space.names()) <= set(values)
            assert all(is_valid(dimension, values[dimension.name]) for dimension in space)
            _assert_json_able(values)

    def test_start_is_deterministic(self) -> None:
        """Equal randomness, equal members."""
        first, second = (
            self.make_strategy().start(5, self.make_space(), np.random.default_rng(7))
            for _ in range(2)
        )
        assert first == second

    def test_evolve_is_deterministic(self) -> None:
        """Equal randomness, equal decisions."""
        strategies = [self.make_strategy() for _ in range(2)]
        first, second = (
            strategy.evolve(self.make_view(strategy), np.random.default_rng(7))
            for strategy in strategies
        )
        assert first == second

    def test_the_view_is_left_as_it_is(self) -> None:
        """A strategy reads its view; scores and values are the population's."""
        strategy = self.make_strategy()
        view, untouched = self.make_view(strategy), self.make_view(strategy)
        strategy.evolve(view, np.random.default_rng(0))
        assert list(view.values) == list(untouched.values)
        np.testing.assert_array_equal(view.scores, untouched.scores)
        np.testing.assert_array_equal(view.fitness, untouched.fitness)

    def test_slots_are_in_range_and_named_once(self) -> None:
        """A slot is replaced at most once, by parents that exist."""
        for num_elites in range(len(SCORES) + 1):
            for view, offspring in self._litters(num_elites=num_elites):
                slots = [child.slot for child in offspring]
                assert len(set(slots)) == len(slots)
                assert all(0 <= slot < view.size for slot in slots)
                for child in offspring:
                    assert child.parents
                    assert all(0 <= parent < view.size for parent in child.parents)

    def test_equal_members_are_no_special_case(self) -> None:
        """With equal scores, at most size - num_elites different slots are named."""
        for _, offspring in self._litters((0.5,) * 6, num_elites=4):
            slots = {child.slot for child in offspring}
            assert len(slots) == len(offspring) <= 2

    def test_elites_are_untouched(self) -> None:
        """The fittest `num_elites` members are not replaced, whichever direction is better."""
        directions: tuple[tuple[Direction, Sequence[float]], ...] = (
            ("min", SCORES),
            ("max", [1.0 - score / 10.0 for score in SCORES]),
            ("max", [100.0 - score for score in SCORES]),
        )
        ranked = sorted(range(len(SCORES)), key=lambda slot: SCORES[slot])
        for direction, scores in directions:
            for num_elites in range(len(SCORES) + 1):
                for _, offspring in self._litters(
                    scores, num_elites=num_elites, direction=direction
                ):
                    named = {child.slot for child in offspring}
                    assert not named & set(ranked[:num_elites])

    def test_non_finite_members_are_never_parents(self) -> None:
        """A diverged member's weights are not worth copying."""
        scores = (NAN, 0.2, INF, 1.5, -INF, 0.6)
        for _, offspring in self._litters(scores, num_elites=1):
            assert not {0, 2, 4} & {parent for child in offspring for parent in child.parents}

    def test_non_finite_members_are_replaced_first(self) -> None:
        """Where births run out, the diverged members have been replaced before any other."""
        scores = (0.9, NAN, 4.0, INF, 0.05, 0.6)
        for births_left in (1, 2, 3):
            for _, offspring in self._litters(scores, num_elites=3, births_left=births_left):
                slots = [child.slot for child in offspring]
                assert set(slots[:2]) <= {1, 3}
                assert min(births_left, 2) <= len(slots) <= births_left

    def test_non_finite_members_are_no_elites(self) -> None:
        """All diverged members are replaced, even where that is more than size - num_elites."""
        scores = (NAN, 0.2, NAN, INF, 0.05, NAN)
        for _, offspring in self._litters(scores, num_elites=6):
            assert {child.slot for child in offspring} == {0, 2, 3, 5}

    def test_nobody_is_replaced_where_nobody_is_finite(self) -> None:
        """Without a finite member there is nothing to copy."""
        for _, offspring in self._litters((NAN, INF, -INF), num_elites=1):
            assert offspring == []

    def test_nobody_is_replaced_after_the_last_iteration(self) -> None:
        """A child of the last iteration could neither train nor be scored, save one tried out."""
        if self.make_strategy().tries_candidates:
            raise SkipTest("This strategy tries children out: `tries_candidates` is True.")
        for iteration in (10, 11):
            for _, offspring in self._litters(iteration=iteration, num_iterations=10):
                assert offspring == []

    def test_births_are_limited(self) -> None:
        """No more members are born than may be."""
        for births_left in (0, 1, 2):
            for _, offspring in self._litters(num_elites=1, births_left=births_left):
                assert len(offspring) <= births_left

    def test_permuting_members_permutes_the_replaced(self) -> None:
        """Who is replaced depends on scores, not on slots."""
        order = [3, 0, 5, 1, 4, 2]
        permuted = [SCORES[slot] for slot in order]
        for num_elites in (1, 3, 5):
            plain = self._litters(num_elites=num_elites)
            moved = self._litters(permuted, num_elites=num_elites)
            for (_, first), (_, second) in zip(plain, moved, strict=True):
                named = {order[child.slot] for child in second}
                assert named == {child.slot for child in first}

    def test_permuting_members_permutes_the_parents(self) -> None:
        """Who is a parent how often depends on scores, not on slots."""
        order = [3, 0, 5, 1, 4, 2]
        plain = self._parent_shares(SCORES)
        moved = self._parent_shares([SCORES[slot] for slot in order])
        # Two samples of 1,500 parents: the difference of two shares has a spread below 0.02.
        np.testing.assert_allclose([moved[order.index(slot)] for slot in range(6)], plain, atol=0.1)

    def _parent_shares(self, scores: Sequence[float]) -> list[float]:
        strategy = self.make_strategy()
        view, rng = self.make_view(strategy, scores, num_elites=1), np.random.default_rng(1)
        counts = Counter(
            parent
            for _ in range(300)
            for child in strategy.evolve(view, rng)
            for parent in child.parents
        )
        return [counts[slot] / max(counts.total(), 1) for slot in range(len(scores))]

    def test_values_respect_the_space(self) -> None:
        """Children have every value that their parents have, within bounds, steps and choices."""
        for view, offspring in self._litters((9.0, 9.5, 30.0, 8.0, 12.0, 20.0), num_elites=0):
            for child in offspring:
                assert set(child.values) == set(view.values[child.parents[0]])
                for dimension in view.space:
                    value = child.values[dimension.name]
                    if dimension.unbounded and not self.bounded:
                        assert 0.0 < float(value) < INF
                    else:
                        assert is_valid(dimension, value), dimension.name

    def test_structural_values_are_the_parents(self) -> None:
        """A child's weights come from its first parent, and so do the values that shape them."""
        for view, offspring in self._litters(num_elites=0):
            for child in offspring:
                parent = view.values[child.parents[0]]
                for name in view.space.names("structural"):
                    assert child.values[name] == parent[name]

    def test_strength_is_the_parents_shortfall(self) -> None:
        """Strength = 1 - fitness(parent)."""
        if not self.strength_is_shortfall:
            raise SkipTest("This strategy has another strength.")
        for view, offspring in self._litters(num_elites=0):
            for child in offspring:
                shortfall = 1.0 - view.fitness[child.parents[0]]
                np.testing.assert_allclose(child.strength, shortfall, rtol=1e-12)

    def test_strength_0_is_the_identity(self) -> None:
        """A parent of loss 0 has fitness 1: its children are copies, in values and in weights."""
        if not (self.strength_is_shortfall and self.strength_0_is_identity):
            raise SkipTest("This strategy mutates at any strength.")
        for view, offspring in self._litters((0.0,) * 6, num_elites=0):
            for child in offspring:
                assert child.values == view.values[child.parents[0]]
                assert child.weight_noise.is_zero

    def test_population_of_one(self) -> None:
        """The only member is its own elite; without elites it can at most follow itself."""
        for _, offspring in self._litters((0.5,), num_elites=1):
            assert offspring == []
        for _, offspring in self._litters((0.5,), num_elites=0):
            assert [(child.slot, child.parents) for child in offspring] in ([], [(0, (0,))])

    def test_a_restored_state_continues_identically(self) -> None:
        """What `get_state` returns, through JSON, is all that a resumed search needs."""
        first, second = self.make_strategy(), self.make_strategy()
        for iteration in (1, 2, 3):
            view = self.make_view(first, iteration=iteration)
            first.evolve(view, np.random.default_rng(iteration))
        second.set_state(json.loads(json.dumps(first.get_state())))
        for iteration in (4, 5, 6):
            view = self.make_view(first, iteration=iteration)
            outcomes = [
                strategy.evolve(view, np.random.default_rng(iteration))
                for strategy in (first, second)
            ]
            assert outcomes[0] == outcomes[1]
        assert first.get_state() == second.get_state()

    def test_records_are_frozen_and_json_able(self) -> None:
        """Decisions can be logged and replayed: plain Python values, which nobody changes."""
        for _, offspring in self._litters(num_elites=1):
            for child in offspring:
                _assert_frozen(child, "slot")
                _assert_frozen(child.weight_noise, "sd")
                _assert_json_able({**asdict(child), "parents": list(child.parents)})

    def test_weight_noise_can_be_drawn(self) -> None:
        """A seed of each child's own, that generators take."""
        for _, offspring in self._litters(num_elites=1):
            seeds = [child.weight_noise.seed for child in offspring if child.weight_noise.sd > 0.0]
            assert all(0 <= seed < 2**31 for seed in seeds)
            assert len(set(seeds)) == len(seeds)

    def test_config_is_json_able(self) -> None:
        """The description that is recorded with a search."""
        config = self.make_strategy().get_config()
        assert config["class"] == type(self.make_strategy()).__name__
        _assert_json_able(config)


def _assert_frozen(record: Any, name: str) -> None:
    try:
        setattr(record, name, getattr(record, name))
    except FrozenInstanceError:
        return
    raise AssertionError(f"{type(record).__name__} can be changed.")


def _assert_json_able(data: Values | dict[str, Any]) -> None:
    """NumPy's numbers, tuples and the like would come back as something else, or not at all."""
    returned = json.loads(json.dumps(data))
    assert returned == data
    assert _types(returned) == _types(data)


def _types(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _types(value) for name, value in data.items()}
    return [_types(item) for item in data] if isinstance(data, list) else type(data)
