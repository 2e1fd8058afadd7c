"""The search space as strategies see it: names, kinds, and a unit interval for each dimension.

Plain Python. `hyperparameters/space.py` makes a space from KerasTuner's HyperParameters, so that
mutation moves in KerasTuner's own unit space; `LogDimension` is for values that a model already
has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keras_popdescent.arguments import check_number, check_one_of
from keras_popdescent.errors import ArgumentError, describe

Value = bool | int | float | str
# name of a hyperparameter -> its value in one member
Values = dict[str, Value]
Kind = Literal["live", "rebuild", "structural"]
KINDS: tuple[Kind, ...] = ("live", "rebuild", "structural")


class Dimension(ABC):
    """One hyperparameter: how to draw it and how to move it in the unit interval."""

    name: str
    kind: Kind
    default: Value
    # True for a positive scale without a natural upper end: learning rate, L1, L2, weight decay.
    unbounded: bool = False

    @abstractmethod
    def to_unit(self, value: Value) -> float:
        """Return the position of `value` in [0, 1]."""

    @abstractmethod
    def from_unit(self, position: float) -> Value:
        """Return the value at a position in [0, 1]; bounds, step and order are kept."""

    @property
    def choices(self) -> tuple[Value, ...] | None:
        """The ordered values of a categorical dimension, None for a number."""
        return None

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a value from the prior: uniform in the unit interval."""
        return self.from_unit(float(rng.random()))

    def initial(self, rng: np.random.Generator) -> Value:
        """Draw a value for one of the first members."""
        return self.sample(rng)

    def probes_beside(self, value: Value) -> list[Value]:
        """Return at most two other values, at which a build function can be tried."""
        candidates = [self.default, self.from_unit(0.02), self.from_unit(0.98)]
        return list(dict.fromkeys(other for other in candidates if other != value))[:2]

    def is_active(self, values: Values) -> bool:
        """Whether the dimension has a meaning beside the other values (conditional scopes)."""
        return True


@dataclass(frozen=True)
class LogDimension(Dimension):
    """A positive number on a logarithmic scale between two bounds.

    Attributes:
        name: The hyperparameter's name.
        low: Smallest value, above 0.
        high: Largest value, above `low`.
        default: The value that the model has by itself, low ... high.
        kind: How a change takes effect: `"live"` (the default), `"rebuild"` or `"structural"`.
        unbounded: Whether the scale has no natural upper end, so that `LogNormalMutation` heeds no
            bounds. Defaults to True.

    Raises:
        ArgumentError: For numbers that are no such interval, or another kind.

    Example:
        >>> from keras_popdescent import LogDimension
        >>> rate = LogDimension("learning_rate", low=1e-4, high=1e-2, default=1e-3)
        >>> rate.to_unit(1e-3), rate.from_unit(0.75)
        (0.5, 0.0031622776601683794)
    """

    name: str
    low: float
    high: float
    default: float
    kind: Kind = "live"
    unbounded: bool = True

    def __post_init__(self) -> None:
        _check_dimension(self)
        if not 0.0 < self.low < self.high:
            raise ArgumentError(
                describe(
                    f"The bounds of `{self.name}` are no interval of positive numbers.",
                    "Expected 0 < low < high.",
                    low=self.low,
                    high=self.high,
                )
            )
        if float(self.low) == 0.0 or math.isinf(float(self.high) / float(self.low)):
            raise ArgumentError(
                describe(
                    f"The bounds of `{self.name}` are too far apart.",
                    "Expected high / low to be a finite number.",
                    low=self.low,
                    high=self.high,
                )
            )

    def to_unit(self, value: Value) -> float:
        number = min(max(float(value), self.low), self.high)
        return float(np.log(number / self.low) / np.log(self.high / self.low))

    def from_unit(self, position: float) -> Value:
        value = self.low * (self.high / self.low) ** min(max(position, 0.0), 1.0)
        return float(min(max(value, self.low), self.high))

    def initial(self, rng: np.random.Generator) -> Value:
        """Every member starts from the model's own value; mutation moves around it."""
        return self.default


