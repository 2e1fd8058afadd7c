"""How a `Status` is shown: the base of all renderers, and plain lines.

A renderer that fails may raise; the observer catches it.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod

from keras_popdescent.callbacks.progress import text
from keras_popdescent.callbacks.progress.status import Row, Status

# Seconds between two pictures, and at most this share of the time spent on drawing them.
_INTERVAL = 0.25
_MAX_SHARE = 0.02
# Plain lines a search, besides the first, the last and the notes.
_NUM_LINES = 20


class Renderer(ABC):
    """Shows a search."""

    @abstractmethod
    def begin(self, status: Status) -> None:
        """Show the first members."""

    @abstractmethod
    def due(self, iteration: int) -> bool:
        """Whether to show the search after an iteration, counted from 1 in this run."""

    @abstractmethod
    def update(self, status: Status) -> None:
        """Show the search as it stands."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Show how the search ended."""

    def abandon(self) -> None:  # noqa: B027
        """Leave the output usable after a failure."""


class PlainRenderer(Renderer):
    """Prints some twenty lines a search."""

    def begin(self, status: Status) -> None:
        self._num = status.num_iterations - status.first_iteration
        self._every = max(1, math.ceil(self._num / _NUM_LINES))
        for line in (text.opening(status), *status.notes):
            self._print(line)

    def due(self, iteration: int) -> bool:
        return iteration in (1, self._num) or iteration % self._every == 0

    def update(self, status: Status) -> None:
        self._print(text.plain_line(status))

    def end(self, status: Status) -> None:
        self._print(text.summary(status))

    def _print(self, line: str) -> None:
        print(text.printable(line, getattr(sys.stdout, "encoding", None) or "utf-8"), flush=True)


class PictureRenderer(Renderer):
    """What is drawn over and over, at most every `_INTERVAL` seconds."""

    _next = 0.0

    def due(self, iteration: int) -> bool:
        return time.monotonic() >= self._next

    def update(self, status: Status) -> None:
        began = time.monotonic()
        self._draw(status)
        now = time.monotonic()
        self._next = now + max(_INTERVAL, (now - began) / _MAX_SHARE)

    @abstractmethod
    def _draw(self, status: Status) -> None:
        """Draw over the last picture."""


def cell_style(row: Row | None, header: str, status: Status) -> str:
    """Return a cell's style; what it says is also said by a mark or a sign."""
    if row is None or row.replaced_by:
        return "dim"
    if header == "change" and row.change:
        return "green" if (row.change < 0) == (status.direction == "min") else "red"
    return "bold" if row.best else ""
