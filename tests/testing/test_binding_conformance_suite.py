"""The suite for bindings can fail: each broken binding breaks the law that is about it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.hyperparameters import Binding, find_handles
from keras_popdescent.testing.bindings import BindingCase, BindingConformance

X = np.ones((4, 3), dtype="float32")
Y = np.zeros((4, 2), dtype="float32")
PATH = "optimizer.momentum"


def build(momentum: float) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, momentum=momentum), "mse")
    return model


class Momentum(Binding):
    """As it should be; the others differ in one respect."""

    def attach(self, model):
        self.model = model
        self.handle = find_handles(model)[PATH]
        self.handle.attach(model)

    def read(self):
        return self.handle.read()

    def write(self, value):
        self.handle.write(value)

    def detach(self, model):
        self.handle.detach(model)


class Silent(Momentum):
    """Writes to nothing."""

    def attach(self, model):
        super().attach(model)
        self.value = self.handle.static

    def read(self):
        return self.value

    def write(self, value):
        self.value = value


class Halved(Momentum):
    """Writes another number than it was given, and says so."""

    def write(self, value):
        self.handle.write(value / 2.0)


class Retraced(Momentum):
    """Puts a number into the optimizer and has the step traced anew."""

    def attach(self, model):
        self.model = model

    def read(self):
        return self.model.optimizer.momentum

    def write(self, value):
        self.model.optimizer.momentum = value
        self.model.train_function = None

    def detach(self, model):
        pass


class Reset(Momentum):
    """Does not keep the number that the author of the model gave."""

    def attach(self, model):
        super().attach(model)
        self.handle.write(0.25)


class Attached(Momentum):
    """Never leaves the model."""

    def detach(self, model):
        pass


LAWS = [name for name in dir(BindingConformance) if name.startswith("test_")]
STEP = "test_a_live_step_equals_that_of_a_model_built_with_the_number"
BROKEN = {
    Momentum: set(),
    Silent: {STEP, "test_detach_leaves_a_plain_model"},
    Halved: {"test_read_returns_what_was_written", STEP, "test_detach_leaves_a_plain_model"},
    Retraced: {"test_writing_does_not_retrace"},
    Reset: {"test_attach_keeps_the_number"},
    Attached: {"test_detach_leaves_a_plain_model"},
}


def broken_laws(case: BindingCase) -> set[str]:
    suite, failed = BindingConformance(), set()
    for law in LAWS:
        try:
            getattr(suite, law)(case)
        except Exception:
            failed.add(law)
    return failed


@pytest.mark.parametrize("binding", BROKEN, ids=lambda binding: binding.__name__)
def test_a_binding_breaks_the_laws_that_are_about_it(binding):
    assert broken_laws(BindingCase("case", build, binding, (0.5, 0.9), (X, Y))) == BROKEN[binding]


def test_values_between_which_nothing_can_be_told():
    case = BindingCase("case", build, Momentum, (0.5, 0.5), (X, Y))
    assert broken_laws(case) == {"test_the_values_lead_to_different_weights"}
