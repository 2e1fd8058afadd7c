"""What is built above the population, by name: executors and the progress display.

The modules above register themselves here, so that the population need not import them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.population.executor import Executor
from keras_popdescent.population.observer import Observer

# name of an executor -> what makes one
EXECUTORS: dict[str, Callable[[], Executor]] = {}
# name of an executor -> why `"auto"` chooses it here; None where it does not
CHOSEN: dict[str, Callable[[], str | None]] = {}
# name of a display -> what makes one, from `verbose`
DISPLAYS: dict[str, Callable[[int | str], Observer | None]] = {}


def make_executor(executor: str | Executor) -> tuple[Executor, str]:
    """Return an executor, and a sentence that says which one and why.

    Args:
        executor: `"auto"`, the name of a registered executor, or an executor.

    Raises:
        ArgumentError: If there is no executor of that name.
    """
    check_executor(executor)
    if isinstance(executor, Executor):
        return executor, f"{type(executor).__name__} executor, as given"
    if executor == "auto":
        for name, why in CHOSEN.items():
            reason = why()
            if reason is not None:
                return EXECUTORS[name](), reason
        return EXECUTORS["sequential"](), (
            "sequential executor: members take turns in one compiled model"
        )
    return EXECUTORS[executor](), f"{executor} executor, as asked for"


def check_executor(executor: Any) -> None:
    """Refuse what is no executor and names none.

    Args:
        executor: `"auto"`, the name of a registered executor, or an executor.

    Raises:
        ArgumentError: Listing the names.
    """
    if isinstance(executor, Executor):
        return
    if not isinstance(executor, str) or executor not in ("auto", *EXECUTORS):
        raise ArgumentError(
            describe(
                "There is no such executor.",
                f"Expected 'auto' or one of: {', '.join(sorted(EXECUTORS))}.",
                executor=executor,
            )
        )


def make_display(verbose: int | str) -> list[Observer]:
    """Return the progress display for `verbose`: none for 0, one that suits the output else."""
    display = DISPLAYS["progress"](verbose) if "progress" in DISPLAYS else None
    return [] if display is None else [display]
