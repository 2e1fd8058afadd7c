"""Checks and defaults that the library face, the callback and the tuners share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import keras

from keras_popdescent.arguments import check_type, check_whole
from keras_popdescent.data import SearchData
from keras_popdescent.errors import ArgumentError, DataError, describe
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.observer import Observer
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.plans import ScoringPlan
from keras_popdescent.strategies.space import Values


def weights_of(model: Any) -> list[Any] | None:
    """Return a model's weights; None where there are none yet, as of a function that builds one."""
    if isinstance(model, keras.Model) and model.built:
        return list(model.get_weights())
    return None


def check_strategy(strategy: Any) -> None:
    """Refuse what is no strategy; None passes.

    Raises:
        ArgumentError: Naming what came.
    """
    check_type("strategy", strategy, Strategy, "a `Strategy` such as `PopDescent()`")


def check_mutate(mutate: Any, strategy: Strategy) -> tuple[str, ...]:
    """Return the names of what is mutated, the usual ones for None; one name may stand alone.

    Raises:
        ArgumentError: If they are no names, or the strategy would not heed them.
    """
    if mutate is None:
        return ("learning_rate", "l2") if strategy.implicit else ()
    names = [mutate] if isinstance(mutate, str) else mutate
    if not isinstance(names, list | tuple | Set) or not all(isinstance(n, str) for n in names):
        raise ArgumentError(
            describe(
                "`mutate` must be a list of names.",
                "Expected 'learning_rate', 'l2', or paths that `find_handles` lists.",
                mutate=mutate,
            )
        )
    if names and not strategy.implicit:
        raise ArgumentError(
            describe(
                "The strategy does not mutate a model's own values.",
                "Expected no `mutate` beside it.",
                mutate=mutate,
                strategy=type(strategy).__name__,
            )
        )
    # A set's own order is another one in each process, and the seed would decide nothing.
    return tuple(sorted(names) if isinstance(names, Set) else names)


def check_initial(initial: Any) -> None:
    """Refuse initial values that are no dicts.

    Raises:
        ArgumentError: Naming what came.
    """
    if not isinstance(initial, list | tuple) or not all(isinstance(v, Mapping) for v in initial):
        raise ArgumentError(
            describe(
                "`initial_hyperparameters` must be a list of dicts.",
                "Expected a dict of values by name for each of the first members.",
                initial_hyperparameters=initial,
            )
        )


def check_initial_names(initial: Sequence[Values], known: Sequence[str]) -> None:
    """Refuse initial values of hyperparameters that are not there: they would have no effect.

    Args:
        initial: Values for each of the first members.
        known: The names that there are.

    Raises:
        ArgumentError: Naming those that are not.
    """
    unknown = sorted({str(name) for given in initial for name in given if name not in known})
    if unknown:
        raise ArgumentError(
            describe(
                "`initial_hyperparameters` names hyperparameters that are not in the search space.",
                f"It has: {', '.join(known) or 'nothing'}.",
                unknown=unknown,
            )
        )


def check_observers(observers: Any) -> None:
    """Refuse what is no list of observers.

    Raises:
        ArgumentError: Naming what came.
    """
    known = isinstance(observers, list | tuple)
    if not known or not all(isinstance(observer, Observer) for observer in observers):
        raise ArgumentError(
            describe(
                "`observers` must be a list of `Observer`s.",
                fix="Pass a list, `observers=[MyObserver()]` for example.",
                observers=observers,
            )
        )


def check_sizes(size: int, num_elites: int | None, name: str = "population_size") -> None:
    """Refuse sizes that cannot be.

    Args:
        size: The population size.
        num_elites: How many members stay untouched; None passes.
        name: What the size is called where it was given.

    Raises:
        ArgumentError: If `size` is below 1 or `num_elites` outside 0 ... size.
    """
    check_whole(name, size, none=False)
    check_whole("num_elites", num_elites, least=0)
    if num_elites is not None and num_elites > size:
        received: dict[str, Any] = {"num_elites": num_elites, name: size}
        raise ArgumentError(
            describe(
                f"`num_elites` is outside 0 ... {name}.",
                "It is how many members stay untouched in each iteration.",
                **received,
            )
        )


def default_elites(size: int) -> int:
    """Return three fifths of the population, rounded: the paper's 3 of 5."""
    return max(round(0.6 * size), 1)


def check_objective(objective: Objective, data: SearchData) -> None:
    """Refuse a validation objective without validation data.

    Raises:
        DataError: Saying what to pass.
    """
    if objective.needs_validation and data.validation is None:
        raise DataError(
            describe(
                f"The objective `{objective.name}` is measured on validation data, "
                "and there is none.",
                fix="Pass `validation_data=(x, y)` or, with arrays, `validation_split=0.2`.",
            )
        )


def scoring_plan(strategy: Strategy, validation_samples: int | None) -> ScoringPlan:
    """Return the strategy's scoring plan, with the user's sample size where one is given.

    Raises:
        ArgumentError: If the sample size is below 1.
    """
    if validation_samples is None:
        return strategy.scoring
    check_whole("validation_samples", validation_samples)
    sample = "common" if strategy.scoring.sample == "whole" else strategy.scoring.sample
    return ScoringPlan(sample, int(validation_samples))
