"""The loop with scripted scores: what it records, keeps, limits and survives.

`ScriptedExecutor`: a member's state is (weight,), (steps,); the first members' weights are their
slot numbers. An iteration has four gradient steps.
"""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest

from keras_popdescent.errors import DivergedError
from keras_popdescent.history import BirthRecord
from keras_popdescent.operators import NoiseSpec
from keras_popdescent.population import Observer
from keras_popdescent.population.budget import Budget
from keras_popdescent.population.kept import Kept
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies import (
    ClosingPlan,
    LinearDimension,
    LogDimension,
    Offspring,
    PopDescent,
    SearchSpace,
)
from keras_popdescent.testing import FixedStrategy, ScriptedExecutor, scripted_loop

NAN, INF = float("nan"), float("inf")
FIRST = [{"rate": 0.1}, {"rate": 0.2}, {"rate": 0.3}]
# After iteration 1, slot 2 is replaced by a child of slot 0.
CHILD = Offspring(2, (0,), {"rate": 0.4}, NoiseSpec("gaussian", 0.0, 7), "inherit", 0.25)


def state(weight, steps):
    return MemberState((float(weight),), (steps,), (1, 1))


class Diary(Observer):
    """Notes what an observer is told, in order."""

    def __init__(self, log=None, name=""):
        self.log = [] if log is None else log
        self.name = name

    def search_begin(self, loop):
        self.log.append(f"{self.name}begin")

    def births(self, members):
        self.log.append(f"{self.name}births {[m.member_id for m in members]}")

    def deaths(self, members):
        self.log.append(f"{self.name}deaths {[m.member_id for m in members]}")

    def iteration_end(self, record):
        self.log.append(f"{self.name}end of {record.iteration}")

    def search_end(self, loop):
        self.log.append(f"{self.name}search end")


def test_first_members():
    diary = Diary()
    loop = scripted_loop(FixedStrategy(), [[1.0, 2.0, 3.0]], values=FIRST, observers=[diary])
    assert [(m.member_id, m.slot, m.values, m.parents) for m in loop.members] == [
        (0, 0, {"rate": 0.1}, ()), (1, 1, {"rate": 0.2}, ()), (2, 2, {"rate": 0.3}, ()),
    ]  # fmt: skip
    assert [(m.score, m.gradient_steps, m.stopped) for m in loop.members] == [(None, 0, False)] * 3
    assert loop.history.records[0].births == tuple(
        BirthRecord(slot, slot, (), values) for slot, values in enumerate(FIRST)
    )
    assert loop.history.iterations() == []
    assert diary.log == ["begin", "births [0, 1, 2]"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), [{"a": 1, "b": 2}, {"a": 1, "b": 2}]),
        ([{"a": 5}], [{"a": 5, "b": 2}, {"a": 1, "b": 2}]),
        ([{"a": 5}, {"b": 7}, {"b": 8}], [{"a": 5, "b": 2}, {"a": 1, "b": 7}]),
    ],
)
def test_given_values_go_before_the_strategys(given, expected):
    strategy = FixedStrategy(first=[{"a": 1, "b": 2}] * 2)
    space = SearchSpace([LinearDimension(name, 0, 9, default=0) for name in "ab"])
    loop = scripted_loop(strategy, [[1.0, 2.0]], space=space)
    assert loop.first_values(given) == expected


def test_one_iteration_by_hand():
    strategy = FixedStrategy({1: [CHILD]})
    loop = scripted_loop(strategy, [[2.0, NAN, 6.0], [1.0, 1.0, 1.0]], values=FIRST, num_elites=2)
    record = loop.step()

    assert (record.iteration, record.gradient_steps, record.closing) == (1, 12, False)
    assert [(m.slot, m.member_id, m.fitness) for m in record.members] == [
        (0, 0, 0.5), (1, 1, 0.0), (2, 2, 0.25),
    ]  # fmt: skip
    np.testing.assert_array_equal([m.score for m in record.members], [2.0, NAN, 6.0])
    assert [m.values for m in record.members] == FIRST
    assert [m.gradient_steps for m in record.members] == [4, 4, 4]
    assert record.members[0].logs == {"val_loss": 2.0}
    assert record.births == (
        BirthRecord(
            slot=2,
            member_id=3,
            parents=(0,),
            values={"rate": 0.4},
            inherited_steps=4,
            replaced=2,
            parent_values={"rate": 0.1},
            strength=0.25,
            weight_noise={"kind": "gaussian", "sd": 0.0, "seed": 7},
            optimizer_state="inherit",
        ),
    )
    assert loop.history.records[-1] is record

    child = loop.members[2]
    assert (child.member_id, child.slot, child.parents, child.born) == (3, 2, (0,), 1)
    assert (child.inherited_steps, child.gradient_steps, child.score) == (4, 4, None)
    assert [m.member_id for m in loop.members] == [0, 1, 3]
    assert loop.executor.capture(2) == state(0, 4)

    (view,) = strategy.views
    np.testing.assert_array_equal(view.scores, [2.0, NAN, 6.0])
    assert list(view.values) == FIRST
    assert (view.iteration, view.num_iterations, view.num_elites) == (1, 2, 2)
    assert (view.direction, view.births_left, view.space) == ("min", None, loop.space)


