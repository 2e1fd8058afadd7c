import importlib
import io
import itertools
import math
import re
import sys
import types
import warnings
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy

import keras_popdescent.callbacks
from keras_popdescent.callbacks.progress import Progress, choose_renderer, make_progress, text
from keras_popdescent.callbacks.progress.notebook import NotebookRenderer, page
from keras_popdescent.callbacks.progress.renderers import PlainRenderer, Renderer
from keras_popdescent.callbacks.progress.table import pick_rows, short_names, table
from keras_popdescent.callbacks.progress.terminal import TerminalRenderer
from keras_popdescent.callbacks.progress.tracker import Tracker
from keras_popdescent.errors import ArgumentError
from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord
from keras_popdescent.population.member import Member
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.registry import DISPLAYS
from keras_popdescent.population.settings import Settings
from keras_popdescent.strategies.plans import ClosingPlan, TrainingPlan
from keras_popdescent.strategies.space import LogDimension, SearchSpace

NAN = math.nan
VALUES = {"units": 32, "popdescent/learning_rate": 0.00123456, "act": "relu"}


class Script:
    """A search without models: scores are given, and members replaced, iteration by iteration."""

    def __init__(self, observer=None, size=3, iterations=4, direction="min", values=VALUES, **more):
        space = SearchSpace([LogDimension("popdescent/learning_rate", 1e-5, 1.0, 0.001)])
        name = "val_loss" if direction == "min" else "val_accuracy"
        self.observer = observer
        self.loop = SimpleNamespace(
            members=[Member(i, i, dict(values)) for i in range(size)],
            history=History(name, direction),
            objective=Objective(name, direction),
            settings=Settings(size, 1, iterations, 10),
            strategy=SimpleNamespace(training=TrainingPlan(), closing=ClosingPlan()),
            space=space,
            iteration=0,
            interrupted=False,
        )
        vars(self.loop).update(more)
        births = tuple(BirthRecord(m.slot, m.member_id, (), m.values) for m in self.loop.members)
        self.loop.history.append(IterationRecord(0, 0, 0.0, births=births))
        self.begin()

    def begin(self):
        if self.observer is not None:
            self.observer.search_begin(self.loop)

    def step(self, *scores, replace=(), closing=False):
        """`replace`: (slot, slot of the parent) pairs."""
        loop = self.loop
        loop.iteration += not closing
        for member, score in zip(loop.members, scores, strict=True):
            member.score = score
            member.gradient_steps += 10
        members = tuple(
            MemberRecord(m.slot, m.member_id, m.values, m.score, 0.5, m.gradient_steps)
            for m in loop.members
        )
        number = itertools.count(len(loop.history.births()))
        before = list(loop.members)
        births = tuple(
            BirthRecord(slot, next(number), (before[parent].member_id,), before[parent].values,
                        replaced=before[slot].member_id)
            for slot, parent in replace
        )  # fmt: skip
        for birth in births:
            loop.members[birth.slot] = Member(
                birth.member_id, birth.slot, birth.values, birth.parents, gradient_steps=10
            )
        steps = loop.history.gradient_steps + 10 * len(members)
        record = IterationRecord(loop.iteration, steps, 0.0, members, births, closing)
        loop.history.append(record)
        if self.observer is not None:
            self.observer.iteration_end(record)
        return record

    def end(self):
        self.observer.search_end(self.loop)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def tracked(*iterations, **options):
    """Return the tracker of a search with these scores; a tuple of (scores, replaced) a step."""
    script = Script(**options)
    tracker = Tracker(script.loop)
    for scores, replace in iterations:
        tracker.update(script.step(*scores, replace=replace))
    return tracker


def status_of(*iterations, **options):
    return tracked(*iterations, **options).status()


def terminal(width=80, encoding="utf-8"):
    # A file that a console takes for a terminal, with the encoding that it claims.
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=width, height=40, force_terminal=True, color_system=None)


def shown(console):
    console.file.flush()
    raw = console.file.buffer.getvalue().decode(console.file.encoding)
    # A carriage return is where the next picture begins.
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw).replace("\r", "\n")


# --- status and tracker ---


