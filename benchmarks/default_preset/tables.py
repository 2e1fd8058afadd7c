"""Markdown from the JSON file alone: a table for each task, and which targets are met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.default_preset.statistics import summary, welch
from benchmarks.records import Record

DEFAULT = "PopDescent()"
# A difference counts below this p.
LEVEL = 0.05
Rows = Sequence[Record]


def section(rows: Rows) -> list[str]:
    """Return the tables of a comparison."""
    lines: list[str] = []
    for task, of_task in grouped(rows, "task").items():
        lines += ["", f"**{task}**, {of_task[0]['metric'].replace('_', ' ')}", ""]
        lines += _table(of_task)
    tasks = grouped([row for row in rows if not row["candidate"]], "task")
    return [*lines[1:], "", *targets(tasks)]


def sensitivity(rows: Rows) -> list[str]:
    """Return the table of the sensitivity study."""
    lines = ["| study | value | | seeds | test loss | 95 % interval |", "|---|---|---|---|---|---|"]
    for study, of_study in grouped(rows, "study").items():
        for value, of_value in grouped(of_study, "value").items():
            for line, of_line in grouped(of_value, "line").items():
                found = summary(losses(of_line))
                interval = f"{found.low:.4f} to {found.high:.4f}" if found.count > 1 else ""
                lines.append(
                    f"| {study} | {float(value):g} | {line} | {found.count} | {found.mean:.4f} | "
                    f"{interval} |"
                )
    return lines


def grouped(rows: Rows, key: str) -> dict[Any, list[Record]]:
    """Return rows by one of their entries, in the order in which they come."""
    return {
        name: [row for row in rows if row[key] == name]
        for name in dict.fromkeys(row[key] for row in rows)
    }


def losses(rows: Rows) -> list[float]:
    """Return the losses on the held-out part."""
    return [float(row["test_loss"]) for row in rows]


def _table(rows: Rows) -> list[str]:
    by_name = grouped(rows, "contestant")
    base = by_name.get(DEFAULT, [])
    titles = (
        "contestant", "steps", "seeds", "test loss", "sd", "95 % interval", "accuracy",
        f"above {DEFAULT}", "p",
    )  # fmt: skip
    ranked = sorted(by_name.items(), key=lambda pair: summary(losses(pair[1])).mean)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(_line(*pair, base)) + " |" for pair in ranked]


def _line(name: str, rows: Rows, base: Rows) -> list[str]:
    found = summary(losses(rows))
    accuracies = [float(row["test_accuracy"]) for row in rows if row["test_accuracy"] is not None]
    known = found.count > 1
    compared = base and name != DEFAULT
    return [
        f"*{name}*" if rows[0]["candidate"] else f"**{name}**" if name == DEFAULT else name,
        f"{sum(row['gradient_steps'] for row in rows) / len(rows):,.0f}",
        str(found.count),
        f"{found.mean:.4f}",
        f"{found.sd:.4f}" if known else "",
        f"{found.low:.4f} to {found.high:.4f}" if known else "",
        f"{sum(accuracies) / len(accuracies):.2%}" if accuracies else "",
        f"{found.mean - summary(losses(base)).mean:+.4f}" if compared else "",
        _p(welch(losses(rows), losses(base))) if compared else "",
    ]


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def targets(tasks: Mapping[str, Rows]) -> list[str]:
    """Return a sentence for each of the two targets, with what they come to.

    The first: on every task not worse than the best other contestant, p < 0.05. The second: better
    than RandomSearch, best-of-N and cosine Adam, each with p < 0.05, on two tasks of three. Presets
    of our own are no contestants here.
    """
    worse, better = [], []
    for task, rows in tasks.items():
        by_name = grouped(rows, "contestant")
        base = by_name.pop(DEFAULT, [])
        others = {name: rows for name, rows in by_name.items() if not name.startswith("PopDescent")}
        if not base or not others:
            continue
        own = summary(losses(base)).mean
        best = min(others, key=lambda name: summary(losses(others[name])).mean)
        if own > summary(losses(others[best])).mean and _differ(base, others[best]):
            worse.append(f"{task} ({best})")
        if beaten(base, others):
            better.append(task)
    return [
        "Worse than the best other contestant, p < 0.05: "
        + (", ".join(worse) or "on no task")
        + ".",
        "",
        "Better than RandomSearch, the best of N and cosine Adam, each p < 0.05: "
        + (", ".join(better) or "on no task")
        + f" ({len(better)} of {len(tasks)}).",
    ]


def beaten(base: Rows, others: Mapping[str, Rows]) -> bool:
    """Return whether those that the target names are all worse, p < 0.05; they must be there."""
    named = [n for n in others if "RandomSearch" in n or "best of" in n or "cosine" in n]
    own = summary(losses(base)).mean
    return bool(named) and all(
        summary(losses(others[name])).mean > own and _differ(base, others[name]) for name in named
    )


def _differ(rows: Rows, others: Rows) -> bool:
    p = welch(losses(rows), losses(others))
    return not math.isnan(p) and p < LEVEL
