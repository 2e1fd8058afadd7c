"""The examples in docstrings run and print what they say."""

import doctest
import importlib

import pytest

MODULES = [
    "keras_popdescent.hyperparameters.binding",
    "keras_popdescent.strategies.space",
    "keras_popdescent.history.history",
    "keras_popdescent.history.schedule",
    "keras_popdescent.population.objective",
    "keras_popdescent.strategies.esgd",
    "keras_popdescent.strategies.popdescent",
    "keras_popdescent.population.population",
    "keras_popdescent.callbacks.popdescent",
]


@pytest.mark.backend
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
