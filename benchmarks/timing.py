"""Measuring by turns: an iteration of a search, then what it is compared with, several times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_popdescent import Observer
from keras_popdescent.history import IterationRecord

# The first iterations trace and compile.
WARM_UP = 2


class Turns(Observer):
    """Measures a search's iterations, and other functions between them: noise hits all alike.

    Args:
        others: Functions that are run after every iteration.
    """

    def __init__(self, others: Sequence[Callable[[], object]]) -> None:
        self._others = others
        self._iterations: list[float] = []
        self._times: list[list[float]] = [[] for _ in others]
        # Called at the end of an iteration, before the others run.
        self.also: list[Callable[[], None]] = []
        self._since = time.perf_counter()

    def iteration_end(self, record: IterationRecord) -> None:
        self._iterations.append(time.perf_counter() - self._since)
        for notice in self.also:
            notice()
        for times, run in zip(self._times, self._others, strict=True):
            times.append(seconds(run))
        self._since = time.perf_counter()

    @property
    def iterations(self) -> list[float]:
        """Seconds of the iterations after those that warm up."""
        return self._iterations[WARM_UP:]

    def others(self, index: int) -> list[float]:
        """Return the seconds of one of the functions, after those that warm up."""
        return self._times[index][WARM_UP:]


class Stopwatch:
    """Adds up the time within some methods; the rest of the program does not notice."""

    def __init__(self) -> None:
        self._sum = 0.0
        self.laps: list[float] = []

    def lap(self) -> None:
        """Note the sum since the last lap."""
        self.laps.append(self._sum)
        self._sum = 0.0

    @contextmanager
    def on(
        self, owner: Any, name: str, then: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Within the block, measure calls of `owner.name`.

        Args:
            owner: An object or a class.
            name: Name of its method.
            then: Called after the method, within the measured time: waits for the device.
        """
        method = getattr(owner, name)
        own = name in vars(owner)

        def measured(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                result = method(*arguments, **keywords)
                then()
                return result
            finally:
                self._sum += time.perf_counter() - began

        setattr(owner, name, measured)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, method)
            else:
                delattr(owner, name)


def seconds(run: Callable[[], object]) -> float:
    """Return how long a function takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def wait_for(tensors: Sequence[Any]) -> None:
    """Return when the device has computed some tensors; only JAX computes them later."""
    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(list(tensors))  # type: ignore[no-untyped-call]
