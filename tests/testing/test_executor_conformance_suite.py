"""The suite for executors can fail: each broken executor breaks the law that is about it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.population.state import with_averages
from keras_popdescent.testing.executors import ExecutorConformance


class OneByOne(SequentialExecutor):
    """Replaces one member after the other, so that a parent may be a child already."""

    def apply(self, offspring):
        for child in offspring:
            super().apply([child])


class NoValues(SequentialExecutor):
    """Children keep what is in their parent's state: its learning rate."""

    def apply(self, offspring):
        super().apply(offspring)
        self._newborn.clear()


class Penalised(SequentialExecutor):
    """Scores members by a loss that has their own penalty in it."""

    def _score(self, slot, stage):
        neutral, stage.live.neutral = stage.live.neutral, nullcontext
        try:
            return super()._score(slot, stage)
        finally:
            stage.live.neutral = neutral


class Forgetful(SequentialExecutor):
    """Restores members to where they were, and the data to its beginning."""

    def restore(self, snapshot):
        stream = self._setup.data.training.get_state()
        super().restore({**snapshot, "training": stream})


class Shifted(SequentialExecutor):
    """Trains on one batch less than it was told."""

    def advance(self, slots, num_batches, **arguments):
        return super().advance(slots, num_batches - 1, **arguments)


class Unaveraged(SequentialExecutor):
    """Knows nothing of averages."""

    def start(self, setup):
        super().start(replace(setup, ema_momentum=None))


class Unforgetting(SequentialExecutor):
    """Averages go on, come what may."""

    def begin_averages(self, slots):
        pass

    def visit(self, slot, action):
        before = self.capture(slot)
        super().visit(slot, action)
        if before.num_averages:
            self._states[slot] = with_averages(self.capture(slot), before.averages)


class Orphans(SequentialExecutor):
    """A child's average begins with its first iteration."""

    def apply(self, offspring):
        super().apply(offspring)
        self.begin_averages([child.slot for child in offspring])


class Shared(SequentialExecutor):
    """Hands out the model that all members train in."""

    def export(self, values, state):
        self.visit(1, lambda model: setattr(self, "model", model))
        return self.model


BROKEN = {
    OneByOne: {"test_parents_are_read_before_anything_is_written": False},
    NoValues: {"test_a_child_trains_with_its_own_values": False},
    Penalised: {"test_members_are_compared_by_their_fit_alone": False},
    Forgetful: {"test_a_snapshot_can_be_gone_back_to": False},
    Shifted: {
        "test_one_member_trains_as_plain_keras_does": False,
        "test_reports_are_in_the_order_of_the_slots": False,
    },
    Unaveraged: {
        "test_members_are_scored_and_exported_with_the_averages_of_their_weights": False,
        "test_averages_can_begin_anew": False,
    },
    Unforgetting: {
        "test_averages_can_begin_anew": False,
        "test_a_visitor_that_changes_weights_begins_their_average_anew": False,
    },
    Orphans: {"test_the_averages_of_a_child_go_on_from_its_parents": False},
    Shared: {"test_an_exported_model_is_plain_and_independent": False},
}


@pytest.mark.parametrize("executor", BROKEN, ids=lambda executor: executor.__name__)
def test_an_executor_breaks_the_laws_that_are_about_it(executor):
    suite = type("Suite", (ExecutorConformance,), {"make_executor": lambda self: executor()})()
    kept = {}
    for law in BROKEN[executor]:
        try:
            getattr(suite, law)()
        except AssertionError:
            kept[law] = False
        else:
            kept[law] = True
    assert kept == BROKEN[executor]
