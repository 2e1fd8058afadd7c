"""Overhead: the time of a population's iteration over the bare compiled train steps in it.

Both are measured in one process, by turns, several times; what counts is the ratio of the medians.
An iteration is everything: batches drawn and gathered, members swapped in and out, 128 steps each,
scores on validation samples, selection, mutation, records. The bare steps are the model's own
`train_step`, compiled as Keras compiles it, on data that lies on the device, measured twice:

- in one call where the backend has one (on TensorFlow a traced loop), which is the fastest way to
  run them here: the ratio that the targets are for;
- called one by one from Python, as `fit` does.

Evolution is measured apart: the strategy's decision, the children's states, the values written.

    python -m benchmarks.overhead [--quick] [--networks MLP "CIFAR-10 network"]

Each network's row is written when it is measured, beside those of other networks that are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import keras
import numpy as np

from benchmarks import models, records
from benchmarks.report import section
from benchmarks.timing import WARM_UP, Stopwatch, Turns, wait_for
from keras_popdescent import PopDescent, Population
from keras_popdescent.data import ArrayBatches
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.live_model import LiveModel
from reproduce import networks

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
        slow_on_jax: Whether its step takes several times as long on JAX on a CPU.
    """

    name: str
    build: Callable[[], keras.Model]
    shape: tuple[int, ...]
    target: float | None
    scored: int = 640
    batches: int = 128
    population_size: int = 5
    repetitions: int = 7
    slow_on_jax: bool = False


# The target of a convolutional network.
CONV = 1.03
MLP = Case("MLP 64-64-10", models.mlp, (64,), target=1.2, repetitions=40)
CASES = (
    MLP,
    Case("LSTM 32", models.lstm, (16, 8), target=None, repetitions=15),
    Case("Fashion-MNIST network", networks.fashion_mnist, (28, 28, 1), target=CONV, repetitions=5),
    # Half an iteration, with half as much scored: the same ratio in half the time.
    Case("CIFAR-10 network", networks.cifar10, (32, 32, 3), target=CONV, scored=320, batches=64,
         repetitions=4, slow_on_jax=True),
    Case(
        "Fashion-MNIST network (5,000 scored)", networks.fashion_mnist, (28, 28, 1), target=None,
        scored=5000, repetitions=3,
    ),
)  # fmt: skip
QUICK = (
    replace(MLP, repetitions=5),
    Case("LSTM 32", models.lstm, (16, 8), target=None, batches=16, repetitions=3),
)


def measure(case: Case) -> records.Record:
    """Measure one case."""
    rng = np.random.default_rng(0)
    x = rng.random((max(BATCH_SIZE * case.batches, case.scored), *case.shape), dtype=np.float32)
    y = rng.integers(0, 10, len(x))
    steps = case.population_size * case.batches
    turns = Turns(bare_steps(case.build, x, y, steps))
    # Every iteration is one of all members.
    strategy = PopDescent(focus=None)
    size = case.population_size
    population = Population.from_model(case.build, size=size, strategy=strategy, seed=0)
    with ExitStack() as stack:
        evolution = watch_evolution(population, stack)
        turns.also.append(evolution.lap)
        population.fit(
            x,
            y,
            validation_data=(x[: case.scored], y[: case.scored]),
            # Nobody is replaced after the last one, which is left out.
            iterations=case.repetitions + WARM_UP + 1,
            batches_per_iteration=case.batches,
            batch_size=BATCH_SIZE,
            observers=[turns],
            verbose=0,
        )
    return {
        "network": case.name,
        "gradient_steps": steps,
        "batches": case.batches,
        "scored": case.scored,
        "target": case.target,
        "iteration": turns.iterations[:-1],
        "loop": turns.others(0)[:-1],
        "one_by_one": turns.others(1)[:-1],
        "evolution": evolution.laps[WARM_UP:-1],
    }


def watch_evolution(population: Population, stack: ExitStack) -> Stopwatch:
    """Measure, until the stack is closed, all that selection and mutation take."""
    executor, watch = population.executor, Stopwatch()

    def states_are_there() -> None:
        for slot in range(population.size):
            state = executor.capture(slot)
            wait_for([*state.weights, *state.optimizer])

    stack.enter_context(watch.on(population.strategy, "evolve"))
    stack.enter_context(watch.on(executor, "apply", states_are_there))
    # A newborn member's values are written when it is first in its model.
    stack.enter_context(watch.on(LiveModel, "write_values"))
    return watch


def bare_steps(
    build: Callable[[], keras.Model],
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    batch_size: int = BATCH_SIZE,
) -> list[Callable[[], None]]:
    """Return functions that run bare train steps: in one call, and one by one."""
    blueprint = ModelBlueprint(build, mutate=())
    batch = (x[:batch_size], y[:batch_size])
    model = LiveModel(blueprint, {}, 0, batch).model
    stepper = make_stepper(model)
    arrays = stepper.load(ArrayBatches((x, y), batch_size, shuffle=False).arrays)
    rows = np.arange(steps * batch_size, dtype=np.int32) % (len(x) // batch_size * batch_size)
    block = rows.reshape(steps, batch_size)
    held = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)

    def finish() -> None:
        stepper.logs()
        wait_for([variable.value for variable in model.trainable_variables])

    def loop() -> None:
        stepper.train_indices(arrays, [block])
        finish()

    def one_by_one() -> None:
        for _ in range(steps):
            stepper.train_batch(held)
        finish()

    return [loop, one_by_one]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--networks", nargs="*", help="those whose names begin so (default: all)")
    chosen = parser.parse_args(arguments)
    backend, folder = keras.backend.backend(), records.folder_of(chosen)
    rows = {(r["network"], r["scored"]): r for r in records.earlier("overhead", backend, folder)}
    for case in QUICK if chosen.quick else CASES:
        if chosen.networks and not any(case.name.startswith(name) for name in chosen.networks):
            continue
        row = measure(shortened(case) if backend == "jax" and case.slow_on_jax else case)
        print("\n".join(section(records.record("overhead", backend, [row]))), flush=True)
        rows[row["network"], row["scored"]] = row
        ordered = [rows[key] for key in sorted(rows, key=_place)]
        records.save(records.record("overhead", backend, ordered), folder)


def shortened(case: Case) -> Case:
    """Return the case with an eighth of the steps and of what is scored.

    What an iteration has once for each member weighs eight times as much then, so the ratio is an
    upper bound.
    """
    return replace(case, batches=max(case.batches // 8, 1), scored=max(case.scored // 8, 1))


def _place(key: tuple[str, int]) -> int:
    keys = [(case.name, case.scored) for case in CASES]
    return keys.index(key) if key in keys else len(keys)


if __name__ == "__main__":
    main()