def test_rows_say_who_is_best_who_was_replaced_and_what_changed():
    status = status_of(
        ((0.5, 0.4, 0.3), [(0, 2)]),
        ((0.25, 0.6, 0.35), [(1, 0)]),
    )
    assert [row.member_id for row in status.rows] == [3, 1, 2]
    assert [row.parents for row in status.rows] == [(2,), (), ()]
    assert [row.best for row in status.rows] == [True, False, False]
    assert [row.replaced_by for row in status.rows] == [(), (3,), ()]
    # Member 3 is new: it has no last score, whatever its slot's was.
    assert [row.change for row in status.rows] == [None, pytest.approx(0.2), pytest.approx(0.05)]
    assert status.best == (3, 0.25)
    assert (status.num_replaced, status.num_diverged) == (2, 0)


def test_the_best_score_ever_outlives_its_member_and_follows_the_direction():
    up = status_of(((0.5, 0.4, 0.9), [(2, 0)]), ((0.6, 0.7, 0.8), []), direction="max")
    assert up.best == (2, 0.9)
    assert [row.best for row in up.rows] == [False, False, True]
    down = status_of(((0.5, 0.4, 0.9), []), ((0.6, 0.7, 0.8), []))
    assert down.best == (1, 0.4)
    assert [row.best for row in down.rows] == [True, False, False]


def test_a_tie_has_one_best():
    status = status_of(((0.5, 0.5, 0.5), []))
    assert [row.best for row in status.rows] == [True, False, False]


def test_diverged_members_are_counted_once_and_never_best():
    status = status_of(((NAN, math.inf, 0.3), []), ((NAN, 0.2, 0.3), []))
    assert status.num_diverged == 2
    assert status.best == (1, 0.2)
    assert [row.change for row in status.rows] == [None, None, 0.0]


def test_nothing_finite_yet():
    status = status_of(((NAN, NAN, NAN), []))
    assert status.best is None
    assert not any(row.best for row in status.rows)
    assert text.best(status) == "no val_loss yet"


def test_before_the_first_score_the_first_members_are_shown():
    status = status_of()
    assert [row.member_id for row in status.rows] == [0, 1, 2]
    assert {row.score for row in status.rows} == {None}
    assert status.seconds_left is None


def test_live_hyperparameters_come_first():
    assert status_of().names == ("popdescent/learning_rate", "units", "act")


def test_steps_left_count_passes_closing_rounds_and_members_in_training():
    script = Script(size=3, iterations=4)  # 10 batches an iteration
    script.loop.strategy.training = TrainingPlan(passes=2)
    script.loop.strategy.closing = ClosingPlan(rounds=2, batches=5)
    script.loop.members[1].stopped = True
    tracker = Tracker(script.loop)
    assert tracker.status().steps_left == 2 * (4 * 10 * 2 + 2 * 5 * 3)
    tracker.update(script.step(0.3, 0.2, 0.1))
    assert tracker.status().steps_left == 2 * (3 * 10 * 2 + 2 * 5 * 3)
    assert tracker.status().num_stopped == 1
    for _ in range(3):
        tracker.update(script.step(0.3, 0.2, 0.1))
    assert text.progress(tracker.status()) == "iteration 4 of 4, closing training"
    assert tracker.final_status().state == "stopped"  # the closing rounds are missing
    tracker.update(script.step(0.3, 0.2, 0.1, closing=True))
    assert tracker.status().steps_left == 0
    assert tracker.final_status().state == "finished"


def test_the_time_left_forgets_the_first_iteration_which_compiles():
    script, clock = Script(iterations=5), Clock()
    tracker = Tracker(script.loop, clock=clock)
    clock.now = 100.0
    tracker.update(script.step(0.3, 0.2, 0.1))
    assert tracker.status().seconds_left == pytest.approx(400.0)
    clock.now = 102.0
    tracker.update(script.step(0.3, 0.2, 0.1))
    assert tracker.status().seconds_left == pytest.approx(6.0)
    assert tracker.status().seconds == pytest.approx(102.0)


