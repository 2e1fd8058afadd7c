"""Overhead: the time of a population's iteration over the bare compiled train steps in it.

Both are measured in one process, by turns, several times; what counts is the ratio of the medians.
An iteration is everything: batches drawn and gathered, members swapped in and out, 128 steps each,
scores on validation samples, selection, mutation, records. The bare steps are the model's own
`train_step`, compiled as Keras compiles it, on data that lies on the device, measured twice:

- in one traced loop, which is the fastest way to run them here: the ratio that the targets are for;
- called one by one from Python, as `fit` does.

    python -m benchmarks.overhead [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from keras_popdescent import Observer, Population
from keras_popdescent.data import ArrayBatches
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.history import IterationRecord
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.live_model import LiveModel
from reproduce import networks

RESULTS = Path(__file__).parent / "results"
BATCH_SIZE = 64


@dataclass(frozen=True)
class Case:
    """A network to measure.

    Attributes:
        name: Its name in the table.
        build: Returns it, compiled.
        shape: Shape of a sample.
        target: The ratio not to be exceeded, None where there is none.
        scored: Validation samples that score a member; 640 is the paper's number.
        batches: Gradient steps of a member in an iteration.
        population_size: Number of members.
        repetitions: How many iterations are measured.
    """

    name: str
    build: Callable[[], keras.Model]
    shape: tuple[int, ...]
    target: float | None
    scored: int = 640
    batches: int = 128
    population_size: int = 5
    repetitions: int = 7


@dataclass(frozen=True)
class Result:
    """What was measured: medians in seconds, and an iteration's ratio to its bare steps."""

    name: str
    backend: str
    gradient_steps: int
    scored: int
    iteration: float
    loop: float
    one_by_one: float
    ratio: float
    ratio_one_by_one: float
    target: float | None


def mlp() -> keras.Model:
    """Return a 64-64-10 network with a penalty."""
    penalty = keras.regularizers.L2(1e-4)
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Turns(Observer):
    """Measures iterations, and bare steps between them, so that noise hits both alike.

    Args:
        bare: Functions that run as many bare steps as an iteration has.
    """

    def __init__(self, bare: list[Callable[[], None]]) -> None:
        self._bare = bare
        self.iterations: list[float] = []
        self.steps: list[list[float]] = [[] for _ in bare]
        self._since = time.perf_counter()

    def iteration_end(self, record: IterationRecord) -> None:
        self.iterations.append(time.perf_counter() - self._since)
        for times, run in zip(self.steps, self._bare, strict=True):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        self._since = time.perf_counter()


def measure(case: Case) -> Result:
    """Measure one case."""
    rng = np.random.default_rng(0)
    x = rng.random((max(BATCH_SIZE * case.batches, case.scored), *case.shape), dtype=np.float32)
    y = rng.integers(0, 10, len(x))
    steps = case.population_size * case.batches
    turns = Turns(bare_steps(case.build, x, y, steps))
    Population.from_model(case.build, size=case.population_size, seed=0).fit(
        x,
        y,
        validation_data=(x[: case.scored], y[: case.scored]),
        # The first iterations trace and compile.
        iterations=case.repetitions + 2,
        batches_per_iteration=case.batches,
        batch_size=BATCH_SIZE,
        observers=[turns],
        verbose=0,
    )
    iteration, loop, one_by_one = (
        statistics.median(times[2:]) for times in (turns.iterations, *turns.steps)
    )
    return Result(
        name=case.name,
        backend=keras.backend.backend(),
        gradient_steps=steps,
        scored=case.scored,
        iteration=iteration,
        loop=loop,
        one_by_one=one_by_one,
        ratio=iteration / loop,
        ratio_one_by_one=iteration / one_by_one,
        target=case.target,
    )


def bare_steps(
    build: Callable[[], keras.Model], x: np.ndarray, y: np.ndarray, steps: int
) -> list[Callable[[], None]]:
    """Return functions that run bare train steps: in one loop, and one by one."""
    blueprint = ModelBlueprint(build, mutate=())
    batch = (x[:BATCH_SIZE], y[:BATCH_SIZE])
    model = LiveModel(blueprint, {}, 0, batch).model
    stepper = make_stepper(model)
    arrays = stepper.load(ArrayBatches((x, y), BATCH_SIZE, shuffle=False).arrays)
    rows = np.arange(steps * BATCH_SIZE, dtype=np.int32) % (len(x) // BATCH_SIZE * BATCH_SIZE)
    block = rows.reshape(steps, BATCH_SIZE)
    held = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)

    def loop() -> None:
        stepper.train_indices(arrays, [block])
        stepper.logs()

    def one_by_one() -> None:
        for _ in range(steps):
            stepper.train_batch(held)
        stepper.logs()

    return [loop, one_by_one]


CASES = (
    Case("MLP 64-64-10", mlp, (64,), target=1.5, repetitions=40),
    Case("Fashion-MNIST network", networks.fashion_mnist, (28, 28, 1), target=1.05),
    Case("CIFAR-10 network", networks.cifar10, (32, 32, 3), target=1.05, repetitions=5),
    Case(
        "Fashion-MNIST network", networks.fashion_mnist, (28, 28, 1), target=None, scored=5000,
        repetitions=5,
    ),
)  # fmt: skip


def table(results: list[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| network | backend | steps | scored on | iteration / loop of bare steps | target "
        "| iteration / steps one by one |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        target = "" if r.target is None else f"<= {r.target:.2f}"
        lines.append(
            f"| {r.name} | {r.backend} | {r.gradient_steps} | {r.scored} | {r.ratio:.3f} "
            f"| {target} | {r.ratio_one_by_one:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the MLP only, few repetitions")
    quick = parser.parse_args().quick
    cases = [Case("MLP 64-64-10", mlp, (64,), 1.5, repetitions=5)] if quick else CASES
    results = []
    for case in cases:
        results.append(measure(case))
        print(table(results[-1:]), flush=True)
    print()
    print(table(results))
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"overhead_{keras.backend.backend()}.json"
        path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
