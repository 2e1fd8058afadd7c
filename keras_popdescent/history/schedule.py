"""A schedule: the values of a member and its ancestors over gradient steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_popdescent._imports import optional_import
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.strategies.space import Value, Values


@dataclass(frozen=True)
class Segment:
    """A stretch of gradient steps under constant values.

    Attributes:
        start: First gradient step, counted from 0.
        stop: One past the last gradient step.
        values: The hyperparameter values.
        member_id: The ancestor that lived it.
    """

    start: int
    stop: int
    values: Values
    member_id: int


@dataclass(frozen=True)
class Schedule:
    """The hyperparameter schedule that led to one member, through all its ancestors.

    A set of constant hyperparameters cannot reproduce a member of a population: its ancestors
    trained under other values. The schedule says which, and for how many gradient steps each.

    Attributes:
        segments: Stretches of constant values, in order, without gaps.
    """

    segments: tuple[Segment, ...]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def gradient_steps(self) -> int:
        """Gradient steps from the first ancestor's first to the member's last."""
        return self.segments[-1].stop if self.segments else 0

    def at(self, step: int) -> Values:
        """Return the values at a gradient step.

        Raises:
            ArgumentError: If the schedule does not reach so far.
        """
        for segment in self.segments:
            if segment.start <= step < segment.stop:
                return segment.values
        raise ArgumentError(
            describe(
                "The schedule has no such step.",
                f"Expected 0 ... {self.gradient_steps - 1}.",
                step=step,
            )
        )

    def path(self, name: str) -> list[tuple[int, Value]]:
        """Return (gradient step, value) at each start of a segment and at the end."""
        points = [(segment.start, segment.values[name]) for segment in self.segments]
        return [*points, *((s.stop, s.values[name]) for s in self.segments[-1:])]

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each segment, values flat beside start and stop."""
        return [
            {"start": s.start, "stop": s.stop, "member_id": s.member_id, **s.values}
            for s in self.segments
        ]

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row for each segment.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        pandas = optional_import("pandas", "frames", "a schedule as a DataFrame")
        return pandas.DataFrame(self.to_records())

    def save(self, path: str | Path) -> None:
        """Write the schedule as JSON."""
        data = {"segments": [asdict(segment) for segment in self.segments]}
        Path(path).write_text(json.dumps(data, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a schedule that `save` wrote."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(tuple(Segment(**segment) for segment in data["segments"]))
