"""Each law of the shipped suite catches the strategy that breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from keras_popdescent.operators import NO_NOISE, NoiseSpec, weakest
from keras_popdescent.strategies import Offspring, PopDescent, Strategy, UnitMutation
from keras_popdescent.testing import StrategyConformance


class Lawful(PopDescent):
    """Keeps all laws; the default's least width moves the children of perfect parents, too."""

    def __init__(self):
        super().__init__(UnitMutation(0.5))


class Unruly(Lawful):
    """Decides in `evolve`, past the policies that all strategies share."""

    def evolve(self, view, rng):
        return self._evolve(view, rng) if view.fitness.any() else []


class IgnoresTheLastIteration(Unruly):
    def evolve(self, view, rng):
        return super().evolve(view, rng)[: view.births_left]


class IgnoresTheBirthsLeft(Unruly):
    def evolve(self, view, rng):
        return super().evolve(view, rng) if view.iteration < view.num_iterations else []


class CopiesDivergedMembers(Strategy):
    def evolve(self, view, rng):
        return [Offspring(0, (1,), dict(view.values[1]))]

    def _evolve(self, view, rng):
        raise NotImplementedError


class Changed(Lawful):
    """Changes each child that PopDescent decides on."""

    def _evolve(self, view, rng):
        return [self._change(child, view) for child in super()._evolve(view, rng)]

    def _change(self, child, view):
        raise NotImplementedError


class SlotOutOfRange(Changed):
    def _change(self, child, view):
        return replace(child, slot=child.slot + view.size)


class NamesASlotTwice(Lawful):
    def _evolve(self, view, rng):
        return super()._evolve(view, rng) * 2


class WithoutParents(Changed):
    def _change(self, child, view):
        return replace(child, parents=())


class ReplacesTheStrongest(Changed):
    def _change(self, child, view):
        ranked = weakest(view.costs, view.size)
        return replace(child, slot=ranked[::-1][ranked.index(child.slot)])


class NonFiniteParents(Changed):
    def _change(self, child, view):
        return replace(child, parents=(int(np.argmin(view.fitness)),))


class WeakestLast(Lawful):
    def _evolve(self, view, rng):
        return super()._evolve(view, rng)[::-1]


class KeepsDivergedElites(Lawful):
    def _evolve(self, view, rng):
        return super()._evolve(view, rng)[: view.size - view.num_elites]


class ReplacesTheLastSlots(Changed):
    def _change(self, child, view):
        ranked = weakest(view.costs, view.size)
        return replace(child, slot=view.size - 1 - ranked.index(child.slot))


class PrefersSlotZero(Changed):
    def _change(self, child, view):
        return replace(child, parents=(0,))


class OffTheGrid(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "batch_size": 17})


class OutOfBounds(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "learning_rate": 1.0})


class NoSuchChoice(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "activation": "linear"})


class ForgetsAValue(Changed):
    def _change(self, child, view):
        return replace(child, values={k: v for k, v in child.values.items() if k != "momentum"})


class ChangesTheStructure(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "units": 8})


class FixedStrength(Changed):
    def _change(self, child, view):
        return replace(child, strength=0.5)


class NoiseAtStrengthZero(Changed):
    def _change(self, child, view):
        return replace(child, weight_noise=replace(child.weight_noise, sd=0.01))


class MutatesAtStrengthZero(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "learning_rate": 2e-3})


class ReplacesTheOnlyMember(Changed):
    def evolve(self, view, rng):
        return [Offspring(0, (0,), dict(view.values[0]))] if view.size == 1 else []


class SameNoiseForAll(Changed):
    def _change(self, child, view):
        return replace(child, weight_noise=NoiseSpec("gaussian", 0.1, seed=1))


class NumPySlots(Changed):
    def _change(self, child, view):
        return replace(child, slot=np.int64(child.slot))


class NumPyValues(Changed):
    def _change(self, child, view):
        return replace(child, values={**child.values, "learning_rate": np.float64(1e-3)})


@dataclass
class Thawed:
    slot: int
    parents: tuple
    values: dict
    weight_noise: NoiseSpec = NO_NOISE
    strength: float = 0.0


class RecordsThatChange(Changed):
    def _change(self, child, view):
        return Thawed(child.slot, child.parents, child.values)


class ChangesTheView(Lawful):
    def _evolve(self, view, rng):
        offspring = super()._evolve(view, rng)
        view.values[0]["learning_rate"] = 0.05
        return offspring


class ItsOwnRandomness(Lawful):
    def _evolve(self, view, rng):
        return super()._evolve(view, np.random.default_rng())

    def _start(self, size, space, rng):
        return super()._start(size, space, np.random.default_rng())


