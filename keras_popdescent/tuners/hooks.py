"""The hooks that a subclass of a tuner may override: `on_epoch_end` and its siblings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial

    from keras_popdescent.tuners.base import PopulationTuner

_EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end")


class _EpochHooks(keras.callbacks.Callback):
    """Calls a tuner's hooks for the epochs of one trial."""

    def __init__(self, tuner: PopulationTuner, trial: Trial) -> None:
        super().__init__()
        self._tuner = tuner
        self._trial = trial

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tuner.on_epoch_begin(self._trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tuner.on_epoch_end(self._trial, self.model, epoch, logs=logs)


class _BatchHooks(_EpochHooks):
    """Calls a tuner's hooks for the batches too, which makes steps run one by one."""

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tuner.on_batch_begin(self._trial, self.model, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tuner.on_batch_end(self._trial, self.model, batch, logs)


def tuner_hooks(
    tuner: PopulationTuner, trial_of: Callable[[Any], Trial]
) -> list[Callable[[Any], keras.callbacks.Callback]]:
    """Return what makes a callback for the tuner's overridden hooks, nothing where none is.

    Args:
        tuner: The tuner.
        trial_of: Returns the trial of a member.
    """
    if _overrides(tuner, _BATCH_HOOKS):
        return [lambda member: _BatchHooks(tuner, trial_of(member))]
    if _overrides(tuner, _EPOCH_HOOKS):
        return [lambda member: _EpochHooks(tuner, trial_of(member))]
    return []


def _overrides(tuner: PopulationTuner, names: tuple[str, ...]) -> bool:
    return any(getattr(type(tuner), n) is not getattr(keras_tuner.Tuner, n) for n in names)
