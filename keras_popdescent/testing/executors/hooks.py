"""Laws on hooks: whom they hear about, and what they can do."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_popdescent.testing.executors.comparing import assert_close_numbers, optimizer_slots
from keras_popdescent.testing.executors.setting import STEPS, ExecutorSetting


class Listening:
    """Hooks that write down what they hear."""

    def __init__(self, by_batch: set[int], stop_after: int | None = None) -> None:
        self.heard: list[str] = []
        self._by_batch = by_batch
        self._stop_after = stop_after

    def needs_batches(self, slot: int) -> bool:
        return slot in self._by_batch

    def train_begin(self, slot: int, model: keras.Model) -> None:
        self.heard.append(f"begin {slot}")

    def batch_begin(self, slot: int, model: keras.Model) -> None:
        self.heard.append(f"batch {slot}")

    def batch_end(self, slot: int, model: keras.Model, logs: Mapping[str, float]) -> None:
        assert set(logs) == {"loss", "mae"}
        self.heard.append(f"done {slot}")

    def train_end(
        self, slot: int, model: keras.Model, num_steps: int, logs: Mapping[str, float]
    ) -> None:
        assert "val_loss" in logs
        self.heard.append(f"end {slot} {num_steps}")

    def should_stop(self, slot: int) -> bool:
        return self._stop_after is not None and self.heard.count(f"done {slot}") >= self._stop_after


class Hooks(ExecutorSetting):
    """Laws on hooks: whom they hear about, and what they can do."""

    def test_hooks_are_told_about_each_member(self) -> None:
        """Begin and end, and each batch for those that need it."""
        hooks = Listening({1})
        executor = self.start(hooks=hooks)
        executor.advance([0, 1], 3)
        assert hooks.heard == [
            *("begin 0", "end 0 3"),
            *("begin 1", "batch 1", "done 1", "batch 1", "done 1", "batch 1", "done 1", "end 1 3"),
        ]

    def test_a_hook_can_end_a_members_training(self) -> None:
        """Before the next batch; the others train on."""
        hooks = Listening({0}, stop_after=2)
        executor = self.start(hooks=hooks)
        reports = executor.advance([0, 1], 5)
        assert [report.gradient_steps for report in reports] == [2, 5]
        assert int(optimizer_slots(executor.capture(0))[0]) == 2

    def test_batch_hooks_change_nothing(self) -> None:
        """Steps one by one are the steps of one call."""
        heard = self.start(hooks=Listening({0, 1, 2})).advance([0, 1, 2], STEPS)
        for one, other in zip(heard, self.started().advance([0, 1, 2], STEPS), strict=True):
            assert_close_numbers(one.logs, other.logs, self.tolerance)
