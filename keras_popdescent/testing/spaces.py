"""Search spaces in plain Python, for tests of strategies: no KerasTuner, one dimension a kind."""

from __future__ import annotations

from dataclasses import dataclass

from keras_popdescent.strategies.space import (
    Dimension,
    Kind,
    LogDimension,
    SearchSpace,
    Value,
    Values,
)


@dataclass(frozen=True)
class GridDimension(Dimension):
    """Integers from `low` to `high` in steps; each has an equal share of the unit interval.

    Attributes:
        name: The hyperparameter's name.
        low: Smallest value.
        high: Largest value.
        step: Distance of neighbours.
        kind: How a change takes effect.
    """

    name: str
    low: int
    high: int
    step: int = 1
    kind: Kind = "live"

    @property
    def default(self) -> Value:  # type: ignore[override]
        """The smallest value."""
        return self.low

    @property
    def _count(self) -> int:
        return (self.high - self.low) // self.step + 1

    def to_unit(self, value: Value) -> float:
        # The middle of the value's share, as in KerasTuner.
        return ((int(value) - self.low) // self.step + 0.5) / self._count

    def from_unit(self, position: float) -> Value:
        index = int(min(max(position, 0.0), 1.0) * self._count)
        return self.low + self.step * min(index, self._count - 1)


@dataclass(frozen=True)
class ChoiceDimension(Dimension):
    """An unordered choice.

    Attributes:
        name: The hyperparameter's name.
        options: The values; the first is the default.
        kind: How a change takes effect.
    """

    name: str
    options: tuple[Value, ...]
    kind: Kind = "rebuild"

    @property
    def default(self) -> Value:  # type: ignore[override]
        """The first option."""
        return self.options[0]

    @property
    def choices(self) -> tuple[Value, ...]:
        return self.options

    def to_unit(self, value: Value) -> float:
        return (self.options.index(value) + 0.5) / len(self.options)

    def from_unit(self, position: float) -> Value:
        index = int(min(max(position, 0.0), 1.0) * len(self.options))
        return self.options[min(index, len(self.options) - 1)]


def mixed_space() -> SearchSpace:
    """Return a space with a dimension of every kind, bounded and unbounded, number and choice."""
    return SearchSpace(
        [
            LogDimension("learning_rate", 1e-4, 1e-1, 1e-3),
            LogDimension("momentum", 0.01, 0.9, 0.1, unbounded=False),
            GridDimension("batch_size", 16, 128, 16),
            ChoiceDimension("activation", ("relu", "tanh", "gelu", "elu")),
            GridDimension("units", 8, 128, 8, kind="structural"),
        ]
    )


def spread_values(space: SearchSpace, size: int) -> list[Values]:
    """Return values for `size` members, each dimension's spread evenly over its range."""
    return [
        {dimension.name: dimension.from_unit((slot + 0.5) / size) for dimension in space}
        for slot in range(size)
    ]


def is_valid(dimension: Dimension, value: Value) -> bool:
    """Whether a value keeps the bounds, the step and the choices of its dimension."""
    if dimension.choices is not None:
        return value in dimension.choices
    if isinstance(value, str):
        return dimension.from_unit(dimension.to_unit(value)) == value
    # A value out of bounds or off the grid does not come back from the unit interval.
    returned = float(dimension.from_unit(dimension.to_unit(value)))
    return abs(returned - float(value)) <= 1e-9 * max(abs(float(value)), 1e-300)
