"""What a stepper is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch


class Stepper(ABC):
    """Runs a compiled model's own `train_step` and `test_step`, many times in one call.

    Never through `fit`, which would rebuild the data pipeline and restart callbacks each time.
    Metrics accumulate from `reset` on; `logs` brings them to the host in one transfer.

    Args:
        model: A built, compiled model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def reset(self) -> None:
        """Set all metrics back."""
        self.model.reset_metrics()

    @abstractmethod
    def load(self, arrays: Batch) -> Any:
        """Bring arrays to the device once; the result goes to `train_indices`, `test_indices`."""

    @abstractmethod
    def train_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        """Train on batches given by (steps, batch) blocks of indices into loaded arrays."""

    @abstractmethod
    def test_indices(self, arrays: Any, blocks: Sequence[Indices]) -> None:
        """Evaluate batches given by blocks of indices into loaded arrays."""

    @abstractmethod
    def train_batch(self, batch: Batch) -> None:
        """Train on one batch."""

    @abstractmethod
    def test_batch(self, batch: Batch) -> None:
        """Evaluate one batch."""

    @abstractmethod
    def logs(self) -> dict[str, float]:
        """Return what the steps since `reset` reported."""


def merge_logs(model: keras.Model, last: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics' results, or the last step's own logs where it reports something else.

    The rule is that of `fit`: a custom `train_step` may return quantities that are no metrics.
    """
    results = model.get_metrics_result()
    if last is not None and set(last) != set(results):
        results = last
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({key: _number(item) for key, item in value.items()})
        else:
            flat[name] = _number(value)
    return flat


def _number(value: Any) -> float:
    array = keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
    return float(getattr(array, "mean", lambda: array)())
