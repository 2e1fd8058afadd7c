"""How often the user's code is called, and for how long."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras_tuner

from keras_popdescent.arguments import check_whole
from keras_popdescent.population.budget import MIN_ITERATIONS, Budget, plan_budget

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner


# RandomSearch makes so many calls where nobody says how many.
DEFAULT_CALLS = 10


def overridden(tuner: PopulationTuner, base: type) -> Callable[..., Any] | None:
    """Return the training method that is the user's own, None where there is none.

    Args:
        tuner: The tuner.
        base: The class whose own methods are not the user's.
    """
    if type(tuner).run_trial is not base.run_trial:  # type: ignore[attr-defined]
        return tuner.run_trial
    if type(tuner)._build_and_fit_model is not keras_tuner.Tuner._build_and_fit_model:
        own: Callable[..., Any] = tuner._build_and_fit_model
        return own
    hypermodel = tuner.hypermodel
    if hypermodel is not None and type(hypermodel).fit is not keras_tuner.HyperModel.fit:
        fit: Callable[..., Any] = hypermodel.fit
        return fit
    return None


@dataclass(frozen=True)
class Calls:
    """How often the user's code is called for each slot, and with which epochs.

    Attributes:
        iterations: Calls for each slot.
        epochs: Epochs of all calls together, None where `search` was called without.
        epochs_per_call: Epochs of each call but the last, which has what is left.
        initial_epoch: The first epoch's number.
        resumes: Whether the code takes an `initial_epoch`, so that epochs go on counting.
    """

    iterations: int
    epochs: int | None = None
    epochs_per_call: int = 1
    initial_epoch: int = 0
    resumes: bool = True

    def arguments(self, call: int) -> dict[str, int]:
        """Return the arguments of `fit` that say how long the call, counted from 0, trains."""
        if self.epochs is None:
            return {}
        begin = self.initial_epoch + call * self.epochs_per_call
        end = min(begin + self.epochs_per_call, self.initial_epoch + self.epochs)
        return {"epochs": end, "initial_epoch": begin} if self.resumes else {"epochs": end - begin}

    def budget(self, max_time: float | None = None) -> Budget:
        """Return what the loop is told: one batch stands for one call.

        Args:
            max_time: Seconds after which no call begins.
        """
        note = "your own training is called once a member and iteration"
        if self.epochs is not None:
            note += f", for {self.epochs_per_call} epoch{'s' * (self.epochs_per_call > 1)}"
        planned = plan_budget(
            epochs=None,
            steps_per_epoch=None,
            iterations=self.iterations,
            batches_per_iteration=1,
            max_time=max_time,
        )
        return replace(planned, note=note)


def plan_calls(
    code: Callable[..., Any],
    fit_kwargs: Mapping[str, Any],
    *,
    iterations: int | None,
    population_size: int,
    max_trials: int | None,
) -> Calls:
    """Return how often the user's code is called.

    With `epochs` (in `search`, by name): each slot trains for so long, in at most about 20 calls,
    or in `iterations`. Without: `iterations` calls for each slot, or, where that is not given
    either, in all as many calls as RandomSearch would make for `max_trials` (10 by default).

    Args:
        code: The overridden method; its signature says whether it takes an `initial_epoch`.
        fit_kwargs: The arguments of `search` that were given by name.
        iterations: Number of iterations, None for what follows from the rest.
        population_size: Number of members.
        max_trials: The tuner's.
    """
    epochs = fit_kwargs.get("epochs")
    if epochs is None:
        calls = DEFAULT_CALLS if max_trials is None else max_trials
        return Calls(iterations or max(1, round(calls / population_size)))
    check_whole("epochs", epochs)
    check_whole("initial_epoch", fit_kwargs.get("initial_epoch"), least=0)
    first = int(fit_kwargs.get("initial_epoch") or 0)
    total = int(epochs) - first
    each = max(1, math.ceil(total / (iterations or MIN_ITERATIONS)))
    parameters = inspect.signature(code).parameters.values()
    resumes = any(p.kind is p.VAR_KEYWORD or p.name == "initial_epoch" for p in parameters)
    return Calls(math.ceil(total / each), total, each, first, resumes)
