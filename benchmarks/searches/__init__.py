"""Hyperparameter searches by several tools, each on the same task with the same gradient steps."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras

from benchmarks.searches.task import Found, Task

Search = Callable[[Task, int, Path], Found]
# what the table calls it -> its module, its function, and the package that it is from
SEARCHES = {
    "RandomSearch": ("tuners", "random_search", "keras_tuner"),
    "Hyperband": ("tuners", "hyperband", "keras_tuner"),
    "Optuna": ("with_optuna", "search", "optuna"),
    "Ray PBT": ("with_ray", "search", "ray"),
    "PopDescentTuner": ("tuners", "popdescent", "keras_popdescent"),
}
# package -> how to have it
EXTRAS = {"optuna": "keras-popdescent[bench]", "ray": "keras-popdescent[ray]"}


def available() -> tuple[dict[str, Search], list[str]]:
    """Return the searches whose packages are installed, and a sentence for each of the others."""
    found, missing = {}, []
    for name, (module, function, package) in SEARCHES.items():
        if importlib.util.find_spec(package) is None:
            extra = EXTRAS.get(package, package)
            missing.append(f'{name}: `{package}` is not installed (pip install "{extra}").')
            continue
        loaded = importlib.import_module(f"benchmarks.searches.{module}")
        found[name] = getattr(loaded, function)
    return found, missing


def timed(search: Search, task: Task, seed: int) -> tuple[Found, float]:
    """Run a search in a folder of its own; return what it found, and the seconds that it took."""
    gc.collect()
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = search(task, seed, Path(folder))
        seconds = time.perf_counter() - began
    return found, seconds
