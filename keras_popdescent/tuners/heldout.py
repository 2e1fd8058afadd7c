"""Data that no selection has seen: scored once, at the end of a search."""

from __future__ import annotations

from typing import Any

import keras

from keras_popdescent.data import SearchData, prepare_validation
from keras_popdescent.data.batch import Batch, sample_types
from keras_popdescent.data.search_data import head
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.live_model import check_takes

Held = Batch | list[Batch]


def prepare_heldout(data: Any) -> Held | None:
    """Check and convert `heldout_data`, before any training.

    Args:
        data: (x, y), (x, y, sample_weight), a data set of batches that ends, or None.

    Raises:
        ArgumentError: For data that brings no labels, or cannot be used.
    """
    held = prepare_validation(data)
    first = held[0] if isinstance(held, list) else held
    if first is not None and len(first) < 2:
        raise ArgumentError(
            describe(
                "`heldout_data` brings no labels.",
                "Expected (x, y), (x, y, sample_weight), or a data set of such batches.",
                heldout_data=type(data).__name__,
            )
        )
    return held


def check_heldout(blueprint: Blueprint, data: SearchData, held: Held) -> None:
    """Refuse held-out data that the model does not take: it is scored when all is over.

    Raises:
        DataError: If the model does not take it.
    """
    first = held[0] if isinstance(held, list) else head(held)
    if sample_types(first) != sample_types(data.training.first_batch()):
        model = blueprint.build_seeded(blueprint.space.defaults(), 0)
        check_takes(model, first, "held-out data")


def reported(model: keras.Model, data: Held | None, batch_size: int) -> dict[str, float]:
    """Return what a plain model reports on some data, by `evaluate`; nothing without data.

    Args:
        model: A compiled model.
        data: Arrays, or a list of batches.
        batch_size: Samples a batch of arrays.
    """
    if data is None:
        return {}
    source: Any = _Batches(data) if isinstance(data, list) else None
    if source is not None:
        logs = model.evaluate(source, verbose=0, return_dict=True)
    else:
        x, y, weights = (*data, None, None)[:3]
        logs = model.evaluate(
            x, y, sample_weight=weights, batch_size=batch_size, verbose=0, return_dict=True
        )
    return {name: float(value) for name, value in logs.items()}


class _Batches(keras.utils.PyDataset):
    """A list of batches for `evaluate`."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        batch = self._batches[index]
        return tuple(keras.tree.map_structure(keras.ops.convert_to_numpy, part) for part in batch)


def report(model: keras.Model, data: SearchData, held: Held) -> tuple[dict[str, float], ...]:
    """Return what a model reports on the validation data and on the held-out data."""
    size = data.validation_batch_size
    return reported(model, data.validation, size), reported(model, held, size)
