"""One call of the user's code: models that it builds start with the member's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

from keras_popdescent.tuners.own.state import OwnState, fill

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner


class Segment:
    """One call of the user's code: what the models that it builds start with.

    Args:
        state: The state of the member, or of its parent.
        models: The models that the member's last call has left, which go on as they are, so that
            Keras need not trace them again.
    """

    def __init__(self, state: OwnState, models: Sequence[keras.Model] = ()) -> None:
        self._states = (*state.models, state) if state.weights else ()
        self._left = list(models)
        self.models: list[keras.Model] = []

    def reuse(self) -> keras.Model | None:
        """Return the model that goes on, None where one has to be built."""
        if len(self.models) >= len(self._left):
            return None
        self.models.append(self._left[len(self.models)])
        return self.models[-1]

    def take(self, model: Any) -> None:
        """Give a model that was just built the weights of its predecessor."""
        if not isinstance(model, keras.Model):
            return
        if not any(model is known for known in self.models):
            self.models.append(model)
        position = next(i for i, known in enumerate(self.models) if model is known)
        if position < len(self._states):
            fill(model, self._states[position])


class InheritingHyperModel(keras_tuner.HyperModel):
    """The user's hypermodel during a call: what it builds has the member's weights.

    Args:
        hypermodel: The user's.
        segment: The call.
    """

    def __init__(self, hypermodel: keras_tuner.HyperModel, segment: Segment) -> None:
        self._hypermodel = hypermodel
        self._segment = segment

    def build(self, hp: keras_tuner.HyperParameters) -> Any:
        """Build as the user's hypermodel does, and hand over the weights."""
        model = self._segment.reuse()
        if model is None:
            model = self._hypermodel.build(hp)
            self._segment.take(model)
        return model

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> Any:
        return self._hypermodel.declare_hyperparameters(hp)

    def fit(self, hp: keras_tuner.HyperParameters, model: Any, *args: Any, **kwargs: Any) -> Any:
        return self._hypermodel.fit(hp, model, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hypermodel, name)


@contextmanager
def inheriting(tuner: PopulationTuner, segment: Segment) -> Iterator[None]:
    """Within the block, models that are built through the tuner start with the member's weights."""
    hypermodel = tuner.hypermodel
    if hypermodel is not None:
        tuner.hypermodel = InheritingHyperModel(hypermodel, segment)
    tuner.segment = segment
    try:
        yield
    finally:
        tuner.hypermodel, tuner.segment = hypermodel, None
