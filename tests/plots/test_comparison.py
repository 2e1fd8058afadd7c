"""The picture of several searches: best score so far over gradient steps."""

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.plots import comparison_data, plot_comparison


def test_best_so_far_over_the_populations_steps(history):
    # Losses (3, 2, nan), (2.5, 1, 0.5), (0.4, 0.9, 0.6) after 30, 60 and 90 steps.
    data = comparison_data({"one": history})
    (curve,) = data.curves
    np.testing.assert_allclose(curve.median, [(30, 2.0), (60, 0.5), (90, 0.4)])
    assert (data.objective, data.direction, data.log) == ("loss", "min", False)
    assert comparison_data({"one": history, "other": [(50, 0.1)]}).log


def test_a_score_to_maximise(rates):
    data = comparison_data({"one": rates})
    np.testing.assert_allclose(data.curves[0].median[:, 1], [0.5, 0.875, 0.9])
    assert not data.log


def test_another_search_as_pairs(history):
    data = comparison_data({"ours": history, "random": [(50, 1.0), (100, 3.0), (150, 0.9)]})
    np.testing.assert_allclose(data.curves[1].median, [(50, 1.0), (100, 1.0), (150, 0.9)])


def test_pairs_only_need_words():
    pairs = {"random": [(50, 1.0), (100, 0.5)]}
    data = comparison_data(pairs, "val_loss", "min")
    assert data.objective == "val_loss"
    with pytest.raises(ArgumentError, match="Pass `objective`"):
        comparison_data(pairs)


def test_the_median_of_several_runs(make_history):
    runs = [
        make_history([[v, v, v] for v in values])
        for values in ((3.0, 2.0, 1.0), (4.0, 4.0, 4.0), (5.0, 1.0, 0.5))
    ]
    data = comparison_data({"ours": runs})
    (curve,) = data.curves
    assert len(curve.runs) == 3
    ends = {30.0: 4.0, 90.0: 1.0}
    for steps, expected in ends.items():
        index = np.flatnonzero(curve.median[:, 0] == steps)[0]
        assert curve.median[index, 1] == expected
    assert curve.median[:, 0].min() == 30 and curve.median[:, 0].max() == 90


@pytest.mark.parametrize(
    ("searches", "words"),
    [
        ({}, "nothing to compare"),
        ({"a": [(1, float("nan"))]}, "no finite"),
        ({"a": "abc"}, "no search"),
    ],
)
def test_what_cannot_be_compared(searches, words):
    with pytest.raises(ArgumentError, match=words):
        comparison_data(searches, "loss", "min")


def test_another_direction(history):
    with pytest.raises(ArgumentError, match="one of 'min', 'max'. Received: direction='minimum'"):
        comparison_data({"a": history}, direction="minimum")


def test_what_was_received_without_a_finite_score():
    with pytest.raises(ArgumentError, match=r"Received: scores=array\(\[nan\]\)"):
        comparison_data({"a": [(1, float("nan"))]}, "loss", "min")


def test_different_objectives(history, rates):
    with pytest.raises(ArgumentError, match="common objective"):
        comparison_data({"a": history, "b": rates})


def test_the_picture_tells_curves_apart_without_colours(history, make_history):
    searches = {"a": history, "b": [make_history(), make_history()], "c": [(50, 1.0), (90, 0.8)]}
    figure = plot_comparison(searches)
    axes = figure.axes[0]
    named = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in named] == ["a", "b, median of 2", "c"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in named}) == 3
    assert len({line.get_color() for line in named}) == 3
    # Two thin lines for the two runs of b, in its colour.
    assert len(axes.lines) == 5
    assert axes.get_xlabel() == "gradient steps of all members"
    for line, (_, expected) in zip(named[:1], [("a", [2.0, 0.5, 0.4])], strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected)
