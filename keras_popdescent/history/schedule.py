"""A schedule: the values of a member and its ancestors over gradient steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from keras_popdescent._imports import optional_import
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.strategies.space import Value, Values

# What makes a Keras callback from a schedule; `callbacks/` is above this package and fills it in.
CALLBACKS: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Segment:
    """A stretch of gradient steps under constant values.

    Attributes:
        start: First gradient step, counted from 0.
        stop: One past the last gradient step.
        values: The hyperparameter values.
        member_id: The ancestor that lived it.
        scalars: What the values amount to in the model, with the factor: live scalars by path;
            empty where nobody has found it out.
        rate_factor: What the learning rate was multiplied with (a strategy's annealing); `values`
            are without it.
        optimizer_state: What happens to the optimizer's slots at the segment's start: they go on
            (`"inherit"`), or begin anew (`"restart"` and others, see `Offspring`).
    """

    start: int
    stop: int
    values: Values
    member_id: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    rate_factor: float = 1.0
    optimizer_state: str = "inherit"


@dataclass(frozen=True)
class Schedule:
    """The hyperparameter schedule that led to one member, through all its ancestors.

    A set of constant hyperparameters cannot reproduce a member of a population: its ancestors
    trained under other values. The schedule says which, and for how many gradient steps each. It
    follows first parents: weights that were the mean of several parents' (`ESGD`), and the noise on
    children's weights, are not in it.

    Attributes:
        segments: Stretches of constant values, in order, without gaps.
        fixed_names: Hyperparameters that a running model cannot change: rebuild and structural
            ones, and the batch size.
        ema_momentum: Momentum of the moving averages of weights that the member was scored and
            exported with, see `Averaging`; None where there were none.
        averaged_at: The gradient steps, counted from 1, after which the averages were moved.

    Example:
        >>> from keras_popdescent.history import Schedule, Segment
        >>> first, second = {"learning_rate": 0.1}, {"learning_rate": 0.02}
        >>> schedule = Schedule((Segment(0, 60, first, member_id=0), Segment(60, 80, second, 4)))
        >>> schedule.at(70), schedule.stretched(400).path("learning_rate")
        ({'learning_rate': 0.02}, [(0, 0.1), (300, 0.02), (400, 0.02)])
    """

    segments: tuple[Segment, ...]
    fixed_names: tuple[str, ...] = ()
    ema_momentum: float | None = None
    averaged_at: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """Return a line for each segment, at most eight."""
        lines = [f"Schedule of {len(self)} segments, {self.gradient_steps} gradient steps"]
        shown = list(self.segments)
        hidden = len(shown) - 8
        if hidden > 0:
            shown = [*shown[:4], *shown[-4:]]
        for index, segment in enumerate(shown):
            if hidden > 0 and index == 4:
                lines.append(f"  ... {hidden} more ...")
            values = ", ".join(f"{name}={_short(v)}" for name, v in segment.values.items())
            lines.append(f"  {segment.start:>6} - {segment.stop:<6} {values}")
        return "\n".join(lines)

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
        return self.segment_at(step).values

    def segment_at(self, step: int) -> Segment:
        """Return the segment that a gradient step is in.

        Raises:
            ArgumentError: If the schedule does not reach so far.
        """
        for segment in self.segments:
            if segment.start <= step < segment.stop:
                return segment
        raise ArgumentError(
            describe(
                "The schedule has no such step.",
                f"Expected 0 ... {self.gradient_steps - 1}.",
                step=step,
            )
        )

    def averages_after(self, step: int) -> bool:
        """Return whether the averages of weights are moved after a gradient step.

        After the schedule's end they go on in steps of the last length.

        Args:
            step: The step, counted from 1.
        """
        if self.ema_momentum is None or not self.averaged_at:
            return False
        *_, before, last = (0, *self.averaged_at)
        if step <= last:
            return step in self.averaged_at
        return (step - last) % (last - before) == 0

    def stretched(self, gradient_steps: int) -> Schedule:
        """Return the same path over another number of gradient steps.

        For retraining on more data or for longer. A segment that would get no step is left out;
        what its start does to the optimizer, the next one's does.

        Args:
            gradient_steps: Number of steps, at least 1.

        Raises:
            ArgumentError: If it is below 1, or the schedule is empty.
        """
        if int(gradient_steps) < 1 or not self.segments:
            raise ArgumentError(
                describe(
                    "A schedule has at least one gradient step.", gradient_steps=gradient_steps
                )
            )
        scale = int(gradient_steps) / self.gradient_steps
        bounds = [round(segment.start * scale) for segment in self.segments]
        ends = [*bounds[1:], int(gradient_steps)]
        moved: list[Segment] = []
        rule = "inherit"
        for segment, start, stop in zip(self.segments, bounds, ends, strict=True):
            rule = rule if segment.optimizer_state == "inherit" else segment.optimizer_state
            if stop > start:
                moved.append(replace(segment, start=start, stop=stop, optimizer_state=rule))
                rule = "inherit"
        averaged = {max(round(step * scale), 1) for step in self.averaged_at}
        return replace(self, segments=tuple(moved), averaged_at=tuple(sorted(averaged)))

    def as_callback(self, stop: bool = False) -> Any:
        """Return a Keras callback that changes the hyperparameters of a plain `fit` like this.

        Args:
            stop: Whether `fit` ends with the schedule's last gradient step. Defaults to False.

        Raises:
            ArgumentError: If the schedule does not say what its hyperparameters control, if one
                changes on the way that no running model can change (an activation, a batch size),
                or if the strategy scaled the loss (`PopDescent.reference()`).
        """
        return CALLBACKS["schedule"](self, stop=stop)

    def path(self, name: str) -> list[tuple[int, Value]]:
        """Return (gradient step, value) at each start of a segment and at the end."""
        points = [(segment.start, segment.values[name]) for segment in self.segments]
        return [*points, *((s.stop, s.values[name]) for s in self.segments[-1:])]

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each segment, values flat beside start and stop."""
        return [
            {
                "start": s.start,
                "stop": s.stop,
                "member_id": s.member_id,
                "rate_factor": s.rate_factor,
                **s.values,
            }
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
        data = {
            "segments": [asdict(segment) for segment in self.segments],
            "fixed_names": list(self.fixed_names),
            "ema_momentum": self.ema_momentum,
            "averaged_at": list(self.averaged_at),
        }
        Path(path).write_text(json.dumps(data, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a schedule that `save` wrote."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        segments = tuple(Segment(**segment) for segment in data["segments"])
        return cls(
            segments,
            tuple(data.get("fixed_names", ())),
            data.get("ema_momentum"),
            tuple(data.get("averaged_at", ())),
        )


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
