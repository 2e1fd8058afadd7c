"""Members' states by slot, on their own or as rows of stacks on the device (JAX)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_popdescent.population.state import MemberState, is_finite

# (members, ...) arrays, in the order of weights and optimizer's variables.
Stack = list[jax.Array]


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
        if slot in self._loose:
            return self._loose[slot].num_bytes()
        [(slots, stack)] = [(s, stack) for s, stack in self._stacks.items() if slot in s]
        return sum(column.nbytes for column in stack) // len(slots)

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


@jax.jit
def _rows_finite(tensors: Stack) -> jax.Array:
    """Return (members,) bools: whether all numbers of a member are finite."""
    # Of integers, all are.
    flags = [
        jnp.all(jnp.isfinite(tensor).reshape(tensor.shape[0], -1), axis=1) for tensor in tensors
    ]
    return jnp.all(jnp.stack(flags), axis=0)


@jax.jit
def _row(stack: Stack, index: int) -> Stack:
    return [column[index] for column in stack]


@jax.jit
def _with_row(stack: Stack, index: int, tensors: Stack) -> Stack:
    return [column.at[index].set(row) for column, row in zip(stack, tensors, strict=True)]


def _frame(state: MemberState) -> MemberState:
    """Return a state without its tensors: how many there are, and the optimizer's class."""
    empty = (None,) * len(state.weights), (None,) * len(state.optimizer)
    return replace(state, weights=empty[0], optimizer=empty[1])


def _filled(frame: MemberState, tensors: Stack) -> MemberState:
    count = len(frame.weights)
    return replace(frame, weights=tuple(tensors[:count]), optimizer=tuple(tensors[count:]))