def test_a_second_iteration_goes_on_from_the_first():
    loop = scripted_loop(
        FixedStrategy({1: [CHILD]}), [[2.0, 3.0, 6.0], [1.5, 2.5, 0.5]], values=FIRST
    )
    loop.run()
    last = loop.history.records[-1]
    assert [(m.member_id, m.score, m.gradient_steps) for m in last.members] == [
        (0, 1.5, 8), (1, 2.5, 8), (3, 0.5, 8),
    ]  # fmt: skip
    assert last.gradient_steps == 24
    assert loop.history.lineage(3) == [0, 3]
    assert loop.iteration == 2 and not loop.interrupted
    assert [a.num_batches for a in loop.executor.advances] == [4, 4]


def test_a_child_of_a_parent_that_is_replaced_too():
    swapped = [Offspring(0, (1,), {"rate": 0.5}), Offspring(1, (0, 2), {"rate": 0.6})]
    loop = scripted_loop(FixedStrategy({1: swapped}), [[1.0, 2.0, 3.0]] * 2, values=FIRST)
    first, second = loop.step().births
    assert (first.parents, first.parent_values) == ((1,), {"rate": 0.2})
    assert (second.parents, second.parent_values) == ((0, 2), {"rate": 0.1})
    assert [loop.executor.capture(slot) for slot in range(3)] == [
        state(1, 4), state(1, 4), state(2, 4),
    ]  # fmt: skip


def test_observers_are_told_in_order():
    log = []
    loop = scripted_loop(
        FixedStrategy({1: [CHILD]}),
        [[1.0, 2.0, 3.0]] * 2,
        values=FIRST,
        observers=[Diary(log, "a "), Diary(log, "b ")],
    )
    loop.run()
    assert log == [
        "a begin", "a births [0, 1, 2]", "b begin", "b births [0, 1, 2]",
        "a end of 1", "b end of 1",
        "a deaths [2]", "b deaths [2]", "a births [3]", "b births [3]",
        "a end of 2", "b end of 2",
        "a search end", "b search end",
    ]  # fmt: skip


def test_members_about_to_die_are_still_there():
    class Witness(Observer):
        def deaths(self, members):
            self.seen = [(m.member_id, m.score, loop.executor.capture(m.slot)) for m in members]

    witness = Witness()
    loop = scripted_loop(
        FixedStrategy({1: [CHILD]}), [[1.0, 2.0, 3.0]] * 2, values=FIRST, observers=[witness]
    )
    loop.step()
    assert witness.seen == [(2, 3.0, state(2, 4))]


def test_every_observer_hears_the_end_even_where_one_fails():
    class Clumsy(Observer):
        def search_end(self, loop):
            raise OSError("The disk is full.")

    diary = Diary()
    loop = scripted_loop(FixedStrategy(), [[1.0]], observers=[diary, Clumsy()])
    with pytest.raises(OSError, match="disk is full"):
        loop.run()
    assert diary.log[-1] == "search end"


# --- The result ---


def test_the_best_member_ever_is_kept_though_it_is_replaced():
    # Slot 2 scores 0.1 in iteration 1, is worse in 2, and replaced after that.
    loop = scripted_loop(
        FixedStrategy({2: [CHILD]}),
        [[1.0, 2.0, 0.1], [0.9, 0.8, 0.7], [0.5, 0.5, 0.5]],
        values=FIRST,
    )
    loop.run()
    assert [m.member_id for m in loop.members] == [0, 1, 3]
    assert loop.best() == Kept(2, 0.1, {"rate": 0.3}, state(2, 4), 4)
    assert loop.history.best() == (2, 0.1)


def test_a_member_is_kept_as_it_was_when_it_scored_best():
    loop = scripted_loop(FixedStrategy(), [[0.5, 9.0], [0.2, 9.0], [0.3, 9.0], [0.2, 9.0]])
    loop.run()
    assert loop.best() == Kept(0, 0.2, {}, state(0, 8), 8)


