"""The best members ever seen, as they were when they scored best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_popdescent.operators.fitness import cost
from keras_popdescent.population.member import Member
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.space import Values


@dataclass(frozen=True)
class Kept:
    """A member as it was when it scored best.

    Attributes:
        member_id: The member.
        score: Its score then.
        values: Its hyperparameter values.
        state: Its state then.
        gradient_steps: Gradient steps of its line then.
    """

    member_id: int
    score: float
    values: Values
    state: MemberState
    gradient_steps: int


def with_member(
    kept: Sequence[Kept],
    member: Member,
    objective: Objective,
    num_kept: int,
    capture: Callable[[int], MemberState],
) -> list[Kept]:
    """Return who is kept once a member has been scored: the best first, one entry a member.

    Args:
        kept: Who has been kept so far, the best first.
        member: The member; its best score is brought up to date.
        objective: What scores it.
        num_kept: How many are kept.
        capture: Returns the state of the member in a slot.
    """
    score = member.score
    if score is None or not math.isfinite(score):
        return list(kept)
    if member.best_score is not None and not objective.better(score, member.best_score):
        return list(kept)
    member.best_score = score
    others = [entry for entry in kept if entry.member_id != member.member_id]
    full = len(others) >= num_kept
    if full and not objective.better(score, others[-1].score):
        return list(kept)
    entry = Kept(
        member.member_id, score, dict(member.values), capture(member.slot), member.gradient_steps
    )
    ranked = sorted([*others, entry], key=lambda one: cost(one.score, objective.direction))
    return ranked[:num_kept]
