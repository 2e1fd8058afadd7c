"""Hyperparameters that `build` declares only under other values than the defaults.

`for i in range(hp.Int("layers", 1, 3)): hp.Int(f"units_{i}", ...)` declares `units_1` and `units_2`
only where there are so many layers. RandomSearch meets them by and by; a population has to know its
search space before the first member is born.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras_tuner

from keras_popdescent.hyperparameters.space import fixed_values, tunable
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.space import Values

# New hyperparameters may declare newer ones; nobody nests deeper.
MAX_ROUNDS = 4
# A choice of more values is tried at some of them.
MAX_CHOICES = 50


def explore(
    build: Callable[[keras_tuner.HyperParameters], Any], oracle: keras_tuner.Oracle
) -> dict[str, Values]:
    """Find what is declared under other values, and tell the oracle.

    Each integer is tried at its ends, each choice at all its values (of more than 50, at three of
    them), alone. What is declared within
    a `conditional_scope` KerasTuner has found already.

    Args:
        build: The hypermodel's `build`.
        oracle: Its space grows by what is found.

    Returns:
        By hyperparameter that is not declared under the defaults: values under which it is.
    """
    contexts: dict[str, Values] = {}
    at_default = _declared(build, oracle, _defaults(oracle))
    if at_default is None:
        return {}
    tried: set[str] = set()
    for _ in range(MAX_ROUNDS):
        dimensions = [d for d in tunable(oracle.get_space()) if d.name not in tried]
        for dimension in dimensions:
            tried.add(dimension.name)
            hp = dimension.hyperparameter
            if isinstance(hp, keras_tuner.engine.hyperparameters.Float):
                continue
            opened = contexts.get(dimension.name, {})
            choice = isinstance(hp, keras_tuner.engine.hyperparameters.Choice)
            for value in dimension.probes(MAX_CHOICES) if choice else dimension.probes():
                moved = {**opened, dimension.name: value}
                found = _declared(build, oracle, {**_defaults(oracle), **moved}) or set()
                for name in found - at_default:
                    contexts.setdefault(name, moved)
        if not dimensions:
            break
    return {name: values for name, values in contexts.items() if not _conditional(oracle, name)}


def _defaults(oracle: keras_tuner.Oracle) -> Values:
    space = oracle.get_space()
    return {**fixed_values(space), **{d.name: d.default for d in tunable(space)}}


def _declared(
    build: Callable[[keras_tuner.HyperParameters], Any],
    oracle: keras_tuner.Oracle,
    values: Values,
) -> set[str] | None:
    """Return what `build` declares under some values, None where it does not say."""
    hp = keras_tuner.HyperParameters()
    hp.values = dict(values)
    try:
        with borrowed_globals(0):
            build(hp)
    except Exception:
        # A space that is declared elsewhere (`hp.get`), or values that cannot be built.
        return None
    if oracle.tune_new_entries:
        oracle.update_space(hp)
    return {parameter.name for parameter in hp.space}


def _conditional(oracle: keras_tuner.Oracle, name: str) -> bool:
    return any(p.name == name and p.conditions for p in oracle.get_space().space)
