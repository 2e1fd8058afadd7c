"""Population Descent as the authors' code runs it, through the library's public API.

What the number c of a member does changed several times in the authors' code (protocol, section
10). In the released code it scales the loss; the other rules are here to see which of them the
published numbers may come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_popdescent import ClosingPlan, Mutation, PopDescent, Population, SearchSpace
from keras_popdescent.operators.mutation import log_normal
from keras_popdescent.strategies.base import Regularization
from keras_popdescent.strategies.mutations import LOSS_SCALE, ReferenceMutation
from keras_popdescent.strategies.space import Values
from reproduce.data import Split
from reproduce.evaluation import best_on_test, fair, lowest, measure
from reproduce.monitor import Monitor
from reproduce.runs import refuse_interrupted

LEARNING_RATE = "popdescent/learning_rate"


@dataclass(frozen=True)
class LearningRateRule(Mutation):
    """The number c as Adam's learning rate, with the start and the steps that c has.

    Attributes:
        input_factor: Standard deviation of the mutation at strength 1, in octaves.
    """

    input_factor: float

    def start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        return [
            {**space.defaults(), LEARNING_RATE: float(10.0 ** rng.normal(-4.0, 2.0))}
            for _ in range(size)
        ]

    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        rate = log_normal(float(values[LEARNING_RATE]), self.input_factor * strength, rng)
        return {**values, LEARNING_RATE: rate}


class FirstRateAndFactor(ReferenceMutation):
    """The number c as a first learning rate, which children keep, and as a factor, which moves."""

    def start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        drawn = super().start(size, space, rng)
        return [{**values, LEARNING_RATE: values[LOSS_SCALE]} for values in drawn]


@dataclass(frozen=True)
class Unmutated(Mutation):
    """Children keep their parent's values."""

    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        return dict(values)


# Rules beside the released one, where c is a factor on the loss: the mutation, and what it moves.
# Here c is the learning rate; the first one, which children keep; this and a factor; nothing.
OTHER_RULES: dict[str, tuple[Mutation, Sequence[str]]] = {
    "learning_rate": (LearningRateRule(15.0), ["learning_rate"]),
    "initial_learning_rate": (LearningRateRule(0.0), ["learning_rate"]),
    "both": (FirstRateAndFactor(), ["learning_rate"]),
    "none": (Unmutated(), []),
}
RULES = ("loss_scale", *OTHER_RULES)


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
        rule: What the number c does, among `RULES`.
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
    rule: str = "loss_scale"

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


def strategy_of(settings: Settings) -> tuple[PopDescent, Sequence[str] | None]:
    """Return the strategy, and which of the model's own values it mutates."""
    released = PopDescent.reference(
        passes=settings.passes,
        fine_tuning=ClosingPlan(
            settings.fine_tuning_rounds,
            settings.fine_tuning_batches or None,
            settings.fine_tuning_batch_size,
        ),
        regularization=settings.penalty_terms,
    )
    if settings.rule == "loss_scale":
        return released, None
    mutation, mutate = OTHER_RULES[settings.rule]
    other = PopDescent(
        mutation,
        noise_scale=released.noise_scale,
        noise_kind=released.noise_kind,
        optimizer_state=released.optimizer_state,
        training=released.training,
        scoring=released.scoring,
        closing=released.closing,
        focus=None,
        averaging=None,
        keep_best=False,
        regularization=released.regularization,
    )
    # A factor on the loss goes with a learning rate of its own here.
    other.implicit = True
    return other, mutate


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
    strategy, mutate = strategy_of(settings)
    population = Population.from_model(
        build,
        settings.population_size,
        settings.num_elites,
        strategy=strategy,
        objective=(settings.objective, "min"),
        mutate=mutate,
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
    last = history.iterations()[-1].members
    # As `models` has them: best first.
    ranked = sorted(last, key=lambda member: (math.isnan(member.score), member.score))
    members = [
        {"slot": member.slot, **measure(model, split)}
        for member, model in zip(ranked, population.models(), strict=True)
    ]
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
        "values": [dict(member.values) for member in last],
        "curve": curve.points,
        "strategy": strategy.get_config(),
        "setting": asdict(settings),
    }
