"""The paper's basic grid search: a model for each learning rate (and L2 coefficient).

In an iteration one random subset of the training images is drawn, and every model is fitted on it
for one epoch: by Keras's `fit`, one after the other; on an accelerator all at once, as members of a
population in which nobody is replaced (25 models that `fit` trains leave a GPU mostly idle).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_popdescent import Offspring, Population, PopulationView, Strategy
from keras_popdescent.strategies.space import Values
from reproduce.data import Split
from reproduce.evaluation import cross_entropy, fair, lowest, measure, minima
from reproduce.runs import on_accelerator, refuse_interrupted

GRID = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Build = Callable[[keras.optimizers.Optimizer, float | None], keras.Model]
Cells = list[tuple[float, float | None]]
Curve = list[list[float]]
# Iterations between two savings of the models, which are large.
SAVE_EVERY = 10


class Independent(Strategy):
    """Nobody is ever replaced: as many models as members, each on its own."""

    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        return []


@dataclass(frozen=True)
class Settings:
    """How the grid is trained.

    Attributes:
        iterations: Iterations.
        monitored: Images of the test half that Figure 1's curve is measured on.
        learning_rates: Adam's learning rates.
        l2: L2 coefficients; (None,) for no regularization.
        batches: Batches an iteration.
        batch_size: Images a batch.
        dropout: Dropout of the network; None for none.
    """

    iterations: int
    monitored: int
    learning_rates: tuple[float, ...] = GRID
    l2: tuple[float | None, ...] = (None,)
    batches: int = 128
    batch_size: int = 64
    dropout: float | None = None

    @property
    def counted_steps(self) -> int:
        """Gradient steps by the paper's formula, which here are all."""
        return self.iterations * len(self.learning_rates) * len(self.l2) * self.batches

    def smoke(self) -> Settings:
        """Return settings that run through everything in seconds."""
        return replace(
            self,
            iterations=2,
            batches=4,
            learning_rates=self.learning_rates[:2],
            l2=self.l2[:2],
        )


