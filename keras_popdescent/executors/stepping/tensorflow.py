"""TensorFlow: a `while_loop` over batches that are gathered on the device.

The step itself is compiled as Keras would compile it (with XLA where the model was compiled so);
only the loop around it is ours. On a CPU, XLA's convolutions are slow inside XLA's own loops, so
the loop stays outside of what XLA compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch, as_fit_gives_it
from keras_popdescent.executors.stepping.base import Stepper, merge_logs


class TensorFlowStepper(Stepper):
    """One trace for each batch size, of the train step and of the test step."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self._train = _compiled(model, model.train_step)
        self._test = _compiled(model, model.test_step)
        # (kind of step, form of the samples, batch size) -> function of indices and arrays
        self._loops: dict[tuple[str, Any, int], Callable[[Any, Any], Any]] = {}
        self._last: Mapping[str, Any] | None = None

    def reset(self) -> None:
        super().reset()
        self._last = None

    def compiled(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        compiled: Callable[..., list[Any]] = tf.function(function, autograph=False)
        return compiled

    def load(self, arrays: Batch) -> Any:
        return keras.tree.map_structure(tf.convert_to_tensor, arrays)

    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        self._run("train", self._train, arrays, blocks)

    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        self._run("test", self._test, arrays, blocks)

    def train_batch(self, batch: Batch) -> None:
        self._last = self._train(keras.tree.map_structure(tf.convert_to_tensor, batch))

    def test_batch(self, batch: Batch) -> None:
        self._last = self._test(keras.tree.map_structure(tf.convert_to_tensor, batch))

    def logs(self) -> dict[str, float]:
        return merge_logs(self.model, self._last)

    def _run(self, kind: str, step: Any, arrays: Any, blocks: Sequence[Indices]) -> None:
        form = str(keras.tree.map_structure(_form, arrays))
        for block in blocks:
            key = (kind, form, block.shape[1])
            if key not in self._loops:
                self._loops[key] = _loop(step, arrays, block.shape[1])
            self._last = self._loops[key](tf.constant(block), arrays)


def _compiled(model: keras.Model, step: Callable[[Any], Any]) -> Any:
    """Return a step as Keras compiles it, with tensors for all that it reports."""

    @tf.autograph.experimental.do_not_convert
    def one_step(data: Any) -> Any:
        logs = step(as_fit_gives_it(data))
        return {name: tf.convert_to_tensor(value) for name, value in _flat(logs).items()}

    return tf.function(one_step, jit_compile=bool(model.jit_compile), autograph=False)


def _flat(logs: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return flat


def _form(array: Any, samples: int | None = None) -> tf.TensorSpec:
    """Return what a step needs to know of an array, however many samples it has."""
    return tf.TensorSpec((samples, *array.shape[1:]), array.dtype)


def _loop(step: Any, arrays: Any, batch_size: int) -> Callable[[Any, Any], Any]:
    """Return a function that runs `step` on every row of (steps, batch) indices into arrays.

    The arrays are its arguments: another data set needs no other trace, and none is held.
    """
    spec = keras.tree.map_structure(lambda array: _form(array, batch_size), arrays)
    # Traced here, once; the loop below calls the same concrete function.
    traced = step.get_concrete_function(spec)
    reported = traced.structured_outputs

    @tf.function(autograph=False)
    def run(indices: Any, arrays: Any) -> Any:
        def body(row: Any, _: Any) -> tuple[Any, Any]:
            batch = keras.tree.map_structure(lambda array: tf.gather(array, indices[row]), arrays)
            return row + 1, step(batch)

        empty = {name: tf.zeros(value.shape, value.dtype) for name, value in reported.items()}
        _, logs = tf.while_loop(
            lambda row, _: row < tf.shape(indices)[0], body, (0, empty), parallel_iterations=1
        )
        return logs

    # Traced explicitly: a function for each batch size and model is meant, not a mistake.
    rows = tf.TensorSpec((None, batch_size), tf.int32)
    return run.get_concrete_function(rows, keras.tree.map_structure(_form, arrays))
