"""Table 1: benchmark comparison on Fashion-MNIST and CIFAR-10, with and without regularization.

Test loss and train loss, mean and standard deviation over ten seeds, and gradient steps.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from reproduce import popdescent
from reproduce.data import load_split
from reproduce.runs import run_once

SEEDS = (5, 15, 24, 34, 49, 60, 74, 89, 97, 100)
DATASETS = {"fmnist": popdescent.FASHION_MNIST, "cifar10": popdescent.CIFAR10}
METHODS = ("popdescent",)


def run(
    dataset: str, regularization: str, method: str, seeds: list[int], smoke: bool = False
) -> list[Path]:
    """Do the runs of one cell of the table.

    Args:
        dataset: `"fmnist"` or `"cifar10"`.
        regularization: `"with"` or `"without"`.
        method: `"popdescent"`.
        seeds: The seeds; the paper's are `SEEDS`.
        smoke: A small slice and few iterations, to see that all runs.
    """
    split = load_split(dataset)
    settings = DATASETS[dataset]
    if smoke:
        split = split.smaller(2000, 700)
        settings = replace(
            settings, iterations=2, batches=4, fine_tuning_rounds=1, fine_tuning_batches=2
        )
    build = popdescent.network(dataset, regularization == "with")
    paths = []
    for seed in seeds:
        name = f"{'smoke_' if smoke else ''}table1_{dataset}_{regularization}_{method}_{seed}"
        described = {
            "table": 1,
            "dataset": dataset,
            "regularization": regularization,
            "method": method,
            **asdict(settings),
        }

        def one(seed: int = seed) -> dict[str, object]:
            return popdescent.run(settings, split, build, seed)

        paths.append(run_once(name, described, one))
    return paths
