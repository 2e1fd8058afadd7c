"""Laws on training and scoring: as `fit` does it, and each member for itself."""

from __future__ import annotations

import numpy as np

from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import TrainingPlan
from keras_popdescent.strategies.space import Values
from keras_popdescent.testing.executors.comparing import (
    assert_close,
    assert_close_numbers,
    assert_same,
    own_weights,
)
from keras_popdescent.testing.executors.setting import (
    BATCH_SIZE,
    DROPOUT,
    FIRST_VALUES,
    NUM_SAMPLES,
    RATE,
    STEPS,
    ExecutorSetting,
    build_model,
    make_data,
)


class Training(ExecutorSetting):
    """Laws on training and scoring: as `fit` does it, and each member for itself."""

    def test_one_member_trains_as_plain_keras_does(self) -> None:
        """Steps of `train_on_batch` on the same batches, over the end of an epoch."""
        executor = self.started(shuffle=False)
        model = self.plain(executor.capture(1), FIRST_VALUES[1])
        for _ in range(2):
            executor.advance([1], STEPS - 1)
        data = make_data()
        for step in range(2 * (STEPS - 1)):
            begin = step % STEPS * BATCH_SIZE
            rows = slice(begin, min(begin + BATCH_SIZE, NUM_SAMPLES))
            model.train_on_batch(data["x"][rows], data["y"][rows])
        assert_close(own_weights(executor.capture(1)), model.get_weights(), self.tolerance)

    def test_members_do_not_disturb_each_other(self) -> None:
        """Alone, together, in any order: a member's results are its own."""
        together = self.started().advance([0, 1, 2], STEPS)
        executor = self.started()
        alone = [executor.advance([slot], STEPS)[0] for slot in (2, 0, 1)]
        by_slot = {report.slot: report for report in alone}
        for report in together:
            assert_close_numbers(by_slot[report.slot].logs, report.logs, self.tolerance)

    def test_those_that_are_not_named_stay_as_they_are(self) -> None:
        """Bit for bit."""
        executor = self.started()
        before = executor.capture(1)
        executor.advance([0, 2], STEPS)
        assert_same(executor.capture(1), before)

    def test_reports_are_in_the_order_of_the_slots(self) -> None:
        """One for each slot, with its gradient steps, its score and what the model reports."""
        executor = self.started()
        reports = executor.advance([2, 0], STEPS)
        assert [report.slot for report in reports] == [2, 0]
        for report in reports:
            assert report.gradient_steps == STEPS
            assert set(report.logs) == {"loss", "mae", "val_loss", "val_mae"}
            assert report.score == report.logs["val_loss"]
            assert report.seconds >= 0.0

    def test_without_scoring_there_is_no_score(self) -> None:
        """Training alone reports the training quantities."""
        (report,) = self.started().advance([0], STEPS, score=False)
        assert np.isnan(report.score)
        assert set(report.logs) == {"loss", "mae"}

    def test_scoring_changes_nothing(self) -> None:
        """Members that were scored go on as those that were not."""
        states = []
        for score in (True, False):
            executor = self.started()
            executor.advance([0, 1], 2, score=score)
            executor.advance([0, 1], 2, score=True)
            states.append(executor.capture(0))
        assert_same(*states)

    def test_members_are_compared_by_their_fit_alone(self) -> None:
        """The validation loss has no penalty in it, else a small L2 would win by itself."""
        executor = self.started()
        x, y = make_data()["validation_data"]
        for report in executor.advance([0, 1, 2], STEPS):
            values = FIRST_VALUES[report.slot]
            model = executor.export(values, executor.capture(report.slot))
            error = np.mean(np.square(model.predict(x, verbose=0) - y))
            np.testing.assert_allclose(report.score, error, rtol=1e-4)
            np.testing.assert_allclose(report.logs["val_loss"], error, rtol=1e-4)

    def test_common_batches_are_common(self) -> None:
        """Members with equal values, weights and seeds of dropout would be equal."""
        values = [{**FIRST_VALUES[0], DROPOUT: 0.0}] * 2
        weights = build_model().get_weights()
        common = TrainingPlan("common")
        executor = self.start(values=values, initial_weights=weights, training=common)
        executor.advance([0, 1], STEPS)
        first, second = (own_weights(executor.capture(slot)) for slot in (0, 1))
        assert_close(first, second, self.tolerance)

    def test_own_batches_are_each_members_own(self) -> None:
        """Two copies of one member, without dropout, go different ways."""
        executor = self.started()
        values: Values = {**FIRST_VALUES[0], DROPOUT: 0.0}
        executor.apply([Offspring(slot, (0,), values) for slot in (0, 1)])
        executor.advance([0, 1], STEPS)
        assert np.any(own_weights(executor.capture(0))[0] != own_weights(executor.capture(1))[0])

    def test_a_batch_size_can_be_asked_for(self) -> None:
        """An epoch in one batch is one step on all samples, in whatever order."""
        executor = self.started()
        values: Values = {**FIRST_VALUES[0], DROPOUT: 0.0}
        executor.apply([Offspring(0, (0,), values)])
        model = self.plain(executor.capture(0), values)
        executor.advance([0], 1, batch_size=NUM_SAMPLES)
        data = make_data()
        model.train_on_batch(data["x"], data["y"])
        assert_close(own_weights(executor.capture(0)), model.get_weights(), 10.0 * self.tolerance)

    def test_a_diverged_member_has_no_finite_score_and_disturbs_nobody(self) -> None:
        """Its score is NaN or infinite; the others go on as without it."""
        executor = self.started()
        executor.apply([Offspring(1, (1,), {**FIRST_VALUES[1], RATE: 1e30})])
        reports = executor.advance([0, 1, 2], STEPS)
        assert not np.isfinite(reports[1].score)
        expected = self.started().advance([0, 1, 2], STEPS)
        for slot in (0, 2):
            assert_close_numbers(reports[slot].logs, expected[slot].logs, self.tolerance)
