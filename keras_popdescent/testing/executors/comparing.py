"""How the laws of executors compare states, reports and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_popdescent.population.executor import Report
from keras_popdescent.population.state import MemberState

Arrays = list[np.ndarray[Any, Any]]


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as an array."""
    return np.array(keras.ops.convert_to_numpy(tensor))


def as_arrays(tensors: Sequence[Any]) -> Arrays:
    """Return tensors as arrays."""
    return [as_array(tensor) for tensor in tensors]


def own_weights(state: MemberState) -> Arrays:
    """Return the weights that a plain model has too."""
    return as_arrays(state.weights[: state.num_plain[0]])


def optimizer_slots(state: MemberState) -> Arrays:
    """Return the optimizer's variables that a plain model has too; the first is its counter."""
    return as_arrays(state.optimizer[: state.num_plain[1]])


def dropout_seeds(state: MemberState) -> np.ndarray[Any, Any]:
    """Return the state of the dropout layer's generator."""
    (seeds,) = (a for a in as_arrays(state.weights[state.num_plain[0] :]) if a.shape == (2,))
    return seeds


def assert_close(first: Arrays, second: Arrays, tolerance: float) -> None:
    """See that arrays are as many, and close in pairs, absolutely or relatively."""
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_same(first: MemberState, second: MemberState) -> None:
    """See that two states have the same weights and optimizer."""
    assert_close(as_arrays(first.weights), as_arrays(second.weights), 0.0)
    assert_close(as_arrays(first.optimizer), as_arrays(second.optimizer), 0.0)


def assert_close_numbers(
    first: Mapping[str, float], second: Mapping[str, float], tolerance: float
) -> None:
    """See that two members report the same, as far as rounding in sums allows."""
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=10.0 * tolerance, atol=tolerance)


def scores_of(reports: Sequence[Report]) -> list[float]:
    """Return the scores that members report."""
    return [report.score for report in reports]


def raised(kind: type[Exception], action: Any) -> str:
    """Return the message of the error that an action must raise."""
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"No {kind.__name__} was raised.")


def assert_storable(part: Any) -> None:
    """Nested dicts and lists whose leaves are arrays, or come back from JSON as they are."""
    if isinstance(part, dict):
        for name, value in part.items():
            assert isinstance(name, str), f"{name!r} is no JSON key"
            assert_storable(value)
    elif isinstance(part, list | tuple):
        for value in part:
            assert_storable(value)
    elif not isinstance(part, np.ndarray):
        assert json.loads(json.dumps(part)) == part
