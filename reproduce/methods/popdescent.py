"""Population Descent as the authors' code runs it, through the library's public API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from keras_popdescent import ClosingPlan, PopDescent, Population
from keras_popdescent.strategies.base import Regularization
from reproduce.data import Split
from reproduce.evaluation import best_on_test, fair, lowest, measure
from reproduce.monitor import Monitor
from reproduce.runs import refuse_interrupted


@dataclass(frozen=True)
class Settings:
    """A column of the protocol's table of Population Descent's settings.

    Attributes:
        iterations: Iterations.
        passes: Passes over an iteration's batches (the authors' "epochs").
        batches: Batches an iteration.
        batch_size: Images a batch.
        population_size: N.
        num_elites: m; N - m are replaced. With m = N nobody is: "randomization" is off.
        fine_tuning_rounds: Rounds of training after the last iteration, not counted by the paper.
        fine_tuning_batches: Batches of a round.
        fine_tuning_batch_size: Images of such a batch.
        penalty_terms: Which penalty terms the multiplier r applies to.
        learning_rate: Adam's, which stays fixed.
        l2: L2 coefficient; None for no regularization.
        objective: What selects: the loss on 640 validation images, or that of the last training
            batch.
    """

    iterations: int
    passes: int
    batches: int = 128
    batch_size: int = 64
    population_size: int = 5
    num_elites: int = 3
    fine_tuning_rounds: int = 0
    fine_tuning_batches: int = 0
    fine_tuning_batch_size: int = 64
    penalty_terms: Regularization = "first"
    learning_rate: float = 1e-3
    l2: float | None = None
    objective: str = "val_loss"

    @property
    def counted_steps(self) -> int:
        """Gradient steps by the paper's formula."""
        return self.iterations * self.passes * self.batches * self.population_size

    @property
    def all_steps(self) -> int:
        """Gradient steps with the fine-tuning."""
        tuning = self.fine_tuning_rounds * self.fine_tuning_batches * self.population_size
        return self.counted_steps + tuning

    def smoke(self) -> Settings:
        """Return settings that run through everything in seconds."""
        return replace(self, iterations=2, batches=4, fine_tuning_rounds=1, fine_tuning_batches=2)


FASHION_MNIST = Settings(
    iterations=50,
    passes=1,
    fine_tuning_rounds=5,
    fine_tuning_batches=64,
    fine_tuning_batch_size=128,
    penalty_terms="unused",
)
CIFAR10 = Settings(
    iterations=20,
    passes=2,
    fine_tuning_rounds=3,
    fine_tuning_batches=256,
)


def run(
    settings: Settings,
    split: Split,
    build: Callable[[], keras.Model],
    seed: int,
    folder: Path,
    monitor: bool = False,
) -> dict[str, Any]:
    """Train a population and measure all its members.

    Args:
        settings: The experiment's settings.
        split: The data.
        build: Returns the compiled network.
        seed: Seed of everything.
        folder: Where an interrupted run finds what it needs to go on.
        monitor: Whether Figure 1's curve is measured.
    """
    strategy = PopDescent.reference(
        passes=settings.passes,
        fine_tuning=ClosingPlan(
            settings.fine_tuning_rounds,
            settings.fine_tuning_batches or None,
            settings.fine_tuning_batch_size,
        ),
        regularization=settings.penalty_terms,
    )
    population = Population.from_model(
        build,
        settings.population_size,
        settings.num_elites,
        strategy=strategy,
        objective=(settings.objective, "min"),
        seed=seed,
    )
    # The lowest loss of the population, after replacement, on 640 validation images.
    curve = Monitor(folder, split.x_val, split.y_val, 640, seed)
    history = population.fit(
        split.x_train,
        split.y_train,
        validation_data=(split.x_val, split.y_val),
        iterations=settings.iterations,
        batches_per_iteration=settings.batches,
        batch_size=settings.batch_size,
        observers=[curve] if monitor else [],
        checkpoint_dir=folder / "search",
    )
    refuse_interrupted(population)
    members = [measure(model, split) for model in population.models()]
    return {
        "seed": seed,
        "counted_steps": settings.counted_steps,
        "all_steps": history.gradient_steps,
        "as_published": best_on_test(members),
        "fair": fair(members),
        "members": members,
        "lowest_score": [
            lowest(member.score for member in record.members) for record in history.iterations()
        ],
        # The multipliers c and r of the last members, by slot.
        "values": [dict(member.values) for member in history.iterations()[-1].members],
        "curve": curve.points,
        "strategy": strategy.get_config(),
        "setting": asdict(settings),
    }
