from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from keras_popdescent.data.batch import (
    as_batch,
    check_class_weight,
    class_weights,
    length,
    to_numpy,
    warn_if_not_finite,
)
from keras_popdescent.errors import DataError

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(
    ("item", "num_parts"),
    [("x", 1), (("x",), 1), (("x", "y"), 2), (["x", "y"], 2), (("x", "y", "w"), 3),
     (("x", "y", None), 2), ({"a": "x"}, 1)],
)  # fmt: skip
def test_as_batch(item, num_parts):
    parts = as_batch(item)
    assert isinstance(parts, tuple)
    assert len(parts) == num_parts


@pytest.mark.parametrize("item", [(), ("x", "y", "w", "?")])
def test_as_batch_of_something_else(item):
    with pytest.raises(DataError, match=rf"\(x, y, sample_weight\).*parts={len(item)}"):
        as_batch(item)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.zeros(3, "float64"), "float32"),
        (np.zeros(3, "float16"), "float32"),
        (np.zeros(3, "int64"), "int64"),
        (np.zeros(3, "uint8"), "uint8"),
        (np.zeros(3, "bool"), "bool"),
        ([1.0, 2.0], "float32"),
        ([[1, 2], [3, 4]], "int64"),
    ],
)
def test_to_numpy_keeps_all_but_the_size_of_floats(value, dtype):
    array = to_numpy(value)
    assert isinstance(array, np.ndarray)
    assert array.dtype == dtype


def test_to_numpy_of_tensors():
    array = to_numpy({"a": keras.ops.ones((2, 1), "float32")})["a"]
    assert isinstance(array, np.ndarray)
    assert array.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "words",
    [
        ["a b", "c"],
        [b"a b", b"c"],
        np.array(["a b", "c"], object),
        np.array([b"a b", b"c"], object),
    ],
)
def test_to_numpy_of_words(words):
    assert to_numpy(words).tolist() == list(words)
    assert to_numpy({"text": np.asarray(words)})["text"].tolist() == list(words)


def test_to_numpy_of_a_tensor_of_words():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Only TensorFlow has tensors of words.")
    assert to_numpy(tensorflow.constant(["a b", "c"])).tolist() == [b"a b", b"c"]


def test_a_sparse_matrix():
    class Sparse:
        """Has what all of SciPy's have."""

        def toarray(self):
            return np.eye(2)

    with pytest.raises(DataError, match=r"sparse matrix.*toarray\(\)`.*type='Sparse'"):
        to_numpy({"a": Sparse()})


def test_to_numpy_of_several_inputs():
    first, second = to_numpy([np.zeros((2, 1)), np.ones((2, 3))])
    assert (first.shape, second.shape) == ((2, 1), (2, 3))


def test_to_numpy_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert to_numpy(frame).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert to_numpy(frame["a"]).dtype == "float32"
    assert to_numpy({"a": frame["a"], "b": frame["b"]})["b"].tolist() == [3.0, 4.0]


def test_to_numpy_of_nothing():
    assert to_numpy(None) is None


def test_length():
    assert length(({"a": np.zeros((4, 2)), "b": np.zeros(4)}, np.zeros((4, 1)))) == 4
    assert length(()) == 0


def test_lengths_that_differ():
    with pytest.raises(DataError, match=r"different lengths.*lengths=\[3, 4\]"):
        length((np.zeros(4), np.zeros(3)))


def test_length_of_single_numbers():
    with pytest.raises(DataError, match=r"single numbers.*numpy.asarray"):
        length(to_numpy({"a": [1.0, 2.0]}))


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2, 1],
        [[0], [1], [2], [1]],
        [0.0, 1.0, 2.0, 1.0],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]],
    ],
)
def test_class_weights(labels):
    # A class without a weight has weight 1.
    for table in ({0: 0.5, 1: 3.0}, {0.0: 0.5, np.float32(1.0): 3.0}):
        check_class_weight(table)
        weights = class_weights(np.array(labels), table)
        assert weights.tolist() == [0.5, 3.0, 1.0, 3.0]
        assert weights.dtype == "float32"


@pytest.mark.parametrize("weights", [{}, 3, {"0": 1.0}, {0.5: 1.0}, {np.nan: 1.0}, {True: 1.0}])
def test_what_is_no_weight_by_class(weights):
    with pytest.raises(DataError, match="must map classes to weights"):
        check_class_weight(weights)


@pytest.mark.parametrize("labels", [None, [np.zeros(3), np.zeros(3)], {"a": np.zeros(3)}])
def test_class_weights_of_no_single_output(labels):
    with pytest.raises(DataError, match=r"one output.*sample_weight"):
        class_weights(labels, {0: 1.0})


@pytest.mark.parametrize(
    ("batch", "part", "count"),
    [
        (([[1.0, np.nan]], [0.0]), "x", 1),
        (([[1.0, 2.0]], [np.inf]), "y", 1),
        (([[1.0, 2.0]], [0.0], [-np.inf]), "sample_weight", 1),
        (([[np.nan, np.nan]], [0.0]), "x", 2),
    ],
)
def test_values_that_are_not_finite(batch, part, count):
    arrays = tuple(np.array(values) for values in batch)
    message = rf"training data.*part='{part}', not_finite={count}, of="
    with pytest.warns(UserWarning, match=message):
        warn_if_not_finite(arrays, "training")


def test_finite_tensors_and_integers_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_not_finite(
            ({"a": keras.ops.ones(2), "b": np.array([1, 2])}, np.array(["u", "v"])), "training"
        )


def test_a_tensor_that_is_not_finite():
    with pytest.warns(UserWarning, match="not_finite=1"):
        warn_if_not_finite((keras.ops.convert_to_tensor([1.0, float("nan")]),), "validation")