def run(
    settings: Settings,
    split: Split,
    build: Build,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Train all models and measure them.

    Args:
        settings: The experiment's settings.
        split: The data.
        build: Returns the network compiled with an optimizer and an L2 coefficient.
        seed: Seed of everything.
        folder: Where an interrupted run finds what it needs to go on.
    """
    cells = list(itertools.product(settings.learning_rates, settings.l2))
    together = on_accelerator()
    if together:
        models, curve = _train_together(settings, split, build, cells, seed)
    else:
        models, curve = _train_in_turn(settings, split, build, cells, seed, folder)
    measured = [measure(model, split) for model in models]
    return {
        "seed": seed,
        "counted_steps": settings.counted_steps,
        "all_steps": settings.counted_steps,
        "as_published": minima(measured),
        "fair": fair(measured),
        "members": [
            {"learning_rate": rate, "l2": l2, **numbers}
            for (rate, l2), numbers in zip(cells, measured, strict=True)
        ],
        "curve": curve,
        "trained": "together" if together else "in turn",
        "setting": asdict(settings),
    }


def _subset(
    settings: Settings, split: Split, seed: int, iteration: int
) -> tuple[np.random.Generator, Arrays]:
    """Return an iteration's random subset, and the generator that drew it."""
    # A generator for each iteration, so that a run goes on as it would have.
    rng = np.random.default_rng([seed, iteration])
    size = min(settings.batches * settings.batch_size, len(split.x_train) - 1)
    index = rng.choice(len(split.x_train) - 1, size=size, replace=False)
    return rng, (split.x_train[index], split.y_train[index])


def _monitored(settings: Settings, split: Split, rng: np.random.Generator) -> Arrays:
    """Return images of the test half, drawn for a point of Figure 1's curve."""
    size = min(settings.monitored, len(split.x_test) - 1)
    index = rng.choice(len(split.x_test) - 1, size=size, replace=False)
    return split.x_test[index], split.y_test[index]


def _train_together(
    settings: Settings, split: Split, build: Build, cells: Cells, seed: int
) -> tuple[list[keras.Model], Curve]:
    """Train all models at once; the curve is measured where there is no penalty.

    It takes about a minute on a GPU, so nothing is kept for a run that is interrupted.
    """
    l2 = cells[0][1]
    values: list[Values] = [
        {"popdescent/learning_rate": rate, **({} if l2 is None else {"popdescent/l2": l2})}
        for rate, l2 in cells
    ]
    population = Population.from_model(
        lambda: build(keras.optimizers.Adam(), l2),
        len(cells),
        len(cells),
        strategy=Independent(),
        mutate=["learning_rate", *([] if l2 is None else ["l2"])],
        seed=seed,
    )
    progress = keras.utils.Progbar(settings.iterations, unit_name="iteration")
    curve = []
    for iteration in range(settings.iterations):
        rng, (x, y) = _subset(settings, split, seed, iteration)
        history = population.fit(
            x,
            y,
            validation_data=_monitored(settings, split, rng),
            iterations=1,
            batches_per_iteration=settings.batches,
            batch_size=settings.batch_size,
            initial_hyperparameters=values if iteration == 0 else (),
            verbose=0,
        )
        refuse_interrupted(population)
        scores = [member.score for member in history.iterations()[-1].members]
        curve.append([(iteration + 1) * len(cells) * settings.batches, lowest(scores)])
        progress.update(iteration + 1)
    executor = population.executor
    last = sorted(history.iterations()[-1].members, key=lambda member: member.slot)
    models = [executor.export(member.values, executor.capture(member.slot)) for member in last]
    return models, curve[:-1] if l2 is None else []


def _train_in_turn(
    settings: Settings, split: Split, build: Build, cells: Cells, seed: int, folder: Path
) -> tuple[list[keras.Model], Curve]:
    """Fit one model after the other in each iteration."""
    keras.utils.set_random_seed(seed)
    models = [build(keras.optimizers.Adam(rate), l2) for rate, l2 in cells]
    done, curve = _resume(folder, models)
    progress = keras.utils.Progbar(settings.iterations, unit_name="iteration")
    for iteration in range(done, settings.iterations):
        rng, (x, y) = _subset(settings, split, seed, iteration)
        keras.utils.set_random_seed(int(rng.integers(2**31)))
        for model in models:
            model.fit(x, y, batch_size=settings.batch_size, epochs=1, verbose=0)
        if iteration + 1 < settings.iterations:
            curve.append(_point(settings, split, models, rng, iteration + 1))
        if (iteration + 1) % SAVE_EVERY == 0:
            _save(folder, models, iteration + 1, curve)
        progress.update(iteration + 1)
    return models, curve


def _point(
    settings: Settings,
    split: Split,
    models: list[keras.Model],
    rng: np.random.Generator,
    iterations: int,
) -> list[float]:
    """Return steps and the lowest loss, penalty included, on images of the test half."""
    x, y = _monitored(settings, split, rng)
    losses = [cross_entropy(m, x, y)[0] + float(sum(m.losses)) for m in models]
    return [iterations * len(models) * settings.batches, lowest(losses)]


def _save(folder: Path, models: list[keras.Model], iteration: int, curve: list[Any]) -> None:
    """Keep the models with their optimizers; the state before goes only when all is written."""
    kept = folder / f"iteration_{iteration}"
    for number, model in enumerate(models):
        kept.mkdir(exist_ok=True)
        model.save(kept / f"{number}.keras")
    beside = folder / "state.tmp"
    beside.write_text(json.dumps({"iteration": iteration, "curve": curve}), encoding="utf-8")
    beside.replace(folder / "state.json")
    for other in folder.glob("iteration_*"):
        if other != kept:
            shutil.rmtree(other)


def _resume(folder: Path, models: list[keras.Model]) -> tuple[int, list[Any]]:
    """Put the kept models in place; return the iterations done, and the curve so far."""
    path = folder / "state.json"
    if not path.exists():
        return 0, []
    state = json.loads(path.read_text("utf-8"))
    kept = folder / f"iteration_{state['iteration']}"
    for number in range(len(models)):
        models[number] = keras.saving.load_model(kept / f"{number}.keras")
    return state["iteration"], state["curve"]
