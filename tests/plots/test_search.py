"""The picture of a whole search, and what holds for every picture."""

from __future__ import annotations

import importlib
import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import keras_popdescent.plots
from keras_popdescent.errors import ArgumentError, MissingExtraError
from keras_popdescent.history import History
from keras_popdescent.plots import (
    hyperparameter_paths_data,
    lineage_data,
    plot_hyperparameter_path,
    plot_lineage,
    plot_population_scores,
    plot_search,
    population_scores_data,
)
from keras_popdescent.plots.axes import number
from keras_popdescent.plots.lives import display_name
from keras_popdescent.plots.search import search_caption

DRAW = {
    "scores": plot_population_scores,
    "path": lambda history, **options: plot_hyperparameter_path(history, "dropout", **options),
    "lineage": plot_lineage,
}
COMPUTE = {
    "scores": population_scores_data,
    "path": lambda history: hyperparameter_paths_data(history, "dropout"),
    "lineage": lineage_data,
}
PICTURES = {**DRAW, "search": plot_search}


def test_a_panel_for_the_scores_and_one_for_each_numeric_hyperparameter(history):
    figure = plot_search(history)
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "learning rate", "dropout", "units"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "", "gradient steps of all members"]
    assert len({ax.get_xlim() for ax in figure.axes}) == 1


def test_names_choose_the_panels(history):
    assert [ax.get_ylabel() for ax in plot_search(history, names=["activation"]).axes] == [
        "loss",
        "activation",
    ]
    assert len(plot_search(history, names=[]).axes) == 1


def test_at_most_four_panels_by_default(history):
    for record in history.records:
        for entry in (*record.members, *record.births):
            entry.values.update({f"more_{i}": entry.member_id + i / 2 for i in range(5)})
    assert len(plot_search(history).axes) == 5


def test_caption(history, rates):
    assert search_caption(history).split("  ·  ") == [
        "best loss 0.4",
        "population of 3",
        "5 members born, 2 replaced",
        "3 iterations",
    ]
    assert search_caption(rates).startswith("best accuracy 0.9  ")


def test_title_and_caption_stand_above_the_scores(history):
    ax = plot_search(history, title="Digits").axes[0]
    assert [text.get_text() for text in ax.texts] == ["Digits"]
    assert ax.get_title(loc="left") == search_caption(history)


def test_one_legend_below_all_panels(history):
    figure = plot_search(history)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "a member",
        "born",
        "replaced",
        "the winner's line",
        "best score",
        "best so far",
        "not finite: 1",
    ]
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_tightbbox()) for ax in figure.axes)


def test_saves_at_150_dots_an_inch_and_makes_the_folder(history, tmp_path):
    path = tmp_path / "new" / "search.png"
    figure = plot_search(history, path=path)
    assert pyplot.imread(path).shape[:2] == (150 * figure.get_figheight(), 1200)


@pytest.mark.parametrize("name", COMPUTE)
@pytest.mark.parametrize("scores", [(), [[float("nan")] * 3]], ids=["empty", "not finite"])
def test_nothing_to_draw_is_an_error(name, scores, make_history):
    for function in (COMPUTE[name], PICTURES[name], plot_search):
        with pytest.raises(ArgumentError, match="no finite score"):
            function(make_history(scores))
    with pytest.raises(ArgumentError, match="no finite score"):
        COMPUTE[name](History())


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.parametrize("name", PICTURES)
def test_without_matplotlib_the_error_names_the_extra(name, history, no_matplotlib):
    with pytest.raises(MissingExtraError, match=r"keras-popdescent\[plots\]"):
        PICTURES[name](history)


# Keras imports matplotlib where it is installed, so whether it is loaded says nothing.
def test_importing_and_computing_work_without_matplotlib(history, no_matplotlib, monkeypatch):
    monkeypatch.setattr(keras_popdescent, "plots", keras_popdescent.plots)
    for name in [name for name in sys.modules if name.startswith("keras_popdescent.plots")]:
        monkeypatch.delitem(sys.modules, name)
    plots = importlib.import_module("keras_popdescent.plots")
    assert plots.lineage_data is not lineage_data
    assert plots.lineage_data(history).num_slots == 3


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_leave_nothing_behind(name, history):
    with matplotlib.rc_context({"font.size": 21.0, "axes.grid": False, "savefig.dpi": 33}):
        before = dict(matplotlib.rcParams)
        open_figures = pyplot.get_fignums()
        figure = PICTURES[name](history)
        assert dict(matplotlib.rcParams) == before
        assert pyplot.get_fignums() == open_figures
    assert isinstance(figure, Figure)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return buffer.getvalue()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_the_same_whatever_the_users_style(name, history):
    plain = png(PICTURES[name](history))
    with matplotlib.rc_context({"xtick.labelsize": 21.0, "grid.color": "red", "lines.marker": "o"}):
        assert png(PICTURES[name](history)) == plain


@pytest.mark.parametrize("name", PICTURES)
def test_notebooks_show_pictures_although_pyplot_does_not_know_them(name, history):
    assert PICTURES[name](history)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", DRAW)
def test_draws_into_given_axes(name, history):
    figure = Figure()
    part = figure.subfigures(1, 2)[0]
    ax = part.add_subplot()
    assert DRAW[name](history, ax=ax) is figure
    assert ax.get_ylabel()
    assert ax.lines


@pytest.mark.parametrize("name", PICTURES)
def test_a_single_score_can_be_drawn(name, make_history):
    figure = PICTURES[name](make_history([[1.0, float("nan"), float("nan")]]))
    image = np.asarray(figure.axes[0].get_ylim())
    assert np.isfinite(image).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-4, "1e-4"), (5e-5, "5e-5"), (0.001, "0.001"), (0.29163, "0.2916"),
     (20.0, "20"), (123456.0, "1.23e5"), (-2e-7, "-2e-7")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("popdescent/learning_rate", "learning rate"), ("dense/units", "dense/units"),
     ("3:Dropout.rate", "3:Dropout.rate"), ("batch_size", "batch size")],
)  # fmt: skip
def test_display_names(name, text):
    assert display_name(name) == text
