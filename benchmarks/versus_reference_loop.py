"""The authors' way of training beside `PopDescent.reference()`: the time of one iteration.

`reference_loop.py` states the former anew: eager steps, a clone of the model for each child. Both
do the same: five members, 128 batches of 64 samples each, scores on 640 validation samples, two
replaced. They are measured in one process, by turns.

    python -m benchmarks.versus_reference_loop [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np

from benchmarks import models, records
from benchmarks.reference_loop import ReferenceLoop
from benchmarks.report import section
from benchmarks.timing import WARM_UP, Turns
from keras_popdescent import PopDescent, Population
from reproduce import networks


@dataclass(frozen=True)
class Case:
    """A network to measure.

    Attributes:
        name: Its name in the table.
        build: Returns it, compiled with Adam.
        shape: Shape of a sample.
        target: The ratio to be reached.
        batches: Gradient steps of a member in an iteration.
        repetitions: How many iterations are measured.
    """

    name: str
    build: Callable[[], keras.Model]
    shape: tuple[int, ...]
    target: float
    batches: int = 128
    repetitions: int = 5


def fashion_mnist() -> keras.Model:
    """Return the paper's network with the paper's penalty."""
    return networks.fashion_mnist(l2=1e-3)


CASES = (
    Case("MLP 64-64-10", models.mlp, (64,), target=3.0, repetitions=9),
    Case("Fashion-MNIST network", fashion_mnist, (28, 28, 1), target=3.0),
)
QUICK = (replace(CASES[0], batches=16, repetitions=3),)
BATCH_SIZE, SCORED, SIZE, ELITES = 64, 640, 5, 3


def measure(case: Case) -> records.Record:
    """Measure one case."""
    rng = np.random.default_rng(0)
    samples = max(2 * BATCH_SIZE * case.batches, SCORED)
    x = rng.random((samples, *case.shape), dtype=np.float32)
    y = rng.integers(0, 10, samples)
    validation = (x[:SCORED], y[:SCORED])
    loop = ReferenceLoop(
        case.build, (x, y), validation,
        size=SIZE, elites=ELITES, batches=case.batches, batch_size=BATCH_SIZE, scored=SCORED,
    )  # fmt: skip
    turns = Turns([loop.iteration])
    strategy = PopDescent.reference(num_samples=SCORED)
    Population.from_model(case.build, SIZE, ELITES, strategy=strategy, seed=0).fit(
        x, y,
        validation_data=validation,
        iterations=case.repetitions + WARM_UP,
        batches_per_iteration=case.batches,
        batch_size=BATCH_SIZE,
        observers=[turns],
        verbose=0,
    )  # fmt: skip
    return {
        "network": case.name,
        "gradient_steps": SIZE * case.batches,
        "scored": SCORED,
        "target": case.target,
        "iteration": turns.iterations,
        "reference_loop": turns.others(0),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write the results as JSON."""
    chosen = records.options(__doc__, arguments)
    if keras.backend.backend() != "tensorflow":
        raise SystemExit("The restatement is TensorFlow code: set KERAS_BACKEND=tensorflow.")
    rows = []
    for case in QUICK if chosen.quick else CASES:
        rows.append(measure(case))
        result = records.record("versus_reference_loop", "tensorflow", rows[-1:])
        print("\n".join(section(result)), flush=True)
    result = records.record("versus_reference_loop", "tensorflow", rows)
    records.save(result, records.folder_of(chosen))


if __name__ == "__main__":
    main()
