"""The oracle of a population: it hands out the trials that the population asks for."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_popdescent.arguments import check_seed
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners.arguments import check_objective_form
from keras_popdescent.tuners.resume import reload_trials, tolerant


class PopulationOracle(keras_tuner.Oracle):
    """Hands out the trials that a population asks for.

    Args:
        objective: As for any KerasTuner oracle; `"val_loss"` where None is given.
        max_trials: At most so many members are ever born; None for no limit.
        seed: Seed of the search; None for another one each time. 0 is a seed.
        **kwargs: Arguments of `keras_tuner.Oracle`.
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_objective_form(objective)
        check_seed(seed)
        super().__init__(
            objective="val_loss" if objective is None else objective,
            max_trials=max_trials,
            # For None and 0 KerasTuner would draw one from Python's global generator.
            seed=1,
            **kwargs,
        )
        self.seed = seed
        self._next_values: Values = {}

    def birth(self, key: str, values: Values) -> Trial:
        """Return a new trial for a member.

        Args:
            key: Any name that no living member has.
            values: The member's hyperparameter values and its origin.
        """
        self._next_values = dict(values)
        return self.create_trial(key)

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """Return the best trials, the best first; of equal ones, the first to be so good."""
        best = super().get_best_trials(len(self.trials))
        return sorted(best, key=self.rank)[:num_trials]

    def rank(self, trial: Trial) -> tuple[float, int, str]:
        """Return what trials are sorted by: equal scores (of accuracies, say) are common."""
        sign = 1.0 if self.objective.direction == "min" else -1.0
        # Where there are too few good ones, KerasTuner adds those without a score.
        score = math.inf if trial.score is None else sign * trial.score
        return score, trial.best_step or 0, trial.trial_id

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Give the new trial the values of the member that is being born."""
        return {"status": TrialStatus.RUNNING, "values": self._next_values}

    def reload(self) -> None:
        """Read the trials of the project; the search space is the hypermodel's, not the project's.

        Files that cannot be read are left out, with a warning: a search that goes on tells them
        anew.
        """
        reload_trials(self, os.path.join(str(self._directory), self._project_name))

    def save(self) -> None:
        """Write the oracle's file; a disk that is full does not end the search."""
        tolerant(super().save, "the oracle's file")

    def _save_trial(self, trial: Trial) -> None:
        tolerant(partial(super()._save_trial, trial), "the files of trials")
