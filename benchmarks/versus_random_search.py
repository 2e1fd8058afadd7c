"""Searches side by side: RandomSearch, Hyperband, Optuna, Ray's PBT and PopDescentTuner.

All get the same network, the same ranges, the same data and the same number of gradient steps, and
choose by the cross-entropy on validation data, without penalty. Nobody is told a good value. Time
is that of the search up to the best model in hand. Order rotates from seed to seed; before the
first, every search runs once on a few samples, untimed.

    python -m benchmarks.versus_random_search [--quick] [--full] [--seeds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

import keras

from benchmarks import records
from benchmarks.report import section
from benchmarks.searches import Search, available, tasks, timed
from benchmarks.searches.task import Task, cross_entropy

NAME = "versus_random_search"


def measure(name: str, search: Search, task: Task, seed: int) -> records.Record:
    """Run one search."""
    found, seconds = timed(search, task, seed)
    return {
        "task": task.name,
        "method": name,
        "seed": seed,
        "seconds": seconds,
        "gradient_steps": found.gradient_steps,
        "budget": task.budget,
        "validation_loss": cross_entropy(found.model, task.validation),
        "test_loss": cross_entropy(found.model, task.test),
        "target": task.target,
    }


def compare(
    task: Task, searches: Mapping[str, Search], seeds: Sequence[int]
) -> Iterator[records.Record]:
    """Run all searches for each seed, beginning with another one each time."""
    for name, search in searches.items():
        measure(name, search, tasks.tiny(task), seed=0)
    names = list(searches)
    for turn, seed in enumerate(seeds):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            yield measure(name, searches[name], task, seed)


def main(arguments: list[str] | None = None) -> None:
    """Search, print the tables, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--seeds", type=int, default=5, help="how many repetitions")
    parser.add_argument("--tasks", nargs="*", help="those whose names begin so (default: all)")
    chosen = parser.parse_args(arguments)
    searches, not_run = available()
    todo, missing = tasks.chosen(chosen.quick, chosen.full)
    not_run += missing
    if chosen.tasks:
        left_out = [t.name for t in todo if not any(t.name.startswith(n) for n in chosen.tasks)]
        todo = [task for task in todo if task.name not in left_out]
        not_run += [f"{name}: left out." for name in left_out]
    backend, folder = keras.backend.backend(), records.folder_of(chosen)
    seeds = range(1 if chosen.quick else chosen.seeds)
    # What is run now takes the place of its earlier rows; other tasks' rows stay.
    running = {task.name for task in todo}
    rows = [r for r in records.earlier(NAME, backend, folder) if r["task"] not in running]
    not_run = [sentence for sentence in not_run if not any(r["task"] in sentence for r in rows)]
    for task in todo:
        for row in compare(task, searches, seeds):
            rows.append(row)
            print(
                f"{row['task']}, seed {row['seed']}: {row['method']} {row['seconds']:.1f} s, "
                f"{row['gradient_steps']:,} steps, {row['validation_loss']:.4f}",
                flush=True,
            )
            # After each search: the next one may take long, or be interrupted.
            records.save(records.record(NAME, backend, rows, not_run), folder)
    print("\n".join(section(records.record(NAME, backend, rows, not_run))))


if __name__ == "__main__":
    main()
