"""Moving averages of a model's weights, a step an iteration (`strategies.base.Averaging`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_popdescent.population.variables import swap_functions

Move = Callable[[Sequence[Any], Sequence[Any]], list[Any]]


def averaged_indices(weights: Sequence[Any]) -> list[int]:
    """Return which of a model's weights (variables or tensors) are averaged: those of floats."""
    return [i for i, weight in enumerate(weights) if _is_float(weight)]


class WeightAverages:
    """An average of each of some weights, and how often it has been moved: a part of the state.

    Args:
        weights: The weights.
        momentum: See `Averaging`.

    Attributes:
        variables: The averages, in the order of the weights, then the count.
        raw: The weights that averages were put in the place of.
    """

    raw: list[Any] | None = None

    def __init__(self, weights: Sequence[keras.Variable], momentum: float) -> None:
        self.momentum = momentum
        averages = [
            keras.Variable(keras.ops.copy(weight), dtype=weight.dtype, trainable=False)
            for weight in weights
        ]
        count = keras.Variable(0, shape=(), dtype="int32", trainable=False)
        self.variables: list[keras.Variable] = [*averages, count]
        self._read_weights, self._write_weights = swap_functions(weights)
        self._read, self._write = swap_functions(self.variables)
        self._moved: Move = self._move

    def compile(self, compiled: Callable[[Move], Move]) -> None:
        """Have an update compiled; without, its operations are called one by one."""
        self._moved = compiled(self._move)

    def update(self) -> None:
        """Move the averages towards the weights as they are now."""
        self._write(self._moved(self._read_weights(), self._read()))

    def count(self) -> int:
        """Return how often the averages have been moved; at 0 they are of nothing."""
        return int(keras.ops.convert_to_numpy(self.variables[-1]))

    def reset(self) -> None:
        """Begin anew from the weights as they are now."""
        count = keras.ops.zeros((), dtype="int32")
        self._write([*(keras.ops.copy(weight) for weight in self._read_weights()), count])

    def put(self) -> None:
        """Put the averages in the place of the weights, which are kept in `raw`."""
        self.raw = [keras.ops.copy(tensor) for tensor in self._read_weights()]
        # Two variables that share an array could not both be donated.
        self._write_weights([keras.ops.copy(tensor) for tensor in self._read()[:-1]])

    def go_on_from(self, other: WeightAverages) -> None:
        """Take over the averages of weights of the same shapes, and weights that were put away."""
        self._write(other._read())
        if other.raw is not None:
            self._write_weights(other.raw)

    def _move(self, weights: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        *averages, count = state
        part = rate(count, self.momentum)
        pairs = zip(weights, averages, strict=True)
        return [*(moved(weight, average, part) for weight, average in pairs), count + 1]


def rate(count: Any, momentum: float) -> Any:
    """Return the part of the new weights in the average: 1 - m of `Averaging`'s equation.

    Args:
        count: Integer tensor of any shape: how often the average has been moved.
        momentum: See `Averaging`.
    """
    earlier = keras.ops.cast(count, "float32")
    return 1.0 - keras.ops.minimum(earlier / (earlier + 1.0), momentum)


def moved(weight: Any, average: Any, part: Any) -> Any:
    """Return an average moved towards its weight by a part (0 ... 1) of the way.

    Args:
        weight: Tensor.
        average: Tensor of the same shape.
        part: A float tensor, a scalar or one that broadcasts.
    """
    between = average + keras.ops.cast(part, average.dtype) * (weight - average)
    # An average that is not finite could not recover else.
    return keras.ops.where(part == 1.0, weight, between)


def _is_float(weight: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(weight.dtype)
