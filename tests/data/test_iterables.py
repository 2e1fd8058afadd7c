"""One persistent stream of batches from tf.data, PyDataset, generators and other iterables."""

from __future__ import annotations

import itertools
import json
import threading

import keras
import numpy as np
import pytest

from keras_popdescent.data import IterableBatches
from keras_popdescent.errors import DataError
from keras_popdescent.strategies import TrainingPlan

pytestmark = pytest.mark.backend

OWN = TrainingPlan("own")


def batch(number):
    """Return the batch of that number: one sample that says it."""
    return (np.full((1, 1), float(number), "float32"), np.array([number]))


def numbers(batches):
    return [int(keras.ops.convert_to_numpy(item[0])[0, 0]) for item in batches]


class Numbered(keras.utils.PyDataset):
    """Batches 0 ... count - 1; notes the threads that read and the ends of epochs."""

    def __init__(self, count=6, **options):
        super().__init__(**options)
        self.count = count
        self.num_epoch_ends = 0
        self.threads = set()

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        self.threads.add(threading.current_thread())
        return batch(index)

    def on_epoch_end(self):
        self.num_epoch_ends += 1


class Reiterable:
    """Can be read again and again, and does not know its length."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return (batch(number) for number in range(self.count))


def dataset(count):
    tensorflow = pytest.importorskip("tensorflow")
    x = np.arange(count, dtype="float32")[:, np.newaxis]
    return tensorflow.data.Dataset.from_tensor_slices((x, np.arange(count))).batch(1)


def started(source, seed=0, **options):
    made = IterableBatches(source, **options)
    made.first_batch()  # as `prepare` does
    made.start(np.random.SeedSequence(seed).spawn(3))
    return made


def read(batches, count, plan=OWN):
    return numbers(batches.take([0], count, plan, [0])[0]())


@pytest.mark.parametrize("make", [lambda: dataset(3), lambda: Reiterable(3)])
def test_a_finite_source_starts_anew(make):
    batches = started(make())
    assert read(batches, 2) == [0, 1]
    assert read(batches, 6) == [2, 0, 1, 2, 0, 1]


def test_a_generator_that_goes_on():
    batches = started(batch(number) for number in itertools.count())
    assert read(batches, 3) + read(batches, 2) == [0, 1, 2, 3, 4]


def test_a_generator_that_ends():
    batches = started(batch(number) for number in range(3))
    with pytest.raises(DataError, match=r"ran out.*read only once.*type='generator'"):
        read(batches, 4)


@pytest.mark.parametrize("source", [Reiterable(0), iter(())])
def test_a_source_that_yields_nothing(source):
    with pytest.raises(DataError, match="ran out"):
        IterableBatches(source).first_batch()


def test_the_first_batch_is_looked_at_and_not_consumed():
    batches = started(Reiterable(5))
    assert numbers([batches.first_batch(), batches.first_batch()]) == [0, 0]
    assert read(batches, 3) == [0, 1, 2]
    assert numbers([batches.first_batch()]) == [3]
    assert read(batches, 2) == [3, 4]


def test_slots_take_the_batches_that_come_next():
    first, second = started(Reiterable(9)).take([0, 1], 2, OWN, [0, 0])
    assert (numbers(first()), numbers(second())) == ([0, 1], [2, 3])


def dealt(batches, size, num_batches):
    """Return what each slot takes in an iteration."""
    turns = batches.turns(list(range(size)))
    streams = batches.take(turns, num_batches, OWN, [0] * size)
    return {slot: numbers(stream()) for slot, stream in zip(turns, streams, strict=True)}


@pytest.mark.parametrize(
    ("length", "size", "num_batches", "iterations"),
    [
        (10, 5, 2, 5),  # an iteration is an epoch
        (10, 5, 4, 5),  # two epochs
        (20, 5, 2, 10),  # half an epoch
        (8, 4, 3, 8),  # in step with the epochs only every second time
        (8, 5, 2, 4),  # where all would be in step if the first one changed each time
        (9, 5, 2, 9),
        (7, 1, 2, 7),
    ],
)
@pytest.mark.parametrize("make", [dataset, Numbered])
def test_each_slot_comes_by_all_of_the_data(length, size, num_batches, iterations, make):
    batches = started(make(length), shuffle=False)
    seen = {slot: [] for slot in range(size)}
    for _ in range(iterations):
        for slot, taken in dealt(batches, size, num_batches).items():
            seen[slot] += taken
    often = num_batches * iterations / length
    for taken in seen.values():
        assert np.bincount(taken, minlength=length).tolist() == [often] * length


def test_each_slot_comes_by_all_of_a_data_set_of_unknown_length():
    batches = started(Reiterable(6))
    assert [dealt(batches, 3, 2)[0] for _ in range(3)] == [[0, 1], [4, 5], [2, 3]]


@pytest.mark.parametrize("looks", [0, 2, 3])
def test_whose_turn_it_is_does_not_depend_on_looks_and_restarts(looks):
    whole, cut = started(dataset(6)), started(dataset(6))
    for _ in range(looks):
        assert dealt(whole, 3, 2) == dealt(cut, 3, 2)
    cut.first_batch()
    resumed = started(dataset(6))
    resumed.set_state(json.loads(json.dumps(cut.get_state())))
    for _ in range(4):
        assert dealt(whole, 3, 2) == dealt(cut, 3, 2) == dealt(resumed, 3, 2)


def test_a_position_of_a_version_that_always_began_with_the_first_slot():
    batches = started(dataset(6))
    batches.set_state({"restarts": 0, "position": 2, "rng": None})
    assert dealt(batches, 2, 2) == {0: [2, 3], 1: [4, 5]}


def test_nobody_takes_from_the_stream():
    assert started(dataset(6)).turns([]) == []


def test_batches_are_read_when_they_are_needed():
    drawn = []
    batches = started((drawn.append(number), batch(number))[1] for number in range(9))
    (stream,) = batches.take([0], 4, OWN, [0])
    assert drawn == [0]
    items = stream()
    next(items), next(items)
    assert drawn == [0, 1]


def test_common_batches_are_the_same_for_all():
    batches = started(Reiterable(9))
    first, second = batches.take([0, 1], 2, TrainingPlan("common"), [0, 0])
    assert numbers(first()) == numbers(second()) == [0, 1]
    assert read(batches, 1) == [2]


@pytest.mark.parametrize("plan", ["own", "subset", "common"])
def test_passes_repeat_the_same_batches(plan):
    batches = started(Reiterable(9))
    assert read(batches, 2, TrainingPlan(plan, passes=3)) == [0, 1] * 3
    assert read(batches, 2) == [2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_epoch_of_a_dataset_is_a_permutation(workers):
    source = Numbered(workers=workers, max_queue_size=2)
    batches = started(source)
    epochs = [read(batches, 6) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert source.num_epoch_ends == 2
    assert (threading.main_thread() in source.threads) == (workers == 1)


def test_workers_do_not_change_the_order():
    orders = [read(started(Numbered(20, workers=workers)), 50) for workers in (1, 4)]
    assert orders[0] == orders[1]


def test_a_dataset_without_shuffle_is_read_in_order():
    assert read(started(Numbered(), shuffle=False), 8) == [0, 1, 2, 3, 4, 5, 0, 1]


def test_the_seed_decides_the_order_from_the_first_epoch_on():
    def order(seed):
        return read(started(Numbered(20), seed), 20)

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_the_first_batch_of_a_dataset_is_the_one_that_is_trained_on():
    batches = started(Numbered(20))
    assert numbers([batches.first_batch()]) == read(batches, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_without_end(workers):
    assert read(started(Numbered(None, workers=workers)), 9) == list(range(9))


class Told(Numbered):
    """Notes when epochs begin and end, and what is read."""

    def __init__(self, **options):
        super().__init__(**options)
        self.told = []

    def on_epoch_begin(self):
        self.told.append("begin")

    def on_epoch_end(self):
        self.told.append("end")

    def __getitem__(self, index):
        self.told.append(index)
        return super().__getitem__(index)


def test_a_dataset_is_told_of_its_epochs():
    source = Told(count=2)
    batches = IterableBatches(source, shuffle=False)
    batches.start(np.random.SeedSequence(0).spawn(2))
    assert read(batches, 3) == [0, 1, 0]
    assert source.told == ["begin", 0, 1, "end", "begin", 0]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_dataset_that_goes_on_is_told_of_as_many_epochs(count):
    sources = Told(count=2), Told(count=2)
    first, second = (started(source, shuffle=False) for source in sources)
    read(first, count)
    second.set_state(first.get_state())
    assert read(second, 1) == read(first, 1)
    told = [[what for what in source.told if isinstance(what, str)] for source in sources]
    assert told[0] == told[1]


class Shuffled:
    """Draws the order of an epoch when it is first read, not when it is opened."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def __iter__(self):
        for number in self.rng.permutation(5):
            yield batch(int(number))


