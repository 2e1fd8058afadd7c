"""How much the default depends on members, starting rate and batches an iteration: pictures.

Every point has the same number of gradient steps. The task is the regression of `tasks.py`, on
which differences are larger than those of seeds. Results lie in a JSON file beside the others; a
finished point is not run again, and the pictures are drawn from the file alone.

    python -m benchmarks.default_preset.sensitivity [--quick] [--seeds 5] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import keras

from benchmarks import records
from benchmarks.default_preset import tasks
from benchmarks.default_preset.tables import grouped, losses
from benchmarks.searches.task import Task
from keras_popdescent import PopDescent, Population, Strategy
from reproduce.methods.grid_search import Independent
from reproduce.runs import refuse_interrupted

NAME = "default_preset_sensitivity"
PICTURES = Path(__file__).parents[2] / "docs" / "images"
SIZE, BATCHES, RATE = 5, 40, 1e-3


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        study: What is varied.
        value: Its value.
        line: `PopDescent()`, or the same without selection.
        size: Members.
        rate: Learning rate that all members start with.
        batches: Batches an iteration.
    """

    study: str
    value: float
    line: str
    size: int = SIZE
    rate: float = RATE
    batches: int = BATCHES


LINES: Mapping[str, Callable[[], Strategy]] = {
    "PopDescent()": PopDescent,
    "no selection": Independent,
}
# study -> (label of the axis, values)
STUDIES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "population_size": ("members, at equal steps in all", (3, 5, 10, 20)),
    "starting_rate": ("learning rate that all members start with", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
    "batches_per_iteration": ("batches an iteration", (16, 32, 64, 128, 256, 512)),
}


def points() -> list[Point]:
    """Return all settings."""
    found = []
    for line in LINES:
        found += [
            Point("population_size", n, line, size=int(n)) for n in _values("population_size")
        ]
        found += [Point("starting_rate", r, line, rate=r) for r in _values("starting_rate")]
        found += [
            Point("batches_per_iteration", b, line, batches=int(b))
            for b in _values("batches_per_iteration")
        ]
    return found


def _values(study: str) -> tuple[float, ...]:
    return STUDIES[study][1]


def measure(point: Point, task: Task, seed: int) -> records.Record:
    """Train one population, whose members all start with the middle of the ranges."""
    keras.utils.set_random_seed(seed)

    def build() -> keras.Model:
        return task.build({**task.middle, "learning_rate": point.rate})

    population = Population.from_model(
        build,
        point.size,
        strategy=LINES[point.line](),
        objective=(task.objective, "min"),
        executor="sequential",
        seed=seed,
    )
    population.fit(
        **task.fit_arguments(),
        max_gradient_steps=task.budget,
        batches_per_iteration=point.batches,
    )
    refuse_interrupted(population)
    model = population.best_model()
    return {
        "study": point.study,
        "value": point.value,
        "line": point.line,
        "seed": seed,
        "gradient_steps": population.history.gradient_steps,
        "validation_loss": tasks.loss(task, model, task.validation),
        "test_loss": tasks.loss(task, model, task.test),
    }


def lines_of(
    rows: Sequence[records.Record], study: str
) -> dict[str, list[tuple[float, list[float]]]]:
    """Return (value, losses of all seeds) pairs of each line of a study, by value."""
    of_study = [row for row in rows if row["study"] == study]
    return {
        line: [
            (float(value), losses(found))
            for value, found in sorted(
                grouped(of_line, "value").items(), key=lambda pair: float(pair[0])
            )
        ]
        for line, of_line in grouped(of_study, "line").items()
    }


def draw(rows: Sequence[records.Record], study: str, path: Path) -> None:
    """Draw one study: the mean over seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from keras_popdescent.plots.style import CURVES, DPI, RC

    label, values = STUDIES[study]
    rules: Any = RC
    with pyplot.rc_context(rules):
        figure, axes = pyplot.subplots(figsize=(4.6, 3.0), layout="constrained")
        for look, (line, found) in zip(CURVES, lines_of(rows, study).items(), strict=False):
            xs, means = [value for value, _ in found], [fmean(seeds) for _, seeds in found]
            axes.errorbar(
                xs,
                means,
                yerr=[
                    [fmean(seeds) - min(seeds) for _, seeds in found],
                    [max(seeds) - fmean(seeds) for _, seeds in found],
                ],
                label=line,
                capsize=2,
                markersize=4,
                **look,
            )
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("squared error on held-out data")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--seeds", type=int, default=5, help="how many repetitions (default: 5)")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="where pictures go")
    chosen = parser.parse_args(arguments)
    folder = records.folder_of(chosen)
    rows = records.earlier(NAME, keras.backend.backend(), folder)
    task = tasks.friedman()
    todo = points()[:1] if chosen.quick else points()
    if chosen.quick:
        task = tasks.tiny(task)
    done = {(row["study"], row["value"], row["line"], row["seed"]) for row in rows}
    for seed in range(1 if chosen.quick else chosen.seeds):
        for point in todo:
            if (point.study, point.value, point.line, seed) in done:
                continue
            rows.append(measure(point, task, seed))
            print(f"seed {seed}: {point}, {rows[-1]['test_loss']:.4f}", flush=True)
            records.save(records.record(NAME, keras.backend.backend(), rows), folder)
    if chosen.quick and chosen.results is None:
        return
    for study in STUDIES:
        draw(rows, study, chosen.pictures / f"sensitivity_{study}.png")


if __name__ == "__main__":
    main()
