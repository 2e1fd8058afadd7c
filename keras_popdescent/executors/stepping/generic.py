"""Any backend, and models compiled to run eagerly: `train_on_batch` and `test_on_batch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch
from keras_popdescent.executors.stepping.base import Stepper, merge_logs


class GenericStepper(Stepper):
    """One public call a batch: right everywhere, fast nowhere."""

    _last: Any = None

    def reset(self) -> None:
        super().reset()
        self._last = None

    def load(self, arrays: Batch) -> Any:
        return arrays

    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        for block in blocks:
            for row in block:
                self.train_batch(_gather(arrays, row))

    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        for block in blocks:
            for row in block:
                self.test_batch(_gather(arrays, row))

    def train_batch(self, batch: Batch) -> None:
        with _accumulating(self.model):
            self._last = self.model.train_on_batch(*batch, return_dict=True)

    def test_batch(self, batch: Batch) -> None:
        with _accumulating(self.model):
            self._last = self.model.test_on_batch(*batch, return_dict=True)

    def logs(self) -> dict[str, float]:
        return merge_logs(self.model, self._last)


@contextmanager
def _accumulating(model: keras.Model) -> Iterator[None]:
    """Keep the metrics within the block: `train_on_batch` and `test_on_batch` set them back."""
    model.reset_metrics = lambda: None
    try:
        yield
    finally:
        del model.reset_metrics


def _gather(arrays: Any, row: Any) -> Batch:
    batch: Batch = keras.tree.map_structure(lambda array: array[row], arrays)
    return batch
