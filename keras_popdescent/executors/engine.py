"""Training, scoring and replacement of all members of one structure in one call each (JAX)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_popdescent.data.arrays import Indices
from keras_popdescent.data.batch import as_fit_gives_it
from keras_popdescent.executors.convolutions import as_products
from keras_popdescent.executors.stacks import Stack
from keras_popdescent.executors.stepping.chunks import Chunks
from keras_popdescent.executors.stepping.jax import gather, scan_rows
from keras_popdescent.population.averages import moved, rate
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.base import Offspring


class Engine:
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
        # Which tensor is the moving average of which weight.
        self._averages = {
            index: len(live.weight_variables) + average for index, average in live.averages.items()
        }
        self._momentum = None if live.own_averages is None else live.own_averages.momentum
        # Which tensor is the learning rate; None where it is a schedule or a function.
        annealed = live.rate_variable
        self._rate = None if annealed is None else position[id(annealed)]
        # XLA's convolutions are slow inside loops on a CPU: there, a call for each batch.
        self._scans = jax.default_backend() != "cpu"
        # Batch size and shapes of a sample -> what a member's activations take.
        self._activations: dict[Any, int] = {}
        # Training and scoring are programs of their own.
        self._train_chunks, self._test_chunks = Chunks(), Chunks()
        self._on_gpu = jax.default_backend() == "gpu"
        donated = (0,) if self._scans else ()
        self._train = jax.jit(self._train_all, donate_argnums=donated)
        self._test = jax.jit(self._test_all)
        self._average = jax.jit(self._average_all, donate_argnums=donated)
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
        for block in self._blocks(rows, self._train_chunks):
            stack, metrics, last = self._train(stack, metrics, arrays, block)
        if rate is not None:
            stack = [*stack[:rate], own, *stack[rate + 1 :]]
        return stack, _logs(last, len(stack[0]))

    def average(self, stack: Stack) -> Stack:
        """Return the members with averages moved towards their weights, where they have some."""
        moved_stack: Stack = stack if self._momentum is None else self._average(stack)
        return moved_stack

    def _average_all(self, stack: Stack) -> Stack:
        part = rate(stack[-1], self._momentum or 0.0)
        changed = list(stack)
        for index, average in self._averages.items():
            weight = stack[index]
            changed[average] = moved(weight, stack[average], _per_member(part, weight.ndim))
        changed[-1] = stack[-1] + 1
        return changed

    def test(self, stack: Stack, arrays: Any, rows: list[Indices]) -> list[dict[str, float]]:
        """Return what each member reports on its rows, under a common objective."""
        size = len(stack[0])
        stack = list(stack)
        for index, value in self._neutral.items():
            stack[index] = jnp.full_like(stack[index], value)
        for index, average in self._averages.items():
            stack[index] = stack[average]
        metrics, last = self._metrics(size), {}
        for block in self._blocks(rows, self._test_chunks):
            metrics, last = self._test(stack, metrics, arrays, block)
        return _logs(last, size)

    def activation_bytes(self, arrays: Any, batch_size: int) -> int:
        """Return roughly how much memory a member's gradient step takes beside its state.

        It is the size of everything that a forward pass computes: more than is ever held at once,
        as operations are fused (three times as much for the paper's CIFAR-10 network on a GPU).

        Args:
            arrays: Data on the device.
            batch_size: Samples a batch.
        """
        key = batch_size, *(array.shape[1:] for array in jax.tree_util.tree_leaves(arrays))
        if key not in self._activations:
            self._activations[key] = self._trace_bytes(arrays, batch_size)
        return self._activations[key]

    def _trace_bytes(self, arrays: Any, batch_size: int) -> int:
        member = [variable.value for variable in self.variables]
        rows = np.zeros((1, batch_size), np.int32)
        with self._convolutions(several=True):
            traced = jax.make_jaxpr(self._test_one)(member, self._one_s_metrics(), arrays, rows)
        return _computed_bytes(traced.jaxpr)

    def evolve(
        self,
        stack: Stack,
        fresh: MemberState,
        offspring: Sequence[Offspring],
        seeds: Sequence[int],
    ) -> Stack:
        """Return the stack after a replacement: one gather, and noise.

        All slots are in the stack, in order; all children have one kind of noise and one rule for
        the optimizer's state.

        Args:
            stack: The members.
            fresh: A state of the structure with an optimizer as just built.
            offspring: Who is replaced by whom.
            seeds: Each child's seed, of its dropout layers and the like.
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
        return self._evolve(
            stack,
            [*fresh.weights, *fresh.optimizer],
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
        weight_of = {average: index for index, average in self._averages.items()}
        # Our averages are changed as the weights are.
        ours = set() if self._momentum is None else {*weight_of, len(stack) - 1}
        fresh_ones -= ours
        news: list[jax.Array] = []
        shifts: dict[int, jax.Array] = {}
        evolved = []
        for index, column in enumerate(stack):
            new = column[parents[:, 0]]
            as_weight = weight_of.get(index, index) if index in ours else index
            if as_weight in trainable and parents.shape[1] > 1:
                weights = _per_member(shares, column.ndim + 1)
                new = jnp.sum(column[parents] * weights.astype(column.dtype), axis=1)
            if as_weight in shifts:
                new = new + shifts[as_weight]
            elif index in trainable and kind != "none":
                position = live.trainable_indices.index(index)
                shifts[index] = _noise(new, kind, noise_seed, amount, position)
                new = new + shifts[index]
            elif index in live.seed_indices:
                new = dropout_seed[:, live.seed_indices.index(index)].astype(column.dtype)
            elif index in fresh_ones and index in weight_of:
                new = news[weight_of[index]]
            elif index in fresh_ones:
                new = jnp.broadcast_to(fresh[index], column.shape).astype(column.dtype)
            news.append(new)
            evolved.append(jnp.where(_per_member(child_at, column.ndim), new, column))
        return evolved

    def _one_s_metrics(self) -> list[jax.Array]:
        self._model.reset_metrics()
        return [variable.value for variable in self._model.metrics_variables]

    def _metrics(self, size: int) -> list[jax.Array]:
        values = self._one_s_metrics()
        return [jnp.broadcast_to(value, (size, *value.shape)) for value in values]

    def _blocks(self, rows: list[Indices], chunks: Chunks) -> Iterator[Indices]:
        for block in rows:
            steps, batch_size = block.shape[1:]
            if self._scans:
                yield from (block[:, span] for span in chunks.spans(steps, batch_size))
            else:
                yield from (block[:, step : step + 1] for step in range(steps))

    def _train_all(self, stack: Stack, *arguments: Any) -> Any:
        with self._convolutions(several=len(stack[0]) > 1):
            return jax.vmap(self._train_one, (0, 0, None, 0))(stack, *arguments)

    def _test_all(self, stack: Stack, *arguments: Any) -> Any:
        with self._convolutions(several=len(stack[0]) > 1):
            return jax.vmap(self._test_one, (0, 0, None, 0))(stack, *arguments)

    def _convolutions(self, several: bool) -> AbstractContextManager[None]:
        """How convolutions are traced: those of several members on a GPU as matrix products."""
        return as_products(self._model) if self._on_gpu and several else nullcontext()

    def _train_one(
        self, member: Stack, metrics: list[jax.Array], arrays: Any, rows: jax.Array
    ) -> tuple[Stack, list[jax.Array], Any]:
        places = (self._trainable, self._others, self._optimizer)
        state = tuple([member[index] for index in group] for group in places)

        def step(state: Any, row: jax.Array) -> Any:
            return self._model.train_step(state, as_fit_gives_it(gather(arrays, row)))

        logs, state = self._over(step, (*state, metrics), rows)
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
            return self._model.test_step(state, as_fit_gives_it(gather(arrays, row)))

        logs, state = self._over(step, (trainable, others, metrics), rows)
        return state[-1], logs

    def _over(self, step: Callable[[Any, Any], Any], state: Any, rows: jax.Array) -> Any:
        """Run a step over rows, or the only one; return what the last reported, and the state."""
        return scan_rows(step, state, rows) if self._scans else step(state, rows[0])


def _computed_bytes(jaxpr: Any) -> int:
    """Return the size of everything that a traced function computes.

    The body of a scan counts once a turn, for its gradient needs what every turn computed; all
    branches count.
    """
    total = 0
    for equation in jaxpr.eqns:
        inner = list(_programs_in(equation.params.values()))
        if inner:
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += turns * sum(map(_computed_bytes, inner))
        else:
            kinds = [variable.aval for variable in equation.outvars]
            total += sum(math.prod(k.shape) * k.dtype.itemsize for k in kinds if k.ndim)
    return total


def _programs_in(parameters: Iterable[Any]) -> Iterator[Any]:
    """Yield the jaxprs among an operation's parameters: of a body, or of each branch."""
    for value in parameters:
        if isinstance(value, list | tuple):
            yield from _programs_in(value)
        elif hasattr(program := getattr(value, "jaxpr", value), "eqns"):
            yield program


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