def from_generator():
    """A generator function that draws, as a data set of TensorFlow's."""
    tensorflow = pytest.importorskip("tensorflow")
    types = tensorflow.TensorSpec((1, 1), "float32"), tensorflow.TensorSpec((1,), "int64")
    source = Shuffled()
    return tensorflow.data.Dataset.from_generator(lambda: iter(source), output_signature=types)


def cached():
    """The order of the first epoch that is read to its end, again and again."""
    return dataset(5).unbatch().shuffle(5, seed=3).cache().batch(1)


def loader():
    torch = pytest.importorskip("torch")
    x = torch.arange(5, dtype=torch.float32)[:, None]
    data = torch.utils.data.TensorDataset(x, torch.arange(5))
    generator = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(data, 1, shuffle=True, generator=generator)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 10, 13])
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("make", [Shuffled, from_generator, cached, loader])
def test_an_order_that_a_source_draws_itself_goes_on(make, look, count):
    """Earlier epochs are read to their ends: when they draw is not known."""
    whole, resumed = started(make()), started(make())
    read(whole, count)
    if look:
        whole.first_batch()
    resumed.set_state(json.loads(json.dumps(whole.get_state())))
    assert read(resumed, 12) == read(whole, 12)


def test_a_dataset_that_knows_its_length_only():
    class Sized(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return batch(index)

    batches = started(Sized(), shuffle=False)
    assert batches.steps_per_epoch() == 3
    assert read(batches, 4) == [0, 1, 2, 0]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_dataset_is_not_swallowed(workers):
    class Broken(Numbered):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("The file is gone.")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="The file is gone"):
        read(started(Broken(workers=workers), shuffle=False), 6)


