"""A member's callbacks where the user's code trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import keras

from keras_popdescent.callbacks.members import fresh_callback
from keras_popdescent.callbacks.tensorboard import own_summaries
from keras_popdescent.population.member import Member

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial


class Life:
    """One member's copies of the user's callbacks: `on_train_begin` and `on_train_end` once."""

    def __init__(self) -> None:
        self.callbacks: list[keras.callbacks.Callback] = []
        self._ends: list[Callable[..., Any]] = []
        self.begun = False

    def begin(self, given: Sequence[Any], trial: Trial) -> None:
        """Copy the callbacks, before the first call.

        Args:
            given: Callbacks, or functions that return one.
            trial: The member's trial.
        """
        self.begun = True
        member = Member(0, 0, dict(trial.hyperparameters.values))
        self.callbacks = [fresh_callback(callback, member) for callback in given]
        self._ends = [callback.on_train_end for callback in self.callbacks]
        for callback in self.callbacks:
            # An attribute of the copy: its class, which others may look at, stays what it is.
            callback.on_train_end = _nothing

    def turn(self) -> AbstractContextManager[None]:
        """Return a block for a call: what callbacks change for all is in force within it only."""
        return own_summaries(self.callbacks)

    def went_on(self) -> None:
        """A call is over: the next one does not begin the training anew."""
        for callback in self.callbacks:
            callback.on_train_begin = _nothing

    def end(self) -> None:
        """End the training."""
        with self.turn():
            for callback, end in zip(self.callbacks, self._ends, strict=True):
                if callback.model is not None:
                    end({})


def _nothing(logs: Mapping[str, Any] | None = None) -> None:
    """What a callback does where its training only goes on."""
