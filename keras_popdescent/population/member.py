"""A member: one model of the population, as bookkeeping; its tensors are with the executor."""

from __future__ import annotations

from dataclasses import dataclass

from keras_popdescent.strategies.space import Values


@dataclass
class Member:
    """Who lives in a slot, from birth to replacement.

    Attributes:
        member_id: Number of the member in the order of births, from 0.
        slot: Its fixed place, 0 ... population_size - 1.
        values: Its hyperparameter values; they never change during its life.
        parents: Member ids of its parents; empty for the first members.
        born: The iteration after which it was born, 0 for the first members.
        inherited_steps: Gradient steps of its first parent's line at its birth.
        gradient_steps: Gradient steps of its whole line.
        score: Its last score; None before the first.
        best_score: Its best score.
        stopped: Whether a user's callback ended its training.
    """

    member_id: int
    slot: int
    values: Values
    parents: tuple[int, ...] = ()
    born: int = 0
    inherited_steps: int = 0
    gradient_steps: int = 0
    score: float | None = None
    best_score: float | None = None
    stopped: bool = False
