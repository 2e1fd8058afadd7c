"""Batches from tf.data, PyDataset, generators and other iterables: one persistent stream."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_popdescent.data.batch import Batch, as_batch, class_weights
from keras_popdescent.errors import DataError, describe
from keras_popdescent.strategies.plans import TrainingPlan


class IterableBatches:
    """The training data as an iterable of batches, shared by all slots.

    One stream feeds the whole population: each slot takes the batches that come next, so that
    nothing is read twice and nothing is restarted. A finite iterable starts anew when it ends.
    Which slot is the first to take changes, so that each comes by all of the data (`turns`).

    Args:
        source: A `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or any iterable of
            batches.
        steps_per_epoch: Batches an epoch; found out where the source knows.
        shuffle: Whether the order of a PyDataset's batches is shuffled in each epoch.
        class_weight: Weight by class.

    Raises:
        DataError: If the source yields nothing.
    """

    def __init__(
        self,
        source: Any,
        steps_per_epoch: int | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        self.source = source
        self.shuffle = shuffle
        self.class_weight = class_weight
        length = _cardinality(source)
        self._steps_per_epoch = steps_per_epoch or length
        # Batches after which the source yields the same again; None where nobody knows.
        self._length = length or steps_per_epoch
        # How often another slot has become the first to take, since the first iteration.
        self._rotations = -1
        self._rng = np.random.default_rng(0)
        self._ahead: list[Batch] = []
        self._restarts = 0
        # Batches that were taken since the source was last opened.
        self._position = 0
        self._iterator: Iterator[Any] | None = None
        self._drawn_from: Any = self._rng.bit_generator.state
        self._before_look: dict[str, Any] = {}
        self.batch_size: int | None = None

    def start(self, seeds: list[np.random.SeedSequence]) -> None:
        """Seed the order of a PyDataset."""
        self._rng = np.random.default_rng(seeds[-1])
        self._drawn_from = self._rng.bit_generator.state
        if isinstance(self.source, keras.utils.PyDataset):
            # The look at the first batch has opened it in an order that no seed decided.
            self._iterator, self._ahead = None, []

    def steps_per_epoch(self) -> int | None:
        """Return the number of batches in an epoch, None where nobody knows."""
        return self._steps_per_epoch

    def first_batch(self) -> Batch:
        """Look at the first batch without consuming it."""
        if not self._ahead:
            # A look may open the next epoch; the position is still where it was.
            self._before_look = self._where()
            self._ahead.append(self._next())
        return self._ahead[0]

    def turns(self, slots: list[int]) -> list[int]:
        """Return the slots in the order in which they are to take in the coming iteration.

        Where all slots together take a whole number of epochs in so many iterations, each would see
        the same part of each epoch for ever. So wherever an iteration begins with an epoch (or
        nobody knows), the next slot is the first to take.
        """
        if self.get_state()["position"] % (self._length or 1) == 0:
            self._rotations += 1
        first = self._rotations % max(len(slots), 1)
        return slots[first:] + slots[:first]

    def take(
        self, slots: list[int], num_batches: int, plan: TrainingPlan, batch_sizes: list[int]
    ) -> list[Callable[[], Iterator[Batch]]]:
        """Return for each slot a function that yields the batches it trains on next.

        The functions are to be called in the order of `slots`. Batches are drawn when they are
        needed; only repeated or common ones are held in memory.
        """
        if plan.batches == "common":
            common = [self._draw() for _ in range(num_batches)] * plan.passes
            return [lambda: iter(common) for _ in slots]

        def stream() -> Iterator[Batch]:
            if plan.passes == 1:
                for _ in range(num_batches):
                    yield self._draw()
            else:
                held = [self._draw() for _ in range(num_batches)]
                for _ in range(plan.passes):
                    yield from held

        return [stream for _ in slots]

    def get_state(self) -> dict[str, Any]:
        """Return the position in the stream, JSON-able."""
        where = self._before_look if self._ahead else self._where()
        return {**where, "rotations": self._rotations}

    def _where(self) -> dict[str, Any]:
        return {"restarts": self._restarts, "position": self._position, "rng": self._drawn_from}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position, with a source from which only the first batch was read yet.

        What lies before the position is read once more and dropped (of a PyDataset only the order
        is drawn again), so the source must yield the same batches in the same order as before.

        Raises:
            DataError: If the source ends before the position.
        """
        restarts, position = int(state["restarts"]), int(state["position"])
        if isinstance(self.source, keras.utils.PyDataset):
            self._go_to(self.source, restarts, position, state["rng"])
        else:
            self._skip(restarts, position)
        self._restarts, self._position = restarts, position
        # Earlier versions did not rotate.
        self._rotations = int(state.get("rotations", 0))

    def _go_to(
        self, dataset: keras.utils.PyDataset, restarts: int, position: int, rng: Any
    ) -> None:
        self._rng.bit_generator.state = self._drawn_from = rng
        self._ahead, self._iterator = [], None
        if not restarts and not position:
            return
        # Those before the one that is opened below.
        if restarts:
            dataset.on_epoch_begin()
        for _ in range(restarts - 1):
            dataset.on_epoch_end()
            dataset.on_epoch_begin()
        self._restarts = restarts
        self._iterator = self._open_dataset(dataset, position)

    def _skip(self, restarts: int, position: int) -> None:
        for _ in range(restarts):
            # To its end: a source may draw the order of an epoch whenever it likes, when it is
            # opened (tf.data) or first read (a generator function, torch's `DataLoader`).
            deque(self._opened(), maxlen=0)
            self._iterator, self._ahead = None, []
        iterator = self._opened()
        unread = position - len(self._ahead[:position])
        self._ahead = self._ahead[position:]
        if sum(1 for _ in itertools.islice(iterator, unread)) < unread:
            raise DataError(
                describe(
                    "The training data ends before the batch that the search stopped at.",
                    fix="Pass the data set that the search began with, not yet read from.",
                    position=position,
                    type=type(self.source).__name__,
                )
            )

    def _opened(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = self._open()
        return self._iterator

    def _draw(self) -> Batch:
        batch = self._ahead.pop(0) if self._ahead else self._next()
        self._position += 1
        return batch

    def _next(self) -> Batch:
        iterator = self._opened()
        try:
            item = next(iterator)
        except StopIteration:
            self._restarts += 1
            self._position = 0
            self._iterator = self._open()
            try:
                item = next(self._iterator)
            except StopIteration:
                raise DataError(
                    describe(
                        "The training data ran out.",
                        "A generator can be read only once.",
                        "Pass arrays, a tf.data.Dataset, a PyDataset, or a generator that does not "
                        "end.",
                        type=type(self.source).__name__,
                    )
                ) from None
        batch = as_batch(item)
        return batch if self.class_weight is None else self._weighted(batch, self.class_weight)

    @staticmethod
    def _weighted(batch: Batch, weights: Mapping[int, float]) -> Batch:
        if len(batch) == 3:
            raise DataError(
                describe(
                    "`class_weight` is given beside a data set that yields sample weights.",
                    fix="Pass one of them.",
                )
            )
        labels = _numpy(batch[1]) if len(batch) == 2 else None
        return (*batch, class_weights(labels, weights))

    def _open(self) -> Iterator[Any]:
        if isinstance(self.source, keras.utils.PyDataset):
            return self._open_dataset(self.source)
        return iter(self.source)

    def _open_dataset(self, dataset: keras.utils.PyDataset, skip: int = 0) -> Iterator[Any]:
        if self._restarts:
            dataset.on_epoch_end()
        dataset.on_epoch_begin()
        self._drawn_from = self._rng.bit_generator.state
        count = dataset.num_batches
        order: Iterable[int] = itertools.count(skip)
        if count is not None:
            whole = np.arange(count)
            if self.shuffle:
                self._rng.shuffle(whole)
            order = whole[skip:]
        workers = max(int(getattr(dataset, "workers", 1) or 1), 1)
        if workers == 1:
            return (dataset[int(index)] for index in order)
        return _prefetch(dataset, order, workers, int(dataset.max_queue_size))


def _prefetch(
    dataset: keras.utils.PyDataset, order: Iterable[int], workers: int, ahead: int
) -> Iterator[Any]:
    """Read batches with a pool of threads, in order."""
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Any]] = deque()
        for index in order:
            waiting.append(pool.submit(dataset.__getitem__, int(index)))
            if len(waiting) > max(ahead, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _cardinality(source: Any) -> int | None:
    """Return the number of batches of a source that knows it."""
    if isinstance(source, keras.utils.PyDataset):
        return source.num_batches or None
    if hasattr(source, "cardinality"):
        cardinality = int(source.cardinality())
        return cardinality if cardinality > 0 else None
    try:
        return len(source) or None
    except TypeError:
        return None


def _numpy(value: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf, value
    )
