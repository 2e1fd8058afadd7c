"""A member's state: captured from a live model, restored into it, copied from parent to child.

The order of a transfer, which the tests hold: weights, non-trainable state and optimizer state are
copied; the child's seed generators get a seed of their own; weight noise is added; the child's
hyperparameter values are written last (the optimizer's state holds the parent's learning rate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_popdescent.hyperparameters.optimizer import inner_optimizer
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies.base import Offspring

# So many numbers are looked at sooner on the host than a device is asked about them.
_FEW = 2**16


@dataclass(frozen=True)
class MemberState:
    """Everything that one member is, apart from its hyperparameter values.

    Attributes:
        weights: Tensors of the backend, in the order of `LiveModel.weight_variables`: weights, then
            seed states and live scalars.
        optimizer: Tensors of the optimizer's variables: its own, then live scalars; then averages
            of the weights, and how often they were moved, where there are averages of ours.
        num_plain: How many of `weights` and of `optimizer` are the model's own.
        optimizer_class: Class of the optimizer, whose slots mean something in no other.
        num_averages: How many averages there are.
    """

    weights: tuple[Any, ...]
    optimizer: tuple[Any, ...]
    num_plain: tuple[int, int]
    optimizer_class: str = ""
    num_averages: int = 0

    @property
    def averages(self) -> tuple[Any, ...]:
        """The averages of those of the model's own weights that are floats, and the count."""
        return self.optimizer[-self.num_averages - 1 :] if self.num_averages else ()

    def num_bytes(self) -> int:
        """Return the size of the state in bytes."""
        return sum(_num_bytes(tensor) for tensor in (*self.weights, *self.optimizer))


def capture(live: LiveModel) -> MemberState:
    """Return the state that is in a live model now."""
    tensors = live.read_variables()
    split = len(live.weight_variables)
    optimizer_class = type(inner_optimizer(live.model)).__name__
    return MemberState(
        tuple(tensors[:split]),
        tuple(tensors[split:]),
        live.num_plain,
        optimizer_class,
        live.num_averages,
    )


def restore(live: LiveModel, state: MemberState) -> None:
    """Put a state into a live model."""
    live.write_variables((*state.weights, *state.optimizer))


def child_state(
    child: Offspring, states: Sequence[MemberState], live: LiveModel, fresh: MemberState, seed: int
) -> MemberState:
    """Return the state of a child whose parents are among `states`, see `inherit`.

    Args:
        child: What it is to be.
        states: The members' states by slot, before the replacement.
        live: The child's live model.
        fresh: A state of it with an optimizer as just built.
        seed: Seed of its dropout layers and the like.
    """
    return inherit(
        [states[parent] for parent in child.parents],
        live,
        optimizer=child.optimizer_state,
        fresh=fresh,
        seed=seed,
        noise=child.weight_noise,
    )


def inherit(
    parents: Sequence[MemberState],
    live: LiveModel,
    *,
    optimizer: str,
    fresh: MemberState,
    seed: int,
    noise: NoiseSpec,
) -> MemberState:
    """Return a child's state, its hyperparameter values not yet written.

    Args:
        parents: One parent or several; trainable weights are averaged over them, the rest (moving
            statistics of batch normalization, too) is the first's.
        live: The child's live model, for the meaning of the tensors. It may be another one than the
            parents', with the same weight shapes (a layer of dropout more, say).
        optimizer: `"inherit"`, `"restart"`, `"fresh"` or `"fresh_slots"`, see `Offspring`.
        fresh: A state of the child's live model with an optimizer as just built.
        seed: Seed of the child's dropout layers and the like.
        noise: Noise for the trainable weights.
    """
    first = parents[0]
    count = live.num_plain[0]
    weights = [*first.weights[:count], *fresh.weights[count:]]
    _mix(weights, [parent.weights for parent in parents], live.trainable_indices)
    for offset, index in enumerate(live.seed_indices):
        weights[index] = keras.ops.convert_to_tensor(
            np.array([(seed + offset) % 2**31, 0]), dtype=live.weight_variables[index].dtype
        )
    quiet = list(weights)
    add_noise(weights, live.trainable_indices, noise)
    slots = _optimizer_state(first, fresh, live, optimizer, weights)
    state = replace(fresh, weights=tuple(weights), optimizer=slots)
    if not live.num_averages:
        return state
    if any(parent.num_averages != live.num_averages for parent in parents):
        # A parent's optimizer had averages of its own.
        return with_averages(state, [*(weights[i] for i in live.averages), fresh.averages[-1]])
    # They are weights, whatever becomes of the optimizer.
    averages = list(first.averages)
    places = _places_of_trainable(live)
    _mix(averages, [parent.averages for parent in parents], places)
    if not noise.is_zero:
        for place, index in zip(places, live.trainable_indices, strict=True):
            averages[place] = averages[place] + (weights[index] - quiet[index])
    return with_averages(state, averages)


def with_averages(state: MemberState, averages: Sequence[Any]) -> MemberState:
    """Return a state with other averages of its weights: as many as it has, and the count."""
    return replace(state, optimizer=(*state.optimizer[: -len(averages)], *averages))


def begun_anew(state: MemberState) -> MemberState:
    """Return a state whose averages have no past: until they are moved, the weights count."""
    if not state.num_averages:
        return state
    *averages, count = state.averages
    return with_averages(state, [*averages, keras.ops.zeros_like(count)])


