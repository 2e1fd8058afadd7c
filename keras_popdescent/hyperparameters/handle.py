"""A handle: one scalar of a compiled model that can be changed while the model trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import keras

from keras_popdescent.errors import BindingError, describe
from keras_popdescent.hyperparameters import _keras_internals
from keras_popdescent.hyperparameters.live_scalar import LiveScalar
from keras_popdescent.hyperparameters.numbers import write_number


class Handle(ABC):
    """One scalar that the train step reads.

    Until `attach`, the model is as its author built it and `static` is the number in it. After
    `attach`, the traced step reads a variable; `write` never retraces, and `read` returns what the
    graph uses.

    Attributes:
        path: Where the scalar is, the same in every model that one build function returns.
        static: The number that the author of the model put there.
        unbounded: True for a positive scale without a natural upper end.
        neutral: The value under which members can be compared, where the scalar changes the loss
            that is reported (a penalty, say); None where it does not.
        probe: Two values that must lead to different train steps.
    """

    unbounded: bool = False
    neutral: float | None = None
    probe: tuple[float, float] | None = (0.0, 0.5)
    # Whether the variable is among the model's weights; else the optimizer has it.
    in_model: bool = True
    # Whether the variable's value stands in the model as a plain number, see `AttributeHandle`.
    as_number: bool = False

    def __init__(self, path: str, static: float) -> None:
        self.path = path
        self.static = static
        self.scalar: LiveScalar | None = None
        self._hidden = static

    def attach(self, model: keras.Model) -> None:
        """Make the scalar live in this model; it keeps its value."""
        if self.scalar is None:
            self.scalar = LiveScalar(self._make_variable(model))
            self.follow(model)

    def detach(self, model: keras.Model) -> None:
        """Put a plain number, the current one, back into the model."""
        if self.scalar is not None:
            self._install(model, self.scalar.read())
            self._drop_variable(model, self.scalar.variable)
            self.scalar = None

    def read(self) -> float:
        """Return the value that the train step uses."""
        return self.static if self.scalar is None else self.scalar.read()

    def write(self, value: float) -> None:
        """Set the value that the train step uses from now on.

        Raises:
            BindingError: If the handle is not attached.
        """
        if self.scalar is None:
            raise BindingError(
                describe(
                    f"`{self.path}` is not live in this model.",
                    "It must be attached before the train step is traced.",
                    value=value,
                )
            )
        write_number(self.scalar.variable, value)

    def hide(self, model: keras.Model) -> None:
        """Put the current value into the model as a plain number, for a while.

        What was traced goes on reading the variable; a model that hides its handles can be saved.
        """
        if self.scalar is not None:
            self._hidden = self.scalar.read()
            self._install(model, self._hidden)
            if self.in_model:
                _keras_internals.untrack(model, self.scalar.variable)

    def show(self, model: keras.Model) -> None:
        """Undo `hide`; a number that was changed meanwhile is taken over."""
        if self.scalar is not None:
            found = self._installed()
            if found is not None and found != self._hidden:
                write_number(self.scalar.variable, found)
            if self.in_model:
                _keras_internals.track(model, self.scalar.variable)
            self.follow(model)

    def follow(self, model: keras.Model) -> None:
        """See that the train step uses what is in the variable.

        Needed again only where a number stands in the model and somebody else wrote the variable.
        """
        if self.scalar is not None:
            self._install(model, self.scalar.read() if self.as_number else self.scalar)

    def _installed(self) -> float | None:
        """Return the plain number that is in the model now, None where it cannot be told."""
        return None

    def set_plain(self, model: keras.Model, value: float) -> None:
        """Put a plain number into a model in which the handle is not live."""
        self._install(model, value)
        self.static = value

    @property
    def variable(self) -> keras.Variable | None:
        """The variable that this handle added to the model or optimizer, if it added one."""
        return None if self.scalar is None else self.scalar.variable

    @property
    def target(self) -> keras.Variable | None:
        """The variable that `write` changes; None where the handle is not attached."""
        return self.variable

    def _make_variable(self, model: keras.Model) -> keras.Variable:
        # The variable must be part of the model's tracked state: on JAX a step bakes any other
        # variable in as a constant.
        with _keras_internals.unlocked(model):
            return model.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(self.static),
                dtype="float32",
                trainable=False,
                autocast=False,
                name="live_" + "".join(c if c.isalnum() else "_" for c in self.path),
            )

    def _drop_variable(self, model: keras.Model, variable: keras.Variable) -> None:
        _keras_internals.untrack(model, variable)

    @abstractmethod
    def _install(self, model: keras.Model, scalar: Any) -> None:
        """Put a `LiveScalar` or a number where the train step reads it."""


class AttributeHandle(Handle):
    """A scalar that is an attribute of an object within the model.

    Args:
        path: See `Handle`.
        owner: The object.
        attribute: The attribute's name.
    """

    # Whether PyTorch takes a number only. Its steps are not traced and read numbers anew each time,
    # so that there the variable's value stands in the model, and follows the variable.
    number_on_torch: bool = False

    def __init__(self, path: str, owner: Any, attribute: str) -> None:
        super().__init__(path, float(getattr(owner, attribute)))
        self.owner = owner
        self.attribute = attribute
        self.as_number = self.number_on_torch and keras.backend.backend() == "torch"

    def read(self) -> float:
        if self.as_number and self.scalar is not None:
            return float(getattr(self.owner, self.attribute))
        return super().read()

    def write(self, value: float) -> None:
        super().write(value)
        if self.as_number and self.scalar is not None:
            setattr(self.owner, self.attribute, self.scalar.read())

    def _install(self, model: keras.Model, scalar: Any) -> None:
        setattr(self.owner, self.attribute, scalar)

    def _installed(self) -> float | None:
        return float(getattr(self.owner, self.attribute))
