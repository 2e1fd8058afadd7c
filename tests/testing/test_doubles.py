"""The scripted executor keeps the contract of `Executor`; the generator says what it was told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_popdescent.operators import NoiseSpec
from keras_popdescent.population.executor import Executor
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies import ClosingPlan, Offspring, TrainingPlan
from keras_popdescent.testing import (
    FixedStrategy,
    ScriptedExecutor,
    ScriptedGenerator,
    scripted_loop,
)


def executor(scores=((1.0, 2.0, 3.0),) * 4, values=({"a": 1}, {"a": 2}, {"a": 3})):
    """Return a started executor."""
    return scripted_loop(FixedStrategy(), list(scores), values=list(values)).executor


def states(made):
    return [(*made.capture(slot).weights, *made.capture(slot).optimizer) for slot in range(3)]


def test_it_is_an_executor():
    assert isinstance(executor(), Executor)


def test_a_table_of_scores():
    made = executor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert [report.score for report in made.advance([0, 2], 4)] == [1.0, 3.0]
    first, second = made.advance([2, 1], 3)
    assert (first.slot, first.score, first.gradient_steps) == (2, 6.0, 3)
    assert (second.slot, second.logs) == (1, {"val_loss": 5.0})


def test_a_function_of_slot_call_and_values():
    made = executor()
    made._scores = lambda slot, call, values: 100.0 * call + 10.0 * slot + values["a"]
    made.advance([0], 1)
    assert [report.score for report in made.advance([0, 1, 2], 1)] == [201.0, 212.0, 223.0]


def test_training_adds_steps():
    made = executor()
    made.advance([0, 2], 4)
    made.advance([0], 2)
    assert states(made) == [(0.0, 6), (1.0, 0), (2.0, 4)]


def test_passes_multiply_the_steps():
    strategy = FixedStrategy()
    strategy.training = TrainingPlan("subset", passes=3)
    loop = scripted_loop(strategy, [[1.0]], batches_per_iteration=5)
    loop.run()
    assert loop.history.gradient_steps == 15


def test_without_a_score():
    (report,) = executor().advance([1], 2, batch_size=8, score=False)
    assert np.isnan(report.score) and report.logs == {} and report.gradient_steps == 2


def test_what_was_captured_does_not_change():
    made = executor()
    made.advance([0], 4)
    before = made.capture(0)
    made.advance([0], 4)
    made.apply([Offspring(0, (1,), {})])
    assert before == MemberState((0.0,), (4,), (1, 1))


@pytest.mark.parametrize(
    ("optimizer_state", "steps"), [("inherit", 4), ("fresh", 0), ("fresh_slots", 4)]
)
def test_children(optimizer_state, steps):
    made = executor()
    made.advance([1], 4)
    made.apply([Offspring(0, (1,), {"a": 9}, optimizer_state=optimizer_state)])
    assert states(made)[0] == (1.0, steps)
    seen = []
    made.visit(0, lambda model: seen.append(model.values))
    assert seen == [{"a": 9}]


def test_parents_are_read_before_anything_is_written():
    made = executor()
    made.apply([Offspring(0, (1,), {}), Offspring(1, (0,), {}), Offspring(2, (0, 2), {})])
    assert [weight for weight, _ in states(made)] == [1.0, 0.0, 1.0]


def test_weight_noise_has_the_given_spread_and_seed():
    made = executor()
    shifts = []
    for seed in range(400):
        made.apply([Offspring(0, (1,), {}, NoiseSpec("gaussian", 0.5, seed))])
        shifts.append(made.capture(0).weights[0] - 1.0)
    # Standard errors: 0.025 and 0.018.
    assert np.mean(shifts) == pytest.approx(0.0, abs=0.1)
    assert np.std(shifts) == pytest.approx(0.5, abs=0.08)
    made.apply([Offspring(2, (1,), {}, NoiseSpec("gaussian", 0.5, 399))])
    assert made.capture(2) == made.capture(0)


def test_what_a_visit_changes_is_the_members():
    made = executor()
    made.visit(1, lambda model: setattr(model, "weight", 7.0))
    assert states(made) == [(0.0, 0), (7.0, 0), (2.0, 0)]


def test_an_export_is_independent():
    made = executor()
    values = {"a": 1}
    model = made.export(values, made.capture(2))
    model.weight = 9.0
    model.values["a"] = 5
    assert states(made)[2] == (2.0, 0)
    assert values == {"a": 1}


def test_a_snapshot_goes_through_json_and_comes_back():
    made, other = executor(), executor()
    made.advance([0, 1, 2], 4)
    made.apply([Offspring(2, (0,), {"a": 7})])
    saved = json.loads(json.dumps(made.snapshot()))
    made.advance([0], 9)
    other.restore(saved)
    assert states(other) == [(0.0, 4), (1.0, 4), (0.0, 4)]
    assert json.loads(json.dumps(other.snapshot())) == saved
    # The script goes on with the next row.
    other._scores = [[0.0] * 3, [5.0, 6.0, 7.0]]
    assert [report.score for report in other.advance([0, 1, 2], 1)] == [5.0, 6.0, 7.0]


def test_it_says_what_was_asked_of_it():
    loop = scripted_loop(
        FixedStrategy({1: [Offspring(1, (0,), {})]}, closing=ClosingPlan(1, 2, 8)),
        [[1.0, 2.0]] * 3,
        iterations=2,
    )
    made = loop.executor
    loop.run()
    assert [(a.slots, a.num_batches, a.batch_size, a.score) for a in made.advances] == [
        ((0, 1), 4, None, True), ((0, 1), 4, None, True), ((0, 1), 2, 8, True),
    ]  # fmt: skip
    assert made.applied == [[Offspring(1, (0,), {})]]
    made.feed("other data")
    assert made.data == "other data" and not made.closed
    made.close()
    assert made.closed


class Hooks:
    """Notes every call; stops the member's training after a number of batches."""

    def __init__(self, batches=True, stop_after=99):
        self.batches, self.stop_after, self.log = batches, stop_after, []

    def needs_batches(self, slot):
        return self.batches

    def should_stop(self, slot):
        return self.log.count("batch end") >= self.stop_after

    def train_begin(self, slot, model):
        self.log.append(f"begin {slot}")

    def batch_begin(self, slot, model):
        self.log.append("batch")

    def batch_end(self, slot, model, logs):
        self.log.append("batch end")

    def train_end(self, slot, model, num_steps, logs):
        self.log.append(f"end {slot} {num_steps} {dict(logs)} {model.steps}")


