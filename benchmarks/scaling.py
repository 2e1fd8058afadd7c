"""Scaling: what a member costs in time and memory, as the population grows from 1 to 100.

Each point is measured in a process of its own, whose memory is then that of one population: the
iterations of a population by turns with the bare train steps of a single member. On JAX members
also train at once (the vectorized executor), by turns with one model that takes all members'
batches as one large batch: what the device could do at most. Points of an earlier run that are not
asked for stay in the results.

    python -m benchmarks.scaling [--quick] [--full] [--sizes 2 5 50] [--batches 64]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np

from benchmarks import models, records
from benchmarks.overhead import BATCH_SIZE, bare_steps
from benchmarks.report import section
from benchmarks.timing import WARM_UP, Turns
from keras_popdescent import Observer, PopDescent, Population
from reproduce import networks

SIZES = (1, 2, 5, 10, 25, 50, 100)
# name -> the network, and the shape of a sample
NETWORKS: dict[str, tuple[Callable[[], keras.Model], tuple[int, ...]]] = {
    "MLP 64-64-10": (models.mlp, (64,)),
    "CIFAR-10 network": (networks.cifar10, (32, 32, 3)),
}
SCORED = 640


@dataclass(frozen=True)
class Point:
    """What is measured in one process.

    Attributes:
        network: Its name.
        executor: Name of the executor.
        size: Number of members.
        batches: Gradient steps of a member in an iteration.
        repetitions: How many iterations are measured.
    """

    network: str
    executor: str
    size: int
    batches: int = 128
    repetitions: int = 5


def points(
    backend: str,
    on_accelerator: bool,
    quick: bool,
    full: bool,
    sizes: Sequence[int] = SIZES,
    batches: int = Point.batches,
    repetitions: int = Point.repetitions,
) -> list[Point]:
    """Return what is measured.

    Args:
        backend: Members train at once on JAX only.
        on_accelerator: The convolutional network with 100 members takes hours on a CPU.
        quick: Few and small.
        full: The convolutional network in any case.
        sizes: Numbers of members.
        batches: Gradient steps of a member in an iteration.
        repetitions: How many iterations are measured.
    """
    executors = ["sequential", *(["vectorized"] if backend == "jax" else [])]
    if quick:
        return [Point("MLP 64-64-10", e, size, 8, 2) for e in executors for size in (1, 3)]
    chosen = ["MLP 64-64-10", *(["CIFAR-10 network"] if on_accelerator or full else [])]
    return [
        Point(name, executor, size, batches, repetitions)
        for name in chosen
        for executor in executors
        for size in sizes
    ]


def measure(point: Point) -> records.Record:
    """Measure one point, in this process."""
    build, shape = NETWORKS[point.network]
    rng = np.random.default_rng(0)
    x = rng.random((BATCH_SIZE * max(point.batches, point.size), *shape), dtype=np.float32)
    y = rng.integers(0, 10, len(x))
    population = Population.from_model(
        build,
        point.size,
        seed=0,
        executor=point.executor,
        # Every iteration is one of all members.
        strategy=PopDescent(focus=None),
    )

    def train(iterations: int, observers: Sequence[Observer] = ()) -> None:
        population.fit(
            x, y,
            validation_data=(x[:SCORED], y[:SCORED]),
            iterations=iterations,
            batches_per_iteration=point.batches,
            batch_size=BATCH_SIZE,
            observers=observers,
            verbose=0,
        )  # fmt: skip

    # Once around, replacement included: the memory of the population alone.
    train(2)
    memory = {"peak_bytes": records.peak_memory(), "device_peak_bytes": device_peak()}
    others = [bare_steps(build, x, y, point.batches)[0]]
    if point.executor == "vectorized":
        others.append(bare_steps(build, x, y, point.batches, BATCH_SIZE * point.size)[0])
    turns = Turns(others)
    train(point.repetitions + WARM_UP, [turns])
    return {
        **asdict(point),
        "iteration": turns.iterations,
        "one_member": turns.others(0),
        "one_large_batch": turns.others(1) if len(others) > 1 else None,
        "state_bytes": population.executor.capture(0).num_bytes(),
        **memory,
    }


def place(row: records.Record) -> tuple[str, str, int]:
    """Return what tells a point, and its place in the table."""
    return row["network"], row["executor"], row["size"]


def device_peak() -> int | None:
    """Return the most memory in use on the accelerator, None where there is none or it is mute."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats else None


def measure_apart(point: Point) -> records.Record:
    """Measure one point, in a process of its own.

    Raises:
        RuntimeError: With the process's messages, if it failed.
    """
    command = [sys.executable, "-m", "benchmarks.scaling", "--point", json.dumps(asdict(point))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{point} failed.\n{done.stderr[-2000:]}")
    measured: records.Record = json.loads(done.stdout.splitlines()[-1])
    return measured


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    records.add_options(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of members")
    parser.add_argument(
        "--batches", type=int, default=Point.batches, help="a member's steps in an iteration"
    )
    parser.add_argument("--repetitions", type=int, default=Point.repetitions)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.point:
        print(json.dumps(measure(Point(**json.loads(chosen.point)))))
        return
    # JAX would take three quarters of an accelerator's memory at once, here and in each process.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    backend = keras.backend.backend()
    on_accelerator = not records.on_cpu(records.device(backend))
    folder = records.folder_of(chosen)
    todo = points(
        backend, on_accelerator, chosen.quick, chosen.full,
        chosen.sizes, chosen.batches, chosen.repetitions,
    )  # fmt: skip
    asked = {(point.network, point.executor, point.size) for point in todo}
    rows = [row for row in records.earlier("scaling", backend, folder) if place(row) not in asked]
    not_run = []
    if not on_accelerator and not chosen.full:
        not_run.append("The CIFAR-10 network: no accelerator here (`--full` runs it all the same).")
    for point in todo:
        try:
            rows = sorted([*rows, measure_apart(point)], key=place)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            not_run.append(
                f"{point.network}, {point.executor}, {point.size} members: the process failed."
            )
        else:
            print(f"{point.network}, {point.executor}, {point.size} members: done", flush=True)
        # After each point: the next one may take long, or be interrupted.
        records.save(records.record("scaling", backend, rows, not_run), folder)
    print("\n".join(section(records.record("scaling", backend, rows, not_run))))


if __name__ == "__main__":
    main()
