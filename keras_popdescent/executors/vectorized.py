"""The vectorized executor: many members in one call on one accelerator (JAX).

Members' states are stacked on a leading axis; `vmap` runs Keras's stateless `train_step` for all of
them at once, `scan` runs it over the batches, and live hyperparameters are stacked like weights.
Replacement is one gather. Where that does not apply (callbacks, streams of batches), members take
turns, as in the sequential executor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_popdescent.data import ArrayBatches
from keras_popdescent.data.arrays import Indices
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.executors.sequential import SequentialExecutor, _Stage
from keras_popdescent.population.executor import Report
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.seeding import integer_seed
from keras_popdescent.population.state import MemberState, capture, is_finite
from keras_popdescent.strategies.base import Offspring, TrainingPlan

Stack = list[jax.Array]
# A member's training needs its state, gradients and activations: so many times its state.
_STATES_NEEDED = 4
# Part of the device's memory that stacked members may take.
_MEMORY_SHARE = 0.6


class VectorizedExecutor(SequentialExecutor):
    """Trains and scores members together, those of one structure in one call.

    Args:
        members_at_once: At most so many members in one call; None for as many as fit the device's
            memory by a rough estimate (four times their states in six tenths of it).

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
            most = self._most_at_once(together[0])
            for first in range(0, len(together), most):
                yield together[first : first + most]

    def _most_at_once(self, slot: int) -> int:
        if self.members_at_once is not None:
            return self.members_at_once
        limit = device_memory()
        if limit is None:
            return len(self._values)
        needed = _STATES_NEEDED * self._store.num_bytes(slot)
        return max(int(_MEMORY_SHARE * limit / max(needed, 1)), 1)

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
        data = cast(ArrayBatches, self._setup.data.training)
        if stage.training is None:
            stage.training = stage.stepper.load(data.arrays)
        stack, logs = engine.train(stack, stage.training, _joined(feeds), rate_factor)
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

    def _engine(self, stage: _Stage) -> _Engine:
        if stage.engine is None:
            stage.engine = _Engine(stage.live)
        engine: _Engine = stage.engine
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
            slots, self._engine(stage).evolve(self._store.stacked(slots), stage, offspring, seeds)
        )
        groups = list(self._groups)
        for child in offspring:
            self._values[child.slot] = dict(child.values)
            shares = child.optimizer_state == "fresh_slots"
            self._groups[child.slot] = groups[child.parents[0]] if shares else self._new_group()
            self._newborn.add(child.slot)
        self._resident = None


@jax.jit
def _rows_finite(tensors: Stack) -> jax.Array:
    """Return (members,) bools: whether all numbers of a member are finite."""
    # Of integers, all are.
    flags = [
        jnp.all(jnp.isfinite(tensor).reshape(tensor.shape[0], -1), axis=1) for tensor in tensors
    ]
    return jnp.all(jnp.stack(flags), axis=0)


