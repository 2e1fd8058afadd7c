"""Records of a search, append-only and JSON-able."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_popdescent.strategies.space import Values


@dataclass(frozen=True)
class MemberRecord:
    """One member after one iteration.

    Attributes:
        slot: Its slot.
        member_id: Its number in the order of births.
        values: Its hyperparameter values.
        score: The objective's raw value; NaN where the member diverged.
        fitness: The score mapped to [0, 1].
        gradient_steps: Gradient steps of its whole line so far.
        logs: All that it reported.
        seconds: Wall time of its training and scoring in this iteration.
    """

    slot: int
    member_id: int
    values: Values
    score: float
    fitness: float
    gradient_steps: int
    logs: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class BirthRecord:
    """One birth: a first member (without parents), or a replacement.

    Attributes:
        slot: The slot that the new member lives in.
        member_id: The new member.
        parents: Member ids of the parents; empty for a first member.
        values: The new member's hyperparameter values.
        inherited_steps: Gradient steps of the first parent's line.
        replaced: Member id of the member that it replaces, None for a first member.
        parent_values: The first parent's values.
        strength: How hard it was mutated.
        weight_noise: Kind, standard deviation and seed of the weight noise.
        optimizer_state: What its optimizer started with.
        score: Its score before it has trained, where it was tried out; None else.
    """

    slot: int
    member_id: int
    parents: tuple[int, ...]
    values: Values
    inherited_steps: int = 0
    replaced: int | None = None
    parent_values: Values = field(default_factory=dict)
    strength: float = 0.0
    weight_noise: Mapping[str, Any] = field(default_factory=dict)
    optimizer_state: str = "fresh"
    score: float | None = None


@dataclass(frozen=True)
class IterationRecord:
    """One iteration: scores first, then the births that followed from them.

    Attributes:
        iteration: Its number, from 1; 0 is the birth of the first members.
        gradient_steps: Gradient steps of the whole population so far.
        seconds: Wall time since the search began.
        members: The members by slot, before any replacement.
        births: The members born after it.
        closing: Whether it belongs to the training after the last iteration.
        rate_factor: What the members' learning rates were multiplied with in it; their values are
            the rates without it.
        ema_momentum: Of the moving averages of weights that the members were scored with, see
            `Averaging`; they were moved at its end. None for none. It says nothing of a model whose
            optimizer averages its weights itself (`use_ema=True`): there those averages count.
        fresh_optimizer: Whether the members that trained began it with an optimizer as just built,
            see `TrainingPlan`.
    """

    iteration: int
    gradient_steps: int
    seconds: float
    members: tuple[MemberRecord, ...] = ()
    births: tuple[BirthRecord, ...] = ()
    closing: bool = False
    rate_factor: float = 1.0
    ema_momentum: float | None = None
    fresh_optimizer: bool = False

    def finite_scores(self) -> list[tuple[int, float]]:
        """Return (member id, score) of all members, and of children that were tried out."""
        pairs = [(member.member_id, member.score) for member in self.members]
        pairs += [(b.member_id, b.score) for b in self.births if b.score is not None]
        return [(member_id, score) for member_id, score in pairs if math.isfinite(score)]

    def to_json(self) -> dict[str, Any]:
        """Return the record as nested dicts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> IterationRecord:
        """Return the record that `to_json` described."""
        members = tuple(MemberRecord(**member) for member in data["members"])
        births = tuple(
            BirthRecord(**{**birth, "parents": tuple(birth["parents"])}) for birth in data["births"]
        )
        return cls(**{**data, "members": members, "births": births})
