"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import keras_popdescent

# What an extra brings, see pyproject.toml.
EXTRAS = ("matplotlib", "pandas", "tensorboard")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_popdescent.__path__, "keras_popdescent.")
    if ">>> " in Path(find_spec(module.name).origin).read_text(encoding="utf-8")
]


def test_examples_are_found():
    assert {
        "keras_popdescent.callbacks.popdescent",
        "keras_popdescent.population.population",
        "keras_popdescent.strategies.base",
        "keras_popdescent.testing.doubles",
    } <= set(MODULES)


@pytest.mark.backend
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"{error.name} is not installed")
    result = doctest.testmod(module)
    # Those of the plots need a search, and are marked so.
    assert result.attempted > 0 or name.startswith("keras_popdescent.plots.")
    assert result.failed == 0
