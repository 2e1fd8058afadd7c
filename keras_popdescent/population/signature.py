"""What a search is told by: a snapshot goes on only where all of this is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import ArrayBatches, Batch, SearchData
from keras_popdescent.errors import PopDescentError
from keras_popdescent.hyperparameters.classify import fingerprint, metric_prints
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.executor import Setup
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.space import Dimension, Values

# So many samples of each array are looked at.
_NUM_SAMPLES = 256


def search_signature(loop: Loop, setup: Setup, seed: int | None) -> dict[str, Any]:
    """Return a JSON-able description of a search, without how long it runs.

    Two searches with one signature make the same steps (on one machine's CPU); where one differs,
    `checkpoint.differences` says in what.
    """
    found = {
        "population_size": loop.settings.population_size,
        "num_elites": loop.settings.num_elites,
        "num_kept": loop.settings.num_kept,
        "seed": seed,
        "objective": asdict(loop.objective),
        "strategy": {
            **loop.strategy.get_config(),
            "training": asdict(setup.training),
            "scoring": asdict(setup.scoring),
            "closing": asdict(loop.strategy.closing),
            "keep_best": loop.strategy.keep_best,
            **_phases(loop.strategy),
        },
        # Values are drawn in this order.
        "order": [dimension.name for dimension in loop.space],
        "space": {dimension.name: _dimension(dimension) for dimension in loop.space},
        "model": _model(setup.blueprint, setup.values[0], loop.objective),
        "data": _data(setup.data),
        "first_values": [dict(values) for values in setup.values],
        "backend": keras.backend.backend(),
        # They agree but for rounding errors.
        "executor": type(loop.executor).__name__,
    }
    return dict(json.loads(json.dumps(found, default=_text)))


def _phases(strategy: Strategy) -> dict[str, Any]:
    """Describe what a strategy has besides its plans; what it has not is left out."""
    phases = {
        "annealing": strategy.annealing,
        "focus": strategy.focus,
        "averaging": strategy.averaging,
    }
    return {name: asdict(phase) for name, phase in phases.items() if phase is not None}


def _dimension(dimension: Dimension) -> dict[str, Any]:
    return {
        "kind": dimension.kind,
        "default": dimension.default,
        "choices": dimension.choices,
        # Bounds, scale and step show in these.
        "lowest": dimension.from_unit(0.0),
        "middle": dimension.from_unit(0.5),
        "highest": dimension.from_unit(1.0),
    }


def _model(blueprint: Blueprint, values: Values, objective: Objective) -> dict[str, Any]:
    with borrowed_globals(0):
        try:
            model = blueprint.build(values)
            found, metrics = fingerprint(model), metric_prints(model, objective.names)
        except PopDescentError:
            raise
        except Exception as error:
            # The first member cannot be built and will get other values.
            return {"raises": type(error).__name__}
    return {
        "weights": found.shapes,
        "structure": _as_dicts(found.structure),
        "numbers": dict(found.handles),
        # What scores the members: a metric of the same name may be another one.
        "metrics": _as_dicts(list(metrics.items())),
    }


def _as_dicts(value: Any) -> Any:
    """Return pairs with string keys as dicts, so that a difference is found by name."""
    if not isinstance(value, list | tuple):
        return value
    pairs = [item for item in value if isinstance(item, tuple) and len(item) == 2]
    if value and len(pairs) == len(value) and all(isinstance(key, str) for key, _ in pairs):
        return {key: _as_dicts(item) for key, item in pairs}
    return [_as_dicts(item) for item in value]


def _data(data: SearchData) -> dict[str, Any]:
    training = data.training
    if isinstance(training, ArrayBatches):
        found: dict[str, Any] = {
            "training": _arrays(training.arrays),
            "batch_size": training.batch_size,
            "shuffle": training.shuffle,
        }
    else:
        batch = keras.tree.flatten(training.first_batch())
        found = {
            "training": [_array_type(leaf, skip=1) for leaf in batch],
            "type": type(training.source).__name__,
            "shuffle": training.shuffle,
        }
        if training.class_weight is not None:
            weights = training.class_weight.items()
            found["class_weight"] = {str(int(label)): float(weight) for label, weight in weights}
    found["steps_per_epoch"] = data.steps_per_epoch
    validation = data.validation
    found["validation"] = (
        _batches(validation) if isinstance(validation, list) else _arrays(validation)
    )
    found["validation_batch_size"] = data.validation_batch_size
    return found


def _arrays(arrays: Any) -> list[dict[str, Any]]:
    leaves = [] if arrays is None else keras.tree.flatten(arrays)
    return [{**_array_type(leaf), "content": _digest(leaf)} for leaf in leaves]


def _batches(batches: list[Batch]) -> dict[str, Any]:
    """Describe batches by all their samples, in whatever order: data sets may be shuffled."""
    samples: list[bytes] = []
    for batch in batches:
        leaves = [_numpy(leaf) for leaf in keras.tree.flatten(batch)]
        for row in range(max(map(len, leaves))):
            content = b"".join(_content(leaf[row : row + 1]) for leaf in leaves)
            samples.append(hashlib.sha256(content).digest())
    return {"batches": len(batches), "content": _checksum(b"".join(sorted(samples)))}


def _numpy(leaf: Any) -> np.ndarray[Any, Any]:
    is_tensor = keras.ops.is_tensor(leaf)
    return np.atleast_1d(keras.ops.convert_to_numpy(leaf) if is_tensor else leaf)


def _array_type(leaf: Any, skip: int = 0) -> dict[str, Any]:
    shape = [None if size is None else int(size) for size in leaf.shape[skip:]]
    return {"shape": shape, "dtype": str(leaf.dtype)}


def _digest(leaf: Any) -> str:
    """Return a checksum of some of the samples, over the whole length."""
    rows = np.linspace(0, len(leaf) - 1, min(len(leaf), _NUM_SAMPLES)).astype(np.int64)
    return _checksum(_content(np.asarray(leaf[rows])))


def _content(array: np.ndarray[Any, Any]) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _text(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return getattr(value, "__name__", type(value).__name__)
