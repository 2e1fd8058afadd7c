"""What the pictures have in common: colours, marks, figures. matplotlib is imported in functions.

Colours are Okabe and Ito's, which the colour-blind can tell apart; every meaning has a line style,
a weight or a mark of its own as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keras_popdescent._imports import optional_import
from keras_popdescent.plots.lives import Floats, Integers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY, BLUE, VERMILLION, PURPLE = "#000000", "#5f6b76", "#0072B2", "#D55E00", "#CC79A7"
DPI = 150
STEPS_LABEL = "gradient steps of all members"

WINNER: dict[str, Any] = {"color": VERMILLION, "linewidth": 2.2, "zorder": 5}
BEST: dict[str, Any] = {"color": BLACK, "linewidth": 1.3, "linestyle": (0, (4, 2)), "zorder": 6}
STAR: dict[str, Any] = {
    "color": VERMILLION, "marker": "*", "markersize": 12, "markeredgecolor": "white",
    "markeredgewidth": 0.8, "linestyle": "none", "zorder": 8, "clip_on": False,
}  # fmt: skip
NOT_FINITE: dict[str, Any] = {"color": PURPLE, "marker": "s", "linestyle": "none"}
# Of several searches, each with a dash and a mark of its own.
CURVES: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "linestyle": dashes, "marker": marker}
    for color, dashes, marker in (
        (VERMILLION, "-", "o"),
        (BLUE, (0, (5, 1.5)), "s"),
        (BLACK, (0, (1, 1)), "^"),
        ("#009E73", (0, (7, 1.5, 1, 1.5)), "D"),
        (PURPLE, (0, (3, 1, 1, 1, 1, 1)), "v"),
        ("#56B4E9", (0, (2, 2)), "P"),
        ("#E69F00", (0, (8, 3)), "X"),
    )
)

RC = {
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "savefig.dpi": DPI,
}


@dataclass(frozen=True)
class Look:
    """How heavily members are drawn, by how many there are.

    Attributes:
        width: Line width of members in points; other lines are thinner.
        alpha: Opacity of members' lines and marks.
        faint: Opacity of lines between members that do not cross many others.
        crowd: Opacity of lines between members that lie on each other.
        mark: Size of marks in points.
    """

    width: float
    alpha: float
    faint: float
    crowd: float
    mark: float


def choose_look(population_size: int) -> Look:
    """Return lighter lines and marks for more members."""
    share = min(1.0, 5.0 / max(population_size, 1))
    alpha = 0.3 + 0.5 * share
    return Look(0.6 + 0.6 * share, alpha, 0.6 * alpha, 0.5 * share, 1.8 + 3.2 * share)


def load(module: str) -> ModuleType:
    """Import a module of matplotlib.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    return optional_import(module, "plots", "plots")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this package's style, whatever the user's; the user's comes back afterwards."""
    matplotlib = load("matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return a figure, in inches, that belongs to no window and to no list of open figures."""
    load("matplotlib")
    from keras_popdescent.plots._figure import NotebookFigure

    return NotebookFigure(width, height, DPI)


@contextmanager
def drawing(ax: Axes | None, width: float = 8.0, height: float = 4.0) -> Iterator[Axes]:
    """Yield the given axes, or those of a new figure in this package's style."""
    load("matplotlib")
    if ax is not None:
        yield ax
        return
    with styled():
        yield new_figure(width, height).add_subplot()


def figure_of(ax: Axes) -> Figure:
    """Return the outermost figure of axes that may be in a subfigure."""
    figure: Figure = ax.figure.canvas.figure
    return figure


def add_lines(
    ax: Axes, lines: Sequence[Floats] | Floats, width: float, alpha: float, **options: Any
) -> None:
    """Add members' lines, each an (n, 2) array of points, as one artist."""
    collections = load("matplotlib.collections")
    options = {"colors": GREY, "zorder": 2, **options}
    ax.add_collection(collections.LineCollection(lines, linewidths=width, alpha=alpha, **options))
    ax.autoscale_view()


def add_replaced(ax: Axes, points: Floats, look: Look) -> None:
    """Add a cross where a member was replaced, points (n, 2)."""
    if len(points):
        ax.plot(
            *points.T, color=BLUE, marker="x", markersize=look.mark, markeredgewidth=look.width,
            alpha=look.alpha, linestyle="none", zorder=3, label="replaced",
        )  # fmt: skip


def add_births(ax: Axes, points: Floats, look: Look) -> None:
    """Add a dot where a member was born, points (n, 2)."""
    if len(points):
        ax.plot(
            *points.T, color=BLUE, marker="o", markersize=0.7 * look.mark, markeredgewidth=0.0,
            alpha=look.alpha, linestyle="none", zorder=3, label="born",
        )  # fmt: skip


def add_edge_marks(ax: Axes, steps: Integers, edge: float, meaning: str, filled: bool) -> None:
    """Add triangles at the top (1.0) or bottom (0.0) edge for scores that have no place inside."""
    if len(steps):
        ax.plot(
            steps, [edge] * len(steps), transform=ax.get_xaxis_transform(), clip_on=False,
            color=PURPLE, marker="^" if edge else "v", markersize=6.0, zorder=7, linestyle="none",
            markerfacecolor=PURPLE if filled else "white", label=f"{meaning}: {len(steps)}",
        )  # fmt: skip