def test_a_second_run_goes_on_from_the_history():
    script = Script(iterations=2)
    script.step(0.3, NAN, 0.1, replace=[(1, 2)])
    script.step(0.3, 0.2, 0.15)
    script.loop.settings = Settings(3, 1, 4, 10)
    tracker = Tracker(script.loop)
    before = tracker.status()
    assert (before.best, before.num_replaced, before.num_diverged) == ((2, 0.1), 1, 1)
    for _ in range(2):
        tracker.update(script.step(0.3, 0.2, 0.2))
    line = text.summary(tracker.final_status())
    assert line.startswith("finished iterations 3 to 4, 60 gradient steps in ")
    # The scores of the run before are what the first change is measured against.
    assert before.rows[2].score == 0.15


def test_an_iteration_that_was_not_recorded_is_not_shown_as_done():
    tracker = tracked(((0.3, 0.2, 0.1), []))
    tracker._loop.iteration = 2
    tracker._loop.interrupted = True
    assert text.summary(tracker.final_status()).startswith("interrupted after 1 of 4 iterations, ")


# --- words ---


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_duration(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.31249, "0.3125"),
        (0.3, "0.3000"),
        (12345.6, "1.235e+04"),
        (1234.0, "1234"),
        (NAN, "nan"),
        (-math.inf, "-inf"),
        (None, ""),
    ],
)
def test_score_text(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00123456, "0.001235"), (0.1, "0.1"), (1024, "1024"), (True, "True"), ("relu", "relu")],
)
def test_value_text(value, expected):
    assert text.value_text(value) == expected


def test_names_lose_the_prefix_and_the_middle_but_stay_different():
    names = ["popdescent/l2", "encoder_block_1_dropout_rate", "encoder_block_2_dropout_rate"]
    short = short_names(names, text.UNICODE)
    # Clipped, the two blocks would be the same.
    assert short == ["l2", "encoder_block_1_dropout_rate", "encoder_block_2_dropout_rate"]
    assert short_names(["encoder_block_1_dropout_rate"], text.UNICODE) == ["encoder…out_rate"]
    assert short_names(["popdescent/l2", "l2"], text.UNICODE) == ["popdescent/l2", "l2"]


def test_the_summary_reads_as_a_sentence():
    script, clock = Script(size=2, iterations=1), Clock()
    tracker = Tracker(script.loop, clock=clock)
    clock.now = 65.0
    tracker.update(script.step(0.312, NAN, replace=[(1, 0)]))
    assert text.summary(tracker.final_status()) == (
        "finished 1 iteration, 20 gradient steps in 1 min 05 s; "
        "best val_loss 0.3120 (member 0); 1 replaced; 1 diverged"
    )


def test_a_search_that_ends_early_does_not_say_finished():
    summary = text.summary(tracked(((0.3, 0.2, 0.1), [])).final_status())
    assert summary.startswith("stopped after 1 of 4 iterations, 30 gradient steps in ")


# --- the table ---


def width_of(cells):
    lines = [cells.headers, *(line.cells for line in cells.lines)]
    return sum(max(map(len, column)) for column in zip(*lines, strict=True)) + len(lines[0]) - 1


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
@pytest.mark.parametrize("size", [1, 5, 50])
def test_the_table_fits_the_width(width, size):
    values = {f"block_{i}_learning_rate_of_it": 1.23456e-5 * i for i in range(9)}
    scores = tuple(0.001 * (i + 1) for i in range(size))
    status = status_of((scores, []), (scores, []), size=size, values=values)
    cells = table(status, width, text.UNICODE)
    assert width_of(cells) <= width
    assert {"slot", "member", "score"} <= set(cells.headers)
    num_values = len([h for h in cells.headers if h.startswith("block")])
    assert num_values + cells.num_hidden == 9
    assert cells.num_hidden or width > 80


def test_what_does_not_fit_is_said():
    cells = table(status_of(((0.3, 0.2, 0.1), [])), 60, text.UNICODE)
    assert cells.num_hidden > 0
    legend = text.legend(status_of(), text.UNICODE, cells.num_hidden)
    assert legend.startswith(f"+{cells.num_hidden} more values")


