"""JAX: one compiled step, called for each batch.

A `scan` over the batches would save the calls, but XLA's convolutions are slow inside loops on a
CPU (measured 5 to 40 times); the vectorized executor is the place for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch
from keras_popdescent.executors.stepping.base import Stepper, merge_logs


class JaxStepper(Stepper):
    """Keras's stateless `train_step` and `test_step`; variables are written back after a call."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self._train = jax.jit(model.train_step)
        self._test = jax.jit(model.test_step)
        self._gather_train = jax.jit(
            lambda state, arrays, row: model.train_step(state, _gather(arrays, row))
        )
        self._gather_test = jax.jit(
            lambda state, arrays, row: model.test_step(state, _gather(arrays, row))
        )
        self._last: Any = None

    def reset(self) -> None:
        super().reset()
        self._last = None

    def load(self, arrays: Batch) -> Any:
        return keras.tree.map_structure(jnp.asarray, arrays)

    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        groups = self._groups(optimizer=True)
        state = _values(groups)
        for block in blocks:
            for row in block:
                self._last, state = self._gather_train(state, arrays, row)
        _assign(groups, state)

    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        groups = self._groups(optimizer=False)
        state = _values(groups)
        for block in blocks:
            for row in block:
                self._last, state = self._gather_test(state, arrays, row)
        _assign(groups, state)

    def train_batch(self, batch: Batch) -> None:
        groups = self._groups(optimizer=True)
        self._last, state = self._train(_values(groups), _device(batch))
        _assign(groups, state)

    def test_batch(self, batch: Batch) -> None:
        groups = self._groups(optimizer=False)
        self._last, state = self._test(_values(groups), _device(batch))
        _assign(groups, state)

    def logs(self) -> dict[str, float]:
        return merge_logs(self.model, self._last)

    def _groups(self, optimizer: bool) -> tuple[list[keras.Variable], ...]:
        model = self.model
        groups = [model.trainable_variables, model.non_trainable_variables]
        if optimizer:
            groups.append(model.optimizer.variables)
        return tuple(list(group) for group in (*groups, model.metrics_variables))


def _gather(arrays: Any, row: Any) -> Any:
    return jax.tree_util.tree_map(lambda array: jnp.take(array, row, axis=0), arrays)


def _device(batch: Batch) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def _values(groups: tuple[list[keras.Variable], ...]) -> Any:
    return tuple([variable.value for variable in group] for group in groups)


def _assign(groups: tuple[list[keras.Variable], ...], state: Any) -> None:
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
