"""Models at equal gradient steps: `PopDescent()` beside plain training, other searches, presets.

Protocol: everything is chosen on the validation part alone; the one chosen model is scored once on
the held-out part. A finished (task, contestant, seed) is not run again, so it can be stopped and
started at will. Candidates for the default are compared on validation only: `--candidates`.

    python -m benchmarks.default_preset [--quick] [--full] [--seeds 10] [--tasks digits friedman]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import keras

from benchmarks import records
from benchmarks.default_preset import contestants, tables, tasks
from benchmarks.searches import Search, timed
from benchmarks.searches.task import Task
from reproduce.datasets import DatasetUnavailableError

NAME = "default_preset"
Key = tuple[str, str, int]


def measure(name: str, search: Search, task: Task, seed: int, candidate: bool) -> records.Record:
    """Run one contestant once."""
    found, seconds = timed(search, task, seed)
    return {
        "task": task.name,
        "metric": task.metric,
        "own_split": task.own_split,
        "contestant": name,
        "candidate": candidate,
        "seed": seed,
        "seconds": seconds,
        "gradient_steps": found.gradient_steps,
        "budget": task.budget,
        "validation_loss": tasks.loss(task, found.model, task.validation),
        "test_loss": tasks.loss(task, found.model, task.test),
        "test_accuracy": tasks.accuracy(task, found.model, task.test),
    }


def key_of(row: records.Record) -> Key:
    """Return what tells a run."""
    return row["task"], row["contestant"], row["seed"]


class Results:
    """The rows of all finished runs, on disk after each.

    Args:
        folder: Where the JSON file is; None to keep them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows = records.earlier(NAME, keras.backend.backend(), folder)
        self.not_run: list[str] = []

    def __contains__(self, key: Key) -> bool:
        return any(key_of(row) == key for row in self.rows)

    def add(self, row: records.Record) -> None:
        """Keep a row, in the order of tasks, contestants and seeds in which they are run."""
        self.rows.append(row)
        self.save()

    def save(self) -> None:
        """Write the file."""
        records.save(self.record(), self.folder)

    def record(self) -> records.Record:
        """Return the benchmark's record."""
        return records.record(NAME, keras.backend.backend(), self.rows, self.not_run)


def run(
    results: Results,
    todo: Sequence[Callable[[int], Task]],
    searches: Mapping[str, Search],
    variants: Mapping[str, Search],
    seeds: int,
) -> None:
    """Run what has no result yet: seed by seed, so that all have as many when it is stopped."""
    everybody = [(name, search, False) for name, search in searches.items()]
    everybody += [(name, search, True) for name, search in variants.items()]
    for make in todo:
        for seed in range(seeds):
            task = make(seed)
            for name, search, candidate in everybody:
                if (task.name, name, seed) in results:
                    continue
                row = measure(name, search, task, seed, candidate)
                results.add(row)
                print(
                    f"{task.name}, seed {seed}: {name}, {row['gradient_steps']:,} steps, "
                    f"{row['seconds']:.1f} s, validation {row['validation_loss']:.4f}",
                    flush=True,
                )


def load(names: Sequence[str], results: Results) -> list[Callable[[int], Task]]:
    """Return tasks by name; of one whose data cannot be had, a sentence is kept."""
    loaded = []
    for name in names:
        make = {**tasks.SMALL, **tasks.PAPER}[name]
        try:
            make(0)
            loaded.append(make)
        except DatasetUnavailableError as error:
            results.not_run.append(f"{name}: {error}")
    return loaded


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the tables, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--seeds", type=int, default=10, help="how many repetitions (default: 10)")
    parser.add_argument("--tasks", nargs="*", choices=[*tasks.SMALL, *tasks.PAPER])
    parser.add_argument("--contestants", nargs="*", help="only those whose name has one of these")
    parser.add_argument("--candidates", action="store_true", help="variants of the default too")
    chosen = parser.parse_args(arguments)
    results = Results(records.folder_of(chosen))
    searches, missing = contestants.contestants()
    results.not_run += missing
    names = chosen.tasks or [*tasks.SMALL, *(tasks.PAPER if chosen.full else ())]
    todo = load(names[:1] if chosen.quick else names, results)
    if not chosen.full and not chosen.tasks:
        results.not_run.append("The paper's networks: hours on a CPU (`--full` runs them).")
    variants = contestants.variants() if chosen.candidates else {}
    if chosen.contestants:
        searches = chosen_of(searches, chosen.contestants)
        variants = chosen_of(variants, chosen.contestants)
    if chosen.quick:
        todo = [partial(tiny_of, make) for make in todo]
    run(results, todo, searches, variants, 1 if chosen.quick else chosen.seeds)
    results.save()
    print("\n".join(tables.section(results.rows)))


def tiny_of(make: Callable[[int], Task], seed: int) -> Task:
    """Return a task of seconds."""
    return tasks.tiny(make(seed))


def chosen_of(searches: Mapping[str, Search], parts: Sequence[str]) -> dict[str, Search]:
    """Return those whose name has one of some parts."""
    return {n: s for n, s in searches.items() if any(part in n for part in parts)}


if __name__ == "__main__":
    main()
