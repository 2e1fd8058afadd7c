"""Picture: who descends from whom, slot by slot and iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_popdescent.history import History
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.plots import style
from keras_popdescent.plots.axes import legend_above, set_log_ticks
from keras_popdescent.plots.lives import Floats, Life, Lives, read_lives
from keras_popdescent.plots.scores import population_scores_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Part of an iteration over which a line from a parent's slot to its child's runs.
GAP = 0.4
# Height of a bar, as part of its row.
BAR_HEIGHT = 0.6


@dataclass(frozen=True)
class Lineage:
    """What `plot_lineage` draws, in coordinates (iteration, slot).

    Attributes:
        objective: What the scores measure.
        direction: `"min"` or `"max"`.
        num_slots: Size of the population.
        bars: (bars, 2, 2), a member in one iteration, from its begin to its end.
        scores: (bars,) its score then, NaN where not finite.
        links: (births, 2, 2), from a parent's slot to its child's.
        winner: (points, 2), the way of the best member's line through iterations and slots until it
            scored best.
        log: Whether the scores read best on a logarithmic scale.
        limits: Lowest and highest score that the scale has to show; rare outliers are outside.
    """

    objective: str
    direction: Direction
    num_slots: int
    bars: Floats
    scores: Floats
    links: Floats
    winner: Floats
    log: bool
    limits: tuple[float, float]


def lineage_data(history: History) -> Lineage:
    """Compute what `plot_lineage` draws.

    Args:
        history: The history of a search.

    Raises:
        ArgumentError: If no member has a finite score yet.
    """
    lives = read_lives(history)
    members = [life for life in lives.by_id.values() if life.iterations.size]
    scores = np.concatenate([life.scores for life in members])
    axis = population_scores_data(history)
    return Lineage(
        objective=history.objective,
        direction=history.direction,
        num_slots=1 + max(life.slot for life in lives.by_id.values()),
        bars=np.array(
            [
                [(_begin(life, iteration), life.slot), (iteration, life.slot)]
                for life in members
                for iteration in life.iterations
            ],
            dtype=np.float64,
        ),
        scores=scores,
        links=np.array(
            [_link(parent, child) for parent, child in lives.children], dtype=np.float64
        ).reshape(-1, 2, 2),
        winner=_winner(lives),
        log=axis.log,
        limits=axis.limits,
    )


def _begin(life: Life, iteration: int) -> float:
    newborn = life.parent is not None and iteration == life.born + 1
    return iteration - 1 + (GAP if newborn else 0.0)


def _link(parent: Life, child: Life) -> list[tuple[float, int]]:
    return [(child.born, parent.slot), (child.born + GAP, child.slot)]


def _winner(lives: Lives) -> Floats:
    line = [lives.by_id[member_id] for member_id in lives.winner.line]
    points: list[tuple[float, int]] = [(0.0, line[0].slot)]
    for parent, child in zip(line, line[1:], strict=False):
        points.extend(_link(parent, child))
    return np.array([*points, (lives.winner.iteration, line[-1].slot)], dtype=np.float64)


def plot_lineage(history: History, ax: Axes | None = None) -> Figure:
    """Draw the lineage tree: iterations from left to right, slots from top to bottom.

    Each slot's row is coloured by its member's score, the brighter the better. Where a member is
    replaced its bar ends, and a line leads from the parent's row to the child's. The bold line is
    that of the best member and its ancestors.

    Args:
        history: The history of a search.
        ax: Where to draw; defaults to a new figure.

    Returns:
        The figure that was drawn in.

    Raises:
        ArgumentError: If no member has a finite score yet.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> plot_lineage(population.history).savefig("lineage.png")  # doctest: +SKIP
    """
    data = lineage_data(history)
    height = min(7.0, 1.6 + 0.3 * data.num_slots)
    with style.drawing(ax, height=height) as axes:
        draw_lineage(axes, data)
        legend_above(axes)
        return style.figure_of(axes)


def draw_lineage(ax: Axes, data: Lineage) -> None:
    """Draw the data into axes, with a colour bar, without legend."""
    ticker = style.load("matplotlib.ticker")
    look = style.choose_look(data.num_slots)
    bars = _add_bars(ax, data)
    style.add_lines(
        ax, data.links, look.width, look.crowd + 0.05, colors=style.BLACK, label="parent to child"
    )
    ax.plot(*data.winner.T, **style.WINNER, label="the winner's line")
    ax.plot(*data.winner[-1], **style.STAR, label="best score")
    ax.set_xlabel("iteration")
    ax.set_ylabel("slot")
    ax.set_xlim(0.0, data.bars[:, 1, 0].max())
    ax.set_ylim(data.num_slots - 0.5, -0.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=12))
    ax.grid(False)
    if num_diverged := int(np.isnan(data.scores).sum()):
        ax.plot([], [], **style.NOT_FINITE, label=f"not finite: {num_diverged}")
    bar = ax.figure.colorbar(bars, ax=ax, label=data.objective, pad=0.02, aspect=30)
    if data.log:
        set_log_ticks(bar.ax.yaxis, np.log10(data.limits[1] / data.limits[0]))
    if data.direction == "min":
        bar.ax.invert_yaxis()


def _add_bars(ax: Axes, data: Lineage) -> Any:
    matplotlib = style.load("matplotlib")
    collections = style.load("matplotlib.collections")
    colors = style.load("matplotlib.colors")
    (left, right), slots = data.bars[:, :, 0].T, data.bars[:, 0, 1]
    corners = [(left, -1), (right, -1), (right, 1), (left, 1)]
    boxes = np.stack(
        [np.column_stack([x, slots + side * BAR_HEIGHT / 2]) for x, side in corners], axis=1
    )  # (bars, 4, 2)
    name = "cividis_r" if data.direction == "min" else "cividis"
    artist = collections.PolyCollection(
        boxes,
        array=np.ma.masked_invalid(data.scores),
        cmap=matplotlib.colormaps[name].with_extremes(bad=style.PURPLE),
        norm=(colors.LogNorm if data.log else colors.Normalize)(*data.limits),
        linewidths=0.0,
        zorder=1,
    )
    ax.add_collection(artist)
    return artist
