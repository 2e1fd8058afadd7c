"""From what the user gives to iterations and batches, by hand."""

from __future__ import annotations

import time

import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.population.budget import (
    Budget,
    per_execution,
    plan_budget,
    share_of_deadline,
)


def budget(epochs=None, steps_per_epoch=None, iterations=None, batches_per_iteration=None):
    return plan_budget(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        iterations=iterations,
        batches_per_iteration=batches_per_iteration,
    )


@pytest.mark.parametrize(
    ("given", "iterations", "batches", "last"),
    [
        # Iterations and batches are the budget, whatever else is known.
        ({"iterations": 5, "batches_per_iteration": 7}, 5, 7, 7),
        ({"iterations": 5, "batches_per_iteration": 7, "epochs": 9, "steps_per_epoch": 3}, 5, 7, 7),
        # Iterations alone: the paper's 128 batches.
        ({"iterations": 5}, 5, 128, 128),
        ({"iterations": 5, "steps_per_epoch": 10}, 5, 128, 128),
        # Epochs spread over the iterations.
        ({"iterations": 5, "epochs": 2, "steps_per_epoch": 100}, 5, 40, 40),
        ({"iterations": 6, "epochs": 2, "steps_per_epoch": 100}, 6, 34, 30),
        ({"iterations": 1, "epochs": 3, "steps_per_epoch": 7}, 1, 21, 21),
        # Epochs in pieces of so many batches; what is left is the last one.
        ({"epochs": 2, "steps_per_epoch": 100, "batches_per_iteration": 50}, 4, 50, 50),
        ({"epochs": 1, "steps_per_epoch": 100, "batches_per_iteration": 30}, 4, 30, 10),
        ({"epochs": 1, "steps_per_epoch": 10, "batches_per_iteration": 30}, 1, 30, 10),
        # Nothing given is one epoch.
        ({"steps_per_epoch": 100, "batches_per_iteration": 50}, 2, 50, 50),
        # Epochs alone: 128 batches, or fewer where there would be fewer than about 40 iterations;
        ({"epochs": 10, "steps_per_epoch": 938}, 74, 128, 36),
        ({"epochs": 1, "steps_per_epoch": 5120}, 40, 128, 128),
        ({"epochs": 1, "steps_per_epoch": 5119}, 40, 128, 127),
        ({"epochs": 1, "steps_per_epoch": 800}, 40, 20, 20),
        # but not below 20 batches for more than 20 iterations.
        ({"epochs": 1, "steps_per_epoch": 799}, 40, 20, 19),
        ({"epochs": 1, "steps_per_epoch": 640}, 32, 20, 20),
        ({"epochs": 1, "steps_per_epoch": 400}, 20, 20, 20),
        ({"epochs": 5, "steps_per_epoch": 20}, 20, 5, 5),
        ({"epochs": 1, "steps_per_epoch": 39}, 20, 2, 1),
        ({"epochs": 1, "steps_per_epoch": 7}, 7, 1, 1),
    ],
)
def test_budget(given, iterations, batches, last):
    planned = budget(**given)
    assert (planned.iterations, planned.batches_per_iteration) == (iterations, batches)
    assert planned.last_batches == last
    assert planned.total_batches == (iterations - 1) * batches + last


@pytest.mark.parametrize("epochs", [1, 3, 50])
@pytest.mark.parametrize("steps_per_epoch", [1, 19, 20, 21, 938])
@pytest.mark.parametrize("batches_per_iteration", [None, 1, 10, 128])
def test_epochs_are_neither_longer_nor_shorter(epochs, steps_per_epoch, batches_per_iteration):
    planned = budget(epochs, steps_per_epoch, None, batches_per_iteration)
    assert planned.total_batches == epochs * steps_per_epoch
    assert 1 <= planned.last_batches <= max(planned.batches_per_iteration, 1)


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"iterations": 5, "batches_per_iteration": 7}, ""),
        ({"iterations": 5}, "batches an iteration: 128, as in the paper"),
        (
            {"iterations": 5, "epochs": 2, "steps_per_epoch": 100},
            "batches an iteration: 40, for 200 in all",
        ),
        ({"epochs": 10, "steps_per_epoch": 938}, "batches an iteration: 128, as in the paper"),
        ({"epochs": 5, "steps_per_epoch": 20}, "batches an iteration: 5, of 100 in all"),
        ({"epochs": 1, "steps_per_epoch": 100, "batches_per_iteration": 30}, ""),
    ],
)
def test_the_note_says_how_the_numbers_came_about(given, note):
    assert budget(**given).note.startswith(note)
    assert bool(budget(**given).note) == bool(note)


@pytest.mark.parametrize("name", ["epochs", "iterations", "batches_per_iteration"])
@pytest.mark.parametrize("number", [0, -3])
def test_numbers_below_one(name, number):
    with pytest.raises(
        ArgumentError, match=rf"`{name}` must be a whole number of at least 1.*{name}={number}"
    ):
        budget(**{"steps_per_epoch": 10, name: number})


@pytest.mark.parametrize(
    "given",
    [{"epochs": 3}, {}, {"batches_per_iteration": 7}, {"epochs": 3, "iterations": 5}],
)
def test_an_epoch_of_unknown_length(given):
    with pytest.raises(ArgumentError, match=r"not known.*Pass `steps_per_epoch`"):
        budget(**given)


def test_numbers_that_are_not_whole():
    for number in (1.5, "3", True, float("inf")):
        with pytest.raises(ArgumentError, match="whole number"):
            budget(epochs=number, steps_per_epoch=8)
    assert budget(epochs=2.0, steps_per_epoch=8) == budget(epochs=2, steps_per_epoch=8)


def test_max_gradient_steps():
    # 5 members: 100 steps are 20 batches a slot.
    alone = plan_budget(
        epochs=None, steps_per_epoch=8, iterations=None, batches_per_iteration=None,
        max_gradient_steps=104, steps_per_batch=5,
    )  # fmt: skip
    assert (alone.total_batches, alone.iterations, alone.batches_per_iteration) == (20, 20, 1)
    shorter = plan_budget(
        epochs=10, steps_per_epoch=8, iterations=None, batches_per_iteration=6,
        max_gradient_steps=100, steps_per_batch=5,
    )  # fmt: skip
    assert (shorter.total_batches, shorter.iterations, shorter.last_batches) == (20, 4, 2)
    assert "max_gradient_steps" in shorter.note
    longer = plan_budget(
        epochs=1, steps_per_epoch=8, iterations=None, batches_per_iteration=6,
        max_gradient_steps=10_000, steps_per_batch=5,
    )  # fmt: skip
    assert longer.total_batches == 8


def test_shares_of_several_executions():
    assert per_execution(None, 3) is None
    assert per_execution(100, 3) == 33
    assert per_execution(2, 3) == 1
    assert share_of_deadline(Budget(1, 1, 1), 2) is None
    now = time.perf_counter()
    half = share_of_deadline(Budget(1, 1, 1, deadline=now + 100.0), 2)
    assert half == pytest.approx(now + 50.0, abs=1.0)
    late = share_of_deadline(Budget(1, 1, 1, deadline=now - 1.0), 2)
    assert late == pytest.approx(now, abs=1.0)
