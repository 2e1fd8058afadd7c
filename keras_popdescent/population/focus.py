"""The phase in which a copy of the best model trains alone: who it is, and whether it pays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FocusPhase:
    """Where a search stands with its strategy's `Focus`.

    Attributes:
        slot: Where the copy lives that trains alone; None before the phase and after it.
        member_id: The copy; None where it is still to be born.
        best: The best score ever, when it was looked at last.
        improved: The iteration in which that was found better, or in which the phase began.
        over: Whether the phase has been, and ended before the search.
    """

    slot: int | None = None
    member_id: int | None = None
    best: float | None = None
    improved: int = 0
    over: bool = False

    def begin(self, slot: int, iteration: int, best: float) -> None:
        """Begin after an iteration; the copy will live in a slot."""
        self.slot, self.improved, self.best = slot, iteration, best

    def look(self, iteration: int, best: float, patience: int | None) -> None:
        """Look after an iteration whether the best score ever is another; end if it was long ago.

        Args:
            iteration: The iteration's number.
            best: The best score ever.
            patience: See `Focus`.
        """
        if best != self.best:
            self.improved, self.best = iteration, best
        if patience is not None and iteration - self.improved >= patience:
            self.end()

    def end(self) -> None:
        """End before the search does."""
        self.slot, self.member_id, self.over = None, None, True
