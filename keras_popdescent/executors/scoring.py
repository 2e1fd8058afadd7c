"""Which validation samples score a member."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import Batch, length
from keras_popdescent.executors.stepping import Stepper
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies.plans import ScoringPlan

DEFAULT_NUM_SAMPLES = 1600


class ValidationSampler:
    """Draws validation samples by a scoring plan.

    Of a list of batches it draws whole batches, until they hold as many samples as the plan says.

    Args:
        validation: Arrays, or a list of batches, or None.
        batch_size: Samples a batch of arrays.
        plan: The scoring plan.
        seed: Root of the randomness.
        population_size: Number of slots.
    """

    def __init__(
        self,
        validation: Batch | list[Batch] | None,
        batch_size: int,
        plan: ScoringPlan,
        seed: np.random.SeedSequence,
        population_size: int,
    ) -> None:
        self._validation = validation
        self._batch_size = max(batch_size, 1)
        self._plan = plan
        if validation is None:
            self._total = 0
        else:
            is_list = isinstance(validation, list)
            self._total = len(validation) if is_list else length(validation)
        self._rngs = [np.random.default_rng(child) for child in seed.spawn(population_size + 1)]
        self._common: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._whole = _blocks(np.arange(self._total, dtype=np.int32), self._batch_size)

    def next_iteration(self) -> None:
        """Draw the sample that is common to all members in the coming iteration."""
        if self._plan.sample == "common":
            self._common = self._draw(self._rngs[-1])

    def indices(self, slot: int) -> list[Indices]:
        """Return (batches, batch) blocks of indices into the validation arrays."""
        if self._plan.sample == "whole":
            return self._whole
        return _blocks(self._sample(slot), self._batch_size)

    def batches(self, slot: int) -> list[Batch]:
        """Return batches of a validation set that is a list of batches."""
        batches = self._validation
        if not isinstance(batches, list) or self._plan.sample == "whole":
            return list(batches or ())
        return [batches[int(index)] for index in self._sample(slot)]

    def evaluate(
        self, slot: int, live: LiveModel, stepper: Stepper, loaded: Any
    ) -> dict[str, float]:
        """Return what the member in a model reports on its sample, under a common objective.

        Args:
            slot: The member's slot.
            live: The model that the member is in.
            stepper: The model's stepper; its metrics are set back first.
            loaded: The validation arrays as the stepper has loaded them; unused for batches.
        """
        stepper.reset()
        with live.neutral():
            if isinstance(self._validation, list):
                for batch in self.batches(slot):
                    stepper.test_batch(batch)
            else:
                stepper.test_indices(loaded, self.indices(slot))
            return stepper.logs()

    def load(self, stepper: Stepper) -> Any:
        """Return the validation arrays on the device; of a list of batches there is nothing."""
        return None if isinstance(self._validation, list) else stepper.load(self._validation or ())

    def _sample(self, slot: int) -> NDArray[np.int32]:
        if self._plan.sample == "common":
            return self._common
        return self._draw(self._rngs[slot])

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int32]:
        wanted = self._plan.num_samples or DEFAULT_NUM_SAMPLES
        if isinstance(self._validation, list):
            order = rng.permutation(self._total).astype(np.int32)
            ends = np.cumsum([_num_samples(self._validation[index]) for index in order])
            return order[: np.searchsorted(ends, wanted) + 1]
        size = min(wanted, self._total)
        return rng.choice(self._total, size=size, replace=False).astype(np.int32)

    def get_state(self) -> dict[str, Any]:
        """Return the generators' states, JSON-able."""
        return {
            "rngs": [rng.bit_generator.state for rng in self._rngs],
            "common": self._common.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` returned."""
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        self._common = np.asarray(state["common"], dtype=np.int32)


def _num_samples(batch: Batch) -> int:
    return int(keras.tree.flatten(batch)[0].shape[0])


def _blocks(indices: NDArray[np.int32], batch_size: int) -> list[Indices]:
    """Cut indices into one block of full batches and one for the rest."""
    full = len(indices) // batch_size
    blocks = [indices[: full * batch_size].reshape(full, batch_size)] if full else []
    rest = indices[full * batch_size :]
    return [*blocks, rest[np.newaxis]] if len(rest) else blocks
