"""Who takes part. All choose by the validation data alone, and keep the best that they ever saw.

Everybody gets the same number of gradient steps, a population's, except where the name says a
member's. Who does not search trains with the middle of the ranges: a learning rate of 0.001.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from benchmarks.default_preset import candidates
from benchmarks.default_preset.tasks import loss
from benchmarks.searches import EXTRAS, Search, tuners
from benchmarks.searches.task import Found, Task
from keras_popdescent import Averaging, PopDescent, PopDescentTuner, Population
from keras_popdescent.strategies.base import Strategy
from reproduce.methods.grid_search import Independent
from reproduce.runs import refuse_interrupted

# So many times a model is scored while it trains for a member's steps.
LOOKS = 20
DEFAULT = "PopDescent()"
# Plain training with what the default does to its members' weights.
AVERAGED = "Adam 0.001, all steps, weights averaged"
Contestants = Mapping[str, Search]


def independent(
    model: keras.Model | Callable[[], keras.Model],
    models: int,
    task: Task,
    seed: int,
    averaging: Averaging | None = None,
) -> Population:
    """Return models that train each on its own, with the values that they are built with."""
    strategy = Independent()
    strategy.averaging = averaging
    return Population.from_model(
        model, models, models,
        strategy=strategy, mutate=(), objective=(task.objective, "min"),
        executor="sequential", seed=seed,
    )  # fmt: skip


def plain(
    models: int,
    total: bool,
    cosine: bool,
    task: Task,
    seed: int,
    folder: Path,
    *,
    averaging: Averaging | None = None,
) -> Found:
    """Train models with Adam, and take the best one's best moment.

    Args:
        models: How many, independent of each other.
        total: Whether they train for the steps of a whole population; else for a member's.
        cosine: Whether the rate falls to 0 over the training, as half a cosine.
        task: The task.
        seed: Seed of everything.
        folder: Not used.
        averaging: The moving average of its weights that a model is scored and taken with.
    """
    steps = task.budget if total else task.steps
    looks = LOOKS * task.models if total else LOOKS

    def build() -> keras.Model:
        values = dict(task.middle)
        if cosine:
            rate = values["learning_rate"]
            schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
            return task.build({**values, "learning_rate": schedule})
        return task.build(values)

    population = independent(build, models, task, seed, averaging)
    population.fit(
        **task.fit_arguments(),
        max_gradient_steps=steps * models,
        batches_per_iteration=-(-steps // looks),
    )
    refuse_interrupted(population)
    return Found(population.best_model(), population.history.gradient_steps)


def popdescent(make: Callable[[], Strategy], task: Task, seed: int, folder: Path) -> Found:
    """Search with a population of the default size, as a user of KerasTuner would."""
    tuner = PopDescentTuner(
        tuners.hypermodel(task),
        strategy=make(),
        population_size=task.models,
        checkpoint=False,
        **tuners.common(task, seed, folder),
    )
    refuse_interrupted(tuner.search(epochs=task.epochs, **task.fit_arguments()))
    return Found(tuner.get_best_models()[0], tuner.history.gradient_steps)


def then_alone(share: float, task: Task, seed: int, folder: Path) -> Found:
    """Search with a part of the steps, and spend the others on the best model alone.

    It goes on with its own values and a new optimizer, as somebody would with plain `fit`.

    Args:
        share: The part of the steps that the search gets.
        task: The task.
        seed: Seed of everything.
        folder: Where the tuner's project is.
    """
    shorter = replace(task, epochs=max(1, round(task.epochs * share)))
    found = popdescent(partial(PopDescent, focus=None), shorter, seed, folder)
    left = task.budget - found.gradient_steps
    population = independent(found.model, 1, task, seed)
    population.fit(
        **task.fit_arguments(),
        max_gradient_steps=left,
        batches_per_iteration=-(-left // (LOOKS * task.models)),
    )
    refuse_interrupted(population)
    steps = found.gradient_steps + population.history.gradient_steps
    offered = [found.model, population.best_model()]
    return Found(min(offered, key=partial(validation_loss, task)), steps)


def validation_loss(task: Task, model: keras.Model) -> float:
    """Return what a model is chosen by."""
    return loss(task, model, task.validation)


def peers(models: int) -> dict[str, Search]:
    """Return the contestants that are no population."""
    return {
        "Adam 0.001, a member's steps": partial(plain, 1, False, False),
        "Adam 0.001, all steps": partial(plain, 1, True, False),
        AVERAGED: partial(plain, 1, True, False, averaging=Averaging()),
        f"best of {models}, Adam 0.001": partial(plain, models, False, False),
        "cosine Adam, all steps": partial(plain, 1, True, True),
        f"best of {models}, cosine Adam": partial(plain, models, False, True),
        "KerasTuner RandomSearch": tuners.random_search,
        "KerasTuner Hyperband": tuners.hyperband,
    }


def contestants(models: int = 5) -> tuple[dict[str, Search], list[str]]:
    """Return everybody who takes part, and a sentence for each who cannot.

    Args:
        models: Size of the population, and of every "best of".
    """
    found, missing = peers(models), []
    if importlib.util.find_spec("optuna") is None:
        missing.append(f'Optuna: not installed (pip install "{EXTRAS["optuna"]}").')
    else:
        from benchmarks.searches import with_optuna

        found["Optuna TPE"] = with_optuna.search
    presets: dict[str, Callable[[], Strategy]] = {
        "PopDescent.paper()": PopDescent.paper,
        "PopDescent.reference()": PopDescent.reference,
        DEFAULT: PopDescent,
    }
    found.update({name: partial(popdescent, make) for name, make in presets.items()})
    return found, missing


def variants() -> dict[str, Search]:
    """Return the variants of the default."""
    found: dict[str, Search] = {
        name: partial(popdescent, make) for name, make in candidates.CANDIDATES.items()
    }
    for share in (0.5, 0.7):
        found[f"{share:.0%} of the steps, then its best alone"] = partial(then_alone, share)
    return found
