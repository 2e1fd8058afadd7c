"""Table 2: ablation on 10,000 images of Fashion-MNIST.

Population of 10 with 5 elites, 35 iterations, three seeds; randomization (mutation and replacement)
on or off, selection by cross-validation or by the training loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from reproduce import networks
from reproduce.data import Split, load_split
from reproduce.evaluation import LastBatchCrossEntropy
from reproduce.methods import popdescent
from reproduce.runs import Run
from reproduce.table1 import small

SEEDS = (5, 34, 79)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        regularized: Whether the hidden layers have an L2 penalty of 0.001.
        randomization: Whether members are replaced by mutated copies.
        cv_selection: Whether selection is by validation; else by the last training batch.
    """

    regularized: bool
    randomization: bool
    cv_selection: bool


ROWS = {
    "1": Row(regularized=True, randomization=True, cv_selection=True),
    "2": Row(regularized=True, randomization=False, cv_selection=True),
    "3": Row(regularized=False, randomization=True, cv_selection=True),
    "4": Row(regularized=False, randomization=True, cv_selection=False),
}


def runs(
    rows: Sequence[str] = tuple(ROWS), seeds: Sequence[int] = SEEDS, smoke: bool = False
) -> list[Run]:
    """Return the runs of some rows.

    Args:
        rows: Among `ROWS`.
        seeds: The seeds; the paper's are `SEEDS`.
        smoke: A small slice and few steps, to see that all runs.
    """
    split = images(smoke)
    return [one(row, split, seed, smoke) for row in rows for seed in seeds]


def one(row: str, split: Split, seed: int, smoke: bool = False) -> Run:
    """Return one run of the table."""
    settings = settings_of(ROWS[row])
    if smoke:
        settings = settings.smoke()

    def work(folder: Path) -> dict[str, Any]:
        return popdescent.run(settings, split, network(ROWS[row]), seed, folder)

    described = {"table": 2, "row": row, **asdict(ROWS[row]), **asdict(settings)}
    return Run(f"table2_row{row}_{seed}", described, work)


def images(smoke: bool = False) -> Split:
    """Return the data: the first 10,000 training images, or the slice of a smoke run."""
    split = load_split("fmnist")
    split = replace(split, x_train=split.x_train[:10_000], y_train=split.y_train[:10_000])
    return small(split) if smoke else split


def network(row: Row) -> Callable[[], keras.Model]:
    """Return what builds a row's network."""

    def build() -> keras.Model:
        # The fitness without cross-validation is the last batch's cross-entropy.
        metrics = [] if row.cv_selection else [LastBatchCrossEntropy()]
        return networks.fashion_mnist(l2=settings_of(row).l2, l2_everywhere=True, metrics=metrics)

    return build


def settings_of(row: Row) -> popdescent.Settings:
    """Return the settings of a row."""
    return replace(
        popdescent.FASHION_MNIST,
        population_size=10,
        num_elites=5 if row.randomization else 10,
        iterations=35,
        l2=0.001 if row.regularized else None,
        objective="val_loss" if row.cv_selection else "last_cross_entropy",
    )
