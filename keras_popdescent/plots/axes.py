"""Axes, legends and headings of the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_popdescent.plots import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LEGEND: dict[str, Any] = {"handlelength": 1.8, "columnspacing": 1.4, "handletextpad": 0.6}
# label of a mark -> its place in the legend
LEGEND_ORDER = {
    "a member": 0, "parent to child": 1, "born": 2, "replaced": 3, "the winner's line": 4,
    "best score": 5, "best so far": 6,
}  # fmt: skip
# least number of decades -> leading digits of ticks; below the last, ticks are evenly spaced
LOG_TICKS: tuple[tuple[float, Sequence[float]], ...] = (
    (2.6, (1,)), (1.6, (1, 3)), (0.8, (1, 2, 5)), (0.4, range(1, 10)),
)  # fmt: skip


def set_log(ax: Axes, low: float, high: float) -> None:
    """Make y logarithmic over low ... high."""
    ax.set_yscale("log")
    margin = (high / low) ** 0.06 if high > low else 1.2
    ax.set_ylim(low / margin, high * margin)
    set_log_ticks(ax.yaxis, math.log10(high / low))


def set_log_ticks(axis: Axis, decades: float) -> None:
    """Put ticks that are legible over a range of so many decades, also below one."""
    ticker = style.load("matplotlib.ticker")
    digits = next((digits for least, digits in LOG_TICKS if decades >= least), None)
    locator = (
        ticker.MaxNLocator(4) if digits is None else ticker.LogLocator(subs=digits, numticks=6)
    )
    axis.set_major_locator(locator)
    axis.set_major_formatter(ticker.FuncFormatter(number))
    axis.set_minor_locator(ticker.NullLocator())


def number(value: float, position: int | None = None) -> str:
    """Return a short label: 0.005, 20, 1e-4 (not 1e-04)."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def legend_above(ax: Axes, length: float | None = None) -> None:
    """Explain the marks above the axes, where no data can be.

    Args:
        ax: The axes.
        length: Length of the lines in the legend in font sizes, where dashes have to be seen.
    """
    handles = _legend_handles([ax])
    columns = len(handles) if len(handles) <= 5 else math.ceil(len(handles) / 2)
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
        borderaxespad=0.8, **{**LEGEND, **({} if length is None else {"handlelength": length})},
    )  # fmt: skip


def legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Explain all marks of a figure once, below its panels."""
    handles = _legend_handles(panels)
    columns = len(handles) if len(handles) <= 6 else math.ceil(len(handles) / 2)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **LEGEND)


def _legend_handles(panels: Sequence[Axes]) -> list[Artist]:
    """Return one legible mark for each meaning: a legend needs no faintness, having no crowd."""
    lines = style.load("matplotlib.lines")
    handles: dict[str, Artist] = {}
    for panel in panels:
        for artist, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handle = lines.Line2D([], [], color=style.GREY, linewidth=1.2)
            if isinstance(artist, lines.Line2D):
                handle.update_from(artist)
                handle.set(alpha=None, markersize=max(5.0, artist.get_markersize()))
                handle.set_markeredgewidth(max(1.0, artist.get_markeredgewidth()))
            handle.set_label(label)
            handles.setdefault(label, handle)
    return [handles[label] for label in sorted(handles, key=lambda x: LEGEND_ORDER.get(x, 9))]


def add_heading(ax: Axes, title: str | None, caption: str) -> None:
    """Put a caption above the axes, and above it a title where there is one."""
    ax.set_title(caption, loc="left", fontsize=8.5, color="#444444")
    if title:
        ax.annotate(
            title, (0.0, 1.0), xytext=(0.0, 22.0), xycoords="axes fraction",
            textcoords="offset points", fontsize=11.0, fontweight="bold",
        )  # fmt: skip
