"""Members' lives, read from a history once, for every picture.

An iteration is counted here by its place among the records that hold scores, from 1, so that the
training after the last iteration, which has no number of its own, is one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history import History
from keras_popdescent.strategies.space import Values

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Life:
    """One member from its birth to its replacement.

    Attributes:
        member_id: The member.
        slot: Where it lived.
        parent: Its first parent, None for a first member.
        born: The iteration after which it was born, 0 for a first member.
        start: Gradient steps of the population at its birth.
        inherited: Gradient steps of its first parent's line that it inherited.
        values: Its hyperparameter values.
        iterations: (iterations,) the iterations that it trained and was scored in.
        steps: (iterations,) gradient steps of the population at each score.
        line_steps: (iterations,) gradient steps of its line at each score.
        scores: (iterations,) raw scores, NaN for any that was not finite.
        replaced: Whether another member took its slot.
    """

    member_id: int
    slot: int
    parent: int | None
    born: int
    start: int
    inherited: int
    values: Values
    iterations: Integers
    steps: Integers
    line_steps: Integers
    scores: Floats
    replaced: bool

    @property
    def end(self) -> int:
        """The last iteration that it was scored in; that of its birth if it never was."""
        return int(self.iterations[-1]) if self.iterations.size else self.born

    def until(self, line_steps: int) -> Integers:
        """Return the indices of its scores up to so many gradient steps of its line."""
        return np.flatnonzero(self.line_steps <= line_steps)


@dataclass(frozen=True)
class Winner:
    """The member with the best score ever, when it had it.

    Attributes:
        line: Member ids of its ancestors, the oldest first, itself last.
        score: Its best score.
        iteration: The iteration of that score, the first where there are several.
        step: Gradient steps of the population then.
        line_steps: Gradient steps of its line then.
    """

    line: tuple[int, ...]
    score: float
    iteration: int
    step: int
    line_steps: int


@dataclass(frozen=True)
class Lives:
    """All members' lives.

    Attributes:
        by_id: A life by member id, in the order of births.
        winner: Who scored best.
    """

    by_id: dict[int, Life]
    winner: Winner

    @property
    def children(self) -> list[tuple[Life, Life]]:
        """(parent, child) for every birth but those of first members."""
        return [
            (self.by_id[life.parent], life)
            for life in self.by_id.values()
            if life.parent is not None
        ]


def read_lives(history: History) -> Lives:
    """Read every member's life, and who scored best.

    Raises:
        ArgumentError: If no member has a finite score yet.
    """
    best = history.best()
    if best is None:
        raise ArgumentError(
            describe(
                "There is nothing to draw: the history holds no finite score.",
                fix="Run the search for at least one iteration first.",
                iterations=len(history),
                num_diverged=history.num_diverged,
            )
        )
    points: dict[int, list[tuple[int, int, int, float]]] = {}
    born: dict[int, tuple[int, int]] = {}
    iteration = 0
    for record in history:
        iteration += bool(record.members)
        total = record.gradient_steps
        born.update({birth.member_id: (iteration, total) for birth in record.births})
        for member in record.members:
            lived = points.setdefault(member.member_id, [])
            # Who did not train has no score of its own in an iteration.
            if not lived or member.gradient_steps > lived[-1][2]:
                lived.append((iteration, total, member.gradient_steps, member.score))
    births = history.births()
    replaced = {birth.replaced for birth in births.values()}
    by_id = {
        member_id: _life(
            points.get(member_id, []),
            member_id=member_id,
            slot=birth.slot,
            parent=birth.parents[0] if birth.parents else None,
            born=born[member_id][0],
            start=born[member_id][1],
            inherited=birth.inherited_steps,
            values=birth.values,
            replaced=member_id in replaced,
        )
        for member_id, birth in births.items()
    }
    member_id, score = best
    life = by_id[member_id]
    line = tuple(history.lineage(member_id))
    return Lives(by_id, Winner(line, score, *_moment(life, score)))


def _moment(life: Life, score: float) -> tuple[int, int, int]:
    """Return the iteration, the population's and the line's gradient steps of a member's score."""
    found = np.flatnonzero(life.scores == score)
    if not found.size:
        # It was tried out before its birth, and never was so good again.
        return life.born, life.start, life.inherited
    index = int(found[0])
    return int(life.iterations[index]), int(life.steps[index]), int(life.line_steps[index])


def _life(points: list[tuple[int, int, int, float]], **birth: Any) -> Life:
    raw = np.array([score for *_, score in points], dtype=np.float64)
    numbers = np.array([point[:3] for point in points], dtype=np.int64).reshape(-1, 3)
    return Life(
        iterations=numbers[:, 0],
        steps=numbers[:, 1],
        line_steps=numbers[:, 2],
        scores=np.where(np.isfinite(raw), raw, np.nan),
        **birth,
    )


def display_name(name: str) -> str:
    """Return a hyperparameter's name for people: "popdescent/learning_rate" -> "learning rate"."""
    return name.removeprefix("popdescent/").replace("_", " ")