def test_small_populations_are_shown_by_slot():
    rows = status_of(((0.3, 0.1, 0.2), [])).rows
    assert pick_rows(rows, "min") == list(rows)


@pytest.mark.parametrize(("direction", "best", "worst"), [("min", 0, 49), ("max", 49, 0)])
def test_large_populations_are_shown_by_the_best_and_the_worst(direction, best, worst):
    scores = tuple(i / 100 for i in range(50))
    picked = pick_rows(status_of((scores, []), size=50, direction=direction).rows, direction)
    assert len(picked) == 12
    assert picked[8] is None
    assert picked[0].slot == best
    assert picked[-1].slot == worst


def test_diverged_members_are_the_worst():
    for bad in (NAN, math.inf, -math.inf):
        rows = status_of(((bad, *(i / 100 for i in range(49))), []), size=50).rows
        assert pick_rows(rows, "min")[-1].slot == 0


def test_a_long_string_does_not_push_the_others_out():
    values = {"loss": "a_very_long_name_of_a_loss_function", "l2": 0.5}
    cells = table(status_of(((1, 2, 3), []), values=values), 100, text.UNICODE)
    assert cells.headers[-2:] == ("loss", "l2")
    assert cells.lines[0].cells[-2:] == ("a_very_long_nam…", "0.5")


# --- the terminal ---


def run_terminal(console, *steps, **options):
    script = Script(Progress(["a note"], choose=lambda: TerminalRenderer(console)), **options)
    for scores, replace in steps:
        script.step(*scores, replace=replace)
    script.end()
    return shown(console)


def test_terminal_shows_everything_in_80_columns():
    steps = [((0.5, 0.4, NAN), [(2, 1)]), ((0.5, 0.3, 0.35), [(0, 1)])]
    screen = run_terminal(terminal(), *steps, iterations=2)
    final = screen[screen.rindex("slot member") :]
    assert max(map(len, screen.splitlines())) <= 80
    assert screen.startswith("a note\n")
    assert "★" in next(line for line in final.splitlines() if " 0.3000 " in line)
    assert "✗" in next(line for line in final.splitlines() if " 0.5000 " in line)
    assert "✗ replaced by a child of 1 (slot 0)" in final
    assert "finished 2 iterations, 60 gradient steps in" in final.replace("\n", " ")
    assert "learning_rate" in final and "0.001235" in final
    assert "1 diverged" in final


def test_terminal_without_unicode_uses_ascii():
    values = {"größe": 1.0, "act": "µ"}
    console = terminal(width=120, encoding="ascii")
    screen = run_terminal(console, ((3, 2, 1), [(0, 1)]), values=values)
    assert screen.isascii()
    assert "* best   x replaced by a child of 1 (slot 0)" in screen
    assert "gr??e" in screen


def test_terminal_takes_markup_and_control_characters_for_text():
    values = {"[red]x[/red]": 1.0, "a\x1b[2J\nb": 2.0}
    screen = run_terminal(terminal(width=120), ((3, 2, 1), []), values=values)
    assert "[red]x[/red]" in screen
    assert "a [2J b" in screen


def test_terminal_restores_stdout_and_cursor():
    console, before = terminal(), sys.stdout
    run_terminal(console, ((3, 2, 1), []))
    assert sys.stdout is before
    raw = console.file.buffer.getvalue()
    assert raw.count(b"\x1b[?25l") == raw.count(b"\x1b[?25h") == 1


def test_a_terminal_display_that_never_ends_gives_stdout_back():
    console, before = terminal(), sys.stdout
    script = Script(Progress(choose=lambda: TerminalRenderer(console)))
    assert isinstance(sys.stdout, FileProxy)
    script.observer._renderer = None
    assert sys.stdout is before


def test_pictures_are_drawn_at_most_four_times_a_second():
    console = terminal()
    script = Script(Progress(choose=lambda: TerminalRenderer(console)), iterations=1000)
    for _ in range(1000):
        script.step(0.3, 0.2, 0.1)
    script.end()
    # The first, the last (drawn, and once more by rich), and a few on a slow machine.
    assert shown(console).count("slot member") <= 8


# --- plain lines ---


