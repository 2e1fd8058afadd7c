"""Randomness without a trace: the global generators are borrowed, never changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from keras_popdescent.hyperparameters._keras_internals import fresh_names


@contextmanager
def borrowed_globals(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators within the block, and put them back after it.

    Keras's counters of automatic names are borrowed too.

    Keras draws the seeds of initializers and dropout layers from Python's global generator when a
    model is built; a user's build function may use either.
    """
    with fresh_names():
        yield from _borrowed(seed)


def _borrowed(seed: int) -> Iterator[None]:
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is the point here
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def integer_seed(sequence: np.random.SeedSequence) -> int:
    """Return a seed in 0 ... 2**31 - 1."""
    return int(sequence.generate_state(1)[0] >> 1)