def test_to_maximise():
    loop = scripted_loop(
        FixedStrategy(), [[0.5, 0.9], [0.7, 0.6]], objective="val_accuracy", num_kept=2
    )
    loop.run()
    assert [(kept.member_id, kept.score) for kept in loop.kept] == [(1, 0.9), (0, 0.7)]
    assert loop.best().state == state(1, 4)


def test_several_are_kept_each_member_once():
    scores = [[0.5, 0.6, 0.7], [0.9, 0.55, 0.4], [0.3, 0.45, 0.9], [0.9, 0.35, 0.9]]
    loop = scripted_loop(FixedStrategy(), scores, num_kept=2)
    standings = []
    while loop.iteration < 4:
        loop.step()
        standings.append([(kept.member_id, kept.score) for kept in loop.kept])
    assert standings == [
        [(0, 0.5), (1, 0.6)],
        [(2, 0.4), (0, 0.5)],
        [(0, 0.3), (2, 0.4)],
        [(0, 0.3), (1, 0.35)],
    ]


@pytest.mark.parametrize("bad", [NAN, -INF, INF])
def test_what_is_not_finite_is_never_kept(bad):
    loop = scripted_loop(FixedStrategy(), [[bad, 0.5], [bad, 0.4]], num_kept=5)
    loop.run()
    assert [(kept.member_id, kept.score) for kept in loop.kept] == [(1, 0.4)]
    assert loop.history.num_diverged == 2


def test_without_keep_best_the_result_is_the_fittest_now():
    loop = scripted_loop(
        FixedStrategy(keep_best=False), [[1.0, 2.0, 0.1], [0.9, 0.8, 1.7]], values=FIRST
    )
    loop.run()
    assert loop.best() == Kept(1, 0.8, {"rate": 0.2}, state(1, 8), 8)


def test_without_keep_best_the_result_has_a_score_where_anybody_ever_had_one():
    loop = scripted_loop(FixedStrategy(keep_best=False), [[1.0, 0.5], [NAN, NAN]], values=FIRST[:2])
    loop.run()
    assert loop.best().score == 0.5


def test_the_ranking_is_by_scores_where_fitness_saturates():
    loop = scripted_loop(FixedStrategy(), [[3e-19, 1e-19, 2e-19]], values=FIRST)
    loop.run()
    assert [member.slot for member in loop.ranking()] == [1, 2, 0]


def test_ranking_has_the_unscored_and_the_diverged_last():
    loop = scripted_loop(FixedStrategy({1: [CHILD]}), [[NAN, 2.0, 3.0, 1.0]] * 2)
    loop.step()
    # Slot 2 is newborn; the order among those without a score is that of the slots.
    assert [member.slot for member in loop.ranking()] == [3, 1, 0, 2]


# --- Limits ---


def test_births_are_limited():
    three = {
        1: [Offspring(2, (0,), {}), Offspring(1, (0,), {})],
        2: [Offspring(2, (0,), {}), Offspring(1, (0,), {})],
        3: [Offspring(1, (0,), {})],
    }
    strategy = FixedStrategy(three)
    loop = scripted_loop(strategy, [[1.0, 2.0, 3.0]] * 4, max_births=6)
    loop.run()
    assert [view.births_left for view in strategy.views] == [3, 1, 0, 0]
    assert [len(record.births) for record in loop.history.records] == [3, 2, 1, 0, 0]
    assert loop.history.num_replaced == 3
    assert loop.iteration == 4


def test_fewer_births_than_members():
    strategy = FixedStrategy({1: [CHILD]})
    loop = scripted_loop(strategy, [[1.0, 2.0, 3.0]] * 2, max_births=2)
    loop.run()
    assert [view.births_left for view in strategy.views] == [0, 0]
    assert loop.history.num_replaced == 0


def test_nobody_is_replaced_after_the_last_iteration():
    loop = scripted_loop(FixedStrategy({2: [CHILD]}), [[1.0, 2.0, 3.0]] * 2)
    loop.run()
    assert loop.history.num_replaced == 0


def test_the_last_iteration_may_be_shorter():
    loop = scripted_loop(FixedStrategy(), [[1.0]] * 3)
    loop.settings = replace(loop.settings, last_batches=1)
    loop.run()
    assert [a.num_batches for a in loop.executor.advances] == [4, 4, 1]
    assert loop.history.gradient_steps == 9


