"""Bindings: a hyperparameter's name tied to what it controls in a live model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import keras

from keras_popdescent.errors import BindingError, describe
from keras_popdescent.hyperparameters.handle import Handle
from keras_popdescent.hyperparameters.layers import RegularizerHandle, layer_handles
from keras_popdescent.hyperparameters.losses import LossScaleHandle, loss_handles
from keras_popdescent.hyperparameters.optimizer import optimizer_handles


def find_handles(model: keras.Model) -> dict[str, Handle]:
    """Return every scalar of a compiled model that can be live, by path.

    Two models of one build function, with the same layers, have the same paths. Regularizers and
    noise layers are found by their very class: a subclass of the user's, whose `call` may compute
    something else, has none.

    Example:
        >>> import keras
        >>> from keras_popdescent import find_handles
        >>> model = keras.Sequential([
        ...     keras.layers.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)
        ... ])
        >>> model.compile(keras.optimizers.SGD(0.01), "mse")
        >>> handles = find_handles(model)
        >>> handles["2:Dropout.rate"].static, "optimizer.learning_rate" in handles
        (0.3, True)
    """
    handles = optimizer_handles(model) + layer_handles(model) + loss_handles(model)
    return {handle.path: handle for handle in handles}


class Binding(ABC):
    """Ties one hyperparameter to a compiled model.

    Subclass it to bind something of your own, and pass it as `bindings={name: binding}`. `write`
    must not retrace the train step: keep the value in a `keras.Variable` that belongs to the model
    or its optimizer.
    """

    @abstractmethod
    def attach(self, model: keras.Model) -> None:
        """Prepare a model that has not been traced yet; called once for each model."""

    @abstractmethod
    def read(self) -> float:
        """Return the value that the train step uses."""

    @abstractmethod
    def write(self, value: float) -> None:
        """Set the value that the train step uses from now on."""

    def detach(self, model: keras.Model) -> None:  # noqa: B027
        """Undo `attach`, leaving the current value in the model as a plain number."""

    @property
    def handles(self) -> Sequence[Handle]:
        """The built-in handles that this binding writes, if any."""
        return ()


class HandleBinding(Binding):
    """A binding to one or more handles, each `factor` times the hyperparameter's value.

    Args:
        name: The hyperparameter's name, for messages.
        targets: Pairs of a handle's path and its factor.
    """

    def __init__(self, name: str, targets: Sequence[tuple[str, float]]) -> None:
        self.name = name
        self.targets = tuple(targets)
        self._handles: list[Handle] = []

    def attach(self, model: keras.Model) -> None:
        found = find_handles(model)
        missing = [path for path, _ in self.targets if path not in found]
        if missing:
            raise BindingError(
                describe(
                    f"`{self.name}` has nothing to control in this model.",
                    f"The model's live scalars are: {', '.join(found) or 'none'}.",
                    paths=missing,
                )
            )
        self._handles = [found[path] for path, _ in self.targets]
        for handle in self._handles:
            handle.attach(model)

    def detach(self, model: keras.Model) -> None:
        for handle in self._handles:
            handle.detach(model)

    def read(self) -> float:
        return self._handles[0].read() / self.targets[0][1]

    def write(self, value: float) -> None:
        for handle, (_, factor) in zip(self._handles, self.targets, strict=True):
            handle.write(value * factor)

    @property
    def handles(self) -> Sequence[Handle]:
        return self._handles


class LossScaleBinding(Binding):
    """A factor on the whole loss, penalties included."""

    def __init__(self) -> None:
        self._handle = LossScaleHandle()

    def attach(self, model: keras.Model) -> None:
        self._handle = LossScaleHandle()
        self._handle.attach(model)

    def detach(self, model: keras.Model) -> None:
        self._handle.detach(model)

    def read(self) -> float:
        return self._handle.read()

    def write(self, value: float) -> None:
        self._handle.write(value)

    @property
    def handles(self) -> Sequence[Handle]:
        return (self._handle,)


class PenaltyScaleBinding(Binding):
    """A factor on the model's L1 and L2 penalties: the multiplier r of the authors' code.

    Args:
        terms: `"first"`: it scales the first term and drops the others; `"all"`; `"unused"`: all
            terms keep their own coefficients, whatever the factor.
    """

    def __init__(self, terms: Literal["first", "all", "unused"] = "all") -> None:
        self.terms = terms
        self._handles: list[RegularizerHandle] = []
        self._value = 1.0

    def attach(self, model: keras.Model) -> None:
        self._value = 1.0
        self._handles = [h for h in layer_handles(model) if isinstance(h, RegularizerHandle)]
        for handle in self._handles:
            handle.attach(model)

    def detach(self, model: keras.Model) -> None:
        for handle in self._handles:
            handle.detach(model)

    def read(self) -> float:
        active = [h for h in self._handles if h.static]
        if self.terms == "unused" or not active:
            return self._value
        return active[0].read() / active[0].static

    def write(self, value: float) -> None:
        self._value = value
        first = next((handle.owner for handle in self._handles if handle.static), None)
        for handle in self._handles:
            dropped = self.terms == "first" and handle.owner is not first
            scale = 1.0 if self.terms == "unused" else 0.0 if dropped else value
            handle.write(handle.static * scale)

    @property
    def handles(self) -> Sequence[Handle]:
        return self._handles


class PenaltyBinding(Binding):
    """All L1 and L2 coefficients that a model has, moved together from their own values.

    Args:
        own: The value of the hyperparameter at which every coefficient is its own.
    """

    def __init__(self, own: float) -> None:
        self.own = own
        self._handles: list[Handle] = []
        self._value = own

    def attach(self, model: keras.Model) -> None:
        found = [h for h in layer_handles(model) if isinstance(h, RegularizerHandle)]
        self._handles = [handle for handle in found if handle.static > 0.0]
        for handle in self._handles:
            handle.attach(model)

    def detach(self, model: keras.Model) -> None:
        for handle in self._handles:
            handle.detach(model)

    def read(self) -> float:
        if not self._handles:
            return self._value
        return self._handles[0].read() / self._handles[0].static * self.own

    def write(self, value: float) -> None:
        self._value = value
        for handle in self._handles:
            handle.write(handle.static * value / self.own)

    @property
    def handles(self) -> Sequence[Handle]:
        return self._handles