@pytest.mark.parametrize(
    ("make", "given", "expected"),
    [
        (lambda: dataset(5), None, 5),
        (lambda: dataset(5).repeat(), None, None),
        (lambda: dataset(5).filter(lambda x, y: True), None, None),
        (lambda: dataset(5), 3, 3),
        (lambda: Numbered(4), None, 4),
        (lambda: Numbered(None), None, None),
        (lambda: Reiterable(4), None, None),
        (lambda: Reiterable(4), 2, 2),
        (lambda: iter([batch(0)]), None, None),
    ],
)
def test_steps_per_epoch(make, given, expected):
    assert IterableBatches(make(), given).steps_per_epoch() == expected


def test_class_weights_become_sample_weights():
    batches = started(dataset(3), class_weight={0: 0.5, 2: 4.0})
    (stream,) = batches.take([0], 3, OWN, [0])
    assert [item[2].tolist() for item in stream()] == [[0.5], [1.0], [4.0]]


def test_class_weights_beside_sample_weights():
    source = IterableBatches(iter([(*batch(0), np.ones(1))]), class_weight={0: 1.0})
    with pytest.raises(DataError, match=r"`class_weight`.*yields sample weights.*one of them"):
        source.first_batch()


def test_class_weights_without_labels():
    source = IterableBatches(iter([batch(0)[:1]]), class_weight={0: 1.0})
    with pytest.raises(DataError, match="one output with class labels"):
        source.first_batch()


def test_a_batch_of_too_many_parts():
    with pytest.raises(DataError, match="parts=4"):
        IterableBatches(iter([(1, 2, 3, 4)])).first_batch()
