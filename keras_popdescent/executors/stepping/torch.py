"""PyTorch: Keras's own steps, called one after the other on data that lies on the device.

Nothing is traced; a number that a step reports comes to the host when somebody asks for it, not at
every step. Models compiled with `jit_compile=True` have their steps compiled by PyTorch, as in
`fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import torch

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch, as_fit_gives_it
from keras_popdescent.executors.stepping.base import Stepper, merge_logs


class TorchStepper(Stepper):
    """Eager steps, batches gathered on the device."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        compiled = bool(model.jit_compile)
        self._train: Callable[[Any], Any] = (
            torch.compile(model.train_step) if compiled else model.train_step
        )
        self._test: Callable[[Any], Any] = (
            torch.compile(model.test_step) if compiled else model.test_step
        )
        weights = {id(variable) for variable in model.weights}
        # The states of the model's seed generators are variables and no weights.
        self._seeds = [v for v in model.variables if id(v) not in weights]
        self._last: Mapping[str, Any] | None = None

    def reset(self) -> None:
        super().reset()
        self._last = None

    def load(self, arrays: Batch) -> Any:
        return _on_device(arrays)

    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        self._train_on(_batches(arrays, blocks))

    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        with self._scoring():
            for batch in _batches(arrays, blocks):
                self._last = self._test(as_fit_gives_it(batch))

    def train_batch(self, batch: Batch) -> None:
        self._train_on([_on_device(batch)])

    def test_batch(self, batch: Batch) -> None:
        with self._scoring():
            self._last = self._test(as_fit_gives_it(_on_device(batch)))

    def logs(self) -> dict[str, float]:
        return merge_logs(self.model, self._last)

    def _train_on(self, batches: Iterable[Any]) -> None:
        """Train, with randomness that follows from the member.

        A dropout without a seed draws from PyTorch's global generators. They begin each step where
        the member's seeds and its number of steps say, so that one seed is one search and a resumed
        search goes on the same, and are put back afterwards.
        """
        first = self._first_seed()
        # PyTorch's own layers within a model ask their module, not an argument.
        self.model.train()
        try:
            with torch.random.fork_rng():
                for step, batch in enumerate(batches):
                    torch.manual_seed((first + step) % 2**63)
                    self._last = self._train(as_fit_gives_it(batch))
        finally:
            self.model.eval()

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad():
            yield

    def _first_seed(self) -> int:
        numbers = [keras.ops.convert_to_numpy(seed).ravel() for seed in self._seeds]
        entropy = [int(number) % 2**32 for number in np.concatenate([[0], *numbers])]
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
        return int(seed) + int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))


def _on_device(arrays: Batch) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, arrays)


def _batches(arrays: Any, blocks: Sequence[Indices]) -> Iterator[Any]:
    """Yield the batches that (steps, batch) blocks of indices stand for."""
    for block in blocks:
        rows = keras.ops.convert_to_tensor(block, "int64")
        for row in rows:
            yield keras.tree.map_structure(lambda array, row=row: array[row], arrays)
