"""Laws on moving averages of weights."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np

from keras_popdescent.population.executor import Executor
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.testing.executors.comparing import Arrays, assert_close, own_weights
from keras_popdescent.testing.executors.setting import (
    FIRST_VALUES,
    MOMENTUM,
    STEPS,
    ExecutorSetting,
    make_data,
)


class Averages(ExecutorSetting):
    """Laws on moving averages of weights."""

    def test_members_are_scored_and_exported_with_the_averages_of_their_weights(self) -> None:
        """The average moves once an iteration that is scored; training never sees it."""
        executor, plain = self.started(ema_momentum=MOMENTUM), self.started()
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        path = []
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS - 1)
            plain.advance([0, 1, 2], STEPS - 1)
            path.append([own_weights(plain.capture(slot)) for slot in range(3)])
        for each in (executor, plain):
            # Not scored, so not averaged.
            each.advance([0, 1, 2], 1, score=False)
        x, y = make_data()["validation_data"]
        reports = executor.advance([0, 1, 2], STEPS)
        plain.advance([0, 1, 2], STEPS)
        for slot, report in enumerate(reports):
            state, last = executor.capture(slot), own_weights(plain.capture(slot))
            assert_close(own_weights(state), last, 10.0 * self.tolerance)
            model = executor.export(FIRST_VALUES[slot], state)
            mean = [(a + b) / 2.0 for a, b in zip(path[0][slot], path[1][slot], strict=True)]
            expected = [(a + b) / 2.0 for a, b in zip(mean, last, strict=True)]
            assert_close(model.get_weights(), expected, 10.0 * self.tolerance)
            error = np.mean(np.square(model.predict(x, verbose=0) - y))
            np.testing.assert_allclose(report.score, error, rtol=1e-4)

    def test_averages_can_begin_anew(self) -> None:
        """Until they are moved, and right after the next move, the weights count as they are."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        executor.advance([0, 1], STEPS)
        executor.begin_averages([1])
        for steps in (0, STEPS):
            if steps:
                executor.advance([0, 1], steps)
            state = executor.capture(1)
            model = executor.export(FIRST_VALUES[1], state)
            assert_close(model.get_weights(), own_weights(state), self.tolerance)
        other = executor.capture(0)
        averaged = executor.export(FIRST_VALUES[0], other).get_weights()
        assert np.any(averaged[0] != own_weights(other)[0])

    def test_the_averages_of_a_child_go_on_from_its_parents(self) -> None:
        """Whatever its optimizer does; of several parents', the mean, where weights are trained."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS)
        first, second = (self._averages(executor, slot) for slot in (0, 1))
        values = dict(FIRST_VALUES[0])
        executor.apply([Offspring(2, (0,), values, optimizer_state="fresh")])
        assert_close(self._averages(executor, 2), first, self.tolerance)
        executor.apply([Offspring(2, (0, 1), values)])
        for index, array in enumerate(self._averages(executor, 2)):
            mean = (first[index] + second[index]) / 2.0
            expected = first[index] if index in (4, 5) else mean
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)

    def test_averages_are_a_part_of_the_state(self) -> None:
        """A snapshot has them, and so has what is revived."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS)
        state, averages = executor.capture(0), self._averages(executor, 0)
        snapshot = executor.snapshot()
        executor.advance([0, 1, 2], STEPS)
        if executor.focuses:
            executor.revive(Offspring(1, (), dict(FIRST_VALUES[0])), state)
            assert_close(self._averages(executor, 1), averages, self.tolerance)
        executor.restore(snapshot)
        assert_close(self._averages(executor, 0), averages, self.tolerance)

    def test_a_visitor_that_changes_weights_begins_their_average_anew(self) -> None:
        """One that only looks does not."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1], STEPS)
        before = self._averages(executor, 0)
        executor.visit(0, lambda model: None)
        assert_close(self._averages(executor, 0), before, self.tolerance)
        zeros = np.zeros(before[0].shape)
        executor.visit(1, lambda model: model.trainable_variables[0].assign(zeros))
        assert_close(self._averages(executor, 1), own_weights(executor.capture(1)), self.tolerance)

    def _averages(self, executor: Executor, slot: int) -> Arrays:
        """Return what a member's exported model has for weights."""
        return list(executor.export(FIRST_VALUES[0], executor.capture(slot)).get_weights())
