"""ESGD as the paper compares with it, through the library's `ESGD` strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_popdescent import ESGD, Population
from reproduce.data import Split
from reproduce.evaluation import fair, measure, minima
from reproduce.monitor import Monitor
from reproduce.runs import refuse_interrupted


@dataclass(frozen=True)
class Settings:
    """How ESGD runs: in a generation, one epoch for every member and one evolution.

    Attributes:
        generations: Generations.
        learning_rate: Learning rate of SGD, which begins anew in each generation.
        momentum: Its momentum.
        batch_size: Images a batch.
        noise_scale: Standard deviation of the weight noise in the first generation.
        ranked_on: What ranks members and children: the whole training set, as published, or the
            validation half, which is fair.
        network: Which network trains: ESGD's own, as published, or the other methods', which is
            fair.
        population_size: Members.
        num_elites: Members that survive for certain.
    """

    generations: int
    learning_rate: float
    momentum: float
    batch_size: int
    noise_scale: float
    ranked_on: str = "training"
    network: str = "its own"
    population_size: int = 5
    num_elites: int = 3

    def smoke(self) -> Settings:
        """Return settings that run through everything in seconds."""
        return replace(self, generations=min(self.generations, 2), batch_size=64)


FASHION_MNIST = Settings(10, learning_rate=0.001, momentum=0.9, batch_size=64, noise_scale=0.001)
CIFAR10 = Settings(3, learning_rate=0.01, momentum=0.0, batch_size=8, noise_scale=0.01)


def run(
    settings: Settings,
    split: Split,
    build: Callable[[keras.optimizers.Optimizer], keras.Model],
    seed: int,
    folder: Path,
    monitor: bool = False,
) -> dict[str, Any]:
    """Train a population and measure all its members.

    Args:
        settings: The experiment's settings.
        split: The data.
        build: Returns the network compiled with an optimizer.
        seed: Seed of everything.
        folder: Where an interrupted run finds what it needs to go on.
        monitor: Whether Figure 1's curve is measured, here after each generation.
    """

    def compiled() -> keras.Model:
        return build(keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum))

    training = (split.x_train, split.y_train)
    validation = (split.x_val, split.y_val)
    strategy = ESGD(noise_scale=settings.noise_scale)
    population = Population.from_model(
        compiled,
        settings.population_size,
        settings.num_elites,
        strategy=strategy,
        mutate=(),
        seed=seed,
    )
    # The lowest loss of the population on all 10,000 test images.
    x_all = np.concatenate([split.x_val, split.x_test])
    y_all = np.concatenate([split.y_val, split.y_test])
    curve = Monitor(folder, x_all, y_all, None, seed)
    history = population.fit(
        *training,
        validation_data=training if settings.ranked_on == "training" else validation,
        validation_batch_size=500,
        epochs=settings.generations,
        iterations=settings.generations,
        batch_size=settings.batch_size,
        observers=[curve] if monitor else [],
        checkpoint_dir=folder / "search",
        checkpoint_every=1,
    )
    refuse_interrupted(population)
    members = [measure(model, split) for model in population.models()]
    return {
        "seed": seed,
        "counted_steps": history.gradient_steps,
        "all_steps": history.gradient_steps,
        # The authors measured ESGD on the other methods' validation half.
        "as_published": minima(members, "published_val_loss"),
        "fair": fair(members),
        "members": members,
        "curve": curve.points,
        "strategy": strategy.get_config(),
        "setting": asdict(settings),
    }
