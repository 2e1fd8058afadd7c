"""RESULTS.md, from the JSON files alone: medians, ratios, targets, and what was not run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.default_preset import tables as default_preset
from benchmarks.records import Record
from reproduce.markdown import table

TABLES = Path(__file__).parent / "RESULTS.md"
# name -> the backends that it is run on
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "overhead": ("tensorflow", "jax"),
    "versus_random_search": ("tensorflow",),
    "versus_reference_loop": ("tensorflow",),
    "scaling": ("tensorflow", "jax"),
    "memory": ("tensorflow",),
    "default_preset": ("tensorflow",),
}
ABOUT = {
    "overhead": (
        "An iteration of a population over the bare compiled train steps in it, and the share of "
        "the iteration that evolution takes (the strategy's decision, the children's states, "
        "their values). Five members."
    ),
    "versus_random_search": (
        "Searches with the same network, ranges, data and number of gradient steps. Time is that "
        "of the search up to the best model in hand; losses are cross-entropies without penalty "
        "of the best model by validation. Hyperband and Optuna stop where the budget is spent. "
        "Ray's processes import Keras within the time; Ray itself is started before."
    ),
    "versus_reference_loop": (
        "The authors' way of training, stated anew (eager steps, a clone of the model for each "
        "child), over `PopDescent.reference()`: the time of one iteration of five members."
    ),
    "scaling": (
        "A member's time as the population grows, in units of its bare train steps alone; "
        "1 is what members cost who train one after the other without anything else. An iteration "
        "is compared with that of one member in these units too, as both ran in other processes. "
        "Memory: what one more member adds to the process's peak (on an accelerator: to the "
        "device's), beside the size of its state."
    ),
    "default_preset": (
        "What `PopDescent()` is worth at equal gradient steps. Everything is chosen on the "
        "validation part alone; the chosen model is scored once on the held-out part. The mean "
        "over seeds with its standard deviation and 95 % interval (Student's t), and the "
        "difference to `PopDescent()` with the p-value of a two-sided t-test: Welch's where all "
        "seeds share one split, Student's of the pairs where each seed has its own (contestants of "
        "fewer seeds are compared on those alone, whatever the means say). Candidates for the "
        "default are in italics."
    ),
    "default_preset_sensitivity": (
        "One thing varied at a time on the regression, at equal gradient steps: the loss on the "
        "held-out part."
    ),
    "memory": "Resident memory over the iterations of a long search.",
}


def median(times: Sequence[float]) -> float:
    """Return a median."""
    return float(statistics.median(times))


def ratio(times: Sequence[float], others: Sequence[float]) -> str:
    """Return the ratio of two medians, with the range of the ratios turn by turn."""
    by_turn = [a / b for a, b in zip(times, others, strict=True)]
    return f"{_short(median(times) / median(others))} ({_short(min(by_turn))} to " + (
        f"{_short(max(by_turn))})"
    )


def overhead(rows: Sequence[Record]) -> list[str]:
    """Return the table of `overhead`."""
    titles = (
        "network", "steps", "scored on", "iteration / bare steps in one call", "target",
        "iteration / steps one by one", "evolution's share", "target",
    )  # fmt: skip
    return table(
        titles,
        [
            (
                r["network"],
                r["gradient_steps"],
                r["scored"],
                ratio(r["iteration"], r["loop"]),
                _at_most(r["target"]),
                ratio(r["iteration"], r["one_by_one"]),
                f"{median(r['evolution']) / median(r['iteration']):.2%}",
                "<= 1 %" if r["batches"] == 128 else "",
            )
            for r in rows
        ],
    )


def versus_random_search(rows: Sequence[Record]) -> list[str]:
    """Return the tables of `versus_random_search`, one for each task."""
    lines: list[str] = []
    for task in dict.fromkeys(r["task"] for r in rows):
        of_task = [r for r in rows if r["task"] == task]
        by_method = {
            name: [r for r in of_task if r["method"] == name]
            for name in dict.fromkeys(r["method"] for r in of_task)
        }
        lines += ["", f"**{task}**, {_seeds(of_task)}", ""]
        lines += _searches(by_method)
    return lines[1:]


def _searches(by_method: Mapping[str, Sequence[Record]]) -> list[str]:
    base = by_method.get("RandomSearch")

    def column(name: str, rows: Sequence[Record]) -> list[float]:
        return [float(r[name]) for r in sorted(rows, key=lambda r: r["seed"])]

    def against(name: str, rows: Sequence[Record], inverse: bool = False) -> str:
        if not base or rows is base:
            return "1" if base else "not run"
        seeds = {r["seed"] for r in rows} & {r["seed"] for r in base}
        if not seeds:
            return "other seeds"
        own, others = (
            column(name, [r for r in some if r["seed"] in seeds]) for some in (rows, base)
        )
        return ratio(others, own) if inverse else ratio(own, others)

    titles = (
        "method", "gradient steps", "RandomSearch's time / its", "target", "validation loss",
        "/ RandomSearch's", "test loss", "/ RandomSearch's",
    )  # fmt: skip
    return table(
        titles,
        [
            (
                name,
                f"{median(column('gradient_steps', rows)):,.0f} of {rows[0]['budget']:,}",
                against("seconds", rows, inverse=True),
                _at_least(rows[0]["target"]) if name == "PopDescentTuner" else "",
                f"{median(column('validation_loss', rows)):.4f}",
                against("validation_loss", rows),
                f"{median(column('test_loss', rows)):.4f}",
                against("test_loss", rows),
            )
            for name, rows in by_method.items()
        ],
    )


def versus_reference_loop(rows: Sequence[Record]) -> list[str]:
    """Return the table of `versus_reference_loop`."""
    return table(
        ("network", "steps", "scored on", "the authors' way / `reference()`", "target"),
        [
            (
                r["network"],
                r["gradient_steps"],
                r["scored"],
                ratio(r["reference_loop"], r["iteration"]),
                _at_least(r["target"]),
            )
            for r in rows
        ],
    )


def scaling(rows: Sequence[Record]) -> list[str]:
    """Return the table of `scaling`."""
    return table(
        (
            "network", "executor", "members", "time a member / its bare steps alone",
            "iteration / that of one member", "share of one large batch's speed",
            "memory a member", "a member's state",
        ),
        [_scaling_row(r, rows) for r in rows],
    )  # fmt: skip


def _scaling_row(row: Record, rows: Sequence[Record]) -> tuple[Any, ...]:
    alike = [r for r in rows if (r["network"], r["executor"]) == (row["network"], row["executor"])]
    one = next((r for r in alike if r["size"] == 1), None)
    size = row["size"]
    alone = [size * seconds for seconds in row["one_member"]]
    large = row["one_large_batch"]
    return (
        row["network"],
        row["executor"],
        size,
        ratio(row["iteration"], alone),
        "" if one is None else _short(_in_steps(row) / _in_steps(one)),
        "" if large is None else f"{median(large) / median(row['iteration']):.1%}",
        "" if one is None or size == 1 else _bytes((_peak(row) - _peak(one)) / (size - 1)),
        _bytes(row["state_bytes"]),
    )


def _in_steps(row: Record) -> float:
    """Return an iteration's time in units of the bare steps that were measured beside it."""
    return median(row["iteration"]) / median(row["one_member"])


