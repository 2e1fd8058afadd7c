"""Executors: train, score and rewrite members."""

from __future__ import annotations

import keras

from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.executors.sequential import SequentialExecutor as SequentialExecutor
from keras_popdescent.population.executor import Executor
from keras_popdescent.population.registry import CHOSEN, EXECUTORS


def _make_vectorized() -> Executor:
    if keras.backend.backend() != "jax":
        raise ArgumentError(
            describe(
                "The vectorized executor needs JAX.",
                "Expected the environment variable KERAS_BACKEND to be 'jax'.",
                backend=keras.backend.backend(),
            )
        )
    # JAX is imported where it is Keras's backend, and only there.
    from keras_popdescent.executors.vectorized import VectorizedExecutor

    return VectorizedExecutor()


def _why_vectorized() -> str | None:
    if keras.backend.backend() != "jax":
        return None
    from keras_popdescent.executors.vectorized import why_vectorized

    return why_vectorized()


EXECUTORS.setdefault("sequential", SequentialExecutor)
EXECUTORS.setdefault("vectorized", _make_vectorized)
CHOSEN.setdefault("vectorized", _why_vectorized)
