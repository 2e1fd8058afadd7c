"""The vectorized executor: many members in one call on one accelerator (JAX).

Members' states are stacked on a leading axis; `vmap` runs Keras's stateless `train_step` for all of
them at once, `scan` runs it over the batches, and live hyperparameters are stacked like weights.
Replacement is one gather. Where that does not apply (callbacks, streams of batches), members take
turns, as in the sequential executor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import keras
import numpy as np

from keras_popdescent.data import ArrayBatches
from keras_popdescent.data.arrays import Indices
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.executors.engine import Engine
from keras_popdescent.executors.sequential import SequentialExecutor, _Stage
from keras_popdescent.executors.stacks import States
from keras_popdescent.population.executor import Report
from keras_popdescent.population.seeding import integer_seed
from keras_popdescent.population.state import MemberState, capture
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import TrainingPlan

# A member's training needs its state, its gradients and what is made of them: so many times its
# state; and its activations.
_STATES_NEEDED = 4
# Part of the device's memory that stacked members may take.
_MEMORY_SHARE = 0.6


class VectorizedExecutor(SequentialExecutor):
    """Trains and scores members together, those of one structure in one call.

    Args:
        members_at_once: At most so many members in one call; None for as many as fit the device's
            memory by a rough estimate: four times their states, and all that a forward pass
            computes, in six tenths of it.

    Raises:
        ArgumentError: For fewer than one member at once.
    """

    def __init__(self, members_at_once: int | None = None) -> None:
        if members_at_once is not None and members_at_once < 1:
            raise ArgumentError(
                describe("At least one member must train.", members_at_once=members_at_once)
            )
        self.members_at_once = members_at_once

    @property
    def _states(self) -> Any:
        return self._store

    @_states.setter
    def _states(self, states: list[MemberState]) -> None:
        self._store = States(states)

    @property
    def interruptible(self) -> bool:
        """Not where members train at once: their states are given to the call that trains them."""
        return not self._applies()

    def advance(
        self,
        slots: Sequence[int],
        num_batches: int,
        *,
        batch_size: int | None = None,
        plan: TrainingPlan | None = None,
        score: bool = True,
        rate_factor: float = 1.0,
    ) -> list[Report]:
        plan = plan or self._setup.training
        if not self._applies():
            return super().advance(
                slots,
                num_batches,
                batch_size=batch_size,
                plan=plan,
                score=score,
                rate_factor=rate_factor,
            )
        feeds = self._feeds(slots, num_batches, batch_size, plan)
        if plan.fresh_optimizer:
            for slot in slots:
                self._renew_optimizer(slot)
        counters = self._counters_at_turns(slots, feeds)
        reports: dict[int, Report] = {}
        for together in self._parties(slots, feeds):
            rows = [feeds[slot] for slot in together]
            reports.update(self._advance_together(together, rows, score, counters, rate_factor))
        self._resident = None
        return [reports[slot] for slot in slots]

    def _feeds(
        self, slots: Sequence[int], num_batches: int, batch_size: int | None, plan: TrainingPlan
    ) -> dict[int, list[Indices]]:
        training = cast(ArrayBatches, self._setup.data.training)
        taken = training.take(list(slots), num_batches, plan, self._batch_sizes(slots, batch_size))
        self._sampler.next_iteration()
        return dict(zip(slots, taken, strict=True))

    def _applies(self) -> bool:
        """Whether members may train at once, as things are now."""
        setup = self._setup
        validation = setup.data.validation
        return (
            setup.hooks is None
            and isinstance(setup.data.training, ArrayBatches)
            and not isinstance(validation, list)
        )

    def _parties(
        self, slots: Sequence[int], feeds: Mapping[int, list[Indices]]
    ) -> Iterator[list[int]]:
        """Yield slots that can train in one call: one structure, batches of one shape."""
        alike: dict[Any, list[int]] = {}
        for slot in slots:
            structure = self._setup.blueprint.structure_key(self._values[slot])
            shapes = tuple(block.shape for block in feeds[slot])
            alike.setdefault((structure, shapes), []).append(slot)
        for together in alike.values():
            most = self._most_at_once(together[0], feeds[together[0]])
            for first in range(0, len(together), most):
                yield together[first : first + most]

    def _most_at_once(self, slot: int, feed: Sequence[Indices]) -> int:
        if self.members_at_once is not None:
            return self.members_at_once
        limit = device_memory()
        if limit is None:
            return len(self._values)
        stage = self._stage(self._values[slot])
        batch_size = max(block.shape[1] for block in feed)
        data = self._training_data(stage)
        needed = _STATES_NEEDED * self._store.num_bytes(slot)
        needed += self._engine(stage).activation_bytes(data, batch_size)
        return max(int(_MEMORY_SHARE * limit / max(needed, 1)), 1)

    def _training_data(self, stage: _Stage) -> Any:
        """Return the training data on the device."""
        data = cast(ArrayBatches, self._setup.data.training)
        if stage.training is None:
            stage.training = stage.stepper.load(data.arrays)
        return stage.training

    def _advance_together(
        self,
        slots: list[int],
        feeds: list[list[Indices]],
        score: bool,
        counters: Mapping[int, int],
        rate_factor: float,
    ) -> dict[int, Report]:
        began = time.perf_counter()
        stage = self._stage(self._values[slots[0]])
        engine = self._engine(stage)
        self._write_newborn(slots, stage)
        self._write_counters(slots, stage, counters)
        stack = self._store.stacked(slots)
        data = self._training_data(stage)
        stack, logs = engine.train(stack, data, _joined(feeds), rate_factor)
        if score:
            stack = engine.average(stack)
        self._store.put(slots, stack)
        if score and self._setup.data.validation is not None:
            if stage.validation is None:
                stage.validation = self._sampler.load(stage.stepper)
            rows = _joined([self._sampler.indices(slot) for slot in slots])
            scored = engine.test(stack, stage.validation, rows)
            logs = [
                {**own, **{f"val_{name}": value for name, value in more.items()}}
                for own, more in zip(logs, scored, strict=True)
            ]
        seconds = (time.perf_counter() - began) / len(slots)
        objective = self._setup.objective
        steps = sum(len(block) for block in feeds[0])
        return {
            slot: Report(slot, objective.score(own) if score else float("nan"), own, steps, seconds)
            for slot, own in zip(slots, logs, strict=True)
        }

    def _counters_at_turns(
        self, slots: Sequence[int], feeds: Mapping[int, list[Indices]]
    ) -> dict[int, int]:
        """Return the step counters of members that share one, as if they took their turns.

        A family's counter goes on with the steps of each of its members, in the order of slots.
        """
        counters: dict[int, int] = {}
        for slot in slots:
            group = self._groups[slot]
            if self._groups.count(group) == 1 and group not in self._counters:
                continue
            if group not in self._counters:
                [index, *_] = self._stage(self._values[slot]).live.step_counter_indices
                self._counters[group] = self._store[slot].optimizer[index]
            counters[slot] = int(self._counters[group])
            self._counters[group] = counters[slot] + sum(len(block) for block in feeds[slot])
        return counters

    def _write_counters(self, slots: list[int], stage: _Stage, counters: Mapping[int, int]) -> None:
        sharing = [slot for slot in slots if slot in counters]
        indices = [
            len(stage.live.weight_variables) + index for index in stage.live.step_counter_indices
        ]
        if sharing:
            column = np.array([counters[slot] for slot in sharing])
            self._store.write(slots, sharing, indices, [column] * len(indices))

    def _engine(self, stage: _Stage) -> Engine:
        if stage.engine is None:
            stage.engine = Engine(stage.live)
        engine: Engine = stage.engine
        return engine

    def _write_newborn(self, slots: Sequence[int], stage: _Stage) -> None:
        """Write the hyperparameter values of those who were just born into their states."""
        newborn = [slot for slot in slots if slot in self._newborn]
        if not all(binding.handles for binding in stage.live.bindings.values()):
            # A binding of the user's own may write whatever it likes.
            for slot in newborn:
                self._swap_in(slot)
                self._store[slot] = capture(stage.live)
            return
        engine = self._engine(stage)
        indices = engine.written
        live = [engine.variables[index] for index in indices]
        rows = []
        for slot in newborn:
            stage.live.write_values(self._values[slot])
            rows.append([keras.ops.convert_to_numpy(variable) for variable in live])
        if newborn and indices:
            columns = [np.stack(column) for column in zip(*rows, strict=True)]
            self._store.write(list(slots), newborn, indices, columns)
        self._newborn.difference_update(newborn)

    def are_finite(self, slots: Sequence[int]) -> list[bool]:
        found = self._store.finite()
        return [found[slot] for slot in slots]

    def apply(self, offspring: Sequence[Offspring]) -> None:
        slots = self._store.whole()
        keys = {self._setup.blueprint.structure_key(values) for values in self._values}
        keys |= {self._setup.blueprint.structure_key(child.values) for child in offspring}
        kinds = {(child.weight_noise.kind, child.optimizer_state) for child in offspring}
        if slots is None or len(keys) != 1 or len(kinds) != 1:
            super().apply(offspring)
            return
        stage = self._stage(offspring[0].values)
        seeds = [integer_seed(seed) for seed in self._seeds.spawn(len(offspring))]
        self._store.put(
            slots,
            self._engine(stage).evolve(self._store.stacked(slots), stage.fresh, offspring, seeds),
        )
        groups = list(self._groups)
        for child in offspring:
            self._values[child.slot] = dict(child.values)
            shares = child.optimizer_state == "fresh_slots"
            self._groups[child.slot] = groups[child.parents[0]] if shares else self._new_group()
            self._newborn.add(child.slot)
        self._resident = None


def _joined(feeds: Sequence[Sequence[Indices]]) -> list[Indices]:
    """Return (members, steps, batch) blocks from each member's (steps, batch) blocks."""
    return [np.stack(blocks) for blocks in zip(*feeds, strict=True)]


def why_vectorized() -> str | None:
    """Return why members train at once here, None where they should not."""
    if keras.backend.backend() != "jax" or jax.default_backend() == "cpu":
        return None
    return f"vectorized executor: members train at once on the {jax.default_backend()}"


def device_memory() -> int | None:
    """Return the device's memory in bytes, None where it does not tell."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else int(stats.get("bytes_limit", 0)) or None
