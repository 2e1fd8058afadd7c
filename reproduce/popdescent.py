"""Population Descent as the authors' code runs it, through the library's public API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras

from keras_popdescent import ClosingPlan, PopDescent, Population
from keras_popdescent.strategies.base import Regularization
from reproduce import networks
from reproduce.data import Split
from reproduce.evaluation import measure


@dataclass(frozen=True)
class Settings:
    """A column of the protocol's table of Population Descent's settings.

    Attributes:
        iterations: Iterations.
        passes: Passes over an iteration's batches (the authors' "epochs").
        batches: Batches an iteration.
        batch_size: Images a batch.
        population_size: N.
        num_elites: m; N - m are replaced.
        fine_tuning_rounds: Rounds of training after the last iteration, not counted by the paper.
        fine_tuning_batches: Batches of a round.
        fine_tuning_batch_size: Images of such a batch.
        penalty_terms: Which penalty terms the multiplier r applies to.
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

    @property
    def counted_steps(self) -> int:
        """Gradient steps by the paper's formula."""
        return self.iterations * self.passes * self.batches * self.population_size

    @property
    def all_steps(self) -> int:
        """Gradient steps with the fine-tuning."""
        tuning = self.fine_tuning_rounds * self.fine_tuning_batches * self.population_size
        return self.counted_steps + tuning


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
    settings: Settings, split: Split, build: Callable[[], keras.Model], seed: int
) -> dict[str, Any]:
    """Train a population and measure all its members.

    Args:
        settings: The experiment's settings.
        split: The data.
        build: Returns the compiled network.
        seed: Seed of everything.
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
        build, settings.population_size, settings.num_elites, strategy=strategy, seed=seed
    )
    history = population.fit(
        split.x_train,
        split.y_train,
        validation_data=(split.x_val, split.y_val),
        iterations=settings.iterations,
        batches_per_iteration=settings.batches,
        batch_size=settings.batch_size,
    )
    members = [measure(model, split) for model in population.models()]
    published = min(members, key=lambda member: member["published_test_loss"])
    fair = min(members, key=lambda member: member["val_loss"])
    return {
        "seed": seed,
        "counted_steps": settings.counted_steps,
        "all_steps": history.gradient_steps,
        # The authors' choice: the member of the lowest test loss.
        "as_published": {
            "test_loss": published["published_test_loss"],
            "train_loss": published["published_train_loss"],
        },
        # The member of the lowest validation loss, on the whole test half.
        "fair": {key: fair[key] for key in ("val_loss", "test_loss", "test_accuracy")},
        "members": members,
        "lowest_val_loss": [
            min(member.score for member in record.members) for record in history.iterations()
        ],
        "strategy": strategy.get_config(),
        "setting": asdict(settings),
    }


def network(dataset: str, regularized: bool) -> Callable[[], keras.Model]:
    """Return the builder of the paper's network for a data set."""
    builders: dict[str, Callable[..., keras.Model]] = {
        "fmnist": networks.fashion_mnist,
        "cifar10": networks.cifar10,
    }
    build = builders[dataset]
    return lambda: build(l2=0.001 if regularized else None)
