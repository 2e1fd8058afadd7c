"""Three ways to mutate a member's hyperparameters, one for each preset of PopDescent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from keras_popdescent.arguments import check_number
from keras_popdescent.operators.mutation import log_normal, reflect
from keras_popdescent.strategies.space import Dimension, SearchSpace, Value, Values

LOSS_SCALE = "popdescent/loss_scale"
L2_SCALE = "popdescent/l2_scale"


class Mutation(ABC):
    """A rule that moves a member's values, the harder the larger the strength."""

    def start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values] | None:
        """Return the first members' values, or None for the common rule."""
        return None

    @abstractmethod
    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        """Return mutated values; strength 0 is the identity."""


@dataclass(frozen=True)
class UnitMutation(Mutation):
    """Move in the unit interval of each dimension, reflected at its ends.

    `u' = reflect(u + Normal(0, d))` with `d = max(width * strength, least)`; an unordered choice is
    drawn anew with probability `min(1, d)`. Bounds, steps and the order of choices are kept.
    Structural dimensions keep the parent's value: the child's weights come from the parent.

    Attributes:
        width: Standard deviation at strength 1, in units of the dimension's range, at least 0.
            Defaults to 1.
        least: Standard deviation that no child falls below, in the same units, at least 0. The
            strength depends on the loss's scale, and is next to nothing where losses are small (of
            a regression, say); with `least` mutation goes on there. Defaults to 0: strength 0 is
            then the identity.
    """

    width: float = 1.0
    least: float = 0.0

    def __post_init__(self) -> None:
        check_number("width", self.width, 0.0, none=False)
        check_number("least", self.least, 0.0, none=False)

    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        mutated = dict(values)
        for dimension in space:
            if dimension.kind != "structural":
                mutated[dimension.name] = self._move(
                    dimension,
                    values[dimension.name],
                    max(self.width * strength, self.least),
                    rng,
                )
        return mutated

    @staticmethod
    def _move(dimension: Dimension, value: Value, sd: float, rng: np.random.Generator) -> Value:
        step, chance = rng.standard_normal(), rng.random()
        if dimension.choices is not None:
            if chance >= sd:
                return value
            return dimension.choices[int(rng.integers(len(dimension.choices)))]
        if sd == 0.0:
            return value
        return dimension.from_unit(reflect(dimension.to_unit(value) + sd * step))


@dataclass(frozen=True)
class LogNormalMutation(Mutation):
    """Algorithm 2 of arXiv 2310.14671: `alpha' = alpha * 10 ** Normal(0, beta_2 * strength)`.

    Applies, without bounds, to positive scales (learning rate, L1, L2, weight decay); one that is 0
    stays 0. Other dimensions, for which the paper has no rule, move in the unit interval: also
    whole numbers, choices, and numbers from which a scale is computed (an exponent, say).

    Attributes:
        beta_2: Standard deviation at strength 1, in decades. The default, 15 octaves, is the
            authors' "input factor".
    """

    beta_2: float = 15.0 * float(np.log10(2.0))

    def __post_init__(self) -> None:
        check_number("beta_2", self.beta_2, 0.0, none=False)

    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        octaves = self.beta_2 * strength * float(np.log2(10.0))
        mutated = UnitMutation().mutate(values, strength, space, rng)
        for dimension in space:
            if dimension.kind != "structural" and dimension.unbounded:
                mutated[dimension.name] = log_normal(float(values[dimension.name]), octaves, rng)
        return mutated


@dataclass(frozen=True)
class ReferenceMutation(Mutation):
    """The authors' code: a multiplier c on the loss and a multiplier r on the L2 term.

    Start: `c = 10 ** Normal(-4, 2)`, `r = 10 ** Normal(0, 2)`. Mutation:
    `c' = c * 2 ** Normal(0, 15 s)`, `r' = r * 2 ** Normal(0, 15 s)`, independent draws. The user's
    hyperparameters keep their defaults.

    Attributes:
        input_factor: Standard deviation at strength 1, in octaves, at least 0. Defaults to 15, as
            in the code.
    """

    input_factor: float = 15.0

    def __post_init__(self) -> None:
        check_number("input_factor", self.input_factor, 0.0, none=False)

    def start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        return [
            {
                **space.defaults(),
                LOSS_SCALE: float(10.0 ** rng.normal(-4.0, 2.0)),
                L2_SCALE: float(10.0 ** rng.normal(0.0, 2.0)),
            }
            for _ in range(size)
        ]

    def mutate(
        self, values: Values, strength: float, space: SearchSpace, rng: np.random.Generator
    ) -> Values:
        mutated = dict(values)
        for name in (L2_SCALE, LOSS_SCALE):
            mutated[name] = log_normal(float(values[name]), self.input_factor * strength, rng)
        return mutated
