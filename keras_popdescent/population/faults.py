"""Faults that come from outside: a build function that raises, a device without memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from keras_popdescent.errors import ModelError, OutOfMemoryError, PopDescentError, describe
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.space import Values

_MEGABYTE = 1_000_000


class BuildWatch:
    """Lets a build function that raises for certain values cost one member, not the search.

    Args:
        limit: So many members in a row that cannot be built end the search; None for no end.
    """

    def __init__(self, limit: int | None = 3) -> None:
        self.limit = limit
        # Members in a row that could not be built, up to now.
        self.failures = 0

    def start(self, executor: Executor, setup: Setup, rng: np.random.Generator) -> None:
        """Start an executor; first members that cannot be built get other values of the space.

        Raises:
            ModelError: If too many in a row cannot be built.
        """
        while True:
            try:
                executor.start(setup)
                return
            except PopDescentError:
                raise
            except Exception as error:
                if not self._draw_again(setup, rng):
                    # The models can be built: it is something else.
                    raise error

    def _draw_again(self, setup: Setup, rng: np.random.Generator) -> bool:
        found = False
        values = list(setup.values)
        for slot in range(len(values)):
            while (error := self._fails(setup, values[slot])) is not None:
                found = True
                self._count(values[slot], error)
                values[slot] = setup.blueprint.complete(
                    {**values[slot], **setup.blueprint.space.initial(rng)}
                )
            self.failures = 0
        setup.values = values
        return found

    @staticmethod
    def _fails(setup: Setup, values: Values) -> Exception | None:
        try:
            setup.blueprint.build_seeded(values, 0)
        except PopDescentError:
            raise
        except Exception as error:
            return error
        return None

    def offspring(
        self, executor: Executor, offspring: Sequence[Offspring], parents: Sequence[Values]
    ) -> list[Offspring]:
        """Return the offspring; a child that cannot be built has its parent's values.

        Args:
            executor: Builds what the children need.
            offspring: The children.
            parents: The members' values by slot.

        Raises:
            ModelError: If too many in a row cannot be built.
        """
        able = []
        for child in offspring:
            try:
                executor.prepare(child.values)
                self.failures = 0
            except PopDescentError:
                raise
            except Exception as error:
                if is_out_of_memory(error):
                    # A new model is tried out, too.
                    raise
                self._count(child.values, error)
                child = replace(child, values=dict(parents[child.parents[0]]))
            if not executor.can_inherit(child):
                _warn_of_shapes(child, parents[child.parents[0]])
                child = replace(child, values=dict(parents[child.parents[0]]))
            able.append(child)
        return able

    def _count(self, values: Values, error: Exception) -> None:
        self.failures += 1
        if self.limit is not None and self.failures >= self.limit:
            raise ModelError(
                describe(
                    f"The build function raised for {self.failures} members in a row; the last "
                    f"time {type(error).__name__}: {str(error)[:300]}",
                    fix="Narrow the search space, or mend the build function.",
                    hyperparameters=dict(values),
                )
            ) from error
        warnings.warn(
            f"The build function raised {type(error).__name__} for {dict(values)}; "
            f"the member gets other values: {str(error)[:200]}",
            stacklevel=2,
        )


def _warn_of_shapes(child: Offspring, parent: Values) -> None:
    names = sorted(name for name, value in child.values.items() if parent.get(name) != value)
    listed = ", ".join(f"`{name}`" for name in names)
    warnings.warn(
        f"One of {listed} decides shapes of weights beside other values than the defaults; the "
        "child, which inherits its parent's weights, keeps its parent's values. Declare it "
        'structural: `bindings={"name": "structural"}`.',
        stacklevel=2,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any backend says that a device's memory is used up."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        isinstance(error, MemoryError)
        or bool(names & {"ResourceExhaustedError", "OutOfMemoryError"})
        or "RESOURCE_EXHAUSTED" in str(error)
    )


def out_of_memory(executor: Executor, size: int, num_kept: int) -> OutOfMemoryError:
    """Return an error that says what a population needs, and what to change."""
    states = [executor.capture(slot).num_bytes() for slot in range(size)]
    state, kept = max(states, default=0) / _MEGABYTE, num_kept
    # What an interrupt would put back.
    times, twice = (
        (2, " twice, as they are and as they were") if executor.interruptible else (1, "")
    )
    whole = times * sum(states) / _MEGABYTE + kept * state
    return OutOfMemoryError(
        describe(
            f"The device has no memory left. {size} members of {state:.3g} MB (weights, optimizer "
            f"state){twice} and {kept} that are kept as the best are {whole:.3g} MB, besides the "
            "models, the data and what a step needs.",
            "Nothing was made smaller, and what was trained is still there.",
            "Take a smaller population, a smaller batch size, an optimizer with fewer slots, or "
            "`keras.config.set_dtype_policy('mixed_float16')`.",
            population_size=size,
        )
    )
