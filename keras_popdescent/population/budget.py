"""How long a search runs: from epochs, iterations and batches per iteration, whichever is given."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_popdescent.errors import ArgumentError, describe

# The paper's number of batches in an iteration.
PAPER_BATCHES = 128
# Fewer than about so many iterations leave selection nothing to work with.
MIN_ITERATIONS = 20


@dataclass(frozen=True)
class Budget:
    """How long each slot trains.

    Attributes:
        iterations: Number of iterations.
        batches_per_iteration: Batches of each but the last, which has what is left.
        total_batches: Batches of all iterations together.
        note: A sentence that says how the numbers came about, empty where both were given.
        given: Whether the caller said how many batches an iteration has.
    """

    iterations: int
    batches_per_iteration: int
    total_batches: int
    note: str = ""
    given: bool = False

    @property
    def last_batches(self) -> int:
        """Batches of the last iteration."""
        return self.total_batches - (self.iterations - 1) * self.batches_per_iteration


def plan_budget(
    *,
    epochs: int | None,
    steps_per_epoch: int | None,
    iterations: int | None,
    batches_per_iteration: int | None,
) -> Budget:
    """Return a budget.

    - `iterations` and `batches_per_iteration` given: they are the budget.
    - Only `iterations`: with the paper's 128 batches, or, where `epochs` is given too, as many
      batches as make the epochs last for the iterations.
    - Only `epochs` (1 where nothing is given, as in `fit`): the paper's 128 batches, or fewer where
      the epochs would otherwise hold fewer than about 20 iterations.

    Args:
        epochs: How many times each slot passes over the data.
        steps_per_epoch: Batches of one pass; None where nobody knows.
        iterations: Number of iterations.
        batches_per_iteration: Batches of each.

    Raises:
        ArgumentError: If a number is below 1, or an epoch's length is needed and unknown.
    """
    for name, number in (
        ("epochs", epochs),
        ("iterations", iterations),
        ("batches_per_iteration", batches_per_iteration),
    ):
        if number is not None and int(number) < 1:
            raise ArgumentError(describe(f"`{name}` must be at least 1, not {number}."))
    if iterations is not None and (epochs is None or batches_per_iteration is not None):
        chosen = batches_per_iteration or PAPER_BATCHES
        note = "" if batches_per_iteration else f"batches an iteration: {chosen}, as in the paper"
        total = int(iterations) * int(chosen)
        return Budget(int(iterations), int(chosen), total, note, batches_per_iteration is not None)
    if steps_per_epoch is None:
        raise ArgumentError(
            describe(
                "The number of batches in an epoch is not known.",
                fix="Pass `steps_per_epoch`, or `iterations` and `batches_per_iteration`.",
                epochs=epochs,
            )
        )
    total = int(epochs or 1) * int(steps_per_epoch)
    if iterations is not None:
        batches = max(1, math.ceil(total / iterations))
        note = f"batches an iteration: {batches}, for {total} in all"
        return Budget(math.ceil(total / batches), batches, total, note)
    if batches_per_iteration is None:
        batches = min(PAPER_BATCHES, math.ceil(total / MIN_ITERATIONS))
        note = f"batches an iteration: {batches}"
        note += ", as in the paper" if batches == PAPER_BATCHES else f", of {total} in all"
        return Budget(math.ceil(total / batches), batches, total, note)
    batches = int(batches_per_iteration)
    return Budget(math.ceil(total / batches), batches, total, given=True)
