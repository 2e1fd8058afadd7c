from __future__ import annotations

import sys

import pytest

from keras_popdescent.errors import ArgumentError, MissingExtraError
from keras_popdescent.history import Schedule, Segment


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(
        (
            Segment(0, 4, {"rate": 0.1, "activation": "relu"}, 0),
            Segment(4, 10, {"rate": 0.3, "activation": "tanh"}, 2),
        )
    )


def test_segments(schedule):
    assert len(schedule) == 2
    assert [segment.member_id for segment in schedule] == [0, 2]
    assert schedule.gradient_steps == 10


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (3, 0.1), (4, 0.3), (9, 0.3)])
def test_at(schedule, step, rate):
    assert schedule.at(step)["rate"] == rate


@pytest.mark.parametrize("step", [-1, 10])
def test_at_no_such_step(schedule, step):
    with pytest.raises(ArgumentError, match=rf"Expected 0 \.\.\. 9\. Received: step={step}"):
        schedule.at(step)


def test_path(schedule):
    assert schedule.path("rate") == [(0, 0.1), (4, 0.3), (10, 0.3)]
    assert schedule.path("activation") == [(0, "relu"), (4, "tanh"), (10, "tanh")]


def test_an_empty_schedule():
    schedule = Schedule(())
    assert (len(schedule), schedule.gradient_steps, schedule.to_records()) == (0, 0, [])
    assert schedule.path("rate") == []


def test_to_records(schedule):
    assert schedule.to_records()[1] == {
        "start": 4, "stop": 10, "member_id": 2, "rate_factor": 1.0, "rate": 0.3,
        "activation": "tanh",
    }  # fmt: skip


def test_file_round_trip(schedule, tmp_path):
    schedule.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json") == schedule


def test_frame(schedule):
    pytest.importorskip("pandas")
    assert schedule.to_frame()["rate"].tolist() == [0.1, 0.3]


def test_frame_without_pandas(schedule, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"keras-popdescent\[frames\]"):
        schedule.to_frame()


def test_a_restart_is_not_lost_when_a_schedule_is_stretched():
    segments = [Segment(0, 8, {}, 0), Segment(8, 9, {}, 1, optimizer_state="restart"),
                Segment(9, 16, {}, 1)]  # fmt: skip
    short = Schedule(tuple(segments)).stretched(2)
    assert [(s.start, s.stop, s.optimizer_state) for s in short] == [
        (0, 1, "inherit"), (1, 2, "restart"),
    ]  # fmt: skip