@dataclass(frozen=True)
class LinearDimension(Dimension):
    """A number on a linear scale between two bounds.

    Attributes:
        name: The hyperparameter's name.
        low: Smallest value.
        high: Largest value, above `low`.
        default: The value that the model has by itself, low ... high.
        kind: How a change takes effect: `"live"` (the default), `"rebuild"` or `"structural"`.

    Raises:
        ArgumentError: For numbers that are no such interval, or another kind.
    """

    name: str
    low: float
    high: float
    default: float
    kind: Kind = "live"

    def __post_init__(self) -> None:
        _check_dimension(self)
        if not self.low < self.high:
            raise ArgumentError(
                describe(
                    f"The bounds of `{self.name}` are no interval.",
                    "Expected low < high.",
                    low=self.low,
                    high=self.high,
                )
            )

    def to_unit(self, value: Value) -> float:
        number = min(max(float(value), self.low), self.high)
        return (number - self.low) / (self.high - self.low)

    def from_unit(self, position: float) -> Value:
        value = self.low + (self.high - self.low) * min(max(position, 0.0), 1.0)
        return float(min(max(value, self.low), self.high))

    def initial(self, rng: np.random.Generator) -> Value:
        """Every member starts from the model's own value; mutation moves around it."""
        return self.default


def _check_dimension(dimension: LogDimension | LinearDimension) -> None:
    """Refuse bounds and defaults that are no numbers, or do not belong together."""
    if not isinstance(dimension.name, str) or not dimension.name:
        raise ArgumentError(describe("`name` must be a word.", name=dimension.name))
    check_one_of("kind", dimension.kind, KINDS)
    for name in ("low", "high", "default"):
        check_number(f"{name}` of `{dimension.name}", getattr(dimension, name), none=False)
    if dimension.low < dimension.high and not dimension.low <= dimension.default <= dimension.high:
        raise ArgumentError(
            describe(
                f"The default of `{dimension.name}` is outside of its bounds.",
                "Expected low <= default <= high.",
                low=dimension.low,
                high=dimension.high,
                default=dimension.default,
            )
        )


class SearchSpace:
    """An ordered, immutable collection of dimensions.

    Args:
        dimensions: The dimensions; names must differ. Defaults to none.

    Raises:
        ArgumentError: For what is no dimension, or two of the same name.

    Example:
        >>> from keras_popdescent import LogDimension, SearchSpace
        >>> from keras_popdescent.strategies.space import LinearDimension
        >>> space = SearchSpace([
        ...     LogDimension("learning_rate", 1e-4, 1e-1, default=1e-3),
        ...     LinearDimension("units", 8, 64, default=16, kind="structural"),
        ... ])
        >>> space.names("live"), space.defaults()
        (['learning_rate'], {'learning_rate': 0.001, 'units': 16})
    """

    def __init__(self, dimensions: tuple[Dimension, ...] | list[Dimension] = ()) -> None:
        if not isinstance(dimensions, list | tuple):
            dimensions = (dimensions,)
        for dimension in dimensions:
            if not isinstance(dimension, Dimension):
                raise ArgumentError(
                    describe(
                        "A search space is made of dimensions.",
                        "Expected `LogDimension`, `LinearDimension` or another `Dimension`.",
                        dimension=dimension,
                    )
                )
        self._dimensions = {dimension.name: dimension for dimension in dimensions}
        if len(self._dimensions) != len(dimensions):
            raise ArgumentError(
                describe(
                    "Two hyperparameters have the same name.",
                    fix="Rename one of them.",
                    names=[dimension.name for dimension in dimensions],
                )
            )

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self._dimensions.values())

    def __len__(self) -> int:
        return len(self._dimensions)

    def __contains__(self, name: object) -> bool:
        return name in self._dimensions

    def __getitem__(self, name: str) -> Dimension:
        return self._dimensions[name]

    def names(self, *kinds: Kind) -> list[str]:
        """Return the names of the dimensions of the given kinds, of all without any."""
        return [d.name for d in self if not kinds or d.kind in kinds]

    def defaults(self) -> Values:
        """Return every dimension's default."""
        return {dimension.name: dimension.default for dimension in self}

    def initial(self, rng: np.random.Generator) -> Values:
        """Draw the values of one of the first members."""
        return {dimension.name: dimension.initial(rng) for dimension in self}
