"""The objective: which reported quantity scores a member, and in which direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_popdescent.errors import ObjectiveError, describe
from keras_popdescent.operators.fitness import Direction

_MAXIMISED = (
    "acc",
    "auc",
    "precision",
    "recall",
    "f1",
    "fbeta",
    "iou",
    "io_u",
    "dice",
    "r2",
    "cosine_similarity",
    "true_positives",
    "true_negatives",
)
_MINIMISED = (
    "loss",
    "error",
    "mse",
    "mae",
    "rmse",
    "mape",
    "msle",
    "entropy",
    "diverg",
    "perplexity",
    "hinge",
    "poisson",
    "false_positives",
    "false_negatives",
)


@dataclass(frozen=True)
class Objective:
    """What a member's score is.

    Attributes:
        name: A quantity that the model reports: `"loss"`, a metric's name, or either with `"val_"`
            in front for its value on the validation data.
        direction: `"min"` or `"max"`.
        terms: For an objective of several terms, (name, direction) each: the score is the sum of
            those to minimise less the sum of those to maximise. Defaults to none.

    Raises:
        ObjectiveError: If a name is no word, or a direction neither `"min"` nor `"max"`.

    Example:
        >>> from keras_popdescent import Objective
        >>> Objective("val_accuracy", "max").better(0.9, 0.8)
        True
    """

    name: str
    direction: Direction
    terms: tuple[tuple[str, Direction], ...] = field(default=())

    def __post_init__(self) -> None:
        named = [(self.name, self.direction), *self.terms]
        if not all(isinstance(n, str) and n and str(d) in ("min", "max") for n, d in named):
            raise ObjectiveError(
                describe(
                    "An objective has a name and a direction.",
                    "Expected a quantity that the model reports, and 'min' or 'max'.",
                    objective=named,
                )
            )

    @property
    def names(self) -> list[str]:
        """The reported quantities that the objective needs."""
        return [name for name, _ in self.terms] or [self.name]

    @property
    def is_on_validation(self) -> bool:
        """Whether all of it is measured on validation data."""
        return all(name.startswith("val_") for name in self.names)

    @property
    def needs_validation(self) -> bool:
        """Whether validation data is needed."""
        return any(name.startswith("val_") for name in self.names)

    def score(self, logs: Mapping[str, float]) -> float:
        """Return the score of a member that reports `logs`.

        Raises:
            ObjectiveError: If a quantity is not reported; the message lists those that are.
        """
        missing = [name for name in self.names if name not in logs]
        if missing:
            raise ObjectiveError(
                describe(
                    "The model does not report the objective.",
                    f"It reports: {', '.join(sorted(logs))}.",
                    objective=missing[0] if len(missing) == 1 else missing,
                )
            )
        if not self.terms:
            return float(logs[self.name])
        return sum(
            float(logs[name]) * (1.0 if direction == "min" else -1.0)
            for name, direction in self.terms
        )

    def better(self, first: float, second: float) -> bool:
        """Whether the score `first` is better than `second`."""
        return first < second if self.direction == "min" else first > second


def objective_of(objective: str | tuple[str, Direction] | Objective) -> Objective:
    """Return an objective from its name, with the direction inferred, or from (name, direction).

    Raises:
        ObjectiveError: If the direction cannot be inferred.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, tuple | list):
        name, direction = objective if len(objective) == 2 else (None, None)
        if not isinstance(name, str) or not name:
            raise ObjectiveError(
                describe("An objective is a name, or (name, direction).", objective=objective)
            )
        if not isinstance(direction, str) or direction not in ("min", "max"):
            raise ObjectiveError(
                describe(
                    "The direction must be 'min' or 'max'.",
                    fix='Pass `("name", "min")` or `("name", "max")`.',
                    direction=direction,
                )
            )
        return Objective(name, direction)
    if not isinstance(objective, str) or not objective:
        raise ObjectiveError(
            describe(
                "An objective is a name, or (name, direction).",
                'Expected a quantity that the model reports, such as "val_loss".',
                objective=objective,
            )
        )
    return Objective(objective, infer_direction(objective))


def infer_direction(name: str) -> Direction:
    """Return the direction of a loss, an error or a well-known rate.

    The last known word decides: Keras puts the name of an output in front, and the loss of an
    output `acceleration` is no accuracy.

    Raises:
        ObjectiveError: If the name says nothing about the direction.
    """
    bare = name.removeprefix("val_").lower()
    maximised = max(bare.rfind(word) for word in _MAXIMISED)
    minimised = max(bare.rfind(word) for word in _MINIMISED)
    if maximised != minimised:
        return "max" if maximised > minimised else "min"
    raise ObjectiveError(
        describe(
            "The direction of the objective cannot be told from its name.",
            fix=f'Pass it as ("{name}", "min") or ("{name}", "max").',
            objective=name,
        )
    )