class States:
    """Members' states by slot: some on their own, the others as rows of stacks.

    A stack is a list of (members, ...) arrays, in the order of weights and optimizer's variables.
    """

    def __init__(self, states: Sequence[MemberState] = ()) -> None:
        # What a state has beside its tensors, by slot.
        self._frames: list[MemberState] = [_frame(state) for state in states]
        self._loose: dict[int, MemberState] = dict(enumerate(states))
        self._stacks: dict[tuple[int, ...], Stack] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[MemberState]:
        return (self[slot] for slot in range(len(self)))

    def __getitem__(self, slot: int) -> MemberState:
        if slot in self._loose:
            return self._loose[slot]
        for slots, stack in self._stacks.items():
            if slot in slots:
                return _filled(self._frames[slot], _row(stack, slots.index(slot)))
        raise IndexError(slot)

    def __setitem__(self, slot: int, state: MemberState) -> None:
        self._frames[slot] = _frame(state)
        self._loose[slot] = state

    def append(self, state: MemberState) -> None:
        """Add a state in the next slot."""
        self._frames.append(_frame(state))
        self._loose[len(self._frames) - 1] = state

    def num_bytes(self, slot: int) -> int:
        """Return the size of a member's state in bytes."""
        return self[slot].num_bytes()

    def whole(self) -> list[int] | None:
        """Return all slots where they are one stack, and None else."""
        if len(self._stacks) == 1 and not self._loose:
            [slots] = self._stacks
            if len(slots) == len(self):
                return list(slots)
        return None

    def finite(self) -> dict[int, bool]:
        """Return by slot whether all weights are finite; a stack is looked at in one call."""
        found: dict[int, bool] = {}
        for slots, stack in self._stacks.items():
            weights = stack[: self._frames[slots[0]].num_plain[0]]
            rows = np.asarray(_rows_finite(weights))
            found.update(zip(slots, map(bool, rows), strict=True))
        # Where a member is on its own too, that is the newer one.
        return {**found, **{slot: is_finite(state) for slot, state in self._loose.items()}}

    def stacked(self, slots: Sequence[int]) -> Stack:
        """Return the states of some slots as one stack, in that order."""
        key = tuple(slots)
        if key not in self._stacks:
            for other in [k for k in self._stacks if set(k) & set(key)]:
                for slot in set(other) - set(self._loose):
                    self._loose[slot] = self[slot]
                del self._stacks[other]
            tensors = [[*self._loose[s].weights, *self._loose[s].optimizer] for s in slots]
            self._stacks[key] = [jnp.stack(column) for column in zip(*tensors, strict=True)]
        else:
            for slot in [s for s in slots if s in self._loose]:
                state = self._loose[slot]
                tensors = [*state.weights, *state.optimizer]
                self._stacks[key] = _with_row(self._stacks[key], key.index(slot), tensors)
        for slot in slots:
            self._loose.pop(slot, None)
        return self._stacks[key]

    def put(self, slots: Sequence[int], stack: Stack) -> None:
        """Take a stack back."""
        self._stacks[tuple(slots)] = stack

    def write(
        self,
        slots: Sequence[int],
        some: Sequence[int],
        indices: Sequence[int],
        columns: Sequence[np.ndarray[Any, Any]],
    ) -> None:
        """Set some tensors of some members of a stack.

        Args:
            slots: The slots of the stack.
            some: Those that are written.
            indices: Which tensors.
            columns: (len(some), ...) values of each of them.
        """
        stack = list(self.stacked(slots))
        rows = np.array([list(slots).index(slot) for slot in some])
        for index, column in zip(indices, columns, strict=True):
            stack[index] = stack[index].at[rows].set(column)
        self.put(slots, stack)


