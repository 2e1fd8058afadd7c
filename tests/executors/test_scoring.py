"""Which validation samples score a member."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_popdescent.executors.scoring import DEFAULT_NUM_SAMPLES, ValidationSampler
from keras_popdescent.strategies import ScoringPlan

NUM = 100
ARRAYS = (np.arange(NUM), np.arange(NUM))


def sampler(sample, num_samples=None, validation=ARRAYS, batch_size=16, seed=0, size=3):
    return ValidationSampler(
        validation,
        batch_size,
        ScoringPlan(sample, num_samples),
        np.random.SeedSequence(seed),
        size,
    )


def drawn(tested, slot):
    return np.concatenate([np.ravel(block) for block in tested.indices(slot)])


def test_whole_is_everything_in_order():
    tested = sampler("whole")
    for slot in range(3):
        tested.next_iteration()
        np.testing.assert_array_equal(drawn(tested, slot), np.arange(NUM))
    assert [block.shape for block in tested.indices(0)] == [(6, 16), (1, 4)]


def test_a_common_sample_is_common_and_drawn_anew_each_iteration():
    tested = sampler("common", 37)
    samples = []
    for _ in range(3):
        tested.next_iteration()
        first = drawn(tested, 0)
        np.testing.assert_array_equal(first, drawn(tested, 2))
        np.testing.assert_array_equal(first, drawn(tested, 0))
        assert len(first) == len(set(first)) == 37
        samples.append(set(first))
    assert len(set.union(*samples)) > 60
    assert [block.shape for block in tested.indices(0)] == [(2, 16), (1, 5)]


def test_own_samples_differ():
    tested = sampler("own", 37)
    tested.next_iteration()
    first, second = drawn(tested, 0), drawn(tested, 1)
    assert set(first) != set(second)
    assert set(drawn(tested, 0)) != set(first)  # the next one
    assert len(set(second)) == 37


def test_a_slots_samples_do_not_depend_on_who_else_is_scored():
    alone, together = sampler("own", 37), sampler("own", 37)
    drawn(together, 0)
    drawn(together, 2)
    np.testing.assert_array_equal(drawn(alone, 1), drawn(together, 1))


def test_every_sample_is_drawn_equally_often():
    tested = sampler("common", 10)
    counts = np.zeros(NUM)
    for _ in range(2000):
        tested.next_iteration()
        counts[drawn(tested, 0)] += 1
    # Binomial: 200 on average, with a spread of 13.
    assert counts.min() > 130 and counts.max() < 270


@pytest.mark.parametrize("sample", ["common", "own"])
def test_more_than_there_are_is_all_there_are(sample):
    tested = sampler(sample, 1000)
    tested.next_iteration()
    assert sorted(drawn(tested, 0)) == list(range(NUM))


@pytest.mark.parametrize("sample", ["common", "own"])
def test_the_default_size_is_the_papers(sample):
    large = (np.zeros(5000),)
    tested = sampler(sample, validation=large)
    tested.next_iteration()
    assert len(drawn(tested, 0)) == DEFAULT_NUM_SAMPLES == 1600


@pytest.mark.parametrize(
    ("num_samples", "sizes", "num_batches"),
    [
        (25, [10] * 8, 3),
        (30, [10] * 8, 3),
        (1, [10] * 8, 1),
        (81, [10] * 8, 8),
        (None, [400] * 8, 4),  # the paper's 1600
    ],
)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_of_a_list_of_batches_whole_batches_are_drawn(num_samples, sizes, num_batches, batch_size):
    """As many as hold the samples, whatever the size of a batch of arrays is."""
    batches = [(np.full(size, i), np.full(size, i)) for i, size in enumerate(sizes)]
    assert sampler("whole", validation=batches, batch_size=batch_size).batches(0) == batches
    for sample in ("common", "own"):
        tested = sampler(sample, num_samples, batches, batch_size)
        tested.next_iteration()
        chosen = [int(batch[0][0]) for batch in tested.batches(1)]
        assert len(chosen) == len(set(chosen)) == num_batches


def test_batches_of_several_lengths_are_drawn_until_there_are_enough():
    tested = sampler("own", 20, [(np.zeros(size),) for size in (2, 30, 5, 16)])
    for _ in range(20):
        sizes = [len(batch[0]) for batch in tested.batches(0)]
        assert sum(sizes) >= 20 > sum(sizes[:-1])


@pytest.mark.parametrize("sample", ["whole", "common", "own"])
def test_without_validation_data_there_is_nothing(sample):
    tested = sampler(sample, validation=None, batch_size=0)
    tested.next_iteration()
    assert tested.batches(0) == []
    assert tested.indices(0) == []


@pytest.mark.parametrize("sample", ["common", "own"])
def test_a_restored_sampler_goes_on_through_json(sample):
    first, second = sampler(sample, 9), sampler(sample, 9, seed=1)
    first.next_iteration()
    drawn(first, 0)
    second.set_state(json.loads(json.dumps(first.get_state())))
    for slot in (0, 1, 0):
        np.testing.assert_array_equal(drawn(first, slot), drawn(second, slot))
        for tested in (first, second):
            tested.next_iteration()


def test_seeds():
    for sample in ("common", "own"):
        same = [sampler(sample, 9, seed=seed) for seed in (0, 0, 1)]
        for tested in same:
            tested.next_iteration()
        first, second, other = (drawn(tested, 0) for tested in same)
        np.testing.assert_array_equal(first, second)
        assert np.any(first != other)