def _peak(row: Record) -> float:
    return float(row["device_peak_bytes"] or row["peak_bytes"])


def other(rows: Sequence[Record]) -> list[str]:
    """Return a table of whatever a benchmark wrote down."""
    titles = list(dict.fromkeys(name for row in rows for name in row))
    return table(titles, [[_cell(row.get(title, "")) for title in titles] for row in rows])


WRITERS: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "overhead": overhead,
    "versus_random_search": versus_random_search,
    "versus_reference_loop": versus_reference_loop,
    "scaling": scaling,
    "default_preset": default_preset.section,
    "default_preset_sensitivity": default_preset.sensitivity,
}


def section(result: Record) -> list[str]:
    """Return a record as Markdown: its table, the machine, and what was not run."""
    rows = result["rows"]
    lines = WRITERS.get(result["benchmark"], other)(rows) if rows else ["Nothing was run."]
    if "machine" in result:
        lines += ["", _machine(result["backend"], result["machine"])]
    if result.get("not_run"):
        lines += ["", "Not run:", "", *(f"- {sentence}" for sentence in result["not_run"])]
    return lines


def _machine(backend: str, machine: Record) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Backend {backend} on {machine['device']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}; {packages}."
    )


def _place(result: Record) -> str:
    """Return the backend, and the accelerator where there was one."""
    where = result.get("machine", {}).get("device", "cpu")
    return str(result["backend"]) + ("" if records.on_cpu(where) else f", {where}")


def document(results: Sequence[Record]) -> str:
    """Return RESULTS.md."""
    lines = [
        "# Benchmarks: results",
        "",
        "Written by `python -m benchmarks` from the JSON files in `results/`. Each figure of speed",
        "is a ratio of medians of things that were measured in one run, by turns; in brackets the",
        "smallest and the largest ratio of a turn. An absolute time says nothing about another",
        "machine. Losses are those of models at equal gradient steps.",
    ]
    names = [*BENCHMARKS, *sorted({r["benchmark"] for r in results} - set(BENCHMARKS))]
    for name in names:
        lines += ["", f"## {name}", ""]
        if name in ABOUT:
            lines += [ABOUT[name], ""]
        of_name = [r for r in results if r["benchmark"] == name]
        for result in of_name:
            lines += [f"### {_place(result)}", "", *section(result), ""]
        run = {result["backend"] for result in of_name}
        missing = [backend for backend in BENCHMARKS.get(name, ()) if backend not in run]
        lines += [f"Not run on {backend}: there is no file of results." for backend in missing]
        if not lines[-1]:
            lines.pop()
    return "\n".join(lines) + "\n"


def write(folder: Path = records.RESULTS, path: Path = TABLES) -> None:
    """Write RESULTS.md."""
    path.write_text(document(records.load(folder)), encoding="utf-8")


def _seeds(rows: Sequence[Record]) -> str:
    count = len({r["seed"] for r in rows})
    return f"medians of {count} seeds" if count > 1 else "1 seed"


def _short(number: float) -> str:
    return f"{number:.2f}" if number >= 1.1 else f"{number:.3f}"


def _at_most(target: float | None) -> str:
    return "" if target is None else f"<= {target:.2f}"


def _at_least(target: float | None) -> str:
    return "" if target is None else f">= {target:.1f}"


def _bytes(count: float) -> str:
    return f"{count / 2**20:.2f} MiB"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
        return f"{median(value):.4g} (median of {len(value)})"
    return str(value)
