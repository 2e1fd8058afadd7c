from __future__ import annotations

import sys

import pytest

from keras_popdescent import _imports, errors

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception)
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_caught_as_one_of_ours(error):
    assert issubclass(error, errors.PopDescentError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.DataError, ValueError),
        (errors.ObjectiveError, ValueError),
        (errors.ModelError, TypeError),
        (errors.BindingError, RuntimeError),
        (errors.ResultError, TypeError),
        (errors.TrainingError, RuntimeError),
        (errors.DivergedError, RuntimeError),
        (errors.ProjectError, RuntimeError),
        (errors.DamagedError, errors.ProjectError),
        (errors.OutOfMemoryError, MemoryError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_every_error_is_caught_as_what_python_would_raise(error, builtin):
    with pytest.raises(builtin, match="what happened"):
        raise error("what happened")


@pytest.mark.parametrize(
    ("arguments", "received", "message"),
    [
        (("It broke.",), {}, "It broke."),
        (("It broke.", "Expected more.", "Mend it."), {}, "It broke. Expected more. Mend it."),
        (("It broke.", "", "Mend it."), {}, "It broke. Mend it."),
        (("It broke.",), {"size": 0}, "It broke. Received: size=0"),
        (
            ("It broke.", "Expected more."),
            {"name": "x", "size": [1]},
            "It broke. Expected more. Received: name='x', size=[1]",
        ),
        (("It broke.",), {"x": "y" * 999}, "It broke. Received: x='" + "y" * 399 + "…"),
        (("It broke.",), {"what_else": None}, "It broke. Received: what_else=None"),
    ],
)
def test_describe(arguments, received, message):
    assert errors.describe(*arguments, **received) == message


def test_an_optional_import_that_is_there():
    assert _imports.optional_import("json.decoder", "plots", "tests") is sys.modules["json.decoder"]


def test_an_optional_import_that_is_not():
    with pytest.raises(errors.MissingExtraError) as caught:
        _imports.optional_import("no_such_module.at_all", "plots", "drawing tests")
    assert str(caught.value) == (
        "`no_such_module.at_all` is needed for drawing tests and is not installed. "
        'Install it with `pip install "keras-popdescent[plots]"`.'
    )
    assert isinstance(caught.value.__cause__, ImportError)
