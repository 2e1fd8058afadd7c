"""The report's picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

PAPER_CURVES = Path(__file__).parent / "paper" / "paper_figure1.csv"
# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = {
    "Population Descent": "#0072B2",
    "Basic Grid Search": "#E69F00",
    "ESGD": "#009E73",
    "KT RandomSearch": "#D55E00",
}
# What the file of the paper's curves calls Population Descent.
_OTHER_NAMES = {"PopDescent": "Population Descent"}
# Losses above are cut off: a few first points of the paper's ESGD, and its worst RandomSearch.
TOP = 1.2
# Colour of the paper's curves.
PAPER = "#333333"
Curve = Sequence[Sequence[float]]


@cache
def paper_curves() -> dict[str, list[list[list[float]]]]:
    """Return the paper's raw curves: method -> seed -> (gradient steps, loss) points."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    with PAPER_CURVES.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            method = _OTHER_NAMES.get(row["method"], row["method"])
            point = [float(row["gradient_steps"]), float(row["validation_loss"])]
            found[method][row["seed_index"]].append(point)
    return {method: list(seeds.values()) for method, seeds in found.items()}


def mean_between(curves: Sequence[Curve], low: float, high: float) -> list[float]:
    """Return each curve's mean loss between two numbers of steps, of those that have points there.

    Args:
        curves: Curves of (gradient steps, loss) points.
        low: Fewest gradient steps.
        high: Most gradient steps.
    """
    inside = [[loss for step, loss in curve if low <= step <= high] for curve in curves]
    return [float(np.mean(losses)) for losses in inside if losses]


def figure1(curves: Mapping[str, Sequence[Curve]], path: Path) -> Path:
    """Draw Figure 1: a panel a method, the paper's curves in black behind ours in colour.

    Args:
        curves: Method -> our curves, one a seed, each of (gradient steps, loss) points.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    paper = paper_curves()
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    for axis, (method, colour) in zip(axes, COLOURS.items(), strict=True):
        for curve in paper.get(method, []):
            steps, losses = np.transpose(curve)
            axis.plot(steps, losses, color=PAPER, linewidth=0.8, alpha=0.7)
        axis.plot([], [], color=PAPER, linewidth=0.8, label="paper, a line a seed")
        ours = curves.get(method, [])
        # Many thick lines would hide what is behind them.
        width = 1.8 if len(ours) < 3 else 1.0
        for number, points in enumerate(ours):
            steps, losses = np.transpose(points)
            label = "ours" if number == 0 else None
            marker = "o" if len(points) < 20 else None
            axis.plot(
                steps, losses, color=colour, linewidth=width, alpha=0.8, label=label,
                marker=marker, markersize=4,
            )  # fmt: skip
        axis.set_title(method if ours else f"{method} (ours not run)", fontsize=11)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=9)
        axis.set_ylim(0.15, TOP)
    for axis in axes[2:]:
        axis.set_xlabel("gradient steps, as the paper counts")
    for axis in axes[::2]:
        axis.set_ylabel("lowest loss of the population")
    figure.savefig(path, dpi=120)
    return path
