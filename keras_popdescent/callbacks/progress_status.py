"""What the progress display knows: a frozen status, and the tracker that keeps it up to date.

Nothing here draws. `Tracker.update` runs after every iteration and only counts; `Tracker.status`
runs when a picture is due.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from keras_popdescent.history import IterationRecord
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.member import Member
from keras_popdescent.strategies.space import Values

# The time left is estimated from so many iterations.
_MOVING_AVERAGE = 10

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


class Tracker:
    """Follows one run of a search.

    Args:
        loop: The search, at its beginning.
        notes: Sentences to show besides the loop's own.
        clock: Returns seconds.
    """

    def __init__(
        self, loop: Loop, notes: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._notes = (*map(str, getattr(loop, "notes", ())), *notes)
        self._clock = clock
        self._began = self._last = clock()
        self._durations: deque[float] = deque(maxlen=_MOVING_AVERAGE)
        self._first_iteration = loop.iteration
        self._first_steps = loop.history.gradient_steps
        self._steps = self._first_steps
        self._record: IterationRecord | None = None
        self._before: dict[int, float] = {}
        self._scores: dict[int, float] = {}
        self._parents = {id_: birth.parents for id_, birth in loop.history.births().items()}
        self._best = loop.history.best()
        self._num_replaced = loop.history.num_replaced
        self._diverged: set[int] = set()
        for record in loop.history.iterations():
            self._watch(record)

    def update(self, record: IterationRecord) -> None:
        """Count an iteration."""
        now = self._clock()
        if not record.closing:
            self._time(now - self._last, record.iteration - self._first_iteration)
        self._last = now
        self._record = record
        self._steps = record.gradient_steps
        self._num_replaced += sum(birth.replaced is not None for birth in record.births)
        self._before = self._scores
        self._watch(record)
        self._parents.update({birth.member_id: birth.parents for birth in record.births})

    def _watch(self, record: IterationRecord) -> None:
        """Take over the scores of a record."""
        self._scores = {}
        for member in record.members:
            self._scores[member.member_id] = member.score
            if not math.isfinite(member.score):
                self._diverged.add(member.member_id)
            elif self._best is None or self._loop.objective.better(member.score, self._best[1]):
                self._best = (member.member_id, member.score)

    def _time(self, seconds: float, number: int) -> None:
        # The first iteration traces and compiles; as soon as there is another it says nothing more.
        if number == 2:
            self._durations.clear()
        self._durations.append(seconds)

    def status(self) -> Status:
        """Return the search as it stands now."""
        loop = self._loop
        iterations_left, steps_left = self._left()
        known = sum(self._durations) / len(self._durations) if self._durations else None
        return Status(
            objective=loop.objective.name,
            direction=loop.objective.direction,
            state="running",
            first_iteration=self._first_iteration,
            iteration=loop.iteration,
            num_iterations=loop.settings.iterations,
            batches_per_iteration=loop.settings.batches_per_iteration,
            first_steps=self._first_steps,
            gradient_steps=self._steps,
            steps_left=steps_left,
            seconds=self._clock() - self._began,
            seconds_left=None if known is None else known * iterations_left,
            best=self._best,
            num_replaced=self._num_replaced,
            num_diverged=len(self._diverged),
            num_stopped=sum(member.stopped for member in loop.members),
            names=self._names(),
            rows=self._rows(),
            notes=self._notes,
        )

    def final_status(self) -> Status:
        """Return the search as it ended."""
        loop = self._loop
        complete = loop.iteration >= loop.settings.iterations and self._closing_rounds() == 0
        state: State = "finished" if complete else "stopped"
        return replace(self.status(), state="interrupted" if loop.interrupted else state)

    def _closing_rounds(self) -> int:
        """Return how many rounds of closing training are still to come."""
        closed = self._record is not None and self._record.closing
        return 0 if closed else self._loop.strategy.closing.rounds

    def _left(self) -> tuple[float, int]:
        """Return the iterations left, with closing rounds as parts of one, and gradient steps."""
        loop = self._loop
        batches = loop.settings.batches_per_iteration
        iterations = max(loop.settings.iterations - loop.iteration, 0)
        training = sum(not member.stopped for member in loop.members)
        closing = self._closing_rounds() * (loop.strategy.closing.batches or batches)
        steps = iterations * batches * training + closing * len(loop.members)
        share = training / max(len(loop.members), 1)
        return iterations * min(share, 1) + closing / batches, steps * loop.strategy.training.passes

    def _names(self) -> tuple[str, ...]:
        live = self._loop.space.names("live")
        seen = dict.fromkeys(name for member in self._loop.members for name in member.values)
        return (*(name for name in live if name in seen), *(n for n in seen if n not in live))

    def _rows(self) -> tuple[Row, ...]:
        if self._record is None:
            return newborn_rows(self._loop.members)
        direction = self._loop.objective.direction
        return record_rows(self._record, self._parents, self._before, direction)
