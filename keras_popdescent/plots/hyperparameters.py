"""Picture: the values of one hyperparameter over the gradient steps of the population."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history import History
from keras_popdescent.plots import style
from keras_popdescent.plots.axes import legend_above, set_log
from keras_popdescent.plots.lives import Floats, Lives, display_name, read_lives
from keras_popdescent.strategies.space import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Positive values that differ by more than this factor are drawn on a log axis.
LOG_RATIO = 10.0
# How far from its level on a categorical axis a member is drawn at most.
LEVEL_SPREAD = 0.3
# Up to so many different integers are drawn as levels, so that members do not lie on each other.
MAX_INTEGER_LEVELS = 6
# Words in the names of hyperparameters that people think of in powers of ten.
LOG_WORDS = re.compile(r"(^|[^a-z])(learning_?rate|lr|l1|l2|weight_?decay|epsilon)([^a-z]|$)")


@dataclass(frozen=True)
class HyperparameterPaths:
    """What `plot_hyperparameter_path` draws; steps are gradient steps of the population.

    Attributes:
        name: The hyperparameter.
        population_size: Most members at one time.
        levels: The values in the order of the axis where they are texts, truth values or few
            integers; a value below is then an index into them, and in `lives` and `jumps` up to 0.3
            off it, so that slots are apart. None for other numbers.
        lives: (members, 2, 2), from (start, value) to (end, value) of each member.
        jumps: (births, 2, 2), from (steps, parent's value) to (steps, child's value).
        winner: (points, 2), (steps, value) at every start of a life in the best member's line and
            where it scored best.
        log: Whether the values read best on a logarithmic axis.
    """

    name: str
    population_size: int
    levels: tuple[str, ...] | None
    lives: Floats
    jumps: Floats
    winner: Floats
    log: bool


def hyperparameter_paths_data(history: History, name: str) -> HyperparameterPaths:
    """Compute what `plot_hyperparameter_path` draws.

    Args:
        history: The history of a search.
        name: A hyperparameter's name as in the records, such as `"popdescent/learning_rate"`.

    Raises:
        ArgumentError: If no member has a finite score yet, or none has such a hyperparameter.
    """
    lives = read_lives(history)
    values = {
        member_id: life.values[name]
        for member_id, life in lives.by_id.items()
        if name in life.values
    }
    if not values:
        raise ArgumentError(
            describe(
                "No member has such a hyperparameter.",
                f"Expected one of {hyperparameter_names(lives)}.",
                name=name,
            )
        )
    size = max(len(record.members) for record in history.iterations())
    levels = _levels(set(values.values()))
    places = {
        member_id: _place(value, levels, lives.by_id[member_id].slot, size)
        for member_id, value in values.items()
    }
    return HyperparameterPaths(
        name=name,
        population_size=size,
        levels=levels,
        lives=_spans(lives, places),
        jumps=_jumps(lives, places),
        winner=_winner(lives, places, levels),
        log=levels is None and _reads_best_on_log_axis(name, list(places.values())),
    )


def hyperparameter_names(lives: Lives) -> list[str]:
    """Return the names of all hyperparameters, in the order in which they came up."""
    return list(dict.fromkeys(name for life in lives.by_id.values() for name in life.values))


def varying_numbers(lives: Lives) -> list[str]:
    """Return the names of the numeric hyperparameters that differ between any two members."""
    names = []
    for name in hyperparameter_names(lives):
        values = {life.values[name] for life in lives.by_id.values() if name in life.values}
        if len(values) > 1 and not any(isinstance(value, (bool, str)) for value in values):
            names.append(name)
    return names


def _levels(values: set[Value]) -> tuple[str, ...] | None:
    if any(isinstance(value, (bool, str)) for value in values):
        return tuple(sorted(str(value) for value in values))
    if all(isinstance(value, int) for value in values) and len(values) <= MAX_INTEGER_LEVELS:
        return tuple(str(value) for value in sorted(values, key=float))
    return None


def _place(value: Value, levels: tuple[str, ...] | None, slot: int, size: int) -> float:
    if levels is None:
        return float(value)
    return levels.index(str(value)) + LEVEL_SPREAD * ((2 * slot + 1) / size - 1.0)


def _spans(lives: Lives, places: dict[int, float]) -> Floats:
    pairs = [
        [(life.start, places[member_id]), (life.steps[-1], places[member_id])]
        for member_id, life in lives.by_id.items()
        if member_id in places and life.steps.size
    ]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2, 2)


def _jumps(lives: Lives, places: dict[int, float]) -> Floats:
    pairs = [
        [
            (child.start, places.get(parent.member_id, math.nan)),
            (child.start, places[child.member_id]),
        ]
        for parent, child in lives.children
        if child.member_id in places
    ]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2, 2)


def _winner(lives: Lives, places: dict[int, float], levels: tuple[str, ...] | None) -> Floats:
    """A level stays a level here: changes of slot are no changes of value."""
    line = lives.winner.line
    values = np.array([places.get(member_id, math.nan) for member_id in (*line, line[-1])])
    starts = [lives.by_id[member_id].start for member_id in line]
    return np.column_stack(
        [[*starts, lives.winner.step], values if levels is None else np.round(values)]
    ).astype(np.float64)


def _reads_best_on_log_axis(name: str, values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    return low > 0.0 and (high > LOG_RATIO * low or bool(LOG_WORDS.search(name.lower())))


def plot_hyperparameter_path(history: History, name: str, ax: Axes | None = None) -> Figure:
    """Draw the values of one hyperparameter over the gradient steps of all members.

    A member's value is constant during its life, a thin line; where a child is born, a fainter line
    leads up or down from its parent's value to its own, a dot. The bold line is the schedule of the
    best member: its ancestors' values and its own.

    Args:
        history: The history of a search.
        name: A hyperparameter's name as in the records, such as `"popdescent/learning_rate"`.
        ax: Where to draw; defaults to a new figure.

    Returns:
        The figure that was drawn in.

    Raises:
        ArgumentError: If no member has a finite score yet, or none has such a hyperparameter.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> plot_hyperparameter_path(
        ...     population.history, "popdescent/learning_rate"
        ... ).savefig("learning_rate.png")  # doctest: +SKIP
    """
    data = hyperparameter_paths_data(history, name)
    with style.drawing(ax, height=3.0) as axes:
        draw_paths(axes, data)
        axes.set_xlabel(style.STEPS_LABEL)
        legend_above(axes)
        return style.figure_of(axes)


def draw_paths(ax: Axes, data: HyperparameterPaths) -> None:
    """Draw the data into axes, without legend and x label."""
    look = style.choose_look(data.population_size)
    style.add_lines(ax, data.jumps, 0.8 * look.width, look.crowd, zorder=1)
    style.add_lines(ax, data.lives, look.width, look.alpha, label="a member")
    style.add_births(ax, data.jumps[:, 1], look)
    ax.plot(*data.winner.T, **style.WINNER, drawstyle="steps-post", label="the winner's line")
    ax.plot(*data.winner[-1], **style.STAR, label="best score")
    ax.set_xlim(left=0.0)
    ax.set_ylabel(display_name(data.name))
    if data.levels is not None:
        ax.set_yticks(range(len(data.levels)), data.levels)
        ax.set_ylim(-0.5, len(data.levels) - 0.5)
    elif data.log:
        values = data.lives[:, 0, 1]
        set_log(ax, float(values.min()), float(values.max()))
