"""`prepare`: what `fit` takes, checked and converted; every refusal says how to mend it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent.data import ArrayBatches, IterableBatches, prepare, prepare_validation
from keras_popdescent.errors import ArgumentError, DataError

X = np.arange(20, dtype="float64").reshape(10, 2)
Y = np.arange(10) % 3


def parts(data):
    return [array.tolist() for array in data.training.arrays]


def endless():
    while True:
        yield X[:2], Y[:2]


class Pairs(keras.utils.PyDataset):
    def __init__(self, count=3):
        super().__init__()
        self.count = count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return X[index : index + 1], Y[index : index + 1]


def dataset():
    tensorflow = pytest.importorskip("tensorflow")
    return tensorflow.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def test_arrays():
    data = prepare(X, Y, batch_size=4)
    assert isinstance(data.training, ArrayBatches)
    assert parts(data) == [X.tolist(), Y.tolist()]
    assert data.training.arrays[0].dtype == "float32"
    assert (data.training.batch_size, data.steps_per_epoch, data.validation) == (4, 3, None)
    assert data.training.shuffle


def test_defaults():
    data = prepare(X, Y)
    assert (data.training.batch_size, data.validation_batch_size) == (32, 32)
    assert data.steps_per_epoch == 1


def test_lists_and_tensors():
    assert parts(prepare(X.tolist(), Y.tolist())) == [X.tolist(), Y.tolist()]
    assert parts(prepare(keras.ops.convert_to_tensor(X), Y)) == [X.tolist(), Y.tolist()]


def test_pandas():
    pandas = pytest.importorskip("pandas")
    data = prepare(pandas.DataFrame(X), pandas.Series(Y))
    assert parts(data) == [X.tolist(), Y.tolist()]
    assert data.training.arrays[0].dtype == "float32"


def test_several_inputs():
    x, _ = prepare({"a": X, "b": X[:, :1]}, Y).training.arrays
    assert (x["a"].shape, x["b"].shape) == ((10, 2), (10, 1))


def test_inputs_alone():
    assert parts(prepare(X)) == [X.tolist()]


def test_sample_weights():
    weights = np.linspace(0.0, 1.0, 10)
    assert prepare(X, Y, sample_weight=weights).training.arrays[2] == pytest.approx(weights)


def test_class_weights():
    data = prepare(X, Y, class_weight={1: 2.0, 2: 0.5})
    assert parts(data)[2] == [1.0, 2.0, 0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 0.5, 1.0]


def test_validation_data_is_not_class_weighted():
    data = prepare(X, Y, class_weight={1: 2.0}, validation_split=0.2)
    assert len(data.training.arrays) == 3
    assert len(data.validation) == 2


@pytest.mark.parametrize(("fraction", "border"), [(0.2, 8), (0.25, 7), (0.01, 9), (0.85, 1)])
def test_validation_split_takes_the_last_samples(fraction, border):
    weights = np.arange(10.0)
    data = prepare(X, Y, sample_weight=weights, validation_split=fraction)
    for array, first, second in zip((X, Y, weights), parts(data), data.validation, strict=True):
        assert first == array[:border].tolist()
        assert second.tolist() == array[border:].tolist()


def test_validation_split_is_that_of_keras():
    from keras.src.trainers.data_adapters.array_slicing import train_validation_split

    for fraction in (0.1, 0.3, 1 / 3, 0.55, 0.7):
        (expected, _), (_, expected_validation) = train_validation_split((X, Y), fraction)
        data = prepare(X, Y, validation_split=fraction)
        assert parts(data)[0] == np.asarray(expected).tolist()
        assert data.validation[1].tolist() == np.asarray(expected_validation).tolist()


def test_validation_data_goes_before_validation_split():
    data = prepare(X, Y, validation_data=(X[:3], Y[:3]), validation_split=0.5)
    assert len(data.training.arrays[0]) == 10
    assert len(data.validation[0]) == 3


@pytest.mark.parametrize(
    ("validation", "num_parts"),
    [((X, Y), 2), ([X, Y], 2), ((X, Y, np.ones(10)), 3), ((X, Y, None), 2), ((X,), 1), (X, 1)],
)
def test_validation_arrays(validation, num_parts):
    arrays = prepare(X, Y, validation_data=validation).validation
    assert isinstance(arrays, tuple)
    assert len(arrays) == num_parts
    assert arrays[0].dtype == "float32"


@pytest.mark.parametrize(
    ("make", "steps", "num_batches"),
    [
        (lambda: dataset(), None, 3),
        (lambda: dataset(), 2, 2),
        (lambda: dataset().repeat(), 5, 5),
        (lambda: Pairs(), None, 3),
        (lambda: Pairs(), 2, 2),
        (lambda: Pairs(), 9, 3),
        (lambda: Pairs(None), 2, 2),
        (lambda: endless(), 4, 4),
        (lambda: iter([(X, Y)]), None, 1),
    ],
)
def test_validation_batches_are_held(make, steps, num_batches):
    batches = prepare(X, Y, validation_data=make(), validation_steps=steps).validation
    assert isinstance(batches, list)
    assert [len(batch) for batch in batches] == [2] * num_batches


def test_no_validation_data():
    assert prepare_validation(None) is None


def test_validation_batch_size():
    assert prepare(X, Y, batch_size=4).validation_batch_size == 4
    assert prepare(X, Y, batch_size=4, validation_batch_size=7).validation_batch_size == 7


@pytest.mark.parametrize(
    ("make", "steps"), [(dataset, 3), (Pairs, 3), (endless, None), (lambda: iter([(X, Y)]), None)]
)
def test_data_sets_of_batches(make, steps):
    data = prepare(make())
    assert isinstance(data.training, IterableBatches)
    assert data.steps_per_epoch == steps


def test_steps_per_epoch_can_be_said():
    assert prepare(endless(), steps_per_epoch=7).steps_per_epoch == 7
    assert prepare(X, Y, steps_per_epoch=2).steps_per_epoch == 2


def test_shuffle_is_passed_on():
    assert not prepare(X, Y, shuffle=False).training.shuffle
    assert not prepare(Pairs(), shuffle=False).training.shuffle


def nan_at(row, array=X):
    spoiled = array.astype("float64")
    spoiled[row] = np.nan
    return spoiled


# what is passed -> what the error says
REFUSALS = [
    ({}, r"no training data.*Pass `x`"),
    ({"x": X, "y": Y[:9]}, r"different lengths.*lengths=\[9, 10\]"),
    ({"x": X, "y": Y, "sample_weight": np.ones(3)}, r"different lengths"),
    ({"x": X[:0], "y": Y[:0]}, r"data set is empty"),
    ({"x": [], "y": []}, r"data set is empty"),
    ({"x": 5.0}, r"single numbers"),
    ({"x": X, "y": Y, "sample_weight": np.ones(10), "class_weight": {0: 1.0}},
     r"`class_weight` and `sample_weight` cannot both"),
    ({"x": X, "class_weight": {0: 1.0}}, r"`class_weight` needs one output"),
    ({"x": X, "sample_weight": np.ones(10)}, r"`sample_weight` is given without labels.*Pass `y`"),
    ({"x": X, "y": ["a", "b"] * 5}, r"labels are words.*Encode them.*labels=\['a', 'b'\]"),
    ({"x": X, "y": np.array([b"a", b"b"] * 5, object)}, r"labels are words"),
    ({"x": X, "y": Y, "batch_size": 0}, r"`batch_size` must be a whole number .*batch_size=0"),
    ({"x": X, "y": Y, "batch_size": -4}, r"batch_size` must be a whole number of at least 1"),
    ({"x": X, "y": Y, "validation_batch_size": -1}, r"batch_size` must be a whole number"),
    ({"x": X, "y": Y, "validation_split": 1.0}, r"must be a fraction.*validation_split=1.0"),
    ({"x": X, "y": Y, "validation_split": -0.2}, r"`validation_split` must be"),
    ({"x": X, "y": Y, "validation_split": 0.99}, r"leaves one of the two parts empty.*samples=10"),
    ({"x": X, "y": Y, "validation_data": (X, Y[:4])}, r"different lengths"),
    ({"x": X, "y": Y, "validation_data": (X[:0], Y[:0])}, r"data set is empty"),
    ({"x": X, "y": Y, "validation_data": (X, Y, Y, Y)}, r"wrong number of parts.*parts=4"),
    ({"x": X, "y": Y, "validation_data": iter(())}, r"validation data is empty"),
    ({"x": iter(())}, r"ran out"),
    ({"x": iter([(X, Y)]), "y": Y}, r"`y` is given beside a data set.*itself yields"),
    ({"x": iter([(X, Y)]), "sample_weight": Y}, r"`sample_weight` is given beside a data set"),
    ({"x": Pairs(), "validation_split": 0.2}, r"needs arrays.*validation_data.*x='Pairs'"),
    ({"x": X, "y": Y, "validation_data": Pairs(None)}, r"does not end.*validation_steps"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_refusals(arguments, message):
    with pytest.raises(DataError, match=message):
        prepare(**arguments)


def test_validation_data_without_end():
    with pytest.raises(DataError, match=r"does not end.*validation_steps"):
        prepare(X, Y, validation_data=dataset().repeat())


def test_a_data_error_is_an_argument_error_and_a_value_error():
    with pytest.raises(ArgumentError):
        prepare()
    with pytest.raises(ValueError, match="no training data"):
        prepare()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": nan_at(0), "y": Y}, r"training data.*part='x'"),
        ({"x": X, "y": nan_at(3, Y)}, r"training data.*part='y', not_finite=1"),
        ({"x": X, "y": Y, "validation_data": (nan_at(1), Y)}, r"validation data.*part='x'"),
        ({"x": X, "y": Y, "validation_data": iter([(nan_at(0), Y)])}, r"validation data"),
        ({"x": iter([(nan_at(0), Y)])}, r"training data"),
    ],
)
def test_values_that_are_not_finite_are_warned_of(arguments, message):
    """No more than that: a loss may mask them."""
    with pytest.warns(UserWarning, match=f"first batch of the {message}"):
        prepare(**arguments)


def test_values_that_are_not_finite_beyond_the_first_batch():
    # All batches are checked by their scores; the first one is a help before anything is built.
    assert prepare(nan_at(9), Y, batch_size=4).steps_per_epoch == 3
