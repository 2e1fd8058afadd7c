"""From the arguments of `fit` to training batches and validation batches, checked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_popdescent.arguments import check_flag, check_number, check_whole
from keras_popdescent.data.arrays import ArrayBatches
from keras_popdescent.data.batch import (
    Batch,
    as_batch,
    check_class_weight,
    check_labels,
    class_weights,
    length,
    to_numpy,
    warn_if_not_finite,
)
from keras_popdescent.data.iterables import IterableBatches
from keras_popdescent.errors import ArgumentError, DataError, describe

DEFAULT_BATCH_SIZE = 32


@dataclass
class SearchData:
    """What a population trains on and is scored on.

    Attributes:
        training: The training batches.
        validation: Arrays (x,), (x, y) or (x, y, sample_weight), or a list of batches, or None.
        validation_batch_size: Samples a batch of validation arrays.
        steps_per_epoch: Batches an epoch; None where nobody knows.
    """

    training: ArrayBatches | IterableBatches
    validation: Batch | list[Batch] | None
    validation_batch_size: int
    steps_per_epoch: int | None


# For searches whose data nobody but the user's own code sees.
NO_DATA = SearchData(ArrayBatches((np.zeros((1, 1)),), 1, False), None, 1, None)


def prepare(
    x: Any = None,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    batch_size: int | None = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    validation_batch_size: int | None = None,
    validation_steps: int | None = None,
    steps_per_epoch: int | None = None,
    shuffle: bool = True,
) -> SearchData:
    """Check and convert data given in any form that `fit` takes.

    Args: as those of `keras.Model.fit`.

    Raises:
        DataError: Before any training, for what cannot work.
    """
    if x is None:
        raise DataError(describe("There is no training data.", fix="Pass `x`, and `y` with it."))
    refuse_words("training data", x)
    try:
        for name, number in (
            ("batch_size", batch_size),
            ("validation_batch_size", validation_batch_size),
            ("validation_steps", validation_steps),
            ("steps_per_epoch", steps_per_epoch),
        ):
            check_whole(name, number)
        check_flag("shuffle", shuffle)
        check_number("validation_split", validation_split, 0.0, 1.0)
    except ArgumentError as error:
        raise DataError(str(error)) from None
    check_class_weight(class_weight)
    if class_weight is not None and sample_weight is not None:
        raise DataError(
            describe("`class_weight` and `sample_weight` cannot both be given.", fix="Pass one.")
        )
    if _is_iterable_of_batches(x):
        training: ArrayBatches | IterableBatches = _iterable(
            x,
            y,
            sample_weight,
            validation_split,
            batch_size,
            steps_per_epoch,
            shuffle,
            class_weight,
        )
    else:
        arrays = _arrays(x, y, sample_weight)
        if validation_data is None and validation_split:
            arrays, validation_data = _split(arrays, validation_split)
        if class_weight is not None:
            labels = arrays[1] if len(arrays) > 1 else None
            arrays = (*arrays, class_weights(labels, class_weight))
        training = ArrayBatches(arrays, _batch_size(batch_size), bool(shuffle))
    warn_if_not_finite(training.first_batch(), "training")
    scored = _batch_size(batch_size if validation_batch_size is None else validation_batch_size)
    return SearchData(
        training,
        prepare_validation(validation_data, validation_steps, scored),
        scored,
        check_whole("steps_per_epoch", steps_per_epoch) or training.steps_per_epoch(),
    )


def _batch_size(batch_size: int | None) -> int:
    if batch_size is None:
        return DEFAULT_BATCH_SIZE
    return int(batch_size)


def refuse_words(name: str, data: Any) -> None:
    """Refuse a path or another text in the place of data: it would be a data set of letters.

    Raises:
        DataError: Saying which.
    """
    if isinstance(data, str | bytes | os.PathLike):
        raise DataError(
            describe(
                f"The {name} is a text.",
                "Expected arrays, or a data set of batches; a file has to be read first.",
                data=data,
            )
        )


def _is_iterable_of_batches(x: Any) -> bool:
    return (
        isinstance(x, keras.utils.PyDataset)
        or hasattr(x, "element_spec")
        or (hasattr(x, "__iter__") and not hasattr(x, "shape") and _no_array_structure(x))
    )


def _no_array_structure(x: Any) -> bool:
    return not (isinstance(x, list | tuple | dict) or hasattr(x, "to_numpy"))


def _iterable(
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_split: float,
    batch_size: int | None,
    steps_per_epoch: int | None,
    shuffle: bool,
    class_weight: Mapping[int, float] | None,
) -> IterableBatches:
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise DataError(
                describe(
                    f"`{name}` is given beside a data set that yields batches.",
                    "The data set itself yields (x, y) or (x, y, sample_weight).",
                    x=type(x).__name__,
                )
            )
    if validation_split:
        raise DataError(
            describe(
                "`validation_split` needs arrays.",
                fix="Pass `validation_data`.",
                x=type(x).__name__,
            )
        )
    return IterableBatches(x, steps_per_epoch, shuffle, class_weight)


def _arrays(x: Any, y: Any, sample_weight: Any) -> Batch:
    if sample_weight is not None and y is None:
        raise DataError(
            describe("`sample_weight` is given without labels.", fix="Pass `y` with it.")
        )
    parts = [to_numpy(x)]
    if y is not None:
        parts.append(to_numpy(y))
        check_labels(parts[1])
    if sample_weight is not None:
        parts.append(to_numpy(sample_weight))
    arrays = tuple(parts)
    if length(arrays) == 0:
        raise DataError(describe("The data set is empty.", fix="Pass at least one sample."))
    return arrays


def _split(arrays: Batch, fraction: float) -> tuple[Batch, Batch]:
    """Take the last samples for validation, as Keras does."""
    if not 0.0 < fraction < 1.0:
        raise DataError(
            describe(
                "`validation_split` must be a fraction.",
                "Expected a number between 0 and 1.",
                validation_split=fraction,
            )
        )
    total = length(arrays)
    border = int(np.floor(total * (1.0 - fraction)))
    if not 0 < border < total:
        raise DataError(
            describe(
                "`validation_split` leaves one of the two parts empty.",
                fix="Choose another one, or pass `validation_data`.",
                validation_split=fraction,
                samples=total,
            )
        )
    first: Batch = keras.tree.map_structure(lambda array: array[:border], arrays)
    second: Batch = keras.tree.map_structure(lambda array: array[border:], arrays)
    return first, second


def prepare_validation(
    data: Any, steps: int | None = None, batch_size: int = DEFAULT_BATCH_SIZE
) -> Batch | list[Batch] | None:
    """Check and convert validation data: arrays stay arrays, a data set becomes its batches.

    Args:
        data: (x, y), (x, y, sample_weight), a data set of batches, or None.
        steps: Batches to take; None for all. A generator that does not end, and does not say so,
            would be read for ever.
        batch_size: Samples a batch of arrays.

    Raises:
        DataError: For what cannot work.
    """
    if data is None:
        return None
    refuse_words("validation data", data)
    if _is_iterable_of_batches(data):
        batches = _collect(data, steps)
        warn_if_not_finite(batches[0], "validation")
        return batches
    parts = as_batch(data)
    arrays = _arrays(parts[0], *(list(parts[1:]) + [None, None])[:2])
    warn_if_not_finite(head(arrays), "validation")
    return arrays if steps is None else head(arrays, steps * batch_size)


def _collect(data: Any, steps: int | None) -> list[Batch]:
    """Hold the validation batches in memory: they are read once an iteration and member."""
    random_access = isinstance(data, keras.utils.PyDataset)
    if random_access:
        infinite = data.num_batches is None
    else:
        infinite = hasattr(data, "cardinality") and int(data.cardinality()) == -1
    if infinite and steps is None:
        raise DataError(
            describe("The validation data does not end.", fix="Pass `validation_steps`.")
        )
    source = iter(data)
    if random_access:
        indices = itertools.islice(itertools.count(), steps if infinite else data.num_batches)
        source = (data[index] for index in indices)
    batches = []
    for item in source:
        batches.append(as_batch(item))
        if steps is not None and len(batches) >= steps:
            break
    if not batches:
        raise DataError(
            describe(
                "The validation data is empty.",
                fix="Check the data set, or leave out `validation_steps`.",
            )
        )
    return batches


def head(arrays: Batch, num_samples: int = DEFAULT_BATCH_SIZE) -> Batch:
    """Return the first samples of arrays, as a batch."""
    batch: Batch = keras.tree.map_structure(lambda array: array[:num_samples], arrays)
    return batch
