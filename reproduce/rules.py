"""Which update rule the published numbers come from: what the number c of a member does.

The authors' code changed it several times while their experiments ran (protocol, section 10), and
which state a table used is not recorded. Released is: c scales the loss, which Adam feels where c
is small. Here experiments of Tables 1 and 2 and of Figure 1 are run under other rules. CIFAR-10
with L2 is not among them, because the multiplier of its penalty belongs to the released rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from reproduce import figure1, table1, table2
from reproduce.data import Split
from reproduce.methods import popdescent
from reproduce.runs import Run

RULES = tuple(popdescent.OTHER_RULES)
# Experiment -> the seeds that the paper has for it.
EXPERIMENTS = {
    "table1_fmnist_without": table1.SEEDS,
    "table1_fmnist_with": table1.SEEDS,
    "table1_cifar10_without": table1.SEEDS,
    **{f"table2_row{row}": table2.SEEDS for row in table2.ROWS},
    "figure1": figure1.SEEDS,
}


def runs(
    rules: Sequence[str] = RULES,
    experiments: Sequence[str] = tuple(EXPERIMENTS),
    seeds: Sequence[int] = (),
    smoke: bool = False,
) -> list[Run]:
    """Return the runs of some experiments under some rules.

    Args:
        rules: Among `RULES`.
        experiments: Among `EXPERIMENTS`.
        seeds: The seeds; none for all that the paper has.
        smoke: A small slice and few steps, to see that all runs.
    """
    return [
        one(rule, experiment, seed, smoke)
        for experiment in experiments
        for rule in rules
        for seed in seeds or EXPERIMENTS[experiment][: 1 if smoke else None]
    ]


def name(rule: str, experiment: str, seed: int) -> str:
    """Return the name of a run."""
    return f"rules_{rule}_{experiment}_{seed}"


def one(rule: str, experiment: str, seed: int, smoke: bool = False) -> Run:
    """Return one run: the experiment's own script says what, but for the rule."""
    settings, network, images = of_experiment(experiment)
    settings = replace(settings.smoke() if smoke else settings, rule=rule)
    monitor = experiment == "figure1"

    def work(folder: Path) -> dict[str, Any]:
        return popdescent.run(settings, images(smoke), network, seed, folder, monitor)

    described = {"experiment": experiment, **asdict(settings)}
    return Run(name(rule, experiment, seed), described, work)


def of_experiment(
    experiment: str,
) -> tuple[popdescent.Settings, Callable[[], keras.Model], Callable[[bool], Split]]:
    """Return an experiment's settings, network and images."""
    table, _, cell = experiment.partition("_")
    if table == "table2":
        row = table2.ROWS[cell.removeprefix("row")]
        return table2.settings_of(row), table2.network(row), table2.images
    if table == "figure1":
        return *figure1.population_descent(), partial(table1.images, "fmnist")
    dataset, regularization = cell.split("_")
    settings, network = table1.population_descent(dataset, regularization == "with")
    return settings, network, partial(table1.images, dataset)
