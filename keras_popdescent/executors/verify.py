"""A hyperparameter that is said to be live must change the train step: tried before a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_popdescent.data import ArrayBatches
from keras_popdescent.errors import BindingError, describe
from keras_popdescent.hyperparameters import Binding
from keras_popdescent.population.executor import Setup
from keras_popdescent.population.state import MemberState, capture, restore, to_numpy

if TYPE_CHECKING:
    from keras_popdescent.executors.sequential import _Stage

# The second step shows what acts through the slots of the optimizer only (momentum, betas).
_MIN_STEPS = 2


def verify_bindings(stage: _Stage, setup: Setup) -> None:
    """Train two steps under two values of each live hyperparameter; the results must differ.

    The model is afterwards as it was before. A gradient clip is left out: whether it matters
    depends on the gradients. Steps that train nothing under either value tell nothing: the learning
    rate is 0, the weights are not finite, or half-precision gradients overflow and are skipped.

    Raises:
        BindingError: Naming the hyperparameter that changes nothing.
    """
    before = capture(stage.live)
    start = to_numpy(before)
    for name, binding in stage.live.bindings.items():
        pair = _probe_writers(name, binding, setup)
        if pair is None:
            continue
        outcomes = []
        for write in pair:
            restore(stage.live, before)
            write()
            outcomes.append(_train(stage, setup))
        trained = any(_trained(stage, start, outcome) for outcome in outcomes)
        if trained and _equal(outcomes[0], outcomes[1], ignore=set(stage.live.live_indices)):
            raise BindingError(
                describe(
                    f"`{name}` is said to be live, but two values of it gave the same train steps.",
                    "Expected different weights or optimizer states after two steps.",
                    "Does a custom `train_step` leave it out (penalties are in `self.losses`)? "
                    f'Else declare it with `bindings={{"{name}": "rebuild"}}`.',
                    binding=type(binding).__name__,
                )
            )
    restore(stage.live, before)
    stage.stepper.reset()


def _probe_writers(name: str, binding: Binding, setup: Setup) -> Any:
    """Return two functions that write different values, or None where nothing can be told."""
    handles = [handle for handle in binding.handles if handle.probe is not None]
    if binding.handles:
        if not handles:
            return None

        def writer(which: int) -> Callable[[], None]:
            def write() -> None:
                for handle in handles:
                    if handle.probe is not None:
                        handle.write(handle.probe[which])

            return write

        return writer(0), writer(1)
    if name not in setup.blueprint.space:
        return None
    dimension = setup.blueprint.space[name]
    low, high = float(dimension.from_unit(0.0)), float(dimension.from_unit(1.0))
    return (lambda: binding.write(low)), (lambda: binding.write(high))


def _train(stage: _Stage, setup: Setup) -> MemberState:
    stage.stepper.reset()
    training = setup.data.training
    # An optimizer that accumulates gradients updates only then.
    accumulated = getattr(stage.live.model.optimizer, "gradient_accumulation_steps", None)
    steps = max(_MIN_STEPS, 2 * int(accumulated or 0))
    if isinstance(training, ArrayBatches):
        if stage.training is None:
            stage.training = stage.stepper.load(training.arrays)
        size = min(training.batch_size, training.num_samples)
        rows = np.arange(steps * size, dtype=np.int32) % training.num_samples
        stage.stepper.train_indices(stage.training, [rows.reshape(steps, size)])
    else:
        for _ in range(steps):
            stage.stepper.train_batch(training.first_batch())
    return to_numpy(capture(stage.live))


def _trained(stage: _Stage, before: MemberState, after: MemberState) -> bool:
    """Whether some trainable weight has changed, and all of them are finite."""
    pairs = [(before.weights[i], after.weights[i]) for i in stage.live.trainable_indices]
    return any(not np.array_equal(a, b) for a, b in pairs) and all(
        bool(np.all(np.isfinite(b.astype("float32")))) for _, b in pairs
    )


def _equal(first: MemberState, second: MemberState, ignore: set[int]) -> bool:
    pairs = zip(
        (*first.weights, *first.optimizer), (*second.weights, *second.optimizer), strict=True
    )
    return all(
        index in ignore or np.array_equal(a, b, equal_nan=True)
        for index, (a, b) in enumerate(pairs)
        if not _is_scalar_setting(a)
    )


def _is_scalar_setting(array: Any) -> bool:
    """Whether a variable is itself a setting (the learning rate) or a counter."""
    return np.ndim(array) == 0
