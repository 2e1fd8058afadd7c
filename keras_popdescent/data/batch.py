"""A batch as Keras's train step takes it, and the checks and conversions on the way there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_popdescent.arguments import check_number
from keras_popdescent.errors import DataError, describe

# (x,), (x, y) or (x, y, sample_weight); each a nested structure of arrays (batch, ...)
Batch = tuple[Any, ...]


def as_batch(item: Any) -> Batch:
    """Return what an iterator yielded as a tuple of one to three parts."""
    parts = tuple(item) if isinstance(item, tuple | list) else (item,)
    if keras.backend.backend() != "tensorflow":
        parts = tuple(keras.tree.map_structure(_not_foreign, part) for part in parts)
    if not 1 <= len(parts) <= 3:
        raise DataError(
            describe(
                "A batch has the wrong number of parts.",
                "Expected x, (x, y) or (x, y, sample_weight).",
                parts=len(parts),
            )
        )
    return parts[:2] if len(parts) == 3 and parts[2] is None else parts


def as_fit_gives_it(batch: Batch) -> Any:
    """Return a batch as `fit` hands it to `train_step`: samples alone are no tuple."""
    return batch if len(batch) > 1 else keras.utils.pack_x_y_sample_weight(batch[0])


def _not_foreign(leaf: Any) -> Any:
    """Return a NumPy array for a tensor of another backend, as `tf.data` yields on all of them."""
    return leaf.numpy() if hasattr(leaf, "numpy") and not keras.ops.is_tensor(leaf) else leaf


def to_numpy(value: Any) -> Any:
    """Return a nested structure of arrays, with floats in Keras's default float type.

    Takes NumPy arrays, lists, pandas frames and series, and tensors of the backend.
    """

    def convert(leaf: Any) -> Any:
        array = _as_array(
            leaf if not keras.ops.is_tensor(leaf) else keras.ops.convert_to_numpy(leaf)
        )
        if array.dtype.kind == "f":
            return array.astype(keras.config.floatx(), copy=False)
        return array

    if value is None or hasattr(value, "to_numpy"):
        return None if value is None else convert(value.to_numpy())
    if isinstance(value, list) and value and not hasattr(value[0], "shape"):
        return convert(_as_array(value))
    return keras.tree.map_structure(convert, value)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    """Return an array of numbers or words.

    Raises:
        DataError: For what is none, such as rows of different lengths.
    """
    if hasattr(value, "toarray"):
        raise DataError(
            describe(
                "The data is a sparse matrix.",
                "Expected an array.",
                "Convert it: `x.toarray()`.",
                type=type(value).__name__,
            )
        )
    try:
        array = np.asarray(value)
        if array.dtype == object and not _holds_words(array):
            # Numbers that came as objects: frames of mixed columns hold such.
            array = array.astype(keras.config.floatx())
    except (ValueError, TypeError) as error:
        raise DataError(
            describe(
                "The data must be an array of numbers.",
                "Expected the same number of values in each row, and no gaps.",
                type=type(value).__name__,
                reason=str(error)[:200],
            )
        ) from error
    if array.dtype.kind in "mM":
        raise DataError(
            describe(
                "The data holds points in time.",
                "Expected numbers.",
                "Convert them, to seconds for example.",
                dtype=str(array.dtype),
            )
        )
    return array


def length(value: Any) -> int:
    """Return the common length of all arrays in a structure, 0 where there are no arrays.

    Raises:
        DataError: If there is none.
    """
    leaves = keras.tree.flatten(value)
    if any(np.ndim(leaf) == 0 for leaf in leaves):
        raise DataError(
            describe(
                "The data holds single numbers.",
                "Expected arrays (samples, ...).",
                "Convert lists inside of dicts and tuples with `numpy.asarray`.",
            )
        )
    lengths = {len(leaf) for leaf in leaves} or {0}
    if len(lengths) != 1:
        raise DataError(
            describe(
                "The arrays have different lengths.",
                "Expected as many labels and weights as samples.",
                lengths=sorted(lengths),
            )
        )
    return int(lengths.pop())


def check_class_weight(weights: Any) -> None:
    """Refuse class weights that are no numbers by class; None passes.

    Raises:
        DataError: Saying what came.
    """
    if weights is None:
        return
    known = isinstance(weights, Mapping) and all(
        isinstance(label, int | float | np.integer | np.floating)
        and not isinstance(label, bool)
        and float(label).is_integer()
        for label in weights
    )
    if not known or not weights:
        raise DataError(
            describe(
                "`class_weight` must map classes to weights.",
                "Expected a dict such as {0: 1.0, 1: 5.0}.",
                class_weight=weights,
            )
        )
    for label, weight in weights.items():
        check_number(f"class_weight[{label}]", weight, 0.0, none=False)


def class_weights(y: Any, weights: Mapping[int, float]) -> Any:
    """Return the sample weights, (samples,) float array, that class weights amount to.

    Args:
        y: Labels: integers (samples,) or (samples, 1), or one-hot (samples, classes).
        weights: Weight by class; a class without one has weight 1.

    Raises:
        DataError: If the labels are not one array of classes.
    """
    if keras.tree.is_nested(y) or y is None:
        raise DataError(
            describe(
                "`class_weight` needs one output with class labels.",
                fix="Pass `sample_weight` instead.",
            )
        )
    labels = np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(axis=-1) if labels.shape[-1] > 1 else labels.reshape(len(labels))
    table = {int(label): float(weight) for label, weight in weights.items()}
    return np.array([table.get(int(label), 1.0) for label in labels], dtype="float32")


def check_labels(y: Any) -> None:
    """Refuse labels that are words: no loss of Keras takes them.

    Args:
        y: Labels as `to_numpy` returns them.

    Raises:
        DataError: Saying how to encode them.
    """
    for leaf in keras.tree.flatten(y):
        array = np.asarray(leaf)
        if array.dtype.kind in "US" or (array.dtype == object and _holds_words(array)):
            raise DataError(
                describe(
                    "The labels are words.",
                    "Expected numbers: integers from 0 for classes.",
                    "Encode them: `classes, y = numpy.unique(y, return_inverse=True)`.",
                    labels=sorted({str(label) for label in array.ravel()[:1000]})[:5],
                )
            )


def _holds_words(array: np.ndarray[Any, Any]) -> bool:
    return any(isinstance(value, str | bytes) for value in array.ravel()[:1000])


def warn_if_not_finite(batch: Batch, what: str) -> None:
    """Warn of data whose first batch holds NaN or infinity: few models and losses mask such."""
    for part, name in zip(batch, ("x", "y", "sample_weight"), strict=False):
        for leaf in keras.tree.flatten(part):
            array = np.asarray(
                keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf
            )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                warnings.warn(
                    describe(
                        f"The first batch of the {what} data holds values that are not finite.",
                        "A member whose loss is not finite counts as diverged.",
                        "Clean the data, unless the model or its loss masks them.",
                        part=name,
                        not_finite=int(array.size - np.isfinite(array).sum()),
                        of=array.size,
                    ),
                    stacklevel=4,
                )


def sample_types(batch: Batch) -> list[tuple[tuple[int, ...], str]]:
    """Return the shape of a sample and the type, of each array in a batch."""
    return [(tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in keras.tree.flatten(batch)]
