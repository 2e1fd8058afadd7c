"""Table 3: sensitivity of Population Descent on CIFAR-10 without regularization, seed 34.

Three learning rates at 30 iterations, and three numbers of iterations at learning rate 0.001; mean
and standard deviation are over the three settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras

from reproduce import networks
from reproduce.data import Split, load_split
from reproduce.methods import popdescent
from reproduce.runs import Run
from reproduce.table1 import small

SEED = 34
# What is varied -> (learning rate, iterations) of its three settings.
ROWS = {
    "learning_rate": ((0.01, 30), (0.05, 30), (0.001, 30)),
    "iterations": ((0.001, 10), (0.001, 30), (0.001, 50)),
}


def runs(
    rows: Sequence[str] = tuple(ROWS), seeds: Sequence[int] = (SEED,), smoke: bool = False
) -> list[Run]:
    """Return the runs of some rows; the setting that both rows have is one run.

    Args:
        rows: Among `ROWS`.
        seeds: The seeds; the paper has one.
        smoke: A small slice and few steps, to see that all runs.
    """
    split = load_split("cifar10")
    if smoke:
        split = small(split)
    settings = dict.fromkeys(setting for row in rows for setting in ROWS[row])
    return [one(*setting, split, seed, smoke) for setting in settings for seed in seeds]


def name(learning_rate: float, iterations: int, seed: int) -> str:
    """Return the name of a run."""
    return f"table3_lr{learning_rate}_iterations{iterations}_{seed}"


def one(learning_rate: float, iterations: int, split: Split, seed: int, smoke: bool = False) -> Run:
    """Return one run of the table."""
    settings = replace(popdescent.CIFAR10, learning_rate=learning_rate, iterations=iterations)
    if smoke:
        settings = settings.smoke()

    def build() -> keras.Model:
        return networks.cifar10(keras.optimizers.Adam(learning_rate))

    def work(folder: Path) -> dict[str, Any]:
        return popdescent.run(settings, split, build, seed, folder)

    described = {"table": 3, **asdict(settings)}
    return Run(name(learning_rate, iterations, seed), described, work)
