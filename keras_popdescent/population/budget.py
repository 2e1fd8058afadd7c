"""How long a search runs: from epochs, iterations and batches per iteration, whichever is given."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from keras_popdescent.arguments import check_time, check_whole
from keras_popdescent.errors import ArgumentError, describe

# The paper's number of batches in an iteration.
PAPER_BATCHES = 128
# Fewer than about so many iterations leave selection nothing to work with;
MIN_ITERATIONS = 20
# so many serve better, where they are long enough to compare members by.
ITERATIONS = 40
COMPARABLE_BATCHES = 20


@dataclass(frozen=True)
class Budget:
    """How long each slot trains.

    Attributes:
        iterations: Number of iterations.
        batches_per_iteration: Batches of each but the last, which has what is left.
        total_batches: Batches of all iterations together.
        note: A sentence that says how the numbers came about, empty where both were given.
        given: Whether the caller said how many batches an iteration has.
        deadline: The `time.perf_counter()` after which no iteration begins; None for no end.
        began: The `time.perf_counter()` from which the time up to the deadline counts.
    """

    iterations: int
    batches_per_iteration: int
    total_batches: int
    note: str = ""
    given: bool = False
    deadline: float | None = None
    began: float = field(default_factory=time.perf_counter, compare=False)

    @property
    def last_batches(self) -> int:
        """Batches of the last iteration."""
        return self.total_batches - (self.iterations - 1) * self.batches_per_iteration

    def after(self, seconds: float) -> Budget:
        """Return what is left where earlier processes have used so many seconds up."""
        return self if self.deadline is None else replace(self, deadline=self.deadline - seconds)


def plan_budget(
    *,
    epochs: int | None,
    steps_per_epoch: int | None,
    iterations: int | None,
    batches_per_iteration: int | None,
    max_gradient_steps: int | None = None,
    steps_per_batch: int = 1,
    max_time: float | None = None,
) -> Budget:
    """Return a budget.

    - `iterations` and `batches_per_iteration` given: they are the budget.
    - Only `iterations`: with the paper's 128 batches, or, where `epochs` is given too, as many
      batches as make the epochs last for the iterations.
    - Only `epochs` (1 where nothing is given, as in `fit`): the paper's 128 batches, or fewer where
      the epochs would otherwise hold fewer than about 40 iterations, but not below 20 batches for
      the sake of more than 20 iterations.
    - `max_gradient_steps` shortens any of these; alone, it takes the place of `epochs`.

    Args:
        epochs: How many times each slot passes over the data.
        steps_per_epoch: Batches of one pass; None where nobody knows.
        iterations: Number of iterations.
        batches_per_iteration: Batches of each.
        max_gradient_steps: At most so many gradient steps of the whole population.
        steps_per_batch: Gradient steps of the whole population for each batch of a slot.
        max_time: Seconds from now after which no iteration begins.

    Raises:
        ArgumentError: If a number is below 1 or not whole, or an epoch's length is needed and
            unknown.
    """
    for name, number in (
        ("epochs", epochs),
        ("iterations", iterations),
        ("batches_per_iteration", batches_per_iteration),
        ("max_gradient_steps", max_gradient_steps),
    ):
        check_whole(name, number)
    check_time("max_time", max_time)
    most = None
    if max_gradient_steps is not None:
        most = int(max_gradient_steps) // steps_per_batch
        if most < 1:
            raise ArgumentError(
                describe(
                    "`max_gradient_steps` allows not one step for each member.",
                    f"Expected at least {steps_per_batch}.",
                    max_gradient_steps=max_gradient_steps,
                )
            )
    if most is not None and epochs is None and iterations is None:
        # As if an epoch had so many batches.
        epochs, steps_per_epoch = 1, most
    budget = _plan(epochs, steps_per_epoch, iterations, batches_per_iteration)
    if most is not None and most < budget.total_batches:
        batches = min(budget.batches_per_iteration, most)
        note = f"{budget.note}; " if budget.note else ""
        note += f"max_gradient_steps ends it after {most} batches a slot"
        budget = Budget(math.ceil(most / batches), batches, most, note, budget.given)
    deadline = None if max_time is None else budget.began + float(max_time)
    return replace(budget, deadline=deadline)


def _plan(
    epochs: int | None,
    steps_per_epoch: int | None,
    iterations: int | None,
    batches_per_iteration: int | None,
) -> Budget:
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
        fewest = min(COMPARABLE_BATCHES, math.ceil(total / MIN_ITERATIONS))
        batches = min(PAPER_BATCHES, max(math.ceil(total / ITERATIONS), fewest))
        note = f"batches an iteration: {batches}"
        note += ", as in the paper" if batches == PAPER_BATCHES else f", of {total} in all"
        return Budget(math.ceil(total / batches), batches, total, note)
    batches = int(batches_per_iteration)
    return Budget(math.ceil(total / batches), batches, total, given=True)


def per_execution(number: int | None, executions: int) -> int | None:
    """Return an execution's share of a number of gradient steps, None for no limit."""
    return None if number is None else max(int(number) // executions, 1)


def share_of_deadline(budget: Budget, executions_left: int) -> float | None:
    """Return when an execution has to end, so that those after it have as much time."""
    if budget.deadline is None:
        return None
    now = time.perf_counter()
    return now + max(budget.deadline - now, 0.0) / max(executions_left, 1)
