"""Picture: the scores of all members over the gradient steps of the population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_popdescent.history import History
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.plots import style
from keras_popdescent.plots.axes import legend_above, set_log
from keras_popdescent.plots.lives import Floats, Integers, Life, Lives, read_lives

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A loss that falls to less than this fraction of its worst value is drawn on a log axis.
LOG_RATIO = 5.0
# The worst scores of a search beyond this quantile do not decide where the axis ends.
OUTLIER_QUANTILE = 0.98


@dataclass(frozen=True)
class PopulationScores:
    """What `plot_population_scores` draws; steps are gradient steps of the population.

    Attributes:
        objective: What the scores measure.
        direction: `"min"` or `"max"`.
        population_size: Most members at one time.
        lines: By member, an (iterations, 2) array of (steps, score); NaN where not finite.
        connections: (births, 2, 2), from (steps, score) of a parent, when the child's weights were
            its own, to those of the child's first.
        replaced: (replaced, 2), the last (steps, score) of each member that was replaced.
        not_finite: (count,) steps of the scores that were not finite.
        winner: (iterations, 2), (steps, score) of the best member's ancestors and itself, until it
            scored best.
        best: (iterations, 2), (steps, best score so far).
        log: Whether the scores read best on a logarithmic axis.
        limits: Lowest and highest score that the axis has to show; rare outliers are outside.
    """

    objective: str
    direction: Direction
    population_size: int
    lines: tuple[Floats, ...]
    connections: Floats
    replaced: Floats
    not_finite: Integers
    winner: Floats
    best: Floats
    log: bool
    limits: tuple[float, float]

    @property
    def off_axis(self) -> Integers:
        """(count,) steps of the finite scores outside `limits`."""
        points = np.concatenate(self.lines)
        low, high = self.limits
        return points[(points[:, 1] < low) | (points[:, 1] > high), 0].astype(np.int64)


def population_scores_data(history: History) -> PopulationScores:
    """Compute what `plot_population_scores` draws.

    Args:
        history: The history of a search.

    Raises:
        ArgumentError: If no member has a finite score yet.
    """
    lives = read_lives(history)
    members = [life for life in lives.by_id.values() if life.steps.size]
    scores = np.concatenate([life.scores for life in members])
    best = _best_so_far(history)
    log = _reads_best_on_log_axis(scores, history.direction)
    return PopulationScores(
        objective=history.objective,
        direction=history.direction,
        population_size=max(len(record.members) for record in history.iterations()),
        lines=tuple(_points(life) for life in members),
        connections=_connections(lives),
        replaced=np.array(
            [_points(life)[-1] for life in members if life.replaced], dtype=np.float64
        ).reshape(-1, 2),
        not_finite=np.concatenate([life.steps[np.isnan(life.scores)] for life in members]),
        winner=_winner(lives),
        best=best,
        log=log,
        limits=score_limits(scores, best[:, 1], history.direction, log),
    )


def _points(life: Life) -> Floats:
    return np.column_stack([life.steps, life.scores])


def _connections(lives: Lives) -> Floats:
    pairs = [
        [_points(parent)[parent.until(child.inherited)[-1]], _points(child)[0]]
        for parent, child in lives.children
        if child.steps.size and parent.until(child.inherited).size
    ]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2, 2)


def _winner(lives: Lives) -> Floats:
    line = [lives.by_id[member_id] for member_id in lives.winner.line]
    ends = [*(child.inherited for child in line[1:]), lives.winner.line_steps]
    return np.concatenate(
        [_points(life)[life.until(end)] for life, end in zip(line, ends, strict=True)]
    )


def _best_so_far(history: History) -> Floats:
    better = np.fmin if history.direction == "min" else np.fmax
    points = []
    best = np.nan
    for record in history.iterations():
        scores = np.array([member.score for member in record.members], dtype=np.float64)
        best = better.reduce([best, *scores[np.isfinite(scores)]])
        points.append((record.gradient_steps, best))
    return np.array(points, dtype=np.float64)


def _reads_best_on_log_axis(scores: Floats, direction: Direction) -> bool:
    low, high = np.nanmin(scores), np.nanmax(scores)
    return bool(direction == "min" and low > 0.0 and high > LOG_RATIO * low)


def score_limits(
    scores: Floats, best_so_far: Floats, direction: Direction, log: bool
) -> tuple[float, float]:
    """Return the range of all scores, cut where the worst are far beyond what is usual."""
    finite = scores[np.isfinite(scores)]
    low, high = float(finite.min()), float(finite.max())
    first_best = best_so_far[np.isfinite(best_so_far)][0]
    forward, backward = (np.log, np.exp) if log else (np.asarray, np.asarray)
    if direction == "min":
        usual = forward(max(np.quantile(finite, OUTLIER_QUANTILE), first_best))
        end = float(backward(usual + 0.5 * (usual - forward(low))))
        return low, min(high, end)
    usual = min(np.quantile(finite, 1.0 - OUTLIER_QUANTILE), first_best)
    return max(low, float(usual - 0.5 * (high - usual))), high


def plot_population_scores(history: History, ax: Axes | None = None) -> Figure:
    """Draw the scores of all members over the gradient steps of the population.

    One thin line a member; a fainter one leads from a parent to its child's first score; a cross
    ends a member that was replaced. The bold line is that of the best member and its ancestors, the
    dashed one the best score so far. Scores that are not finite are gaps, counted in the legend and
    marked at the edge of the axis, as are rare ones far beyond the others.

    Args:
        history: The history of a search.
        ax: Where to draw; defaults to a new figure.

    Returns:
        The figure that was drawn in.

    Raises:
        ArgumentError: If no member has a finite score yet.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> plot_population_scores(population.history).savefig("scores.png")  # doctest: +SKIP
    """
    data = population_scores_data(history)
    with style.drawing(ax) as axes:
        draw_scores(axes, data)
        axes.set_xlabel(style.STEPS_LABEL)
        legend_above(axes)
        return style.figure_of(axes)


def draw_scores(ax: Axes, data: PopulationScores) -> None:
    """Draw the data into axes, without legend and x label."""
    look = style.choose_look(data.population_size)
    style.add_lines(ax, data.connections, 0.8 * look.width, look.faint, zorder=1)
    style.add_lines(ax, data.lines, look.width, look.alpha, label="a member")
    style.add_replaced(ax, data.replaced, look)
    ax.plot(*data.winner.T, **style.WINNER, label="the winner's line")
    ax.plot(*data.best.T, **style.BEST, label="best so far")
    ax.plot(*data.winner[-1], **style.STAR, label="best score")
    ax.set_xlim(left=0.0)
    ax.set_ylabel(data.objective)
    low, high = data.limits
    if data.log:
        set_log(ax, low, high)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        ax.set_ylim(low - margin, high + margin)
    edge = 1.0 if data.direction == "min" else 0.0
    style.add_edge_marks(ax, data.off_axis, edge, "beyond the axis", filled=False)
    style.add_edge_marks(ax, data.not_finite, edge, "not finite", filled=True)
