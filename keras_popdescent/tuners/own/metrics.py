"""What the user's code reports, as metrics by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_popdescent.errors import ResultError, describe

if TYPE_CHECKING:
    from keras_tuner.engine.trial import Trial


@contextmanager
def reported_apart(trial: Trial) -> Iterator[Any]:
    """Within the block, what is reported for a trial stays apart from what it has reported before.

    Args:
        trial: The trial.

    Yields:
        What is reported.
    """
    before = trial.metrics
    trial.metrics = type(before)()
    try:
        yield trial.metrics
    finally:
        trial.metrics = before


def metrics_of(results: Any, objective: str, where: str) -> dict[str, float]:
    """Return what overridden training reports, by name.

    Args:
        results: A float: the objective; a dict of metrics; a `History`, of which the last epoch
            counts, since its weights are those that go on; or a list of these, which is averaged.
        objective: Name of the objective.
        where: What returned them, for messages.

    Raises:
        ResultError: For anything else.
    """
    if isinstance(results, list) and results:
        rows = [metrics_of(result, objective, where) for result in results]
        common = [name for name in rows[0] if all(name in row for row in rows)]
        return {name: float(np.mean([row[name] for row in rows])) for name in common}
    if isinstance(results, int | float | np.number) or np.ndim(results) == 0 and hasattr(
        results, "__float__"
    ):  # fmt: skip
        return {objective: float(results)}
    if isinstance(results, keras.callbacks.History):
        results = {name: values[-1] for name, values in results.history.items() if values}
    if isinstance(results, Mapping):
        return {name: float(value) for name, value in results.items() if np.ndim(value) == 0}
    hint = "Did you forget to return the metrics?" if results is None else ""
    raise ResultError(
        describe(
            f"The return value of {where} cannot be a score.",
            f"Expected the return value of {where} to be one of float, dict, "
            "keras.callbacks.History, or a list of one of these types.",
            hint,
            returned=results,
        )
    )