@pytest.mark.parametrize("iterations", [1, 2, 19, 20, 21, 39, 100, 1234])
def test_plain_lines_are_few_and_include_the_first_and_the_last(iterations, capsys):
    script = Script(make_progress(1, notes=["why"]), iterations=iterations)
    for _ in range(iterations):
        script.step(0.3, 0.2, 0.1)
    script.end()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith("population of 3: ")
    assert lines[1] == "why"
    assert lines[2].startswith("iteration 1/")
    assert lines[-2].startswith(f"iteration {iterations:,}/{iterations:,} | ")
    assert lines[-1].startswith(f"finished {iterations:,} iteration")


def test_plain_lines_tell_the_numbers(capsys):
    script = Script(make_progress(), notes=["sequential executor"], iterations=2)
    script.step(0.31249, NAN, 0.5, replace=[(1, 0)])
    out = capsys.readouterr().out
    assert "population of 3: 2 iterations of 10 batches, objective val_loss (min)\n" in out
    assert "\nsequential executor\n" in out
    assert "| best val_loss 0.3125 | 1 replaced | 1 diverged" in out


def test_plain_lines_say_that_a_search_was_interrupted(capsys):
    script = Script(make_progress())
    script.step(0.3, 0.2, 0.1)
    script.loop.interrupted = True
    script.end()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("interrupted after 1 of 4 iterations, 30 gradient steps in ")
    assert last.endswith("; best val_loss 0.1000 (member 2); 0 replaced")


def test_the_closing_record_is_no_iteration(capsys):
    script = Script(make_progress(), iterations=1)
    script.step(0.3, 0.2, 0.1)
    script.step(0.3, 0.2, 0.05, closing=True)
    script.end()
    out = capsys.readouterr().out
    assert out.count("iteration 1/1") == 1
    assert "best val_loss 0.05000 (member 2)" in out


# --- the notebook ---


class Tags:
    """Counts tags, with the standard library's parser."""

    def __init__(self, html):
        from html.parser import HTMLParser

        self.opened, self.closed, self.data = [], [], []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attributes: self.opened.append(tag)
        parser.handle_endtag = self.closed.append
        parser.handle_data = self.data.append
        parser.feed(html)


def test_html_is_balanced_and_holds_every_member():
    html = page(status_of(((0.3, NAN, 0.1), [(1, 2)]), notes=["a note"]))
    tags = Tags(html)
    assert sorted(t for t in tags.opened if t != "br") == sorted(tags.closed)
    assert tags.opened.count("tr") == 4
    assert {"a note", "nan", "★", "✗", "0.001235", "relu"} <= set(tags.data)
    assert 'title="popdescent/learning_rate"' in html