class ForgetsItsState(Changed):
    num_calls = 0

    def _evolve(self, view, rng):
        self.num_calls += 1
        return super()._evolve(view, rng)

    def _change(self, child, view):
        return replace(child, strength=float(self.num_calls))


class SavesNothingUseful(ForgetsItsState):
    def get_state(self):
        return {"calls": self.num_calls}


class StartsTooFew(Lawful):
    def _start(self, size, space, rng):
        return super()._start(size - 1, space, rng)


class StartsOutOfBounds(Lawful):
    def _start(self, size, space, rng):
        return [{**values, "momentum": 2.0} for values in super()._start(size, space, rng)]


class StartsWithoutAValue(Lawful):
    def _start(self, size, space, rng):
        return [{"learning_rate": 1e-3} for _ in range(size)]


class ConfigOfObjects(Lawful):
    def get_config(self):
        return {**super().get_config(), "mutation": self.mutation}


LAWS = [name for name in dir(StrategyConformance) if name.startswith("test_")]
# (what is wrong, the law that says so)
BROKEN = [
    (IgnoresTheLastIteration, "test_nobody_is_replaced_after_the_last_iteration"),
    (IgnoresTheBirthsLeft, "test_births_are_limited"),
    (CopiesDivergedMembers, "test_nobody_is_replaced_where_nobody_is_finite"),
    (SlotOutOfRange, "test_slots_are_in_range_and_named_once"),
    (NamesASlotTwice, "test_slots_are_in_range_and_named_once"),
    (NamesASlotTwice, "test_equal_members_are_no_special_case"),
    (WithoutParents, "test_slots_are_in_range_and_named_once"),
    (ReplacesTheStrongest, "test_elites_are_untouched"),
    (NonFiniteParents, "test_non_finite_members_are_never_parents"),
    (WeakestLast, "test_non_finite_members_are_replaced_first"),
    (KeepsDivergedElites, "test_non_finite_members_are_no_elites"),
    (ReplacesTheLastSlots, "test_permuting_members_permutes_the_replaced"),
    (PrefersSlotZero, "test_permuting_members_permutes_the_parents"),
    (OffTheGrid, "test_values_respect_the_space"),
    (OutOfBounds, "test_values_respect_the_space"),
    (NoSuchChoice, "test_values_respect_the_space"),
    (ForgetsAValue, "test_values_respect_the_space"),
    (PopDescent.paper, "test_values_respect_the_space"),
    (ChangesTheStructure, "test_structural_values_are_the_parents"),
    (FixedStrength, "test_strength_is_the_parents_shortfall"),
    (NoiseAtStrengthZero, "test_strength_0_is_the_identity"),
    (MutatesAtStrengthZero, "test_strength_0_is_the_identity"),
    (ReplacesTheOnlyMember, "test_population_of_one"),
    (SameNoiseForAll, "test_weight_noise_can_be_drawn"),
    (NumPySlots, "test_records_are_frozen_and_json_able"),
    (NumPyValues, "test_records_are_frozen_and_json_able"),
    (RecordsThatChange, "test_records_are_frozen_and_json_able"),
    (ChangesTheView, "test_the_view_is_left_as_it_is"),
    (ItsOwnRandomness, "test_evolve_is_deterministic"),
    (ItsOwnRandomness, "test_start_is_deterministic"),
    (ForgetsItsState, "test_a_restored_state_continues_identically"),
    (SavesNothingUseful, "test_a_restored_state_continues_identically"),
    (StartsTooFew, "test_start_gives_every_member_valid_values"),
    (StartsOutOfBounds, "test_start_gives_every_member_valid_values"),
    (StartsWithoutAValue, "test_start_gives_every_member_valid_values"),
    (ConfigOfObjects, "test_config_is_json_able"),
]


def suite_of(strategy):
    suite = StrategyConformance()
    suite.make_strategy = strategy
    return suite


@pytest.mark.parametrize("law", LAWS)
def test_a_lawful_strategy_passes(law):
    getattr(suite_of(Lawful), law)()


@pytest.mark.parametrize(("strategy", "law"), BROKEN)
def test_a_broken_law_is_caught(strategy, law):
    with pytest.raises((AssertionError, TypeError)):
        getattr(suite_of(strategy), law)()


def test_every_law_can_fail():
    assert {law for _, law in BROKEN} == set(LAWS)


def test_another_strength_is_no_breach_where_it_is_said():
    suite = suite_of(FixedStrength)
    suite.strength_is_shortfall = False
    suite.test_strength_is_the_parents_shortfall()
    suite.test_strength_0_is_the_identity()


def test_the_suite_asks_for_a_strategy():
    with pytest.raises(NotImplementedError, match="make_strategy"):
        StrategyConformance().test_evolve_is_deterministic()
