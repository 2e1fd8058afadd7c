"""A birth: the member that an offspring will be, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from keras_popdescent.history import BirthRecord
from keras_popdescent.population.member import Member
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.space import Values


@dataclass(frozen=True)
class Parent:
    """What a child has from a parent, which may be gone.

    Attributes:
        member_id: The parent.
        gradient_steps: Gradient steps of its line.
        values: Its hyperparameter values.
    """

    member_id: int
    gradient_steps: int
    values: Values


def newborn(
    child: Offspring, member_id: int, parents: Sequence[Parent], born: int, replaced: int
) -> tuple[Member, BirthRecord]:
    """Return the member that an offspring will be, and the record of its birth.

    Args:
        child: The offspring.
        member_id: The number that it gets.
        parents: Its parents; the first one's steps and values are recorded.
        born: The iteration after which it is born.
        replaced: The member whose slot it takes.
    """
    first = parents[0]
    member = Member(
        member_id=member_id,
        slot=child.slot,
        values=dict(child.values),
        parents=tuple(parent.member_id for parent in parents),
        born=born,
        inherited_steps=first.gradient_steps,
        gradient_steps=first.gradient_steps,
        score=child.score,
    )
    birth = BirthRecord(
        slot=child.slot,
        member_id=member_id,
        parents=member.parents,
        values=dict(child.values),
        inherited_steps=member.inherited_steps,
        replaced=replaced,
        parent_values=dict(first.values),
        strength=child.strength,
        weight_noise=asdict(child.weight_noise),
        optimizer_state=child.optimizer_state,
        score=child.score,
    )
    return member, birth