def test_members_that_stopped_do_not_train():
    loop = scripted_loop(FixedStrategy(), [[1.0, 2.0, 3.0], [0.5, 0.1, 0.7], [0.4, 0.1, 0.6]])
    loop.step()
    loop.members[1].stopped = True
    record = loop.step()
    assert loop.executor.advances[-1].slots == (0, 2)
    assert [m.score for m in record.members] == [0.5, 2.0, 0.7]
    assert [m.gradient_steps for m in record.members] == [8, 4, 8]
    assert record.members[1].logs == {}


def test_a_child_of_a_stopped_members_slot_trains():
    loop = scripted_loop(FixedStrategy({1: [CHILD]}), [[1.0, 2.0, 3.0]] * 2, values=FIRST)
    loop.members[2].stopped = True
    loop.run()
    assert [a.slots for a in loop.executor.advances] == [(0, 1), (0, 1, 2)]


def test_the_search_ends_when_all_have_stopped():
    class StopsAll(Observer):
        def iteration_end(self, record):
            for member in loop.members:
                member.stopped = record.iteration == 2

    loop = scripted_loop(FixedStrategy(), [[1.0, 2.0]] * 5, observers=[StopsAll()])
    loop.run()
    assert loop.iteration == 2


# --- What goes wrong ---


def test_a_search_without_any_finite_score_ends_with_an_error():
    diary = Diary()
    loop = scripted_loop(FixedStrategy(), [[NAN, INF]] * 9, values=FIRST[:2], observers=[diary])
    with pytest.raises(
        DivergedError, match=r"for 3 iterations.*learning rates.*hyperparameters=\[\{'rate': 0.1\}"
    ):
        loop.run()
    assert loop.iteration == 3
    assert diary.log[-1] == "search end"


def test_iterations_without_a_finite_score_must_be_in_a_row():
    nothing, something = [NAN, NAN], [NAN, 1.0]
    loop = scripted_loop(
        FixedStrategy(), [nothing, nothing, something, nothing, nothing, something]
    )
    loop.run()
    assert loop.iteration == 6
    assert loop.best().member_id == 1


def test_an_interrupt_leaves_the_results_so_far():
    def score(slot, call, values):
        if (slot, call) == (1, 3):
            raise KeyboardInterrupt
        return [0.5, 0.3, 0.4][call - 1]

    diary = Diary()
    loop = scripted_loop(FixedStrategy(), score, population_size=2, iterations=5, observers=[diary])
    loop.run()
    assert loop.interrupted
    assert len(loop.history) == loop.iteration == 2
    assert loop.history.gradient_steps == 16
    assert loop.best() == Kept(0, 0.3, {}, state(0, 8), 8)
    assert diary.log[-2:] == ["end of 2", "search end"]


def test_an_interrupt_between_scores_and_births_waits():
    class Interrupts(Observer):
        def deaths(self, members):
            signal.raise_signal(signal.SIGINT)

    diary = Diary()
    loop = scripted_loop(
        FixedStrategy({1: [CHILD]}),
        [[1.0, 2.0, 3.0]] * 3,
        values=FIRST,
        observers=[Interrupts(), diary],
    )
    loop.run()
    assert loop.interrupted
    assert diary.log[2:] == ["end of 1", "deaths [2]", "births [3]", "search end"]
    assert [m.member_id for m in loop.members] == [0, 1, 3]
    assert loop.executor.capture(2) == state(0, 4)


def test_any_other_error_leaves_the_loop():
    def score(slot, call, values):
        raise ValueError("The data is broken.")

    diary = Diary()
    loop = scripted_loop(FixedStrategy(), score, population_size=1, iterations=2, observers=[diary])
    with pytest.raises(ValueError, match="data is broken"):
        loop.run()
    assert diary.log[-1] == "search end"


# --- Training after the last iteration ---


def test_closing_rounds():
    strategy = FixedStrategy({2: [CHILD]}, closing=ClosingPlan(3, batches=2, batch_size=16))
    diary = Diary()
    # A row for each call of `advance`: two iterations, three rounds of which the last is scored.
    scores = [[1.0, 2.0], [0.9, 0.8], [NAN, NAN], [NAN, NAN], [0.7, 0.2]]
    loop = scripted_loop(strategy, scores, iterations=2, observers=[diary])
    loop.run()

    assert [
        (a.slots, a.num_batches, a.batch_size, a.score) for a in loop.executor.advances[2:]
    ] == [((0, 1), 2, 16, False), ((0, 1), 2, 16, False), ((0, 1), 2, 16, True)]
    closing = loop.history.records[-1]
    assert (closing.closing, closing.iteration, closing.births) == (True, 2, ())
    assert [(m.score, m.gradient_steps) for m in closing.members] == [(0.7, 14), (0.2, 14)]
    # Two members of 2 * 4 steps, and of 3 * 2 more.
    assert closing.gradient_steps == 28
    assert len(strategy.views) == 2
    assert loop.best() == Kept(1, 0.2, {}, state(1, 14), 14)
    assert diary.log[-2:] == ["end of 2", "search end"]