class _Engine:
    """The compiled calls for members of one structure.

    Args:
        live: The live model whose train step is vectorized.
    """

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._model = live.model
        self.variables = [*live.weight_variables, *live.optimizer_variables]
        position = {id(variable): index for index, variable in enumerate(self.variables)}

        def positions(group: Sequence[keras.Variable]) -> list[int]:
            return [position[id(variable)] for variable in group]

        model = live.model
        # Where Keras's groups of variables are in a stack.
        self._trainable = positions(model.trainable_variables)
        self._others = positions(model.non_trainable_variables)
        self._optimizer = positions(model.optimizer.variables)
        self._neutral = {
            position[id(handle.variable)]: handle.neutral
            for handle in live.handles
            if handle.neutral is not None
        }
        # Which tensors of a member its hyperparameter values are written to.
        self.written = sorted({position[id(handle.target)] for handle in live.handles})
        # Which tensor is the learning rate; None where it is a schedule or a function.
        annealed = live.rate_variable
        self._rate = None if annealed is None else position[id(annealed)]
        # XLA's convolutions are slow inside loops on a CPU: there, a call for each batch.
        self._scans = jax.default_backend() != "cpu"
        donated = (0,) if self._scans else ()
        self._train = jax.jit(jax.vmap(self._train_one, (0, 0, None, 0)), donate_argnums=donated)
        self._test = jax.jit(jax.vmap(self._test_one, (0, 0, None, 0)))
        self._evolve = jax.jit(
            self._evolve_all, static_argnames=("kind", "rule"), donate_argnums=donated
        )

    def train(
        self, stack: Stack, arrays: Any, rows: list[Indices], rate_factor: float = 1.0
    ) -> tuple[Stack, Any]:
        """Train the members of a stack; return it, and each member's logs.

        Args:
            stack: The members.
            arrays: Training data on the device.
            rows: (members, steps, batch) blocks of indices.
            rate_factor: See `Executor.advance`.
        """
        rate = self._rate if rate_factor != 1.0 else None
        if rate is not None:
            own = stack[rate]
            stack = [*stack[:rate], own * np.float32(rate_factor), *stack[rate + 1 :]]
        metrics, last = self._metrics(len(stack[0])), {}
        for block in self._blocks(rows):
            stack, metrics, last = self._train(stack, metrics, arrays, block)
        if rate is not None:
            stack = [*stack[:rate], own, *stack[rate + 1 :]]
        return stack, _logs(last, len(stack[0]))

    def test(self, stack: Stack, arrays: Any, rows: list[Indices]) -> list[dict[str, float]]:
        """Return what each member reports on its rows, under a common objective."""
        size = len(stack[0])
        stack = list(stack)
        for index, value in self._neutral.items():
            stack[index] = jnp.full_like(stack[index], value)
        metrics, last = self._metrics(size), {}
        for block in self._blocks(rows):
            metrics, last = self._test(stack, metrics, arrays, block)
        return _logs(last, size)

    def evolve(
        self, stack: Stack, stage: _Stage, offspring: Sequence[Offspring], seeds: Sequence[int]
    ) -> Stack:
        """Return the stack after a replacement: one gather, and noise.

        All slots are in the stack, in order; all children have one kind of noise and one rule for
        the optimizer's state.
        """
        size = len(stack[0])
        most = max(len(child.parents) for child in offspring)
        parents = np.tile(np.arange(size, dtype=np.int32)[:, np.newaxis], (1, most))
        shares = np.zeros((size, most), dtype=np.float32)
        shares[:, 0] = 1.0
        child_at = np.zeros(size, dtype=bool)
        noise_seed, sd, shift = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
        dropout_seed = np.zeros((size, len(self._live.seed_indices), 2), dtype=np.int64)
        for child, seed in zip(offspring, seeds, strict=True):
            slot, count = child.slot, len(child.parents)
            parents[slot] = child.parents[0]
            parents[slot, :count] = child.parents
            shares[slot] = 0.0
            shares[slot, :count] = 1.0 / count
            child_at[slot] = True
            noise = child.weight_noise
            noise_seed[slot], sd[slot] = noise.seed, noise.sd
            if noise.kind == "scalar":
                shift[slot] = np.random.default_rng(noise.seed).normal(0.0, noise.sd)
            offsets = np.arange(len(self._live.seed_indices))
            dropout_seed[slot, :, 0] = (seed + offsets) % 2**31
        first = offspring[0]
        kind = "none" if not sd.any() else first.weight_noise.kind
        fresh = [*stage.fresh.weights, *stage.fresh.optimizer]
        return self._evolve(
            stack,
            fresh,
            parents,
            shares,
            child_at,
            noise_seed.astype(np.uint32),
            np.where(kind == "scalar", shift, sd).astype(np.float32),
            dropout_seed.astype(np.uint32),
            kind=kind,
            rule=first.optimizer_state,
        )

    def _evolve_all(
        self,
        stack: Stack,
        fresh: Sequence[jax.Array],
        parents: jax.Array,
        shares: jax.Array,
        child_at: jax.Array,
        noise_seed: jax.Array,
        amount: jax.Array,
        dropout_seed: jax.Array,
        kind: str,
        rule: str,
    ) -> Stack:
        live = self._live
        trainable = set(live.trainable_indices)
        num_weights = len(live.weight_variables)
        # Live scalars are written when the child is first used, as in a member on its own.
        fresh_ones = set(range(live.num_plain[0], num_weights))
        fresh_ones |= set(range(num_weights + live.num_plain[1], len(stack)))
        if rule != "inherit":
            fresh_ones |= set(range(num_weights, len(stack)))
        if rule in ("restart", "fresh_slots"):
            fresh_ones -= {num_weights + index for index in live.step_counter_indices}
        evolved = []
        for index, column in enumerate(stack):
            new = column[parents[:, 0]]
            if index in trainable and parents.shape[1] > 1:
                weights = _per_member(shares, column.ndim + 1)
                new = jnp.sum(column[parents] * weights.astype(column.dtype), axis=1)
            if index in trainable and kind != "none":
                position = live.trainable_indices.index(index)
                new = new + _noise(new, kind, noise_seed, amount, position)
            elif index in live.seed_indices:
                new = dropout_seed[:, live.seed_indices.index(index)].astype(column.dtype)
            elif index in fresh_ones:
                new = jnp.broadcast_to(fresh[index], column.shape).astype(column.dtype)
            evolved.append(jnp.where(_per_member(child_at, column.ndim), new, column))
        return evolved

    def _metrics(self, size: int) -> list[jax.Array]:
        self._model.reset_metrics()
        values = [variable.value for variable in self._model.metrics_variables]
        return [jnp.broadcast_to(value, (size, *value.shape)) for value in values]

    def _blocks(self, rows: list[Indices]) -> Iterator[Indices]:
        for block in rows:
            if self._scans:
                yield block
            else:
                yield from (block[:, step : step + 1] for step in range(block.shape[1]))

    def _train_one(
        self, member: Stack, metrics: list[jax.Array], arrays: Any, rows: jax.Array
    ) -> tuple[Stack, list[jax.Array], Any]:
        places = (self._trainable, self._others, self._optimizer)
        state = tuple([member[index] for index in group] for group in places)

        def step(state: Any, row: jax.Array) -> Any:
            logs, state = self._model.train_step(state, _gather(arrays, row))
            return state, logs

        state, logs = _over(step, (*state, metrics), rows, self._scans)
        changed = list(member)
        for group, values in zip(places, state, strict=False):
            for index, value in zip(group, values, strict=True):
                changed[index] = value
        return changed, state[-1], logs

    def _test_one(
        self, member: Stack, metrics: list[jax.Array], arrays: Any, rows: jax.Array
    ) -> tuple[list[jax.Array], Any]:
        trainable = [member[index] for index in self._trainable]
        others = [member[index] for index in self._others]

        def step(state: Any, row: jax.Array) -> Any:
            logs, state = self._model.test_step(state, _gather(arrays, row))
            return state, logs

        state, logs = _over(step, (trainable, others, metrics), rows, self._scans)
        return state[-1], logs


