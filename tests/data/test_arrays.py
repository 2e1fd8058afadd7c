"""Streams of indices, and the three plans of which batches a member trains on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_popdescent.data import ArrayBatches
from keras_popdescent.data.arrays import IndexStream
from keras_popdescent.strategies import TrainingPlan


def stream(num_samples=10, shuffle=True, seed=0):
    return IndexStream(num_samples, shuffle, np.random.default_rng(seed))


def shapes(blocks):
    return [block.shape for block in blocks]


def flat(blocks):
    return np.concatenate([block.ravel() for block in blocks]).tolist()


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "num_batches", "expected"),
    [
        (10, 5, 2, [(2, 5)]),
        (10, 4, 2, [(2, 4)]),
        (10, 4, 3, [(2, 4), (1, 2)]),  # the rest of an epoch is a smaller batch
        (10, 4, 7, [(2, 4), (1, 2), (2, 4), (1, 2), (1, 4)]),
        (10, 5, 5, [(5, 5)]),  # epochs without a rest are one block
        (3, 8, 4, [(4, 3)]),
        (1, 1, 3, [(3, 1)]),
    ],
)
def test_blocks(num_samples, batch_size, num_batches, expected):
    assert shapes(stream(num_samples).take(num_batches, batch_size)) == expected


def test_an_epoch_holds_every_sample_once():
    source = stream(10)
    epochs = [flat(source.take(3, 4)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_without_shuffle_the_order_is_that_of_the_data():
    assert flat(stream(5, shuffle=False).take(6, 2)) == [0, 1, 2, 3, 4] * 2


def test_indices_are_int32():
    assert stream().take(1, 4)[0].dtype == np.int32


def test_the_stream_goes_on_where_it_stopped():
    whole, parts = stream(10, seed=3), stream(10, seed=3)
    assert flat(whole.take(7, 4)) == sum((flat(parts.take(n, 4)) for n in (1, 3, 2, 1)), [])


def test_the_batch_size_may_change_within_an_epoch():
    source = stream(10, shuffle=False)
    assert flat(source.take(1, 4)) == [0, 1, 2, 3]
    assert [block.tolist() for block in source.take(3, 5)] == [
        [[4, 5, 6, 7, 8]], [[9]], [[0, 1, 2, 3, 4]],
    ]  # fmt: skip


def test_a_stream_continues_from_its_state():
    source, other = stream(10, seed=1), stream(10, seed=2)
    source.take(2, 4)
    other.set_state(json.loads(json.dumps(source.get_state())))
    assert flat(other.take(9, 4)) == flat(source.take(9, 4))


X = np.arange(12, dtype="float32")[:, np.newaxis]


def batches(num_slots=3, batch_size=4, shuffle=True, seed=0):
    made = ArrayBatches((X,), batch_size, shuffle)
    made.start(np.random.SeedSequence(seed).spawn(num_slots + 1))
    return made


def test_own_streams_differ_by_slot_and_hold_every_sample_once():
    taken = batches().take([0, 1, 2], 3, TrainingPlan("own"), [4, 4, 4])
    assert [sorted(flat(blocks)) for blocks in taken] == [list(range(12))] * 3
    assert len({tuple(flat(blocks)) for blocks in taken}) == 3


def test_own_streams_do_not_depend_on_who_else_trains():
    together, alone = batches(), batches()
    both = together.take([0, 1], 5, TrainingPlan("own"), [4, 4])
    assert flat(alone.take([1], 5, TrainingPlan("own"), [4])[0]) == flat(both[1])


def test_own_batch_sizes():
    taken = batches().take([0, 1, 2], 2, TrainingPlan("own"), [2, 6, 99])
    assert [shapes(blocks) for blocks in taken] == [[(2, 2)], [(2, 6)], [(2, 12)]]


def test_common_batches_are_the_same_for_all_and_go_on():
    source = batches()
    first = source.take([0, 2], 2, TrainingPlan("common"), [4, 4])
    assert flat(first[0]) == flat(first[1])
    rest = source.take([1], 1, TrainingPlan("common"), [4])
    assert sorted(flat(first[0]) + flat(rest[0])) == list(range(12))


def test_common_batches_of_several_sizes_are_cut_from_one_order():
    plan, source, alone = TrainingPlan("common"), batches(), batches()
    small, large, same = source.take([0, 1, 2], 2, plan, [2, 4, 2])
    assert (shapes(small), shapes(large)) == ([(2, 2)], [(2, 4)])
    assert flat(small) == flat(same) == flat(large)[:4]
    # The stream goes on after the largest.
    assert flat(large) == flat(alone.take([0], 2, plan, [4])[0])
    assert flat(source.take([0], 3, plan, [2])[0]) == flat(alone.take([0], 3, plan, [2])[0])


def test_common_batches_have_a_stream_of_their_own():
    source = batches()
    common = source.take([0, 1], 2, TrainingPlan("common"), [4, 4])[0]
    own = source.take([0], 2, TrainingPlan("own"), [4])[0]
    assert flat(own) == flat(batches().take([0], 2, TrainingPlan("own"), [4])[0]) != flat(common)


@pytest.mark.parametrize("plan", ["own", "common"])
def test_passes_repeat_the_same_batches_in_the_same_order(plan):
    once = batches().take([0], 2, TrainingPlan(plan), [4])[0]
    twice = batches().take([0], 2, TrainingPlan(plan, passes=2), [4])[0]
    assert shapes(twice) == [(4, 4)]
    assert flat(twice) == flat(once) * 2


def test_a_subset_is_drawn_anew_for_each_slot_and_iteration():
    source, plan = batches(), TrainingPlan("subset")
    taken = source.take([0, 1], 2, plan, [4, 4]) + source.take([0, 1], 2, plan, [4, 4])
    assert len({tuple(flat(blocks)) for blocks in taken}) == 4
    for blocks in taken:
        assert shapes(blocks) == [(2, 4)]
        assert len(set(flat(blocks))) == 8  # without replacement


def test_a_subset_is_passed_over_in_fixed_order():
    blocks = batches().take([1], 2, TrainingPlan("subset", passes=3), [4])[0]
    assert shapes(blocks) == [(6, 4)]
    assert flat(blocks) == flat(blocks)[:8] * 3


def test_a_subset_larger_than_the_data_repeats_it_evenly():
    blocks = batches().take([0], 6, TrainingPlan("subset"), [4])[0]
    assert np.bincount(flat(blocks), minlength=12).tolist() == [2] * 12


def test_a_subset_of_batches_larger_than_the_data():
    assert shapes(batches().take([0], 2, TrainingPlan("subset"), [64])[0]) == [(2, 12)]


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 3), (5, 3), (12, 1), (64, 1), (1, 12)])
def test_steps_per_epoch(batch_size, steps):
    assert ArrayBatches((X,), batch_size, True).steps_per_epoch() == steps


def test_gather_follows_the_structure():
    source = ArrayBatches(({"a": X, "b": [2 * X, 3 * X]}, 4 * X), 4, True)
    x, y = source.gather(np.array([5, 1]))
    assert x["b"][1].tolist() == [[15.0], [3.0]]
    assert y.tolist() == [[20.0], [4.0]]
    assert source.num_samples == 12


@pytest.mark.parametrize(("batch_size", "size"), [(4, 4), (64, 12)])
def test_first_batch(batch_size, size):
    (x,) = ArrayBatches((X,), batch_size, True).first_batch()
    assert x.ravel().tolist() == list(range(size))


def test_seeds_decide():
    def order(seed):
        return flat(batches(seed=seed).take([0], 3, TrainingPlan(), [4])[0])

    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize("plan", ["own", "common", "subset"])
def test_batches_continue_from_their_state(plan):
    source, other = batches(seed=1), batches(seed=2)
    source.take([0, 1, 2], 2, TrainingPlan(plan), [4, 4, 4])
    other.set_state(json.loads(json.dumps(source.get_state())))
    taken = [b.take([0, 1, 2], 4, TrainingPlan(plan), [4, 5, 4]) for b in (source, other)]
    assert [flat(blocks) for blocks in taken[0]] == [flat(blocks) for blocks in taken[1]]
