"""KerasTuner's hyperparameters as a search space (the one file here that imports keras_tuner)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner

from keras_popdescent.hyperparameters.classify import Classification
from keras_popdescent.strategies.space import Dimension, SearchSpace, Value, Values

# A choice with at most so many values is probed at every one of them.
_MAX_PROBED_CHOICES = 6


class TunerDimension(Dimension):
    """One KerasTuner hyperparameter, moved in KerasTuner's own unit space.

    Args:
        hyperparameter: A `Float`, `Int`, `Choice` or `Boolean`.
        classification: What was found out about it; None while it is not known yet.
    """

    def __init__(self, hyperparameter: Any, classification: Classification | None = None) -> None:
        self.hyperparameter = hyperparameter
        self.name = hyperparameter.name
        self.default = _plain(hyperparameter.default)
        self.kind = "rebuild" if classification is None else classification.kind
        # Of whole numbers, choices, and what the scale is computed from (an exponent, say), the
        # declared values are all there are.
        self.unbounded = (
            classification is not None
            and classification.unbounded
            and not classification.computed
            and isinstance(hyperparameter, keras_tuner.engine.hyperparameters.Float)
        )
        self._grid_size = _grid_size(hyperparameter)

    def to_unit(self, value: Value) -> float:
        hp = self.hyperparameter
        if isinstance(hp, keras_tuner.engine.hyperparameters.Choice) and value not in hp.values:
            return self.to_unit(self.default)
        low, high = getattr(hp, "min_value", None), getattr(hp, "max_value", None)
        if low is not None and high is not None:
            value = min(max(float(value), low), high)
            if self._grid_size:
                index = min(round((value - low) / hp.step), self._grid_size - 1)
                return (index + 0.5) / self._grid_size
        return float(hp.value_to_prob(value))

    def from_unit(self, position: float) -> Value:
        hp, position = self.hyperparameter, min(max(position, 0.0), 1.0 - 1e-9)
        if self._grid_size:
            value = hp.min_value + int(position * self._grid_size) * hp.step
        else:
            value = _plain(hp.prob_to_value(position))
        if isinstance(hp, keras_tuner.engine.hyperparameters.Float):
            # KerasTuner's arithmetic leaves the bounds by a rounding error.
            return float(min(max(value, hp.min_value), hp.max_value))
        return value

    @property
    def choices(self) -> tuple[Value, ...] | None:
        hp = self.hyperparameter
        if isinstance(hp, keras_tuner.engine.hyperparameters.Boolean):
            return (False, True)
        if isinstance(hp, keras_tuner.engine.hyperparameters.Choice) and not hp.ordered:
            return tuple(_plain(value) for value in hp.values)
        return None

    def is_active(self, values: Values) -> bool:
        return all(condition.is_active(values) for condition in self.hyperparameter.conditions)

    def probes(self, most: int = _MAX_PROBED_CHOICES) -> list[Value]:
        """Return values, other than the default, at which a build function is tried.

        Args:
            most: All values where there are no more than so many; else some over the range.
        """
        hp = self.hyperparameter
        listed = list(getattr(hp, "values", ()) or ())
        if isinstance(hp, keras_tuner.engine.hyperparameters.Int):
            # KerasTuner lists floats where the steps are logarithmic.
            listed = [int(value) for value in listed]
        if 0 < len(listed) <= most:
            candidates: Sequence[Any] = listed
        else:
            candidates = [self.from_unit(position) for position in (0.02, 0.5, 0.98)]
        values: list[Value] = []
        for candidate in candidates:
            if candidate != self.default and candidate not in values:
                values.append(_plain(candidate))
        return values


def _grid_size(hp: Any) -> int:
    """Return how many values a linear `Float` with a step has; 0 for another hyperparameter.

    KerasTuner counts and finds them by `//` on floats, which is one less where a step such as 0.1
    has no exact form: the last value would never be drawn, and others move down by one.
    """
    if not isinstance(hp, keras_tuner.engine.hyperparameters.Float) or not hp.step:
        return 0
    steps = (hp.max_value - hp.min_value) / hp.step
    return int(steps + 1e-8) + 1 if hp.sampling == "linear" else 0


def tunable(hyperparameters: keras_tuner.HyperParameters) -> list[TunerDimension]:
    """Return the hyperparameters that have more than one value, one for each name."""
    dimensions: dict[str, TunerDimension] = {}
    for hp in hyperparameters.space:
        if not isinstance(hp, keras_tuner.engine.hyperparameters.Fixed):
            dimension = TunerDimension(hp)
            if dimension.probes():
                dimensions.setdefault(hp.name, dimension)
    return list(dimensions.values())


def fixed_values(hyperparameters: keras_tuner.HyperParameters) -> Values:
    """Return the values of the hyperparameters that cannot move."""
    moving = {dimension.name for dimension in tunable(hyperparameters)}
    return {hp.name: _plain(hp.default) for hp in hyperparameters.space if hp.name not in moving}


def probe_plan(
    dimensions: Sequence[TunerDimension],
    base: Values,
    contexts: Mapping[str, Values] | None = None,
) -> dict[str, list[tuple[Values, str]]]:
    """Return what `classify` should build: each hyperparameter moved alone, within its scope.

    Args:
        dimensions: The hyperparameters.
        base: The default values.
        contexts: Values under which some hyperparameters are declared at all.
    """
    plan: dict[str, list[tuple[Values, str]]] = {}
    for dimension in dimensions:
        opened = dict(base)
        for condition in dimension.hyperparameter.conditions:
            opened[condition.name] = condition.values[0]
        opened.update((contexts or {}).get(dimension.name, {}))
        inside = opened != dict(base)
        plan[dimension.name] = [(opened, dimension.name)] if inside else []
        for value in dimension.probes():
            moved = {**opened, dimension.name: value}
            plan[dimension.name].append((moved, dimension.name if inside else ""))
    return plan


def search_space(
    dimensions: Sequence[TunerDimension], found: Mapping[str, Classification]
) -> SearchSpace:
    """Return the search space once the kinds are known."""
    return SearchSpace([TunerDimension(d.hyperparameter, found[d.name]) for d in dimensions])


def _plain(value: Any) -> Any:
    """Return a plain Python number for a NumPy one."""
    return value.item() if hasattr(value, "item") else value
