"""Who is told what happens in a search: displays, callbacks, trials, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_popdescent.history import IterationRecord
from keras_popdescent.population.member import Member

if TYPE_CHECKING:
    from keras_popdescent.population.loop import Loop


class Observer:
    """Is told what happens in a search; override what is of interest."""

    def search_begin(self, loop: Loop) -> None:
        """The first members exist."""

    def births(self, members: Sequence[Member]) -> None:
        """Members were born."""

    def deaths(self, members: Sequence[Member]) -> None:
        """Members are about to be replaced; they are still there."""

    def iteration_end(self, record: IterationRecord) -> None:
        """An iteration was recorded, with the births that follow from it."""

    def search_end(self, loop: Loop) -> None:
        """The search is over, also where it was interrupted."""
