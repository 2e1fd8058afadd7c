"""What a history tells, by hand, on the four records of `conftest.py`."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from keras_popdescent.errors import ArgumentError, MissingExtraError
from keras_popdescent.history import History, IterationRecord, Segment


def test_counts(history, records):
    assert len(history) == 3
    assert list(history) == records
    assert history.iterations() == records[1:]
    assert history.gradient_steps == 24
    assert history.num_replaced == 2
    assert history.num_diverged == 1
    assert sorted(history.births()) == [0, 1, 2, 3]
    assert history.births()[3].parents == (2,)


def test_closing_training_is_no_iteration(history, records):
    history.append(replace(records[-1], gradient_steps=32, closing=True))
    assert len(history) == 4
    assert "3 iterations and the closing training, " in repr(history)


def test_only_scores_of_members_that_trained_are_counted_as_diverged(history, records):
    lost = replace(records[-1].members[0], score=float("nan"), gradient_steps=16)
    history.append(replace(records[-1], members=(lost, records[-1].members[1])))
    assert history.num_diverged == 2
    history.append(history.records[-1])
    assert history.num_diverged == 2
    # Training of the user's own may count no steps; it reports.
    reported = replace(lost, logs={"loss": 1.0})
    history.append(replace(records[-1], members=(reported, records[-1].members[1])))
    assert history.num_diverged == 3


def test_an_empty_history():
    history = History()
    assert (len(history), history.gradient_steps, history.num_replaced) == (0, 0, 0)
    assert history.best() is None
    assert history.to_records() == history.member_table() == []


@pytest.mark.parametrize(("direction", "best"), [("min", (2, 0.5)), ("max", (0, 1.0))])
def test_best_is_the_best_finite_score_ever(records, direction, best):
    history = History(direction=direction)
    history.records = records
    assert history.best() == best


@pytest.mark.parametrize(("member_id", "line"), [(0, [0]), (1, [1]), (2, [0, 2]), (3, [0, 2, 3])])
def test_lineage(history, member_id, line):
    assert history.lineage(member_id) == line


@pytest.mark.parametrize("member_id", [-1, 4])
def test_lineage_of_nobody(history, member_id):
    with pytest.raises(
        ArgumentError, match=rf"Expected 0 \.\.\. 3\. Received: member_id={member_id}"
    ):
        history.lineage(member_id)


SEGMENT_0, SEGMENT_2 = Segment(0, 4, {"rate": 0.1}, 0), Segment(4, 8, {"rate": 0.3}, 2)


@pytest.mark.parametrize(
    ("member_id", "until", "segments"),
    [
        (0, None, (Segment(0, 8, {"rate": 0.1}, 0),)),
        (1, None, (Segment(0, 4, {"rate": 0.2}, 1),)),
        (2, None, (SEGMENT_0, Segment(4, 12, {"rate": 0.3}, 2))),
        (3, None, (SEGMENT_0, SEGMENT_2, Segment(8, 12, {"rate": 0.4}, 3))),
        # As it was when it scored best.
        (2, 8, (SEGMENT_0, SEGMENT_2)),
        (2, 6, (SEGMENT_0, Segment(4, 6, {"rate": 0.3}, 2))),
        # Within an ancestor's life, and at a birth.
        (3, 6, (SEGMENT_0, Segment(4, 6, {"rate": 0.3}, 2))),
        (3, 4, (SEGMENT_0,)),
        (3, 0, ()),
    ],
)
def test_schedule(history, member_id, until, segments):
    assert history.schedule(member_id, until).segments == segments


def test_a_schedule_begins_the_optimizer_anew_where_the_search_did(history, records):
    """As `ESGD` does each iteration; what is equal in two of them is not joined."""
    history.records = [replace(record, fresh_optimizer=True) for record in records]
    found = [(s.start, s.stop, s.optimizer_state) for s in history.schedule(2)]
    assert found == [(0, 4, "fresh"), (4, 8, "fresh"), (8, 12, "fresh")]
    assert [(s.start, s.stop) for s in history.schedule(2, until=6)] == [(0, 4), (4, 6)]


def test_schedule_of_a_newborn_is_its_ancestors(history):
    history.records.pop()
    assert history.schedule(3).segments == (SEGMENT_0, SEGMENT_2)


def test_schedule_follows_the_first_parent(history, records):
    birth = replace(records[2].births[0], parents=(0, 2))
    history.records[2] = replace(records[2], births=(birth,))
    assert history.lineage(3) == [0, 3]


def test_long_form(history):
    rows = history.to_records()
    assert len(rows) == 6
    assert rows[0] == {
        "iteration": 1, "gradient_steps": 8, "slot": 0, "member_id": 0, "score": 1.0,
        "fitness": 2 / 3, "member_gradient_steps": 4, "loss": 0.9, "rate": 0.1,
    }  # fmt: skip
    assert [(row["iteration"], row["member_id"]) for row in rows] == [
        (1, 0), (1, 1), (2, 0), (2, 2), (3, 3), (3, 2),
    ]  # fmt: skip


def test_member_table(history):
    table = history.member_table()
    columns = ("member_id", "slot", "parents", "iterations", "gradient_steps", "inherited_steps")
    assert [tuple(row[name] for name in columns) for row in table] == [
        (0, 0, [], 2, 8, 0),
        (1, 1, [], 1, 4, 0),
        (2, 1, [0], 2, 12, 4),
        (3, 0, [2], 1, 12, 8),
    ]
    assert [row["rate"] for row in table] == [0.1, 0.2, 0.3, 0.4]
    assert [row["best_score"] for row in table] == [0.8, None, 0.5, 0.6]
    assert [row["score"] for row in table if row["member_id"] != 1] == [0.8, 0.7, 0.6]
    assert math.isnan(table[1]["score"])


def test_member_table_to_maximise(history):
    history.direction = "max"
    assert [row["best_score"] for row in history.member_table()] == [1.0, None, 0.7, 0.6]


def test_member_table_of_a_newborn(history):
    history.records.pop()
    newborn = history.member_table()[3]
    assert (newborn["iterations"], newborn["gradient_steps"]) == (0, 8)
    assert newborn["score"] is newborn["best_score"] is None


def test_file_round_trip(records, tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    history = History("val_accuracy", "max", path)
    for record in records:
        history.append(record)
    loaded = History.load(path)
    # NaN is not equal to itself, its representation is.
    assert repr(loaded.records) == repr(records)
    assert (loaded.objective, loaded.direction) == ("val_accuracy", "max")


def test_the_file_has_a_line_for_each_record_as_it_is_appended(records, tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path=path)
    for number, record in enumerate(records, start=1):
        history.append(record)
        lines = path.read_text().splitlines()
        assert len(lines) == 1 + number
        assert json.loads(lines[0]) == {"objective": "val_loss", "direction": "min"}
        assert json.loads(lines[-1])["gradient_steps"] == record.gradient_steps


@pytest.mark.parametrize("what", ["removed", "moved", "emptied"])
def test_a_file_that_is_gone_does_not_come_back_without_its_beginning(what, records, tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    history = History(path=path)
    history.append(records[0])
    if what == "removed":
        path.unlink()
    elif what == "moved":
        path.parent.rename(tmp_path / "moved")
    else:
        path.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match="no longer written to .*complete in memory"):
        history.append(records[1])
    assert sorted(tmp_path.rglob("*")) == before
    assert history.path is None
    assert len(history.records) == 2


def test_a_second_history_goes_on_in_the_same_file(records, tmp_path):
    path = tmp_path / "history.jsonl"
    History(path=path).append(records[0])
    History(path=path).append(records[2])
    assert [record.iteration for record in History.load(path)] == [0, 2]


def test_a_record_survives_its_own_json(records):
    assert IterationRecord.from_json(json.loads(json.dumps(records[2].to_json()))) == records[2]


def test_records_are_frozen(records):
    for record in (records[1], records[1].members[0], records[1].births[0]):
        with pytest.raises(FrozenInstanceError):
            record.seconds = 1.0


def test_frame(history):
    pandas = pytest.importorskip("pandas")
    frame = history.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame[frame.member_id == 2]["score"].tolist() == [0.5, 0.7]


def test_frame_without_pandas(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"keras-popdescent\[frames\]"):
        history.to_frame()


def test_a_history_says_what_it_holds(history):
    assert repr(history) == (
        "History('val_loss', 'min'): 3 iterations, 4 members born, 24 gradient steps, "
        "best 0.5 (member 2)"
    )
    assert repr(History("val_accuracy", "max")).endswith("0 gradient steps, no score yet")


class TestRateFactors:
    """Members keep their values while the common factor on their rates changes."""

    def annealed(self, records, factors):
        history = History()
        for record, factor in zip(records, factors, strict=True):
            history.append(replace(record, rate_factor=factor))
        return history

    def test_a_life_is_cut_where_the_factor_changes(self, records):
        schedule = self.annealed(records, [1.0, 1.0, 0.5, 0.25]).schedule(2)
        parts = [(s.start, s.stop, s.member_id, s.rate_factor) for s in schedule]
        assert parts == [(0, 4, 0, 1.0), (4, 8, 2, 0.5), (8, 12, 2, 0.25)]

    def test_equal_factors_are_one_segment(self, records):
        schedule = self.annealed(records, [1.0, 0.5, 0.5, 0.5]).schedule(2)
        parts = [(s.start, s.stop, s.rate_factor) for s in schedule]
        assert parts == [(0, 4, 0.5), (4, 12, 0.5)]

    def test_it_stops_where_it_is_told_to(self, records):
        schedule = self.annealed(records, [1.0, 1.0, 0.5, 0.25]).schedule(2, until=8)
        assert [(s.start, s.stop) for s in schedule] == [(0, 4), (4, 8)]

    def test_an_old_record_has_the_factor_one(self, records):
        old = {k: v for k, v in records[1].to_json().items() if k != "rate_factor"}
        assert IterationRecord.from_json(old).rate_factor == 1.0

    def test_a_restart_is_in_the_first_segment_of_a_life(self, records):
        births = tuple(replace(birth, optimizer_state="restart") for birth in records[1].births)
        records[1] = replace(records[1], births=births)
        schedule = self.annealed(records, [1.0, 1.0, 0.5, 0.25]).schedule(2)
        assert [s.optimizer_state for s in schedule] == ["inherit", "restart", "inherit"]
