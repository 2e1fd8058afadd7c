"""What the progress display shows, as frozen records: a search at one moment, and its members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from keras_popdescent.history import IterationRecord
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.population.member import Member
from keras_popdescent.strategies.space import Values

State = Literal["running", "finished", "interrupted", "stopped"]


@dataclass(frozen=True)
class Row:
    """One member as the display shows it.

    Attributes:
        slot: Its slot.
        member_id: The member.
        parents: Member ids of its parents; empty for a first member.
        values: Its hyperparameter values.
        gradient_steps: Gradient steps of its line.
        score: Its score, None before the first; NaN or infinite where it diverged.
        change: Its score less its score an iteration ago; None where either is missing.
        fitness: Its fitness, None before the first score.
        best: Whether its score is the population's best at present.
        replaced_by: Parents of the child that has just taken the slot; empty for a member that
            stays.
    """

    slot: int
    member_id: int
    parents: tuple[int, ...]
    values: Values
    gradient_steps: int
    score: float | None = None
    change: float | None = None
    fitness: float | None = None
    best: bool = False
    replaced_by: tuple[int, ...] = ()


@dataclass(frozen=True)
class Status:
    """A search at one moment.

    Attributes:
        objective: The objective's name.
        direction: `"min"` or `"max"`.
        state: Whether the search runs, or how it ended.
        first_iteration: Iterations that were done before this run of the search.
        iteration: Iterations done.
        num_iterations: Iterations when the search is finished.
        batches_per_iteration: Batches a member trains on in an iteration.
        first_steps: Gradient steps of the population before this run.
        gradient_steps: Gradient steps of the population.
        steps_left: Gradient steps to come, an estimate.
        seconds: Wall time of this run.
        seconds_left: Wall time to come, an estimate; None where nothing is known.
        best: (member id, score) of the best score ever; None before the first finite one.
        num_replaced: Members replaced so far.
        num_diverged: Members that had a non-finite score.
        num_stopped: Living members whose training a user's callback ended.
        names: Names of the hyperparameters, the live ones first.
        rows: The members by slot.
        notes: Sentences about the search.
    """

    objective: str
    direction: Direction
    state: State
    first_iteration: int
    iteration: int
    num_iterations: int
    batches_per_iteration: int
    first_steps: int
    gradient_steps: int
    steps_left: int
    seconds: float
    seconds_left: float | None
    best: tuple[int, float] | None
    num_replaced: int
    num_diverged: int
    num_stopped: int
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def newborn_rows(members: Sequence[Member]) -> tuple[Row, ...]:
    """Return the rows of members before an iteration."""
    return tuple(
        Row(m.slot, m.member_id, m.parents, m.values, m.gradient_steps, m.score) for m in members
    )


def record_rows(
    record: IterationRecord,
    parents: Mapping[int, tuple[int, ...]],
    before: Mapping[int, float],
    direction: Direction,
) -> tuple[Row, ...]:
    """Return the rows of the members that an iteration scored.

    Args:
        record: The iteration.
        parents: Parents by member id.
        before: Scores of the iteration before, by member id.
        direction: `"min"` or `"max"`.
    """
    pick = min if direction == "min" else max
    best = pick((m.score for m in record.members if math.isfinite(m.score)), default=None)
    heirs = {birth.slot: birth.parents for birth in record.births}
    rows, marked = [], False
    for member in record.members:
        change = member.score - before.get(member.member_id, math.nan)
        is_best = member.score == best and not marked
        marked = marked or is_best
        row = Row(
            slot=member.slot,
            member_id=member.member_id,
            parents=parents.get(member.member_id, ()),
            values=member.values,
            gradient_steps=member.gradient_steps,
            score=member.score,
            change=change if math.isfinite(change) else None,
            fitness=member.fitness,
            best=is_best,
            replaced_by=heirs.get(member.slot, ()),
        )
        rows.append(row)
    return tuple(rows)
