"""Laws on children: whose weights, values and optimizers they have."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np

from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.space import Values
from keras_popdescent.testing.executors.comparing import (
    assert_close,
    assert_same,
    dropout_seeds,
    optimizer_slots,
    own_weights,
    scores_of,
)
from keras_popdescent.testing.executors.setting import (
    BATCH_SIZE,
    DROPOUT,
    FIRST_VALUES,
    L2,
    RATE,
    STEPS,
    ExecutorSetting,
    make_data,
)


class Births(ExecutorSetting):
    """Laws on children: whose weights, values and optimizers they have."""

    def test_a_child_has_its_parents_weights(self) -> None:
        """Without noise, weights and optimizer slots are the parent's; others are untouched."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [executor.capture(slot) for slot in range(3)]
        executor.apply([Offspring(2, (0,), dict(FIRST_VALUES[2]))])
        assert_close(own_weights(executor.capture(2)), own_weights(before[0]), 0.0)
        assert_close(optimizer_slots(executor.capture(2)), optimizer_slots(before[0]), 0.0)
        for slot in (0, 1):
            assert_same(executor.capture(slot), before[slot])

    def test_parents_are_read_before_anything_is_written(self) -> None:
        """Two members take each other's place."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [own_weights(executor.capture(slot)) for slot in range(3)]
        executor.apply(
            [Offspring(0, (1,), dict(FIRST_VALUES[1])), Offspring(1, (0,), dict(FIRST_VALUES[0]))]
        )
        assert_close(own_weights(executor.capture(0)), before[1], 0.0)
        assert_close(own_weights(executor.capture(1)), before[0], 0.0)

    def test_a_child_trains_with_its_own_values(self) -> None:
        """Not with those of its parent, whose learning rate is in the copied optimizer state."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        still: Values = {RATE: 0.0, L2: 0.5, DROPOUT: 0.5}
        executor.apply([Offspring(2, (0,), still)])
        before = own_weights(executor.capture(2))
        executor.advance([2], STEPS)
        after = own_weights(executor.capture(2))
        trainable = [0, 1, 2, 3, 6, 7]  # 4 and 5 are the moving mean and variance
        assert_close([after[i] for i in trainable], [before[i] for i in trainable], 0.0)
        assert np.any(after[4] != before[4])

    def test_a_child_differs_from_its_parent_in_dropout(self) -> None:
        """On the same batches, with the same values and weights."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]))])
        parent, child = (dropout_seeds(executor.capture(slot)) for slot in (0, 1))
        assert np.any(parent != child)
        executor.apply([Offspring(2, (0,), dict(FIRST_VALUES[0]))])
        assert np.any(dropout_seeds(executor.capture(2)) != child)

    def test_a_child_goes_on_as_plain_keras_would(self) -> None:
        """From the parent's weights and slots, with the child's values and seed."""
        executor = self.started(shuffle=False)
        executor.advance([0, 1, 2], STEPS)  # an epoch
        values: Values = {RATE: 0.04, L2: 0.03, DROPOUT: 0.375}
        executor.apply([Offspring(1, (2,), values)])
        state = executor.capture(1)
        model = self.plain(state, values)
        model.optimizer.build(model.trainable_variables)
        for variable, array in zip(model.optimizer.variables, optimizer_slots(state), strict=True):
            if variable.name != "learning_rate":
                variable.assign(array)
        executor.advance([1], 2)
        data = make_data()
        for begin in (0, BATCH_SIZE):
            rows = slice(begin, begin + BATCH_SIZE)
            model.train_on_batch(data["x"][rows], data["y"][rows])
        assert_close(own_weights(executor.capture(1)), model.get_weights(), self.tolerance)

    def test_the_optimizer_of_a_child(self) -> None:
        """`"fresh"`: as just built; `"restart"`, `"fresh_slots"`: under the parent's counter."""
        executor = self.started()
        executor.advance([0], STEPS)
        rules = {"inherit": STEPS, "fresh": 0, "restart": STEPS, "fresh_slots": STEPS}
        for rule, steps in rules.items():
            executor.apply(
                [Offspring(1, (0,), dict(FIRST_VALUES[0]), optimizer_state=rule)]  # type: ignore[arg-type]
            )
            slots = optimizer_slots(executor.capture(1))
            assert int(slots[0]) == steps
            moments = [array for array in slots if array.ndim]
            assert any(np.any(moment) for moment in moments) == (rule == "inherit")

    def test_parent_and_child_can_share_a_step_counter(self) -> None:
        """The authors' code: it advances with each step of either (protocol.md, section 5)."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]), optimizer_state="fresh_slots")])
        executor.advance([0, 1, 2], 2)
        assert [int(optimizer_slots(executor.capture(slot))[0]) for slot in range(3)] == [
            STEPS + 2,
            STEPS + 4,
            2,
        ]
        executor.advance([0, 1, 2], 1)
        assert [int(optimizer_slots(executor.capture(slot))[0]) for slot in range(3)] == [
            STEPS + 5,
            STEPS + 6,
            3,
        ]

    def test_a_state_can_be_revived(self) -> None:
        """As a child of the member that it was captured from, whatever has become of that one."""
        executor = self.started()
        if not executor.focuses:
            raise SkipTest("This executor revives nobody: `focuses` is False.")
        executor.advance([0, 1, 2], STEPS)
        state, values = executor.capture(0), dict(FIRST_VALUES[0])
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[1]))])
        executor.advance([0, 1, 2], STEPS)
        others = [executor.capture(slot) for slot in (0, 2)]
        executor.revive(Offspring(1, (), values, optimizer_state="restart"), state)
        revived = executor.capture(1)
        assert_close(own_weights(revived), own_weights(state), 0.0)
        assert int(optimizer_slots(revived)[0]) == STEPS
        assert not any(np.any(array) for array in optimizer_slots(revived) if array.ndim)
        for slot, before in zip((0, 2), others, strict=True):
            assert_same(executor.capture(slot), before)
        [report] = executor.advance([1], 5 * STEPS)
        assert report.gradient_steps == 5 * STEPS
        assert np.isfinite(report.score)
        before_that = own_weights(state)
        assert any(
            np.any(a != b)
            for a, b in zip(own_weights(executor.capture(1)), before_that, strict=True)
        )
        # All of them can train at once again.
        assert np.isfinite(scores_of(executor.advance([0, 1, 2], STEPS))).all()

    def test_weight_noise(self) -> None:
        """`"scalar"`: one number for all trainable weights; nothing else moves."""
        executor = self.started()
        executor.advance([0], STEPS)
        parent = own_weights(executor.capture(0))
        noise = NoiseSpec("scalar", 0.5, seed=3)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]), weight_noise=noise)])
        child = own_weights(executor.capture(1))
        shift = float(child[0][0, 0] - parent[0][0, 0])
        assert abs(shift) > 1e-3
        for index, (one, other) in enumerate(zip(child, parent, strict=True)):
            expected = other if index in (4, 5) else other + shift
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)

    def test_several_parents_are_averaged(self) -> None:
        """Their trainable weights; everything else is the first one's."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        first, second = (own_weights(executor.capture(slot)) for slot in (0, 1))
        executor.apply([Offspring(2, (0, 1), dict(FIRST_VALUES[0]))])
        child = own_weights(executor.capture(2))
        for index, array in enumerate(child):
            mean = (first[index] + second[index]) / 2.0
            expected = first[index] if index in (4, 5) else mean
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
