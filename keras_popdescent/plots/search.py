"""Picture: a whole search on one page, the scores above the hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_popdescent.history import History
from keras_popdescent.plots import style
from keras_popdescent.plots.axes import add_heading, legend_below, number
from keras_popdescent.plots.hyperparameters import (
    draw_paths,
    hyperparameter_paths_data,
    varying_numbers,
)
from keras_popdescent.plots.lives import read_lives
from keras_popdescent.plots.scores import draw_scores, population_scores_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 4


def plot_search(
    history: History,
    names: Sequence[str] | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw a search on one page: scores, and a panel for each hyperparameter below them.

    Args:
        history: The history of a search.
        names: Hyperparameters to show, as in the records. Defaults to the numeric ones that vary,
            at most 4.
        title: A title above the caption.
        path: A file to save the picture to, at 150 dots an inch.

    Returns:
        The figure, 8 inches wide.

    Raises:
        ArgumentError: If no member has a finite score yet, or none has such a hyperparameter.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> plot_search(population.history, path="search.png")  # doctest: +SKIP
    """
    chosen = varying_numbers(read_lives(history))[:MAX_PANELS] if names is None else list(names)
    scores = population_scores_data(history)
    paths = [hyperparameter_paths_data(history, name) for name in chosen]
    with style.styled():
        figure = style.new_figure(8.0, 4.0 + 1.5 * len(paths))
        panels = figure.subplots(
            1 + len(paths),
            sharex=True,
            squeeze=False,
            gridspec_kw={"height_ratios": [3.2, *[1.5] * len(paths)]},
        )[:, 0]
        draw_scores(panels[0], scores)
        for panel, data in zip(panels[1:], paths, strict=True):
            draw_paths(panel, data)
        panels[-1].set_xlabel(style.STEPS_LABEL)
        figure.align_ylabels(panels)
        add_heading(panels[0], title, search_caption(history))
        legend_below(figure, list(panels))
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
    return figure


def search_caption(history: History) -> str:
    """Return one line: best score, members born and replaced, how long.

    Raises:
        ArgumentError: If no member has a finite score yet.
    """
    winner = read_lives(history).winner
    size = len(history.iterations()[0].members)
    facts = [
        f"best {history.objective} {number(winner.score)}",
        f"population of {size}",
        f"{_count(len(history.births()), 'member')} born, {history.num_replaced} replaced",
        _count(len(history), "iteration"),
    ]
    return "  ·  ".join(facts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