def visited(before: MemberState, after: MemberState) -> MemberState:
    """Return what a visit has left: averages of weights that were changed begin anew."""
    if not after.num_averages:
        return after
    count = after.num_plain[0]
    same = all(
        np.array_equal(keras.ops.convert_to_numpy(old), keras.ops.convert_to_numpy(new))
        for old, new in zip(before.weights[:count], after.weights[:count], strict=True)
    )
    return after if same else begun_anew(after)


def with_fresh_optimizer(state: MemberState, fresh: MemberState) -> MemberState:
    """Return a state with an optimizer as just built; averages of weights stay.

    Args:
        state: The state.
        fresh: A state of the same live model with an optimizer as just built.
    """
    renewed = replace(state, optimizer=fresh.optimizer)
    return with_averages(renewed, state.averages) if state.num_averages else renewed


def _mix(tensors: list[Any], parents: Sequence[Sequence[Any]], indices: Sequence[int]) -> None:
    """Set some tensors to the mean of those of several parents, in place."""
    if len(parents) > 1:
        for index in indices:
            stacked = keras.ops.stack([parent[index] for parent in parents])
            tensors[index] = keras.ops.mean(stacked, axis=0)


def _places_of_trainable(live: LiveModel) -> list[int]:
    """Return which of our averages are of trainable weights, in the order of these."""
    place = {index: place for place, index in enumerate(live.averages)}
    return [place[index] for index in live.trainable_indices]


def _optimizer_state(
    parent: MemberState, fresh: MemberState, live: LiveModel, rule: str, weights: Sequence[Any]
) -> tuple[Any, ...]:
    count = live.num_plain[1]
    # A momentum that was 0 when the optimizer was built leaves fewer slots.
    same = (parent.optimizer_class, parent.num_plain[1]) == (fresh.optimizer_class, count)
    kept: set[int] = set()
    if same and rule != "fresh":
        kept = set(range(count)) if rule == "inherit" else set(live.step_counter_indices)
    slots = [
        parent.optimizer[index] if index in kept else new
        for index, new in enumerate(fresh.optimizer)
    ]
    for index, average in live.averages.items():
        if average not in kept and not live.num_averages:
            # Under a step counter that goes on, it would stay near the zeros that it is built with.
            slots[average] = weights[index]
    return tuple(slots)


def add_noise(weights: list[Any], trainable_indices: Sequence[int], noise: NoiseSpec) -> None:
    """Add noise to the trainable ones among some weights, in place."""
    if noise.is_zero:
        return
    shift = float(np.random.default_rng(noise.seed).normal(0.0, noise.sd))
    for position, index in enumerate(trainable_indices):
        weight = weights[index]
        if noise.kind == "scalar":
            weights[index] = weight + keras.ops.cast(shift, weight.dtype)
            continue
        draw = keras.random.normal(
            weight.shape, dtype="float32", seed=(noise.seed + 7919 * position) % 2**31
        )
        scale: Any = noise.sd
        if noise.kind == "relative":
            scale = noise.sd * keras.ops.std(keras.ops.cast(weight, "float32"))
        weights[index] = weight + keras.ops.cast(draw * scale, weight.dtype)


def to_numpy(state: MemberState) -> MemberState:
    """Return the state as NumPy arrays, to be kept or saved."""

    def convert(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(np.array(keras.ops.convert_to_numpy(tensor)) for tensor in tensors)

    return replace(state, weights=convert(state.weights), optimizer=convert(state.optimizer))


def is_finite(state: MemberState) -> bool:
    """Whether all weights are finite: not those of the optimizer, which may hold what it masks."""
    weights = [
        weight
        for weight in state.weights[: state.num_plain[0]]
        if hasattr(weight, "dtype") and "float" in keras.backend.standardize_dtype(weight.dtype)
    ]
    if sum(math.prod(weight.shape) for weight in weights) <= _FEW:
        return all(np.isfinite(keras.ops.convert_to_numpy(weight)).all() for weight in weights)
    # 0 * w is NaN where w is not finite; a sum of them overflows nowhere.
    sums = [
        keras.ops.cast(keras.ops.sum(keras.ops.multiply(weight, 0)), "float32")
        for weight in weights
    ]
    return bool(np.isfinite(keras.ops.convert_to_numpy(sum(sums[1:], sums[0]))))


def to_arrays(state: MemberState) -> dict[str, Any]:
    """Return the state as a dict of NumPy arrays, numbers and strings, for a snapshot."""
    return dict(vars(to_numpy(state)))


def from_arrays(saved: Mapping[str, Any]) -> MemberState:
    """Return the state that `to_arrays` described, on the device."""

    def convert(arrays: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(keras.ops.convert_to_tensor(array) for array in arrays)

    weights, slots = saved["num_plain"]
    return MemberState(
        convert(saved["weights"]),
        convert(saved["optimizer"]),
        (int(weights), int(slots)),
        str(saved["optimizer_class"]),
        int(saved.get("num_averages", 0)),
    )


def _num_bytes(tensor: Any) -> int:
    if not hasattr(tensor, "dtype"):
        return int(np.asarray(tensor).nbytes)
    size = int(np.prod(tensor.shape)) if len(tensor.shape) else 1
    return size * np.dtype(keras.backend.standardize_dtype(tensor.dtype)).itemsize