@pytest.mark.parametrize(
    ("hooks", "between", "steps"),
    [
        (Hooks(batches=False), [], 3),
        (Hooks(), ["batch", "batch end"] * 3, 3),
        (Hooks(stop_after=2), ["batch", "batch end"] * 2, 2),
    ],
)
def test_hooks_are_told(hooks, between, steps):
    made = executor()
    made._setup.hooks = hooks
    (report,) = made.advance([1], 3)
    assert hooks.log == ["begin 1", *between, f"end 1 {steps} {{'val_loss': 2.0}} {steps}"]
    assert report.gradient_steps == steps


def test_what_the_script_raises_leaves_advance():
    made = ScriptedExecutor(lambda slot, call, values: 1 / 0)
    made.start(executor()._setup)
    with pytest.raises(ZeroDivisionError):
        made.advance([0], 1)


def test_initial_weights_are_everybodys():
    made = executor()
    setup = made._setup
    setup.initial_weights = [5.0]
    made.start(setup)
    assert [weight for weight, _ in states(made)] == [5.0, 5.0, 5.0]


def test_scripted_draws():
    rng = ScriptedGenerator([0.5, -1.0], random=[0.25], integers=[3, 7], choice=[[2, 0]])
    assert rng.normal(-4.0, 2.0) == -3.0
    assert rng.standard_normal() == -1.0
    assert rng.random() == 0.25
    assert (rng.integers(4), rng.integers(5, 8)) == (3, 7)
    assert rng.choice(3, size=2, replace=True, p=[0.1, 0.2, 0.7]) == [2, 0]
    assert not any(rng.remaining.values())


@pytest.mark.parametrize(
    ("rng", "draw", "message"),
    [
        (ScriptedGenerator(), lambda rng: rng.random(), "more often"),
        (ScriptedGenerator(integers=[4]), lambda rng: rng.integers(4), r"4 is not in 0 \.\.\. 3"),
        (ScriptedGenerator(choice=[[0, 1]]), lambda rng: rng.choice(3, size=1), "no 1 of 3"),
        (ScriptedGenerator(choice=[[3]]), lambda rng: rng.choice(3, size=1), "no 1 of 3"),
    ],
)
def test_draws_that_the_script_does_not_have(rng, draw, message):
    with pytest.raises(AssertionError, match=message):
        draw(rng)


def test_two_loops_do_not_share_anything():
    strategy = FixedStrategy()
    first, second = (scripted_loop(strategy, [[1.0]]) for _ in range(2))
    first.run()
    assert second.iteration == 0 and second.executor.advances == []
