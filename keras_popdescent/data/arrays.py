"""Batches from arrays in memory: only indices travel, the samples stay on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_popdescent.data.batch import Batch, length
from keras_popdescent.strategies.plans import TrainingPlan

Indices = NDArray[np.int32]


class IndexStream:
    """An endless stream of batches of indices; an epoch is a permutation, as in `fit`.

    The last batch of an epoch is smaller where the batch size does not divide the samples. The
    stream goes on where it stopped, over iterations.

    Args:
        num_samples: Size of the data set.
        shuffle: Whether each epoch has an order of its own.
        rng: Source of randomness.
    """

    def __init__(self, num_samples: int, shuffle: bool, rng: np.random.Generator) -> None:
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.rng = rng
        self._order = np.empty(0, dtype=np.int32)
        # The generator's state before the epoch's order was drawn: what the order follows from.
        self._drawn_from: dict[str, Any] | None = None

    def take(self, num_batches: int, batch_size: int) -> list[Indices]:
        """Return the next batches as blocks of equal batch size.

        Args:
            num_batches: How many batches.
            batch_size: Samples a batch; may differ from call to call.

        Returns:
            (steps, batch) int32 arrays, whose steps add up to `num_batches`.
        """
        blocks: list[Indices] = []
        while num_batches > 0:
            if not len(self._order):
                self._begin_epoch()
            full = min(num_batches, len(self._order) // batch_size)
            size = batch_size if full else len(self._order)
            full = max(full, 1)
            blocks.append(self._order[: full * size].reshape(full, size))
            self._order = self._order[full * size :]
            num_batches -= full
        return _merge(blocks)

    def _begin_epoch(self) -> None:
        self._drawn_from = self.rng.bit_generator.state  # type: ignore[assignment]
        self._order = np.arange(self.num_samples, dtype=np.int32)
        if self.shuffle:
            self.rng.shuffle(self._order)

    def get_state(self) -> dict[str, Any]:
        """Return the position and the generator's state, JSON-able and small."""
        if not len(self._order):
            return {"left": 0, "rng": self.rng.bit_generator.state}
        return {"left": len(self._order), "rng": self._drawn_from}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a position: the epoch's order is drawn again from the same state."""
        self.rng.bit_generator.state = state["rng"]
        self._order = np.empty(0, dtype=np.int32)
        if state["left"]:
            self._begin_epoch()
            self._order = self._order[self.num_samples - state["left"] :]


class ArrayBatches:
    """The training data as arrays, with a stream of indices for each slot.

    Args:
        arrays: (x,), (x, y) or (x, y, sample_weight), nested structures of arrays (samples, ...).
        batch_size: Samples a batch.
        shuffle: Whether each epoch has an order of its own.
    """

    def __init__(self, arrays: Batch, batch_size: int, shuffle: bool) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.num_samples = length(arrays)
        self._streams: list[IndexStream] = []

    def start(self, seeds: list[np.random.SeedSequence]) -> None:
        """Open one stream for each seed; the last one serves batches common to all slots."""
        self._streams = [
            IndexStream(self.num_samples, self.shuffle, np.random.default_rng(seed))
            for seed in seeds
        ]

    def steps_per_epoch(self) -> int:
        """Return the number of batches that hold every sample once."""
        return -(-self.num_samples // min(self.batch_size, self.num_samples))

    def first_batch(self) -> Batch:
        """Return the first samples, as a batch."""
        return self.gather(np.arange(min(self.batch_size, self.num_samples), dtype=np.int32))

    def gather(self, indices: NDArray[Any]) -> Batch:
        """Return the samples at (batch,) indices."""
        import keras

        batch: Batch = keras.tree.map_structure(lambda array: array[indices], self.arrays)
        return batch

    def turns(self, slots: list[int]) -> list[int]:
        """Return the slots as they are: each has a stream of its own."""
        return slots

    def take(
        self, slots: list[int], num_batches: int, plan: TrainingPlan, batch_sizes: list[int]
    ) -> list[list[Indices]]:
        """Return the blocks of indices that each of the slots trains on next.

        Args:
            slots: The slots that train.
            num_batches: Batches for each of them, before repeated passes.
            plan: Which batches.
            batch_sizes: Samples a batch, for each of the slots.
        """
        if plan.batches == "common":
            common = self._common(num_batches, batch_sizes)
            taken = [common[size] for size in batch_sizes]
        elif plan.batches == "own":
            taken = [
                self._streams[slot].take(num_batches, min(size, self.num_samples))
                for slot, size in zip(slots, batch_sizes, strict=True)
            ]
        else:
            taken = [
                [self._subset(self._streams[slot].rng, num_batches, min(size, self.num_samples))]
                for slot, size in zip(slots, batch_sizes, strict=True)
            ]
        return [_merge(blocks * plan.passes) for blocks in taken]

    def _common(self, num_batches: int, batch_sizes: list[int]) -> dict[int, list[Indices]]:
        """Return the common batches by their size: one order, which larger ones cut further on."""
        common: dict[int, list[Indices]] = {}
        stream = self._streams[-1]
        start = stream.get_state()
        for size in sorted(set(batch_sizes)):
            if common:
                # The epoch's whole order is drawn again: only where there are several sizes.
                stream.set_state(start)
            common[size] = stream.take(num_batches, size)
        return common

    def _subset(self, rng: np.random.Generator, num_batches: int, batch_size: int) -> Indices:
        """Draw a random subset without replacement; with repeats only where it exceeds the data."""
        needed = num_batches * batch_size
        rounds = -(-needed // self.num_samples)
        order = np.concatenate([rng.permutation(self.num_samples) for _ in range(rounds)])
        return order[:needed].astype(np.int32).reshape(num_batches, batch_size)

    def get_state(self) -> dict[str, Any]:
        """Return the position of every stream, JSON-able."""
        return {"streams": [stream.get_state() for stream in self._streams]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a position."""
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.set_state(saved)


def _merge(blocks: list[Indices]) -> list[Indices]:
    """Join neighbours of equal batch size: each block is one call into the traced loop."""
    merged: list[Indices] = []
    for block in blocks:
        if merged and merged[-1].shape[1] == block.shape[1]:
            merged[-1] = np.concatenate([merged[-1], block])
        else:
            merged.append(block)
    return merged
