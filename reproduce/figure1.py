"""Figure 1: progress of the four methods on Fashion-MNIST without regularization.

The lowest loss of a population over gradient steps. Population Descent runs for 115 iterations and
ESGD for 15 generations; grid search and RandomSearch are Table 1's runs, which have the curve. The
authors' six seeds are not documented; these are those of their convergence script. So where a run
of Table 1 is there for another seed, it serves as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reproduce import table1
from reproduce.data import Split, load_split
from reproduce.methods import esgd, popdescent
from reproduce.runs import Run

SEEDS = (101, 115, 134, 150, 175, 200)
METHODS = table1.METHODS
# Whose runs are longer than those of Table 1.
LONGER = ("popdescent", "esgd")


def runs(
    methods: Sequence[str] = METHODS, seeds: Sequence[int] = SEEDS, smoke: bool = False
) -> list[Run]:
    """Return the runs of some curves.

    Args:
        methods: Among `METHODS`.
        seeds: The seeds.
        smoke: A small slice and few steps, to see that all runs.
    """
    split = load_split("fmnist")
    if smoke:
        split = table1.small(split)
    return [one(method, split, seed, smoke) for method in methods for seed in seeds]


def name(method: str, seed: int) -> str:
    """Return the name of a run."""
    if method in LONGER:
        return f"figure1_{method}_{seed}"
    return table1.name("fmnist", "without", method, seed, "as-published")


def one(method: str, split: Split, seed: int, smoke: bool = False) -> Run:
    """Return one curve's run."""
    settings: Any
    do: Any
    if method == "popdescent":
        settings, build, do = *population_descent(), popdescent.run
    elif method == "esgd":
        generations, build = table1.evolutionary_sgd("fmnist", fair=False)
        settings, do = replace(generations, generations=15), esgd.run
    else:
        return table1.one("fmnist", split, "without", method, seed, smoke=smoke)
    if smoke:
        settings = settings.smoke()

    def work(folder: Path) -> dict[str, Any]:
        result: dict[str, Any] = do(settings, split, build, seed, folder, monitor=True)
        return result

    described = {"figure": 1, "method": method, **asdict(settings)}
    return Run(name(method, seed), described, work)


def population_descent() -> tuple[popdescent.Settings, table1.Build]:
    """Table 1's for 115 iterations; the curve ends before the fine-tuning."""
    column, build = table1.population_descent("fmnist", regularized=False)
    return replace(column, iterations=115, fine_tuning_rounds=0), build
