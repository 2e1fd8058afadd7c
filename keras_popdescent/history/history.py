"""The history of a search: an append-only list of records, and what can be told from it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_popdescent._imports import optional_import
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history.records import BirthRecord, IterationRecord
from keras_popdescent.history.schedule import Schedule, Segment
from keras_popdescent.operators.fitness import Direction, cost


class History:
    """Every iteration, score and birth of a search.

    Args:
        objective: Name of the objective.
        direction: `"min"` or `"max"`.
        path: A file to append JSON lines to. Defaults to None: it is in memory only.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> from keras_popdescent.testing import scripted_loop
        >>> loop = scripted_loop(PopDescent(focus=None), [[0.5, 2.0], [0.4, 0.6]], num_elites=1)
        >>> loop.run()
        >>> history = loop.history
        >>> len(history), history.best(), history.num_replaced
        (2, (0, 0.4), 1)
    """

    def __init__(
        self,
        objective: str = "val_loss",
        direction: Direction = "min",
        path: str | Path | None = None,
    ) -> None:
        self.objective = objective
        self.direction: Direction = direction
        self.path = None if path is None else Path(path)
        self.records: list[IterationRecord] = []

    def __repr__(self) -> str:
        """Return one line: the objective, how much happened, and the best score."""
        best = self.best()
        score = "no score yet" if best is None else f"best {best[1]:.4g} (member {best[0]})"
        return (
            f"History({self.objective!r}, {self.direction!r}): {self._length()}, "
            f"{len(self.births())} members born, {self.gradient_steps} gradient steps, {score}"
        )

    def _length(self) -> str:
        closings = sum(record.closing for record in self.iterations())
        closed = " and the closing training" if closings else ""
        return f"{len(self) - closings} iterations{closed}"

    def append(self, record: IterationRecord) -> None:
        """Add a record, in memory and in the file; the first one makes the file."""
        self.records.append(record)
        if self.path is None:
            return
        try:
            self._write(self.path, record)
        except OSError as error:
            warnings.warn(
                f"The history is no longer written to {self.path} "
                f"({error.strerror or error}); it is complete in memory.",
                stacklevel=2,
            )
            self.path = None

    def _write(self, path: Path, record: IterationRecord) -> None:
        if len(self.records) == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.stat().st_size:
            # Without what came before, the rest would be a history of nothing.
            raise OSError("the file has become empty")
        with path.open("a", encoding="utf-8") as file:
            if not file.tell():
                header = {"objective": self.objective, "direction": self.direction}
                file.write(json.dumps(header) + "\n")
            file.write(json.dumps(record.to_json()) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a history from the JSON lines that `append` wrote.

        A last line that was not written to its end, as by a killed process, is left out.
        """
        lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
        history = cls(**json.loads(lines[0])) if lines else cls()
        history.records = [IterationRecord.from_json(json.loads(line)) for line in lines[1:]]
        return history

    def __len__(self) -> int:
        """Return how many records hold scores, that of closing training included."""
        return len(self.iterations())

    def __iter__(self) -> Iterator[IterationRecord]:
        return iter(self.records)

    def iterations(self) -> list[IterationRecord]:
        """Return the records that hold scores, without the birth of the first members.

        Where there is closing training (`ClosingPlan`), its record is among them (`closing`).
        """
        return [record for record in self.records if record.members]

    def births(self) -> dict[int, BirthRecord]:
        """Return every birth by member id."""
        return {birth.member_id: birth for record in self.records for birth in record.births}

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of the whole population so far."""
        return self.records[-1].gradient_steps if self.records else 0

    @property
    def num_replaced(self) -> int:
        """How many members were replaced so far."""
        return sum(birth.replaced is not None for birth in self.births().values())

    @property
    def num_diverged(self) -> int:
        """How many scores were not finite, of members that trained in the iteration."""
        reached = {id_: birth.inherited_steps for id_, birth in self.births().items()}
        number = 0
        for record in self.records:
            for member in record.members:
                # Who did not train, as while one trains alone, keeps the score that it had.
                steps, before = member.gradient_steps, reached.get(member.member_id, -1)
                trained = steps > before or bool(member.logs)
                reached[member.member_id] = steps
                number += trained and not math.isfinite(member.score)
        return number

    def best(self) -> tuple[int, float] | None:
        """Return (member id, score) of the best finite score ever, None before the first.

        A score from before a member's birth, where it was tried out, is one too.
        """
        scores = [pair for record in self.records for pair in record.finite_scores()]
        return min(scores, key=lambda pair: cost(pair[1], self.direction), default=None)

    def lineage(self, member_id: int) -> list[int]:
        """Return the member's line of first parents, the oldest first, itself last.

        Raises:
            ArgumentError: If there is no such member.
        """
        births = self.births()
        if member_id not in births:
            raise ArgumentError(
                describe(
                    "There is no such member.",
                    f"Expected 0 ... {len(births) - 1}.",
                    member_id=member_id,
                )
            )
        line = [member_id]
        while births[line[0]].parents:
            line.insert(0, births[line[0]].parents[0])
        return line

    def schedule(self, member_id: int, until: int | None = None) -> Schedule:
        """Return the values of a member's line over its gradient steps.

        Args:
            member_id: The member.
            until: Gradient step of its line to stop at; defaults to the last that is recorded.
        """
        births = self.births()
        line = self.lineage(member_id)
        starts = [births[ancestor].inherited_steps for ancestor in line]
        end = self._last_step(member_id) if until is None else until
        stops = [*starts[1:], end]
        segments: list[Segment] = []
        averaged_at: list[int] = []
        for ancestor, start, stop in zip(line, starts, stops, strict=True):
            birth = births[ancestor]
            values, rule = dict(birth.values), birth.optimizer_state if birth.parents else "inherit"
            for first, last, factor, fresh in self._stretches(ancestor, start, min(stop, end)):
                rule = "fresh" if fresh else rule
                segments.append(
                    Segment(first, last, values, ancestor, {}, factor, optimizer_state=rule)
                )
                rule = "inherit"
            life = self._averaged_at(ancestor, start, min(stop, end))
            # Closing training begins them anew: what was before counts no more.
            anew = [i for i, (_, closing) in enumerate(life) if closing]
            averaged_at = [] if anew else averaged_at
            averaged_at += [step for step, _ in life[anew[-1] if anew else 0 :]]
        momenta = [r.ema_momentum for r in self.records if r.ema_momentum is not None]
        return Schedule(
            tuple(segments),
            ema_momentum=momenta[0] if averaged_at else None,
            averaged_at=tuple(averaged_at),
        )

    def _averaged_at(self, member_id: int, start: int, stop: int) -> list[tuple[int, bool]]:
        """Return a life's steps after which averages were moved, and whether in closing."""
        ends = {
            member.gradient_steps: record.closing
            for record in reversed(self.records)
            for member in record.members
            if record.ema_momentum is not None and member.member_id == member_id
        }
        return sorted(pair for pair in ends.items() if start < pair[0] <= stop)

    def _stretches(
        self, member_id: int, start: int, stop: int
    ) -> Iterator[tuple[int, int, float, bool]]:
        """Yield (start, stop, factor, fresh) of a life's parts.

        Each has a common factor on the rate, and one optimizer, which is as just built (`fresh`) or
        goes on.
        """
        lived = [
            (min(member.gradient_steps, stop), record.rate_factor, record.fresh_optimizer)
            for record in self.records
            for member in record.members
            if member.member_id == member_id
        ]
        begin, reached = start, start
        current: tuple[float, bool] | None = None
        for steps, factor, fresh in lived:
            if steps <= reached:
                continue
            if current is None:
                current = (factor, fresh)
            elif fresh or factor != current[0]:
                yield begin, reached, *current
                begin, current = reached, (factor, fresh)
            reached = steps
        if stop > begin:
            yield begin, stop, *(current or (1.0, False))

    def _last_step(self, member_id: int) -> int:
        for record in reversed(self.records):
            for member in record.members:
                if member.member_id == member_id:
                    return member.gradient_steps
        return self.births()[member_id].inherited_steps

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each member and iteration (long form): ids, score, logs and values."""
        return [
            {
                "iteration": record.iteration,
                "gradient_steps": record.gradient_steps,
                "slot": member.slot,
                "member_id": member.member_id,
                "score": member.score,
                "fitness": member.fitness,
                "member_gradient_steps": member.gradient_steps,
                **dict(member.logs),
                **member.values,
            }
            for record in self.iterations()
            for member in record.members
        ]

    def member_table(self) -> list[dict[str, Any]]:
        """Return a dict for each member ever born: parents, life, last and best score, values."""
        births = self.births()
        lives: dict[int, list[tuple[int, float, int]]] = {}
        for record in self.iterations():
            for member in record.members:
                lives.setdefault(member.member_id, []).append(
                    (record.iteration, member.score, member.gradient_steps)
                )
        rows = []
        for member_id, birth in sorted(births.items()):
            life = lives.get(member_id, [])
            scores = [*([] if birth.score is None else [birth.score]), *(s for _, s, _ in life)]
            finite = [score for score in scores if math.isfinite(score)]
            rows.append(
                {
                    "member_id": member_id,
                    "slot": birth.slot,
                    "parents": list(birth.parents),
                    "iterations": len(life),
                    "gradient_steps": life[-1][2] if life else birth.inherited_steps,
                    "inherited_steps": birth.inherited_steps,
                    "score": scores[-1] if scores else None,
                    "best_score": min(
                        finite, key=lambda score: cost(score, self.direction), default=None
                    ),
                    **birth.values,
                }
            )
        return rows

    def to_frame(self) -> Any:
        """Return `to_records()` as a pandas DataFrame.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        pandas = optional_import("pandas", "frames", "a history as a DataFrame")
        return pandas.DataFrame(self.to_records())
