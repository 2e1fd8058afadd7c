"""The tracker: follows a search for the progress display.

`Tracker.update` runs after every iteration and only counts; `Tracker.status` runs when a picture is
due. Nothing here draws.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from keras_popdescent.callbacks.progress.status import Row, State, Status, newborn_rows, record_rows
from keras_popdescent.history import IterationRecord
from keras_popdescent.population.loop import Loop

# The time left is estimated from so many iterations.
_MOVING_AVERAGE = 10


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
        self._first_iteration = self._iteration = loop.iteration
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
        # The loop's own counter is one ahead where an interrupt came before the record.
        self._iteration = record.iteration
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
        for member_id, score in record.finite_scores():
            if self._best is None or self._loop.objective.better(score, self._best[1]):
                self._best = (member_id, score)

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
            iteration=self._iteration,
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
        complete = self._iteration >= loop.settings.iterations and self._closing_rounds() == 0
        state: State = "finished" if complete else "stopped"
        return replace(self.status(), state="interrupted" if loop.interrupted else state)

    def _closing_rounds(self) -> int:
        """Return how many rounds of closing training are still to come."""
        closed = self._record is not None and self._record.closing
        done = getattr(self._loop, "rounds_closed", 0)
        return 0 if closed else self._loop.strategy.closing.rounds - done

    def _left(self) -> tuple[float, int]:
        """Return the iterations left, a closing round as a part of one, and the gradient steps."""
        loop = self._loop
        batches = loop.settings.batches_per_iteration
        training = sum(not member.stopped for member in loop.members)
        iterations = max(loop.settings.iterations - self._iteration, 0) if training else 0
        closing = self._closing_rounds() * (loop.strategy.closing.batches or batches)
        steps = iterations * batches * training + closing * len(loop.members)
        return iterations + closing / batches, steps * loop.strategy.training.passes

    def _names(self) -> tuple[str, ...]:
        live = self._loop.space.names("live")
        seen = dict.fromkeys(name for member in self._loop.members for name in member.values)
        return (*(name for name in live if name in seen), *(n for n in seen if n not in live))

    def _rows(self) -> tuple[Row, ...]:
        if self._record is None:
            return newborn_rows(self._loop.members)
        direction = self._loop.objective.direction
        return record_rows(self._record, self._parents, self._before, direction)