def test_html_escapes_names_values_and_notes():
    evil = '"><script>alert(1)</script>'
    status = status_of(((3, 2, 1), []), values={evil: 1.0, "v": evil[2:]}, notes=[evil])
    script = status_of(((3, 2, 1), []), objective=Objective(evil, "min"))
    for html in (page(status), page(script)):
        assert "script" not in Tags(html).opened
        assert "<script" not in html
    assert "".join(Tags(page(status)).data).count("alert(1)") == 1
    assert "".join(Tags(page(script)).data).count("alert(1)") == 1


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for IPython in a kernel; returns what was displayed and updated."""
    seen = []
    handle = SimpleNamespace(update=lambda data, raw: seen.append(("update", data, raw)))

    def display(data, raw, display_id):
        seen.append(("display", data, raw))
        return handle

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return seen


def test_notebook_displays_once_and_updates(notebook):
    script = Script(make_progress(), iterations=1)
    script.step(0.3, 0.2, 0.1)
    script.end()
    assert [kind for kind, _, _ in notebook] == ["display", "update"]
    assert all(raw for _, _, raw in notebook)
    first, last = notebook[0][1], notebook[-1][1]
    assert "no val_loss yet" in first["text/html"]
    assert last["text/plain"].startswith("finished 1 iteration, 30 gradient steps in ")
    assert last["text/plain"] in "".join(Tags(last["text/html"]).data)


def test_the_renderer_suits_the_output(notebook, monkeypatch):
    assert isinstance(choose_renderer(), NotebookRenderer)
    sys.modules["IPython"].get_ipython = lambda: None  # IPython imported, but no kernel
    assert isinstance(choose_renderer(), PlainRenderer)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(choose_renderer(), PlainRenderer)
    monkeypatch.setenv("TERM", "xterm")
    tty = io.StringIO()
    tty.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", tty)
    assert isinstance(choose_renderer(), TerminalRenderer)
    monkeypatch.setattr(sys, "stdout", FileProxy(Console(file=tty), tty))
    assert isinstance(choose_renderer(), PlainRenderer)
    monkeypatch.setattr(sys, "stdout", None)
    assert isinstance(choose_renderer(), PlainRenderer)


def test_ipython_is_not_imported_outside_notebooks(monkeypatch, capsys):
    asked = []

    class Watch:
        def find_spec(self, name, path=None, target=None):
            asked.append(name)

    package = "keras_popdescent.callbacks.progress"
    monkeypatch.setattr(keras_popdescent.callbacks, "progress", None)
    monkeypatch.setitem(DISPLAYS, "progress", make_progress)
    for name in [n for n in sys.modules if n.startswith((package, "IPython", "ipywidgets"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Watch(), *sys.meta_path])
    fresh = importlib.import_module(package)
    script = Script(fresh.make_progress())
    script.step(0.3, 0.2, 0.1)
    script.end()
    run_terminal(terminal(), ((0.3, 0.2, 0.1), []))
    assert package in asked  # the watch works
    assert not [name for name in asked if name.startswith(("IPython", "ipywidgets"))]
    assert "best val_loss" in capsys.readouterr().out


# --- the observer ---


def test_verbose():
    assert make_progress(0) is None
    assert make_progress(False) is None
    for verbose in ("auto", 1, 2, True):
        assert isinstance(make_progress(verbose), Progress)
    for verbose in (3, -1, "yes"):
        with pytest.raises(ArgumentError, match="Received: verbose="):
            make_progress(verbose)


def test_registered():
    assert DISPLAYS["progress"] is make_progress


class Failing(Renderer):
    def __init__(self, where, error):
        self.where, self.error, self.calls, self.abandoned = where, error, [], 0

    def _call(self, name):
        self.calls.append(name)
        if name == self.where:
            raise self.error

    def begin(self, status):
        self._call("begin")

    def due(self, iteration):
        return True

    def update(self, status):
        self._call("update")

    def end(self, status):
        self._call("end")

    def abandon(self):
        self.abandoned += 1


def full_search(observer):
    script = Script(observer)
    script.step(0.3, 0.2, 0.1)
    script.step(0.3, 0.2, 0.1)
    script.end()


@pytest.mark.parametrize("where", ["begin", "update", "end"])
@pytest.mark.parametrize("error", [BrokenPipeError("gone"), ValueError("closed file")])
def test_a_failing_display_warns_once_and_stays_off(where, error):
    renderer = Failing(where, error)
    with pytest.warns(UserWarning, match="progress display failed") as caught:
        full_search(Progress(choose=lambda: renderer))
    assert len(caught) == 1
    assert renderer.calls.count(where) == 1
    assert renderer.calls[-1] == where
    assert renderer.abandoned == 1


def test_a_failing_display_never_raises_even_where_warnings_are_errors():
    renderer = Failing("end", OSError("gone"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full_search(Progress(choose=lambda: renderer))
    assert renderer.calls[-1] == "end"


def test_a_closed_stdout_does_not_stop_a_search(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.warns(UserWarning, match="closed file"):
        full_search(Progress(choose=PlainRenderer))


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        full_search(Progress(choose=lambda: Failing("update", KeyboardInterrupt())))


def test_one_display_serves_several_searches(capsys):
    observer = make_progress()
    for _ in range(2):
        full_search(observer)
    assert capsys.readouterr().out.count("stopped after 2 of 4 iterations") == 2


def test_an_end_without_a_beginning_shows_nothing(capsys):
    make_progress().search_end(Script().loop)
    assert capsys.readouterr().out == ""
