"""The lineage's picture: what it computes, by hand, and what it draws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_popdescent.history import History, IterationRecord
from keras_popdescent.plots import lineage_data, plot_lineage


def test_bars_are_members_iteration_by_iteration(history):
    data = lineage_data(history)
    assert_allclose(
        data.bars,
        [
            [[0, 0], [1, 0]],
            [[1, 0], [2, 0]],
            [[0, 1], [1, 1]],
            [[1, 1], [2, 1]],
            [[2, 1], [3, 1]],
            [[0, 2], [1, 2]],
            [[1.4, 2], [2, 2]],
            [[2, 2], [3, 2]],
            [[2.4, 0], [3, 0]],
        ],
    )
    assert_array_equal(data.scores, [3.0, 2.5, 2.0, 1.0, 0.9, math.nan, 0.5, 0.6, 0.4])
    assert data.num_slots == 3


def test_links_lead_from_slot_to_slot(history):
    assert_allclose(lineage_data(history).links, [[[1, 1], [1.4, 2]], [[2, 2], [2.4, 0]]])


def test_the_winners_way(history):
    assert_allclose(
        lineage_data(history).winner, [[0, 1], [1, 1], [1.4, 2], [2, 2], [2.4, 0], [3, 0]]
    )


def test_training_after_the_last_iteration_is_one_more(history):
    last = history.records[-1]
    members = tuple(replace(member, gradient_steps=40) for member in last.members)
    closing = IterationRecord(last.iteration, 120, 4.0, members, closing=True)
    history.append(closing)
    data = lineage_data(history)
    assert data.bars[:, 1, 0].max() == 4
    assert len(data.bars) == 12


def test_who_does_not_train_has_no_bar(history):
    last = history.records[-1]
    first, *others = last.members
    members = (replace(first, gradient_steps=60, score=0.3), *others)
    history.append(IterationRecord(4, 120, 4.0, members))
    data = lineage_data(history)
    assert [slot for iteration, slot in data.bars[:, 1].tolist() if iteration == 4] == [first.slot]


def test_a_history_without_replacements_has_no_links(history):
    first = History()
    first.records = [history.records[0], IterationRecord(1, 30, 1.0, history.records[1].members)]
    assert lineage_data(first).links.shape == (0, 2, 2)


@pytest.mark.parametrize(("fixture", "inverted"), [("history", True), ("rates", False)])
def test_draws_rows_from_the_top_and_the_better_end_of_the_colours_too(request, fixture, inverted):
    figure = plot_lineage(request.getfixturevalue(fixture))
    ax, bar = figure.axes
    assert ax.get_xlabel() == "iteration" and ax.get_ylabel() == "slot"
    assert ax.get_ylim() == (2.5, -0.5)
    assert ax.get_xlim() == (0.0, 3.0)
    assert bool(bar.yaxis_inverted()) is inverted
    assert bar.get_ylabel() == lineage_data(request.getfixturevalue(fixture)).objective


def test_draws_a_bar_for_each_score_and_a_line_for_each_birth(history, find):
    ax, _ = plot_lineage(history).axes
    (bars,) = [child for child in ax.collections if child.get_array() is not None]
    assert len(bars.get_paths()) == 9
    assert bars.get_array().mask.sum() == 1
    assert len(find(ax, "parent to child").get_segments()) == 2
    assert_allclose(find(ax, "the winner's line").get_xydata(), lineage_data(history).winner)
    assert find(ax, "not finite: 1").get_marker() == "s"


@pytest.mark.parametrize("fixture", ["history", "rates"])
def test_the_better_the_brighter(request, fixture):
    ax, _ = plot_lineage(request.getfixturevalue(fixture)).axes
    (bars,) = [child for child in ax.collections if child.get_array() is not None]
    brightness = bars.to_rgba(bars.get_array())[:, :3].sum(axis=1)
    # in the order of `bars`: 3.0 is the worst loss, 0.4 the best
    assert brightness[0] < brightness[1] < brightness[3] < brightness[8]
