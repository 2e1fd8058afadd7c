"""Every strategy, and every preset of one, passes the shipped suite."""

from __future__ import annotations

from keras_popdescent.strategies import ESGD, PopDescent, UnitMutation
from keras_popdescent.testing import StrategyConformance


class TestPopDescent(StrategyConformance):
    strength_0_is_identity = False

    def make_strategy(self):
        return PopDescent()


class TestPopDescentNarrow(StrategyConformance):
    def make_strategy(self):
        return PopDescent(UnitMutation(width=0.1), noise_kind="gaussian", optimizer_state="fresh")


class TestPopDescentPaper(StrategyConformance):
    bounded = False

    def make_strategy(self):
        return PopDescent.paper()


class TestPopDescentReference(StrategyConformance):
    def make_strategy(self):
        return PopDescent.reference()


class TestESGD(StrategyConformance):
    strength_is_shortfall = False

    def make_strategy(self):
        return ESGD()
