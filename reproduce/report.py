"""`python -m reproduce report`: RESULTS.md from the results alone, beside the published numbers."""

from __future__ import annotations

import csv
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import runs

FOLDER = Path(__file__).parent
PAPER = FOLDER / "paper" / "paper_tables.csv"
# what our results call it -> what the paper's table calls it
DATASETS = {"fmnist": "FMNIST", "cifar10": "CIFAR-10"}
METHODS = {
    "grid_search": "Basic Grid Search",
    "keras_tuner": "KT RandomSearch",
    "esgd": "ESGD",
    "popdescent": "Population Descent",
}
# Differences of so many of the paper's standard deviations count as a match.
MATCH = 2.0


@dataclass(frozen=True)
class Cell:
    """A mean over seeds with its standard deviation (divisor n, as the authors plot it)."""

    mean: float
    std: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}" if self.seeds > 1 else f"{self.mean:.3f}"


def cell(values: list[float]) -> Cell:
    """Return the mean and standard deviation of one number a seed."""
    return Cell(statistics.fmean(values), statistics.pstdev(values), len(values))


def published(table: str, dataset: str, regularization: str, method: str) -> dict[str, str] | None:
    """Return the paper's row, None where the paper has none."""
    with PAPER.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["table"], row["dataset"], row["regularization"], row["method"])
            if key == (table, dataset, regularization, method):
                return row
    return None


def results(dataset: str, regularization: str, method: str) -> list[dict[str, Any]]:
    """Return our results of one row of Table 1, in the order of seeds."""
    pattern = f"table1_{dataset}_{regularization}_{method}_*.json"
    found = [json.loads(path.read_text("utf-8")) for path in runs.RESULTS.glob(pattern)]
    return sorted(found, key=lambda result: int(result["seed"]))


def verdict(ours: Cell, mean: float, std: float) -> str:
    """Return a plain verdict on one row."""
    distance = (ours.mean - mean) / std
    if abs(distance) <= MATCH:
        return f"matches ({distance:+.1f} σ)"
    return f"{'better' if distance < 0 else 'worse'} than published ({distance:+.1f} σ)"


def table1() -> list[str]:
    """Return Table 1 as Markdown lines: the paper's numbers, ours, and what is missing."""
    lines = [
        "## Table 1",
        "",
        "Test and train loss as published: cross-entropy on the 1,600 fixed images, the member of "
        "the lowest test loss. Fair: the member of the lowest validation loss on the whole test "
        "half. Steps as the paper counts them, and all of them.",
        "",
        "| data | regularization | method | paper: test | ours: test | seeds | verdict "
        "| paper: train | ours: train | fair: test loss, accuracy | steps | all steps |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    missing = []
    for dataset, name in DATASETS.items():
        for regularization in ("without", "with"):
            for method, title in METHODS.items():
                row = published("1", name, regularization, title)
                ours = results(dataset, regularization, method)
                if row is not None and not ours:
                    missing.append(f"{name} {regularization} regularization, {title}")
                if row is not None and ours:
                    lines.append(_line(name, regularization, title, row, ours))
    lines += ["", "Missing: " + ("; ".join(missing) if missing else "nothing") + "."]
    return lines


def _line(
    name: str, regularization: str, title: str, row: dict[str, str], ours: list[dict[str, Any]]
) -> str:
    test = cell([result["as_published"]["test_loss"] for result in ours])
    train = cell([result["as_published"]["train_loss"] for result in ours])
    fair = cell([result["fair"]["test_loss"] for result in ours])
    accuracy = cell([result["fair"]["test_accuracy"] for result in ours])
    mean, std = float(row["test_loss_mean"]), float(row["test_loss_std"])
    columns = [
        name,
        regularization,
        title,
        f"{mean:.3f} ± {std:.3f}",
        str(test),
        str(test.seeds),
        verdict(test, mean, std),
        f"{float(row['train_loss_mean']):.3f} ± {float(row['train_loss_std']):.3f}",
        str(train),
        f"{fair}, {accuracy.mean:.1%}",
        f"{ours[0]['counted_steps']:,}",
        f"{ours[0]['all_steps']:,}",
    ]
    return "| " + " | ".join(columns) + " |"


def write() -> Path:
    """Write RESULTS.md and return its path."""
    path = FOLDER / "RESULTS.md"
    head = [
        "# Results",
        "",
        "Made by `python -m reproduce report` from the files in `results/` and the paper's numbers "
        "in `paper/paper_tables.csv`. σ is the paper's standard deviation over ten seeds.",
        "",
    ]
    path.write_text("\n".join([*head, *table1(), ""]), encoding="utf-8")
    return path
