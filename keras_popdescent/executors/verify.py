"""A hyperparameter that is said to be live must change the train step: tried before it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_popdescent.errors import BindingError, describe
from keras_popdescent.executors.stepping import Stepper
from keras_popdescent.hyperparameters import Binding
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.state import MemberState, capture, restore, to_numpy
from keras_popdescent.strategies.space import SearchSpace, Values

# The second step shows what acts through the slots of the optimizer only (momentum, betas).
_MIN_STEPS = 2


def verify_bindings(
    live: LiveModel, stepper: Stepper, values: Values, train: Callable[[int], None]
) -> None:
    """Train two steps under two values of each live hyperparameter; the results must differ.

    The model is afterwards as it was before. A gradient clip is left out: whether it matters
    depends on the gradients. Steps that train nothing under either value tell nothing: the learning
    rate is 0, the weights are not finite, or half-precision gradients overflow and are skipped.

    Args:
        live: The model.
        stepper: Its stepper.
        values: The values that it was built for, for the message.
        train: Makes so many train steps, the same ones each time.

    Raises:
        BindingError: Naming the hyperparameter that changes nothing.
    """
    before = capture(live)
    try:
        for name, binding in live.bindings.items():
            pair = _probe_writers(name, binding, live.blueprint.space)
            if pair is not None and not _acts(live, stepper, before, pair, train):
                raise _no_effect(name, binding, values)
    finally:
        restore(live, before)
        stepper.reset()


def _acts(
    live: LiveModel,
    stepper: Stepper,
    before: MemberState,
    writers: tuple[Callable[[], None], Callable[[], None]],
    train: Callable[[int], None],
) -> bool:
    """Whether steps under two values differ, or tell nothing because nothing is trained."""
    outcomes = []
    for write in writers:
        restore(live, before)
        write()
        stepper.reset()
        train(_num_steps(live))
        outcomes.append(to_numpy(capture(live)))
    start = to_numpy(before)
    trained = any(_trained(live, start, outcome) for outcome in outcomes)
    return not trained or not _equal(outcomes[0], outcomes[1], ignore=set(live.live_indices))


def _no_effect(name: str, binding: Binding, values: Values) -> BindingError:
    return BindingError(
        describe(
            f"`{name}` is said to be live, but two values of it gave the same train steps.",
            "Expected different weights or optimizer states after two steps.",
            "Does a custom `train_step` leave it out (penalties are in `self.losses`)? "
            f'Else declare it with `bindings={{"{name}": "rebuild"}}`.',
            binding=type(binding).__name__,
            hyperparameters=dict(values),
        )
    )


def _probe_writers(name: str, binding: Binding, space: SearchSpace) -> Any:
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
    if name not in space:
        return None
    dimension = space[name]
    low, high = float(dimension.from_unit(0.0)), float(dimension.from_unit(1.0))
    return (lambda: binding.write(low)), (lambda: binding.write(high))


def _num_steps(live: LiveModel) -> int:
    # An optimizer that accumulates gradients updates only then.
    accumulated = getattr(live.model.optimizer, "gradient_accumulation_steps", None)
    return max(_MIN_STEPS, 2 * int(accumulated or 0))


def _trained(live: LiveModel, before: MemberState, after: MemberState) -> bool:
    """Whether some trainable weight has changed, and all of them are finite."""
    pairs = [(before.weights[i], after.weights[i]) for i in live.trainable_indices]
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
