"""The oracle of a population: it hands out the trials that the population asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from keras_tuner.engine.trial import Trial

from keras_popdescent.arguments import check_seed
from keras_popdescent.operators.fitness import cost
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners._keras_tuner_internals import (
    TolerantOracle,
    begin_trial,
    project_of,
)
from keras_popdescent.tuners.arguments import check_objective_form
from keras_popdescent.tuners.resume import number_of, reload_trials

# What trials are sorted by: score, step, number.
Rank = tuple[float, int, int]


class PopulationOracle(TolerantOracle):
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
        # Ids that no new trial may have, beside those of `trials`.
        self.taken: Iterable[str] = ()

    def birth(self, key: str, values: Values) -> Trial:
        """Return a new trial for a member.

        Args:
            key: Any name that no living member has.
            values: The member's hyperparameter values and its origin.
        """
        numbers = {number_of(id_) for id_ in (*self.trials, *self.taken)}
        free = next(number for number in itertools.count() if number not in numbers)
        hyperparameters = self.get_space()
        hyperparameters.values = dict(values)
        hyperparameters.ensure_active_values()
        trial = Trial(hyperparameters, f"{free:0{len(str(self.max_trials))}d}")
        self.trials[trial.trial_id] = self.ongoing_trials[key] = trial
        self.start_order.append(trial.trial_id)
        begin_trial(self, trial)
        return trial

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """Return the best trials, the best first; of equal ones, the first to be so good."""
        best = super().get_best_trials(len(self.trials))
        return sorted(best, key=self.rank)[:num_trials]

    def rank(self, trial: Trial, score: float | None = None) -> Rank:
        """Return what trials are sorted by: equal scores (of accuracies, say) are common.

        Args:
            trial: The trial.
            score: Its score, where it has not ended; None for the trial's own.
        """
        score = trial.score if score is None else score
        # Where there are too few good ones, KerasTuner adds those without a score.
        good = cost(score, self.objective.direction)
        return good, trial.best_step or 0, number_of(trial.trial_id)

    def reload(self) -> None:
        """Read the trials of the project; the search space is the hypermodel's, not the project's.

        Files that cannot be read are left out, with a warning: a search that goes on tells them
        anew.
        """
        reload_trials(self, project_of(self))