def why_vectorized() -> str | None:
    """Return why members train at once here, None where they should not."""
    if keras.backend.backend() != "jax" or jax.default_backend() == "cpu":
        return None
    return f"vectorized executor: members train at once on the {jax.default_backend()}"


def device_memory() -> int | None:
    """Return the device's memory in bytes, None where it does not tell."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else int(stats.get("bytes_limit", 0)) or None


def _over(step: Callable[[Any, Any], Any], state: Any, rows: jax.Array, scans: bool) -> Any:
    """Run a step over rows; return the state, and what the last step reported."""
    if not scans:
        return step(state, rows[0])
    state, logs = jax.lax.scan(step, state, rows)
    return state, jax.tree_util.tree_map(lambda values: values[-1], logs)


def _gather(arrays: Any, row: jax.Array) -> Any:
    return jax.tree_util.tree_map(lambda array: jnp.take(array, row, axis=0), arrays)


def _joined(feeds: Sequence[Sequence[Indices]]) -> list[Indices]:
    """Return (members, steps, batch) blocks from each member's (steps, batch) blocks."""
    return [np.stack(blocks) for blocks in zip(*feeds, strict=True)]


def _logs(last: Any, size: int) -> list[dict[str, float]]:
    """Bring logs to the host, in one transfer, as one dict a member."""
    flat: dict[str, Any] = {}
    for name, value in jax.device_get(last).items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return [
        {name: float(np.mean(np.asarray(values)[member])) for name, values in flat.items()}
        for member in range(size)
    ]


def _noise(
    column: jax.Array, kind: str, seeds: jax.Array, amount: jax.Array, position: int
) -> jax.Array:
    """Return noise for (members, ...) weights, the same as a member on its own would get."""
    per_member = _per_member(amount, column.ndim)
    if kind == "scalar":
        return per_member.astype(column.dtype)
    moved = (seeds + np.uint32(7919 * position)) % np.uint32(2**31)
    keys = jnp.stack([moved, jnp.zeros_like(moved)], axis=1)
    draw = jax.vmap(lambda key: jax.random.normal(key, column.shape[1:], "float32"))(keys)
    if kind == "relative":
        axes = tuple(range(1, column.ndim))
        spread = jnp.std(column.astype("float32"), axis=axes)
        per_member = per_member * _per_member(spread, column.ndim)
    return (draw * per_member).astype(column.dtype)


def _per_member(values: Any, ndim: int) -> jax.Array:
    """Return values with trailing axes, to be spread over tensors of `ndim` axes."""
    array = jnp.asarray(values)
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


@jax.jit
def _row(stack: Stack, index: int) -> Stack:
    return [column[index] for column in stack]


@jax.jit
def _with_row(stack: Stack, index: int, tensors: Stack) -> Stack:
    return [column.at[index].set(row) for column, row in zip(stack, tensors, strict=True)]


def _frame(state: MemberState) -> MemberState:
    """Return a state without its tensors: how many there are, and the optimizer's class."""
    empty = (None,) * len(state.weights), (None,) * len(state.optimizer)
    return MemberState(*empty, state.num_plain, state.optimizer_class)


def _filled(frame: MemberState, tensors: Stack) -> MemberState:
    count = len(frame.weights)
    return MemberState(
        tuple(tensors[:count]), tuple(tensors[count:]), frame.num_plain, frame.optimizer_class
    )
