"""A blueprint for training of the user's own: only shapes of weights matter, the rest is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner

from keras_popdescent.errors import ArgumentError, PopDescentError, describe
from keras_popdescent.hyperparameters import Binding, Classification
from keras_popdescent.hyperparameters.classify import acts_beside
from keras_popdescent.hyperparameters.space import (
    TunerDimension,
    fixed_values,
    probe_plan,
    search_space,
    tunable,
)
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.space import Kind, Values

Shapes = list[tuple[int, ...]]


class OwnTrainingBlueprint(Blueprint):
    """Builds models with a hypermodel's `build(hp)`, for code that trains them itself.

    Each call of that code builds a model anew, so every hyperparameter may change between two
    calls, except where it decides shapes of weights.

    Args:
        build: Returns a model for a `HyperParameters` object that has values; None where the
            user's code builds no model through the tuner.
        hyperparameters: The search space, with all that the training declares.
        overrides: The user's word on a hyperparameter's kind: `"rebuild"` or `"structural"`.
        build_config: What a model needs to have weights before its first batch.
        contexts: Values under which some hyperparameters are declared, see `explore`.

    Raises:
        ArgumentError: For an override that is no such kind.
    """

    def __init__(
        self,
        build: Callable[[keras_tuner.HyperParameters], Any] | None,
        hyperparameters: keras_tuner.HyperParameters,
        overrides: Mapping[str, Any] | None = None,
        build_config: Mapping[str, Any] | None = None,
        contexts: Mapping[str, Values] | None = None,
    ) -> None:
        self._build = build
        self._hyperparameters = hyperparameters
        self._build_config = build_config
        self._contexts = dict(contexts or {})
        self.fixed = fixed_values(hyperparameters)
        dimensions = tunable(hyperparameters)
        base: Values = {**self.fixed, **{d.name: d.default for d in dimensions}}
        self.kinds = {name: Classification(kind) for name, kind in self._find(dimensions, base)}
        for name, kind in dict(overrides or {}).items():
            if name not in self.kinds or kind not in ("rebuild", "structural"):
                raise ArgumentError(
                    describe(
                        "`bindings` cannot be used like that with training of your own.",
                        "Expected the name of a hyperparameter, and `'rebuild'` or `'structural'`: "
                        "your code reads the values itself.",
                        bindings={name: kind},
                    )
                )
            self.kinds[name] = Classification(kind)
        self.space = search_space(dimensions, self.kinds)

    def _find(self, dimensions: Sequence[TunerDimension], base: Values) -> list[tuple[str, Kind]]:
        plan = probe_plan(dimensions, base, self._contexts)
        seen: dict[str, Shapes | None] = {"": self._shapes(base)}
        structural: set[str] = set()
        for name, probes in plan.items() if seen[""] is not None else ():
            for values, reference in probes:
                shapes = self._shapes_if_built(values)
                if shapes is not None and shapes != seen.setdefault(reference, shapes):
                    structural.add(name)
        structural |= self._shaping_beside(structural, dimensions, plan)
        return [(name, "structural" if name in structural else "rebuild") for name in plan]

    def _shaping_beside(
        self,
        structural: set[str],
        dimensions: Sequence[TunerDimension],
        plan: Mapping[str, Sequence[tuple[Values, str]]],
    ) -> set[str]:
        """Return what decides shapes only beside other values of what is structural by itself."""
        contexts = (values for name in sorted(structural) for values, _ in plan[name])
        # A float is no number of units.
        tries = {
            dimension.name: dimension.probes()
            for dimension in dimensions
            if dimension.name not in structural and not isinstance(dimension.default, float)
        }
        return set(acts_beside(self._shapes_if_built, contexts, tries))

    def _shapes_if_built(self, values: Values) -> Shapes | None:
        """Return the shapes, None where these values cannot be built: such a member will fail."""
        try:
            return self._shapes(values)
        except PopDescentError:
            raise
        except Exception:
            return None

    def _shapes(self, values: Values) -> Shapes | None:
        """Return the shapes of a model's weights, None where it is no model or has none yet."""
        if self._build is None:
            return None
        model = self._model(values)
        if not isinstance(model, keras.Model):
            return None
        return [tuple(variable.shape) for variable in model.weights] if model.built else None

    def _model(self, values: Values) -> Any:
        with borrowed_globals(0):
            model = self.build(values)
        if isinstance(model, keras.Model) and not model.built and self._build_config:
            model.build_from_config(dict(self._build_config))
        return model

    def build(self, values: Values) -> Any:
        hp = self._hyperparameters.copy()
        hp.values = {
            **self.fixed,
            **{name: value for name, value in values.items() if "popdescent/" not in name},
        }
        return None if self._build is None else self._build(hp)

    def build_seeded(self, values: Values, seed: int) -> Any:
        with borrowed_globals(seed):
            return self.build(values)

    def bindings(self, values: Values) -> dict[str, Binding]:
        return {}
