"""Every use of a private API of KerasTuner, in one place.

`tests/tuners/test_keras_tuner_internals.py` fails when one of them changes. Beside these, two
private methods are what users of KerasTuner override, so they are met where they are called:
`Tuner._build_and_fit_model` (`own/calls.py`) and `Tuner._build_hypermodel` (`base.py`).
"""

from __future__ import annotations

import os
from functools import partial

import keras_tuner
from keras_tuner.engine.trial import Trial

from keras_popdescent.tuners.resume import tolerant


class TolerantOracle(keras_tuner.Oracle):
    """An oracle whose search goes on where the disk does not take its files.

    KerasTuner writes a trial's file within `update_trial` and `end_trial`, and what an error would
    leave undone there nobody could make up for: so the writing itself is overridden.
    """

    def save(self) -> None:
        """Write the oracle's file; a disk that is full does not end the search."""
        tolerant(super().save, "the oracle's file")

    def _save_trial(self, trial: Trial) -> None:
        tolerant(partial(super()._save_trial, trial), "the files of trials")


def begin_trial(oracle: keras_tuner.Oracle, trial: Trial) -> None:
    """Write a new trial's file, and tell the display, as `create_trial` does.

    `create_trial` itself would take the number of trials for an id, which is another one's where
    trials are missing that come back later.
    """
    oracle._save_trial(trial)
    oracle.save()
    # Without it the display fails at the trial's end, where somebody has turned it on.
    oracle._display.on_trial_begin(trial)


def project_of(oracle: keras_tuner.Oracle) -> str:
    """Return an oracle's project directory: its public `directory` is never set."""
    return os.path.join(str(oracle._directory), oracle._project_name)


def declare_space(tuner: keras_tuner.Tuner) -> None:
    """Build the hypermodel to fill the search space, as a tuner does that finds no project."""
    tuner._populate_initial_space()
