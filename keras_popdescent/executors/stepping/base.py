"""What a stepper is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch
from keras_popdescent.population.variables import swap_functions

# The methods that decide what a step reports.
_REPORTING = ("train_step", "test_step", "compute_metrics", "get_metrics_result")


class Stepper(ABC):
    """Runs a compiled model's own `train_step` and `test_step`, many times in one call.

    Never through `fit`, which would rebuild the data pipeline and restart callbacks each time.
    Metrics accumulate from `reset` on; `logs` brings them to the host in one transfer.

    Args:
        model: A built, compiled model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        own = map(_resets_variables_only, model.metrics)
        self._same_start = _is_stock(model, "reset_metrics") and all(own)
        # Gives the metrics' variables the values that they had after a reset, once there was one.
        self._set_back: Callable[[], None] | None = None

    def reset(self) -> None:
        """Set all metrics back."""
        if self._set_back is not None:
            self._set_back()
            return
        self.model.reset_metrics()
        if self._same_start:
            variables = self.model.metrics_variables
            _, write = swap_functions(variables)
            self._set_back = partial(write, [_held(variable) for variable in variables])

    def compiled(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Return a function of lists of tensors, compiled where the backend gains by it."""
        return function

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

    The rule is that of `fit`: a custom `train_step` may return quantities that are no metrics. What
    Keras's own steps return are the metrics' results, which need not be computed again.
    """
    if last is None or not all(_is_stock(model, name) for name in _REPORTING):
        results = model.get_metrics_result()
        if last is not None and set(last) != set(results):
            results = last
    else:
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


def _held(variable: keras.Variable) -> Any:
    """Return a tensor with a variable's value, which does not change with the variable."""
    # Through NumPy: on TensorFlow `convert_to_tensor` returns the variable itself.
    return keras.ops.convert_to_tensor(np.array(keras.ops.convert_to_numpy(variable)))


def _is_stock(model: keras.Model, name: str) -> bool:
    """Whether a method of a model is Keras's own."""
    return getattr(getattr(model, name), "__func__", None) is getattr(keras.Model, name)


def _resets_variables_only(metric: keras.Metric) -> bool:
    """Whether a metric is set back by Keras's own code, which gives its variables their start."""
    # What Keras makes of `compile(metrics=...)` is a metric around metrics.
    inner = getattr(metric, "metrics", [])
    own = str(type(metric).reset_state.__module__).startswith("keras.")
    return own and all(map(_resets_variables_only, inner))
