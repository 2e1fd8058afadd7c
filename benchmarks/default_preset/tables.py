"""Markdown from the JSON file alone: a table for each task, and which targets are met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.records import Record
from reproduce.markdown import table
from reproduce.significance import Comparison, paired, said, summary, welch

DEFAULT = "PopDescent()"
Rows = Sequence[Record]


def section(rows: Rows) -> list[str]:
    """Return the tables of a comparison."""
    lines: list[str] = []
    for task, of_task in grouped(rows, "task").items():
        pairs = ", a split for each seed: compared in pairs" if of_task[0]["own_split"] else ""
        lines += ["", f"**{task}**, {of_task[0]['metric'].replace('_', ' ')}{pairs}", ""]
        lines += _table(of_task)
    tasks = grouped([row for row in rows if not row["candidate"]], "task")
    return [*lines[1:], "", *targets(tasks)]


def sensitivity(rows: Rows) -> list[str]:
    """Return the table of the sensitivity study."""
    titles = ("study", "value", "", "seeds", "test loss", "95 % interval")
    lines = []
    for study, of_study in grouped(rows, "study").items():
        for value, of_value in grouped(of_study, "value").items():
            for line, of_line in grouped(of_value, "line").items():
                found = summary(losses(of_line))
                interval = f"{found.low:.4f} to {found.high:.4f}" if found.count > 1 else ""
                mean = f"{found.mean:.4f}"
                lines.append((study, f"{float(value):g}", line, found.count, mean, interval))
    return table(titles, lines)


def grouped(rows: Rows, key: str) -> dict[Any, list[Record]]:
    """Return rows by one of their entries, in the order in which they come."""
    return {
        name: [row for row in rows if row[key] == name]
        for name in dict.fromkeys(row[key] for row in rows)
    }


def losses(rows: Rows) -> list[float]:
    """Return the losses on the held-out part."""
    return [float(row["test_loss"]) for row in rows]


def compared(rows: Rows, base: Rows) -> Comparison | None:
    """Compare a contestant with the default; None where they have no split in common.

    Pair by pair where each seed has a split of its own, by which losses differ far more than by
    contestant; else by Welch's test over all seeds of both.
    """
    if not rows or not base:
        return None
    if not base[0]["own_split"]:
        return welch(losses(rows), losses(base))
    by_seed = {row["seed"]: row for row in base}
    shared = [row for row in rows if row["seed"] in by_seed]
    if not shared:
        return None
    return paired(losses(shared), losses([by_seed[row["seed"]] for row in shared]))


def _table(rows: Rows) -> list[str]:
    by_name = grouped(rows, "contestant")
    base = by_name.get(DEFAULT, [])
    titles = (
        "contestant", "steps", "seeds", "test loss", "sd", "95 % interval", "accuracy",
        f"above {DEFAULT}, standard error", "p",
    )  # fmt: skip

    def place(pair: tuple[str, Rows]) -> float:
        found = compared(pair[1], base)
        return summary(losses(pair[1])).mean if found is None else found.difference

    ranked = sorted(by_name.items(), key=place)
    return table(titles, [_line(*pair, base) for pair in ranked])


def _line(name: str, rows: Rows, base: Rows) -> list[str]:
    found = summary(losses(rows))
    accuracies = [float(row["test_accuracy"]) for row in rows if row["test_accuracy"] is not None]
    known = found.count > 1
    comparison = None if name == DEFAULT else compared(rows, base)
    return [
        f"*{name}*" if rows[0]["candidate"] else f"**{name}**" if name == DEFAULT else name,
        f"{sum(row['gradient_steps'] for row in rows) / len(rows):,.0f}",
        str(found.count),
        f"{found.mean:.4f}",
        f"{found.sd:.4f}" if known else "",
        f"{found.low:.4f} to {found.high:.4f}" if known else "",
        f"{sum(accuracies) / len(accuracies):.2%}" if accuracies else "",
        *(("", "") if comparison is None else (_difference(comparison), said(comparison.p))),
    ]


def _difference(comparison: Comparison) -> str:
    error = "" if math.isnan(comparison.error) else f" ± {comparison.error:.4f}"
    return f"{comparison.difference:+.4f}{error}"


def targets(tasks: Mapping[str, Rows]) -> list[str]:
    """Return a sentence for each of the two targets, with what they come to.

    The first: on every task not worse than the best other contestant, p < 0.05. The second: better
    than RandomSearch, best-of-N and cosine Adam, each with p < 0.05, on two tasks of three. Presets
    of our own are no contestants here. Where the default itself was not run nothing is said.
    """
    tasks = {
        task: rows
        for task, rows in tasks.items()
        if any(row["contestant"] == DEFAULT for row in rows)
    }
    if not tasks:
        return [f"`{DEFAULT}` as it is now was not run on these."]
    worse, better = [], []
    for task, rows in tasks.items():
        by_name = grouped(rows, "contestant")
        base = by_name.pop(DEFAULT, [])
        others = {
            name: found
            for name, rows in by_name.items()
            if not name.startswith("PopDescent") and (found := compared(rows, base)) is not None
        }
        if not others:
            continue
        best = min(others, key=lambda name: others[name].difference)
        if others[best].difference < 0 and others[best].counts:
            worse.append(f"{task} ({best})")
        if beaten(others):
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


def beaten(others: Mapping[str, Comparison]) -> bool:
    """Return whether those that the target names are all worse, p < 0.05; they must be there."""
    named = ("RandomSearch", "best of", "cosine")
    found = [[others[name] for name in others if part in name] for part in named]
    return all(found) and all(one.difference > 0 and one.counts for some in found for one in some)
