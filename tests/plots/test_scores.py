"""The scores' picture: what it computes, by hand, and what it draws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_popdescent.history import BirthRecord, IterationRecord
from keras_popdescent.plots import plot_population_scores, population_scores_data
from keras_popdescent.plots.scores import score_limits


def test_lines_are_the_scores_of_each_member(history):
    data = population_scores_data(history)
    assert [line.tolist() for line in data.lines[:2]] == [
        [[30, 3.0], [60, 2.5]],
        [[30, 2.0], [60, 1.0], [90, 0.9]],
    ]
    assert_array_equal(data.lines[2], [[30, math.nan]])
    assert data.lines[3].tolist() == [[60, 0.5], [90, 0.6]]
    assert data.lines[4].tolist() == [[90, 0.4]]
    assert data.population_size == 3


def test_connections_lead_from_the_parent_to_the_first_score_of_the_child(history):
    data = population_scores_data(history)
    assert data.connections.tolist() == [[[30, 2.0], [60, 0.5]], [[60, 0.5], [90, 0.4]]]


def test_crosses_are_at_the_last_scores_of_those_replaced(history):
    assert_array_equal(population_scores_data(history).replaced, [[60, 2.5], [30, math.nan]])


def test_the_winner_goes_through_its_ancestors(history):
    assert population_scores_data(history).winner.tolist() == [[30, 2.0], [60, 0.5], [90, 0.4]]


def test_the_winner_ends_at_its_best_score(make_history):
    history = make_history([[3.0, 2.0, 2.5], [2.5, 1.0, 0.3], [0.4, 0.9, 0.6]])
    assert population_scores_data(history).winner.tolist() == [[30, 2.0], [60, 0.3]]


def test_a_child_of_an_earlier_moment_goes_on_from_there(history):
    """As a copy of the best model ever seen does: its parent had lived on meanwhile."""
    last = history.records[-1]
    copy = BirthRecord(0, 5, (1,), dict(last.members[1].values), inherited_steps=20, replaced=4)
    history.records[-1] = replace(last, births=(copy,))
    child = replace(last.members[0], member_id=5, gradient_steps=50, score=0.2)
    history.append(IterationRecord(4, 120, 4.0, (child, *last.members[1:])))
    data = population_scores_data(history)
    assert data.winner.tolist() == [[30, 2.0], [60, 1.0], [120, 0.2]]
    assert data.connections[-1].tolist() == [[60, 1.0], [120, 0.2]]
    # The others have no score of their own any more.
    assert data.lines[1].tolist() == [[30, 2.0], [60, 1.0], [90, 0.9]]


def test_the_best_so_far_never_gets_worse(make_history):
    history = make_history([[3.0, 2.0, 2.5], [2.5, 2.2, 2.1], [1.0, 2.0, math.inf]])
    assert population_scores_data(history).best.tolist() == [[30, 2.0], [60, 2.0], [90, 1.0]]


def test_the_best_so_far_is_unknown_before_the_first_finite_score(make_history):
    history = make_history([[math.nan] * 3, [2.5, 2.2, 2.1], [1.0, 2.0, 3.0]])
    assert_array_equal(population_scores_data(history).best, [[30, math.nan], [60, 2.1], [90, 1.0]])


def test_scores_to_maximise(rates):
    data = population_scores_data(rates)
    assert_allclose(data.best, [[30, 0.5], [60, 0.875], [90, 0.9]])
    assert_allclose(data.winner, [[30, 0.5], [60, 0.875], [90, 0.9]])
    assert not data.log
    assert_allclose(data.limits, (0.25, 0.9))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_gap_and_is_counted(make_history, bad):
    data = population_scores_data(make_history([[3.0, bad, bad], [2.5, 1.0, 0.5], [0.4, 0.9, bad]]))
    assert data.not_finite.tolist() == [30, 30, 90]
    assert math.isnan(data.lines[1][0, 1])
    assert_array_equal(data.connections[0], [[30, math.nan], [60, 0.5]])


@pytest.mark.parametrize(("last", "log"), [(0.4, True), (0.7, False), (0.0, False), (-1.0, False)])
def test_losses_over_a_wide_range_above_zero_are_logarithmic(make_history, last, log):
    history = make_history([[3.0, 2.0, 2.5], [2.5, 1.0, 0.9], [last, 0.9, 0.9]])
    assert population_scores_data(history).log is log


def test_limits_hold_all_scores_where_none_is_far_off(history):
    data = population_scores_data(history)
    assert data.limits == (0.4, 3.0)
    assert data.off_axis.size == 0


def test_a_loss_far_beyond_the_others_does_not_decide_the_axis():
    scores = np.concatenate([np.linspace(0.1, 1.0, 99), [1e9]])
    low, high = score_limits(scores, np.array([1.0]), "min", log=False)
    assert low == 0.1
    assert 1.0 < high < 2.0
    low, high = score_limits(scores, np.array([1.0]), "min", log=True)
    assert low == 0.1
    assert 1.0 < high < 10.0
    low, high = score_limits(-scores, np.array([-1.0]), "max", log=False)
    assert high == -0.1
    assert -2.0 < low < -1.0


def test_the_axis_holds_the_first_best_score_even_where_few_are_so_bad():
    scores = np.concatenate([[50.0], np.linspace(0.1, 1.0, 99)])
    assert score_limits(scores, np.array([50.0]), "min", log=False) == (0.1, 50.0)


def test_draws_every_member_and_the_winner(history, find):
    figure = plot_population_scores(history)
    (ax,) = figure.axes
    assert len(find(ax, "a member").get_segments()) == 5
    assert find(ax, "the winner's line").get_xydata().tolist() == [[30, 2.0], [60, 0.5], [90, 0.4]]
    assert find(ax, "best so far").get_linestyle() == "--"
    assert find(ax, "best score").get_xydata().tolist() == [[90, 0.4]]
    assert find(ax, "replaced").get_marker() == "x"
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "loss"
    assert ax.get_xlabel() == "gradient steps of all members"
    low, high = ax.get_ylim()
    assert low < 0.4 and high > 3.0


def test_marks_what_is_not_finite_at_the_edge_of_the_worse(history, rates, find):
    for drawn, edge in ((history, 1.0), (rates, 0.0)):
        (ax,) = plot_population_scores(drawn).axes
        assert find(ax, "not finite: 1").get_xydata().tolist() == [[30, edge]]


def test_the_legend_names_each_mark_once(history):
    (ax,) = plot_population_scores(history).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "a member",
        "replaced",
        "the winner's line",
        "best score",
        "best so far",
        "not finite: 1",
    ]


def test_draws_scores_that_are_all_the_same(make_history):
    (ax,) = plot_population_scores(make_history([[0.0, 0.0, 0.0]])).axes
    low, high = ax.get_ylim()
    assert low < 0.0 < high
