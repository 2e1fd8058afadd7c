"""Picture: several searches side by side, the best score so far over the gradient steps spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from keras_popdescent.arguments import check_one_of
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history import History
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.plots import style
from keras_popdescent.plots.axes import legend_above, set_log
from keras_popdescent.plots.lives import Floats
from keras_popdescent.plots.scores import LOG_RATIO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A search as this package records it, or (gradient steps so far, score) pairs of any other.
Search = History | Sequence[tuple[float, float]]
# Points at which the medians of several runs are computed.
NUM_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """One kind of search in a comparison.

    Attributes:
        name: What the legend calls it.
        runs: By run, a (points, 2) array of (gradient steps of all members, best score so far).
        median: (points, 2), the median over the runs; the run itself where there is one.
    """

    name: str
    runs: tuple[Floats, ...]
    median: Floats


@dataclass(frozen=True)
class Comparison:
    """What `plot_comparison` draws.

    Attributes:
        objective: What the scores measure.
        direction: `"min"` or `"max"`.
        curves: One for each kind of search.
        log: Whether the scores read best on a logarithmic axis.
    """

    objective: str
    direction: Direction
    curves: tuple[Curve, ...]
    log: bool


def comparison_data(
    searches: Mapping[str, Search | Sequence[History]],
    objective: str | None = None,
    direction: Direction | None = None,
) -> Comparison:
    """Compute what `plot_comparison` draws.

    Args:
        searches: By name: a history, several histories (of other seeds), or (gradient steps,
            score) pairs of a search that something else made.
        objective: What the scores measure. Defaults to the histories' own.
        direction: `"min"` or `"max"`. Defaults to the histories' own.

    Raises:
        ArgumentError: If there is nothing to draw, the searches have different objectives, or the
            direction is another word.
    """
    if direction is not None:
        check_one_of("direction", direction, get_args(Direction))
    if not searches:
        raise ArgumentError(describe("There is nothing to compare.", searches=searches))
    histories = [h for search in searches.values() for h in _histories(search)]
    found = {(history.objective, history.direction) for history in histories}
    if objective is None or direction is None:
        if len(found) != 1:
            raise ArgumentError(
                describe(
                    "The searches have not one common objective.",
                    "Expected histories with the same objective and direction.",
                    "Pass `objective` and `direction` for searches given as pairs.",
                    objectives=sorted(found),
                )
            )
        ((own, own_direction),) = found
        objective, direction = objective or own, direction or own_direction
    curves = tuple(_curve(name, search, direction) for name, search in searches.items())
    scores = np.concatenate([run[:, 1] for curve in curves for run in curve.runs])
    low, high = float(scores.min()), float(scores.max())
    log = direction == "min" and low > 0.0 and high > LOG_RATIO * low
    return Comparison(objective, direction, curves, log)


def _histories(search: Search | Sequence[History]) -> list[History]:
    if isinstance(search, History):
        return [search]
    return [item for item in search if isinstance(item, History)]


def _curve(name: str, search: Search | Sequence[History], direction: Direction) -> Curve:
    histories = _histories(search)
    points = [_points(history) for history in histories] or [_pairs(name, search)]
    runs = tuple(_best_so_far(name, run, direction) for run in points)
    return Curve(name, runs, _median(runs))


def _points(history: History) -> Floats:
    rows = [
        (record.gradient_steps, member.score)
        for record in history.iterations()
        for member in record.members
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _pairs(name: str, search: object) -> Floats:
    try:
        return np.asarray(search, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            describe(
                f"`{name}` is no search.",
                "Expected a `History`, a list of them, or (gradient steps, score) pairs.",
                search=search,
            )
        ) from error


def _best_so_far(name: str, points: Floats, direction: Direction) -> Floats:
    scores = points[:, 1]
    points = points[np.isfinite(scores)]
    if not len(points):
        raise ArgumentError(
            describe(f"`{name}` has no finite score.", "Expected at least one.", scores=scores)
        )
    points = points[np.argsort(points[:, 0], kind="stable")]
    best = (np.minimum if direction == "min" else np.maximum).accumulate(points[:, 1])
    steps, last = np.unique(points[::-1, 0], return_index=True)
    return np.column_stack([steps, best[::-1][last]])


def _median(runs: Sequence[Floats]) -> Floats:
    if len(runs) == 1:
        return runs[0]
    # Where all runs have a score: a median of fewer would jump when one begins or ends.
    begin, end = max(run[0, 0] for run in runs), min(run[-1, 0] for run in runs)
    steps = np.linspace(begin, end, NUM_POINTS) if end > begin else np.array([begin])
    values = [run[np.searchsorted(run[:, 0], steps, side="right") - 1, 1] for run in runs]
    return np.column_stack([steps, np.median(values, axis=0)])


def plot_comparison(
    searches: Mapping[str, Search | Sequence[History]],
    objective: str | None = None,
    direction: Direction | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the best score so far of several searches over the gradient steps they have made.

    Steps are those of all members (or trials) together: what a search costs. Of several runs of a
    kind each is a thin line, their median a bold one. Colours, dashes and markers differ, so that
    the curves can be told apart without colours.

    Args:
        searches: By name: a history, several histories (of other seeds), or (gradient steps,
            score) pairs of a search that something else made.
        objective: What the scores measure. Defaults to the histories' own.
        direction: `"min"` or `"max"`. Defaults to the histories' own.
        ax: Where to draw; defaults to a new figure.

    Returns:
        The figure that was drawn in.

    Raises:
        ArgumentError: If there is nothing to draw, the searches have different objectives, or the
            direction is another word.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> plot_comparison({"one": history, "other": other})  # doctest: +SKIP
    """
    data = comparison_data(searches, objective, direction)
    with style.drawing(ax) as axes:
        draw_comparison(axes, data)
        legend_above(axes, length=4.5)
        return style.figure_of(axes)


def draw_comparison(ax: Axes, data: Comparison) -> None:
    """Draw the data into axes, without legend."""
    for index, curve in enumerate(data.curves):
        look = style.CURVES[index % len(style.CURVES)]
        if len(curve.runs) > 1:
            for run in curve.runs:
                ax.step(*run.T, where="post", color=look["color"], linewidth=0.8, alpha=0.4)
        steps, scores = curve.median.T
        ax.step(
            steps,
            scores,
            where="post",
            linewidth=2.2,
            markevery=[-1],
            label=_label(curve),
            **look,
        )
    ax.set_xlim(left=0.0)
    ax.set_xlabel("gradient steps of all members")
    ax.set_ylabel(f"best {data.objective} so far")
    values = np.concatenate([run[:, 1] for curve in data.curves for run in curve.runs])
    if data.log:
        set_log(ax, float(values.min()), float(values.max()))


def _label(curve: Curve) -> str:
    return curve.name if len(curve.runs) == 1 else f"{curve.name}, median of {len(curve.runs)}"
