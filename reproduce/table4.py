"""Table 4: sensitivity of ESGD on CIFAR-10 without regularization, seed 34.

Three learning rates at 3 generations, and three numbers of generations at learning rate 0.01 (the
paper prints 0.001; its text and the code have 0.01); mean and standard deviation are over the three
settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reproduce import networks, table1
from reproduce.data import Split, load_split
from reproduce.methods import esgd
from reproduce.runs import Run

SEED = 34
# What is varied -> (learning rate, generations) of its three settings.
ROWS = {
    "learning_rate": ((0.01, 3), (0.05, 3), (0.001, 3)),
    "iterations": ((0.01, 1), (0.01, 3), (0.01, 5)),
}


def runs(
    rows: Sequence[str] = tuple(ROWS), seeds: Sequence[int] = (SEED,), smoke: bool = False
) -> list[Run]:
    """Return the runs of some rows; the setting that both rows have is one run, Table 1's.

    Args:
        rows: Among `ROWS`.
        seeds: The seeds; the paper has one.
        smoke: A small slice and few steps, to see that all runs.
    """
    split = load_split("cifar10")
    if smoke:
        split = table1.small(split)
    settings = dict.fromkeys(setting for row in rows for setting in ROWS[row])
    return [one(*setting, split, seed, smoke) for setting in settings for seed in seeds]


def name(learning_rate: float, generations: int, seed: int) -> str:
    """Return the name of a run; Table 1's own setting is Table 1's run."""
    if (learning_rate, generations) == (esgd.CIFAR10.learning_rate, esgd.CIFAR10.generations):
        return table1.name("cifar10", "without", "esgd", seed, "as-published")
    return f"table4_lr{learning_rate}_generations{generations}_{seed}"


def one(
    learning_rate: float, generations: int, split: Split, seed: int, smoke: bool = False
) -> Run:
    """Return one run of the table."""
    settings = replace(esgd.CIFAR10, learning_rate=learning_rate, generations=generations)
    if smoke:
        settings = settings.smoke()

    def work(folder: Path) -> dict[str, Any]:
        return esgd.run(settings, split, networks.esgd_cifar10, seed, folder)

    described = {"table": 4, **asdict(settings)}
    return Run(name(learning_rate, generations, seed), described, work)
