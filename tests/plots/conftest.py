"""A small search by hand: three slots, three iterations of ten gradient steps, two replacements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord

# member -> its hyperparameter values
VALUES: dict[int, dict[str, Any]] = {
    0: {"popdescent/learning_rate": 0.1, "dropout": 0.5, "units": 32, "activation": "relu"},
    1: {"popdescent/learning_rate": 0.01, "dropout": 0.4, "units": 64, "activation": "tanh"},
    2: {"popdescent/learning_rate": 0.5, "dropout": 0.3, "units": 64, "activation": "relu"},
    3: {"popdescent/learning_rate": 0.02, "dropout": 0.2, "units": 64, "activation": "relu"},
    4: {"popdescent/learning_rate": 0.04, "dropout": 0.3, "units": 128, "activation": "relu"},
}
# members by slot in each iteration, and their losses
MEMBERS = ((0, 1, 2), (0, 1, 3), (4, 1, 3))
LOSSES = ((3.0, 2.0, math.nan), (2.5, 1.0, 0.5), (0.4, 0.9, 0.6))


def birth(member: int, slot: int, parent: int | None = None, **facts: Any) -> BirthRecord:
    parents = () if parent is None else (parent,)
    return BirthRecord(slot, member, parents, VALUES[member], **facts)


BIRTHS = (
    (birth(3, 2, 1, inherited_steps=10, replaced=2),),
    (birth(4, 0, 3, inherited_steps=20, replaced=0),),
    (),
)

MakeHistory = Callable[..., History]


@pytest.fixture
def make_history() -> MakeHistory:
    def make(
        scores: Sequence[Sequence[float]] = LOSSES, direction: Any = "min", objective: str = "loss"
    ) -> History:
        history = History(objective, direction)
        first = tuple(birth(member, member) for member in range(3))
        history.append(IterationRecord(0, 0, 0.0, births=first))
        for index, row in enumerate(scores):
            members = tuple(
                MemberRecord(slot, member, VALUES[member], score, 0.5, 10 * (index + 1))
                for slot, (member, score) in enumerate(zip(MEMBERS[index], row, strict=True))
            )
            steps = 30 * (index + 1)
            history.append(IterationRecord(index + 1, steps, 1.0, members, BIRTHS[index]))
        return history

    return make


@pytest.fixture
def history(make_history: MakeHistory) -> History:
    return make_history()


@pytest.fixture
def rates(make_history: MakeHistory) -> History:
    """The same search with a score to maximise."""
    rows = [[1.0 - loss / 4.0 for loss in row] for row in LOSSES]
    return make_history(rows, "max", "accuracy")


def artist(ax: Any, label: str) -> Any:
    """Return the one artist of a picture that has the label."""
    (found,) = [child for child in ax.get_children() if child.get_label() == label]
    return found


@pytest.fixture
def find() -> Callable[[Any, str], Any]:
    return artist
