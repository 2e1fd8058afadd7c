from __future__ import annotations

import pytest

from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord

NAN = float("nan")


def member(slot, member_id, rate, score, steps, **more):
    fitness = 0.0 if score != score else 2 / (2 + score)
    return MemberRecord(slot, member_id, {"rate": rate}, score, fitness, steps, **more)


@pytest.fixture
def records() -> list[IterationRecord]:
    """Two slots, three iterations of four steps.

    Member 2 is a child of 0 in slot 1 after iteration 1; member 3 a child of 2 in slot 0 after
    iteration 2. Member 3 scores worse than its parent did.
    """
    return [
        IterationRecord(
            0,
            0,
            0.0,
            births=(BirthRecord(0, 0, (), {"rate": 0.1}), BirthRecord(1, 1, (), {"rate": 0.2})),
        ),
        IterationRecord(
            1,
            8,
            1.5,
            members=(member(0, 0, 0.1, 1.0, 4, logs={"loss": 0.9}), member(1, 1, 0.2, NAN, 4)),
            births=(
                BirthRecord(
                    1, 2, (0,), {"rate": 0.3}, inherited_steps=4, replaced=1,
                    parent_values={"rate": 0.1}, strength=0.25,
                    weight_noise={"kind": "gaussian", "sd": 0.0025, "seed": 7},
                    optimizer_state="inherit",
                ),
            ),
        ),
        IterationRecord(
            2,
            16,
            3.0,
            members=(member(0, 0, 0.1, 0.8, 8), member(1, 2, 0.3, 0.5, 8)),
            births=(
                BirthRecord(
                    0, 3, (2,), {"rate": 0.4}, inherited_steps=8, replaced=0,
                    optimizer_state="inherit",
                ),
            ),
        ),
        IterationRecord(
            3, 24, 4.5, members=(member(0, 3, 0.4, 0.6, 12), member(1, 2, 0.3, 0.7, 12))
        ),
    ]  # fmt: skip


@pytest.fixture
def history(records) -> History:
    history = History()
    for record in records:
        history.append(record)
    return history
