"""A suite that every binding passes: the value acts as a number built in, and nothing is retraced.

For a binding of one's own:

    CASES = [BindingCase("my_scale", build, MyBinding, (1.0, 3.0), (x, y))]

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    class TestMyBinding(BindingConformance):
        pass
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import Batch
from keras_popdescent.hyperparameters import Binding
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies.space import SearchSpace, Values

Weights = list[np.ndarray[Any, Any]]


@dataclass(frozen=True, eq=False)
class BindingCase:
    """A binding and the models that it is tried on.

    Attributes:
        name: Says which case failed.
        build: Returns a new, built and compiled model with a given number where the binding acts.
            Its random layers have fixed seeds.
        make_binding: Returns a new binding.
        values: Two numbers that lead to different weights; models are made live with the first.
        batch: What a train step takes, see `keras_popdescent.data.Batch`.
        num_steps: Train steps after which weights are compared.
        tolerance: Largest difference, relative or absolute, between weights that count as equal.
        kept: Whether `detach` leaves the current value in the model; False where plain Keras has
            no place for it, so that the model is as its author built it.
        eager: Whether the models with a number built in run eagerly, on TensorFlow, which saves
            their traces; half precision rounds differently so.
        saved: Whether the model can be saved and loaded; False for one with objects that Keras
            cannot serialize.
    """

    name: str
    build: Callable[[float], keras.Model]
    make_binding: Callable[[], Binding]
    values: tuple[float, float]
    batch: Batch
    num_steps: int = 3
    tolerance: float = 1e-6
    kept: bool = True
    eager: bool = True
    saved: bool = True

    def weights(self) -> Weights:
        """Return the weights that all models of the case start with."""
        return _initial_weights(self)

    def plain(self, value: float) -> keras.Model:
        """Return a model with a number built in, at the weights that all models start with."""
        model = self.build(value)
        model.set_weights(self.weights())
        return model

    def live(self) -> tuple[keras.Model, Binding]:
        """Return a model at the same weights with the first value made live, and its binding."""
        live = LiveModel(_CaseBlueprint(self), {}, 0, self.batch)
        return live.model, live.bindings[self.name]

    def train(self, model: keras.Model, eagerly: bool = False) -> Weights:
        """Train for a few steps, and return the trainable weights."""
        if eagerly and self.eager and keras.backend.backend() == "tensorflow":
            model.run_eagerly = True
        for _ in range(self.num_steps):
            model.train_on_batch(*self.batch)
        return _trainable(model)


class _CaseBlueprint(Blueprint):
    """Builds the case's live models as a search does."""

    def __init__(self, case: BindingCase) -> None:
        self.space = SearchSpace()
        self._case = case

    def build(self, values: Values) -> keras.Model:
        return self._case.plain(self._case.values[0])

    def bindings(self, values: Values) -> dict[str, Binding]:
        return {self._case.name: self._case.make_binding()}


class TraceCount:
    """Counts how often a model's train step is traced, or, in a model that runs eagerly, called.

    Args:
        model: A model that was not trained yet.

    Attributes:
        count: Traces so far.
    """

    def __init__(self, model: keras.Model) -> None:
        self.count = 0
        self._step = model.train_step
        model.train_step = self._counted

    def _counted(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._step(*args, **kwargs)


@dataclass(frozen=True)
class _Outcome:
    """What a live model did under the two values, and plain models with the numbers built in."""

    live: tuple[Weights, Weights]
    plain: tuple[Weights, Weights]
    traces: tuple[int, int]


class BindingConformance:
    """Laws that every binding keeps; parametrize a subclass over `case`."""

    def test_attach_keeps_the_number(self, case: BindingCase) -> None:
        """A model that has just been made live trains with the number that its author gave it."""
        _, binding = case.live()
        np.testing.assert_allclose(binding.read(), case.values[0], rtol=1e-6)

    def test_read_returns_what_was_written(self, case: BindingCase) -> None:
        """`read` is what the train step uses, in float32."""
        _, binding = case.live()
        for value in (case.values[1], case.values[0]):
            binding.write(value)
            np.testing.assert_allclose(binding.read(), value, rtol=1e-6)

    def test_the_values_lead_to_different_weights(self, case: BindingCase) -> None:
        """Else the other tests say nothing."""
        outcome = _outcome(case)
        differences = [
            float(np.max(np.abs(first - second))) if first.size else 0.0
            for first, second in zip(*outcome.plain, strict=True)
        ]
        assert max(differences) > 100.0 * case.tolerance

    def test_a_live_step_equals_that_of_a_model_built_with_the_number(
        self, case: BindingCase
    ) -> None:
        """For both values, the second written after the step was traced under the first."""
        outcome = _outcome(case)
        for live, plain in zip(outcome.live, outcome.plain, strict=True):
            _assert_equal(live, plain, case.tolerance)

    def test_writing_does_not_retrace(self, case: BindingCase) -> None:
        """The step that was traced under the first value serves the second.

        PyTorch traces nothing: there every step is a call.
        """
        before, after = _outcome(case).traces
        assert before > 0
        assert after == (2 * before if keras.backend.backend() == "torch" else before)

    def test_detach_leaves_a_plain_model(self, case: BindingCase) -> None:
        """The current value as a number, no variable too many, and it can be saved and loaded."""
        model, binding = case.live()
        binding.write(case.values[1])
        binding.detach(model)
        plain = case.plain(case.values[1 if case.kept else 0])
        plain.optimizer.build(plain.trainable_variables)
        _assert_no_scalar_left(model.weights, plain.weights)
        _assert_no_scalar_left(model.optimizer.variables, plain.optimizer.variables)
        if case.saved:
            model = _saved_and_loaded(model)
        _assert_equal(case.train(model, True), case.train(plain, True), case.tolerance)


@functools.cache
def _initial_weights(case: BindingCase) -> Weights:
    return list(case.build(case.values[0]).get_weights())


@functools.cache
def _outcome(case: BindingCase) -> _Outcome:
    model, binding = case.live()
    variables = [*model.variables, *model.optimizer.variables]
    start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    traces = TraceCount(model)
    counts: list[int] = []
    weights: list[Weights] = []
    for value in case.values:
        for variable, number in zip(variables, start, strict=True):
            variable.assign(number)
        binding.write(value)
        weights.append(case.train(model))
        counts.append(traces.count)
    first, second = (case.train(case.plain(value), True) for value in case.values)
    return _Outcome((weights[0], weights[1]), (first, second), (counts[0], counts[1]))


def _trainable(model: keras.Model) -> Weights:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]


def _assert_equal(first: Weights, second: Weights, tolerance: float) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def _assert_no_scalar_left(left: list[keras.Variable], plain: list[keras.Variable]) -> None:
    """A momentum that has come to 0 may leave its slots; what was added for it is gone."""
    has, needs = _shapes(left), _shapes(plain)
    assert not needs - has
    assert () not in has - needs


def _shapes(variables: list[keras.Variable]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(variable.shape) for variable in variables)


def _saved_and_loaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)
