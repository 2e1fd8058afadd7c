"""JAX: a compiled step, called for each batch, or a compiled loop around it where that is faster.

On a CPU a small network's step takes less time than its call, and a loop is two to five times as
fast; but XLA's convolutions are slow inside loops there (measured 5 to 40 times). On an accelerator
all steps that are called by index are in a loop, if they keep the types of what they change. Both
ways compute the same numbers. The vectorized executor has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch, as_fit_gives_it
from keras_popdescent.executors.stepping.base import Stepper, merge_logs
from keras_popdescent.executors.stepping.chunks import Chunks

# Beyond, a step takes so long that its call does not matter.
_MOST_PARAMETERS_LOOPED = 200_000
# Blocks of indices are padded to a multiple of it: any number of steps is one compiled loop.
_PADDED_STEPS = 128


class JaxStepper(Stepper):
    """Keras's stateless `train_step` and `test_step`; variables are written back after a call."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self._train = jax.jit(lambda state, batch: model.train_step(state, as_fit_gives_it(batch)))
        self._test = jax.jit(lambda state, batch: model.test_step(state, as_fit_gives_it(batch)))
        self._gather_train = jax.jit(
            lambda state, arrays, row: model.train_step(state, as_fit_gives_it(gather(arrays, row)))
        )
        self._gather_test = jax.jit(
            lambda state, arrays, row: model.test_step(state, as_fit_gives_it(gather(arrays, row)))
        )
        # A jitted step -> the loop around it, None where calls are better.
        self._loops: dict[Any, Callable[..., Any] | None] = {}
        self._last: Any = None

    def reset(self) -> None:
        super().reset()
        self._last = None

    def compiled(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        return jax.jit(function)

    def load(self, arrays: Batch) -> Any:
        return keras.tree.map_structure(jnp.asarray, arrays)

    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        self._run(self._gather_train, self._groups(optimizer=True), arrays, blocks)

    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        self._run(self._gather_test, self._groups(optimizer=False), arrays, blocks)

    def _run(
        self, step: Any, groups: tuple[list[keras.Variable], ...], arrays: Any, blocks: Any
    ) -> None:
        state = _values(groups)
        for block in blocks:
            loop = self._loop(step, state, arrays, block) if len(block) > 1 else None
            if loop is not None:
                self._last, state = loop(state, arrays, block)
                continue
            for row in block:
                self._last, state = step(state, arrays, row)
        _assign(groups, state)

    def _loop(self, step: Any, state: Any, arrays: Any, block: Indices) -> Any:
        if step not in self._loops:
            self._loops[step] = self._make_loop(step, state, arrays, block)
        return self._loops[step]

    def _make_loop(self, step: Any, state: Any, arrays: Any, block: Indices) -> Any:
        if jax.default_backend() != "cpu":
            return _scanned(step) if _keeps_types(step, state, arrays, block) else None
        small = self.model.count_params() <= _MOST_PARAMETERS_LOOPED
        if not small or not _keeps_types(step, state, arrays, block, convolutions=False):
            return None
        looped = jax.jit(_looped(step))
        return lambda state, arrays, block: looped(state, arrays, _padded(block), len(block))

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


def _keeps_types(
    step: Any, state: Any, arrays: Any, block: Indices, convolutions: bool = True
) -> bool:
    """Whether a step gives variables back as it took them, as a loop needs.

    It is traced once for all: the trace that is looked at here serves the loop, or the calls.

    Args:
        step: The jitted step.
        state: Its variables.
        arrays: Its data.
        block: (steps, batch) indices.
        convolutions: Whether it may have some.
    """
    traced = step.trace(state, arrays, block[0])
    after = traced.out_info[1]
    same = jax.tree_util.tree_map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after
    )
    kept = all(jax.tree_util.tree_leaves(same))
    return kept and (convolutions or "conv_general_dilated" not in str(traced.jaxpr))


def _scanned(step: Any) -> Callable[..., Any]:
    """Return a function that runs a step on all (steps, batch) rows of indices.

    The number of steps is known when it is compiled: an accelerator need not ask the host after
    each whether there is another.
    """
    chunks = Chunks()
    scan = jax.jit(
        lambda state, arrays, rows: scan_rows(lambda s, row: step(s, arrays, row), state, rows)
    )

    def run(state: Any, arrays: Any, rows: Indices) -> Any:
        last = None
        for span in chunks.spans(*rows.shape):
            last, state = scan(state, arrays, rows[span])
        return last, state

    return run


def scan_rows(step: Callable[[Any, Any], Any], state: Any, rows: jax.Array) -> Any:
    """Run a step (state, row) -> (logs, state) over rows; return the last logs and the state."""

    def body(state: Any, row: jax.Array) -> Any:
        logs, state = step(state, row)
        return state, logs

    state, logs = jax.lax.scan(body, state, rows)
    return jax.tree_util.tree_map(lambda values: values[-1], logs), state


def _looped(step: Any) -> Callable[..., Any]:
    """Return a function that runs a step on the first `count` of (steps, batch) rows of indices."""

    def run(state: Any, arrays: Any, rows: jax.Array, count: jax.Array) -> Any:
        reported, _ = jax.eval_shape(step, state, arrays, rows[0])
        empty = jax.tree_util.tree_map(lambda log: jnp.zeros(log.shape, log.dtype), reported)

        def body(index: jax.Array, carried: Any) -> Any:
            return step(carried[1], arrays, rows[index])

        return jax.lax.fori_loop(0, count, body, (empty, state))

    return run


def _padded(block: Indices) -> Indices:
    """Return a (steps, batch) block with rows after it that no step takes."""
    missing = -len(block) % _PADDED_STEPS
    return np.pad(block, ((0, missing), (0, 0))) if missing else block


def gather(arrays: Any, row: Any) -> Any:
    """Return the samples of (samples, ...) arrays at (batch,) indices."""
    return jax.tree_util.tree_map(lambda array: jnp.take(array, row, axis=0), arrays)


def _device(batch: Batch) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def _values(groups: tuple[list[keras.Variable], ...]) -> Any:
    return tuple([variable.value for variable in group] for group in groups)


def _assign(groups: tuple[list[keras.Variable], ...], state: Any) -> None:
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