def test_closing_rounds_are_as_long_as_an_iteration_by_default():
    strategy = FixedStrategy(closing=ClosingPlan(1))
    loop = scripted_loop(strategy, [[1.0], [0.5]], iterations=1)
    loop.run()
    advance = loop.executor.advances[-1]
    assert (advance.num_batches, advance.batch_size, advance.score) == (4, None, True)


def test_closing_is_passed_over_where_the_executor_cannot(monkeypatch):
    monkeypatch.setattr(ScriptedExecutor, "closes", False)
    strategy = FixedStrategy(closing=ClosingPlan(3))
    loop = scripted_loop(strategy, [[1.0]] * 3, iterations=1)
    loop.run()
    assert len(loop.executor.advances) == 1
    assert not loop.history.records[-1].closing
    assert any("no closing training" in note for note in loop.notes)


def test_no_closing_after_an_interrupt():
    def score(slot, call, values):
        raise KeyboardInterrupt

    loop = scripted_loop(
        FixedStrategy(closing=ClosingPlan(1)), score, population_size=1, iterations=1
    )
    loop.run()
    assert len(loop.executor.advances) == 1


# --- Going on ---


def test_go_on():
    first, second = Diary(), Diary()
    strategy = FixedStrategy({1: [CHILD], 3: [replace(CHILD, slot=1)]})
    loop = scripted_loop(
        strategy, [[1.0, 2.0, 3.0]] * 5, values=FIRST, iterations=2, observers=[first]
    )
    loop.run()
    other = object()
    loop.go_on(other, Budget(2, 3, total_batches=4), [second])
    loop.run()

    assert loop.executor.data is other
    assert [a.num_batches for a in loop.executor.advances] == [4, 4, 3, 1]
    assert [record.iteration for record in loop.history.iterations()] == [1, 2, 3, 4]
    assert [view.num_iterations for view in strategy.views] == [2, 2, 4, 4]
    assert [m.gradient_steps for m in loop.members] == [12, 12, 12]
    assert [m.member_id for m in loop.members] == [0, 4, 3]
    assert first.log[-1] == "search end" and "end of 3" not in first.log
    assert second.log == [
        "begin", "births [0, 1, 3]", "end of 3", "deaths [1]", "births [4]", "end of 4",
        "search end",
    ]  # fmt: skip


def test_go_on_after_an_interrupt():
    calls = []

    def score(slot, call, values):
        calls.append(call)
        if call == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return 1.0

    loop = scripted_loop(FixedStrategy(), score, population_size=1, iterations=3)
    loop.run()
    assert loop.interrupted and loop.iteration == 1
    loop.go_on(loop.executor.data, Budget(2, 4, 8))
    loop.run()
    assert not loop.interrupted and loop.iteration == 3


# --- With PopDescent ---

SPACE = SearchSpace([LogDimension("rate", 1e-5, 1e1, 1e-4)])


def simulated(seed, **settings):
    """Scores are what the rate alone decides: the further from 0.01, the worse."""
    loop = scripted_loop(
        PopDescent(focus=None),
        lambda slot, call, values: abs(np.log10(values["rate"]) + 2.0),
        space=SPACE,
        population_size=5,
        num_elites=3,
        iterations=20,
        seed=seed,
        **settings,
    )
    loop.run()
    return loop


@pytest.mark.parametrize("seed", range(5))
def test_popdescent_moves_towards_the_better_values(seed):
    loop = simulated(seed)
    # All members start at 1e-4, two decades away.
    assert loop.history.records[1].members[0].score == pytest.approx(2.0)
    assert loop.best().score < 0.5
    assert sum(member.score < 1.0 for member in loop.members) >= 3


def test_a_search_is_decided_by_its_seed():
    values = [[m.values for r in simulated(s).history for m in r.members] for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_scores_of_elites_never_get_worse():
    # Where a member's score follows from its values, elites stay, and so does the best of them.
    records = simulated(0).history.iterations()
    best = [sorted(member.score for member in record.members)[:3] for record in records]
    assert all(after <= before for before, after in zip(best, best[1:], strict=False))
