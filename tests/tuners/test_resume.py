"""A tuner's search that is cut off goes on: members, trials, callbacks, whatever was written."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_popdescent import PopDescent, PopDescentTuner
from keras_popdescent.checkpoint import CheckpointWarning, FolderLock
from keras_popdescent.errors import ArgumentError, ProjectError
from keras_popdescent.population.checkpointing import CheckpointPlan, Checkpoints
from keras_popdescent.strategies import ClosingPlan
from keras_popdescent.tuners import base, models
from keras_popdescent.tuners.execution import BIRTH
from keras_popdescent.tuners.resume import TrialRecords
from tests.tuners.conftest import Crash, CrashAt

FIT = {"epochs": 4, "batch_size": 32, "validation_split": 0.2, "verbose": 0}


class Counts(keras.callbacks.Callback):
    """What a callback comes to in a member's life: a number, a list, arrays."""

    # All members' callbacks tell the same place.
    told: dict = {}

    def __init__(self):
        super().__init__()
        self.constant = np.arange(3)
        self.epochs, self.losses, self.begun = 0, [], 0
        # Cannot be saved, and do not hinder the rest.
        self.wide, self.endless = np.longdouble(0.0), []
        self.endless.append(self.endless)

    def on_train_begin(self, logs=None):
        self.begun += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.wide += 1.0
        self.losses.append(float(logs["loss"]))
        self.weights = self.model.get_weights()
        line = (epoch, self.epochs, tuple(self.losses))
        Counts.told.setdefault(epoch, set()).add(line)


def make(build, directory, **changes):
    arguments = {"objective": "val_loss", "seed": 0, "population_size": 3, "checkpoint_every": 1}
    return PopDescentTuner(build, directory=directory, **{**arguments, **changes})


def contents(tuner):
    """All that a search has come to, but for times."""
    weights = [weight for model in tuner.get_best_models(3) for weight in model.get_weights()]
    trials = {id_: trial.get_state() for id_, trial in tuner.oracle.trials.items()}
    history = [
        (
            [(m.member_id, m.score, dict(m.values)) for m in record.members],
            [(b.slot, b.parents, dict(b.values)) for b in record.births],
        )
        for record in tuner.history
    ]
    orders = tuner.oracle.start_order, sorted(tuner.oracle.end_order), tuner.oracle.ongoing_trials
    return weights, json.dumps([trials, history, orders], sort_keys=True)


def assert_equal(first, second):
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[1] == second[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A search that nothing has happened to; tests leave its project as it is."""
    from tests.tuners.conftest import build_model

    tuner = make(build_model, tmp_path_factory.mktemp("whole"))
    tuner.search(*data, **FIT)
    return tuner


def crash(build, directory, data, epoch=2, **changes):
    with pytest.raises(Crash):
        make(build, directory, **changes).search(*data, **FIT, callbacks=[CrashAt(epoch)])


def test_a_crash_leaves_no_trace(build, tmp_path, data, whole):
    for epoch in (1, 2):
        crash(build, tmp_path, data, epoch)
    tuner = make(build, tmp_path)
    tuner.search(*data, **FIT)
    assert_equal(contents(tuner), contents(whole))
    for id_, trial in tuner.oracle.trials.items():
        path = Path(tuner.project_dir) / f"trial_{id_}" / "trial.json"
        assert json.loads(path.read_text()) == trial.get_state()


def test_what_is_finished_returns_at_once(build, data, whole, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "copy")
    tuner = make(build, tmp_path / "copy")
    began = []
    tuner.search(*data, **FIT, callbacks=[lambda: Began(began)])
    assert began == []
    assert_equal(contents(tuner), contents(whole))
    assert tuner.get_best_schedule() == whole.get_best_schedule()
    # Once more, with the same tuner.
    tuner.search(*data, **FIT)
    assert_equal(contents(tuner), contents(whole))


class Began(keras.callbacks.Callback):
    def __init__(self, began):
        super().__init__()
        self.began = began

    def on_train_begin(self, logs=None):
        self.began.append(self)


def test_a_larger_budget_goes_on(build, data, whole, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "copy")
    tuner = make(build, tmp_path / "copy")
    tuner.search(*data, **{**FIT, "epochs": 6})
    told = [record.iteration for record in tuner.history.iterations()]
    assert told == list(range(1, len(whole.history) * 6 // 4 + 1))
    assert tuner.history.gradient_steps == 3 * 8 * 6


def test_a_search_that_is_refused_takes_nothing_away(build, tmp_path, data):
    x, y = data
    tuner = make(build, tmp_path)
    tuner.search(x, y, **{**FIT, "epochs": 1})
    before, schedule = contents(tuner), tuner.get_best_schedule()
    with pytest.raises(ProjectError, match="differs from this one"):
        tuner.search(x[:160], y[:160], **{**FIT, "epochs": 1})
    assert_equal(contents(tuner), before)
    assert tuner.get_best_schedule() == schedule
    assert len(tuner.results_dataframe()) == len(tuner.oracle.trials)


def test_saved_weights_are_those_of_the_score(build, tmp_path, data):
    """A trial that was the best once, and got better under a larger budget as another did."""
    limits = {"batches_per_iteration": 1, "strategy": PopDescent(focus=None)}
    for iterations in (2, 12):
        tuner = make(build, tmp_path, iterations=iterations, **limits)
        tuner.search(*data, validation_split=0.2, verbose=0)
        best = tuner.oracle.get_best_trials(1)[0]
        if iterations == 2:
            first, score = best.trial_id, best.score
    again = make(build, tmp_path)
    once = again.oracle.trials[first]
    assert once.score < score and best.trial_id != first
    assert (Path(again.get_trial_dir(first)) / models.WEIGHTS).exists()
    with pytest.raises(ProjectError, match="not in the project directory"):
        again.load_model(once)
    (model,) = again.get_best_models(9)
    np.testing.assert_array_equal(
        model.get_weights()[0], tuner.get_best_models()[0].get_weights()[0]
    )


def test_callbacks_go_on_in_their_members_lives(build, tmp_path, data):
    def search(directory, *more):
        Counts.told = {}
        tuner = make(build, directory)
        early = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
        tuner.search(*data, **FIT, callbacks=[Counts(), early, *more])
        return tuner

    tuner = search(tmp_path / "whole")
    told = Counts.told
    with pytest.raises(Crash):
        search(tmp_path / "cut", CrashAt(2))
    early = Counts.told
    again = search(tmp_path / "cut")
    assert_equal(contents(again), contents(tuner))
    for epoch, lines in Counts.told.items():
        assert lines <= told[epoch]
    assert {*early, *Counts.told} == {*told}


def test_executions(build, tmp_path, data):
    """The first is finished, the second is cut off; the trials of both are counted on."""

    def search(directory, *callbacks):
        tuner = make(build, directory, executions_per_trial=2, population_size=2)
        tuner.search(*data, **{**FIT, "epochs": 2}, callbacks=[*callbacks])
        return tuner

    class SecondTime(CrashAt):
        count = 0

        def on_epoch_end(self, epoch, logs=None):
            SecondTime.count += epoch == 0
            if SecondTime.count > 2 and epoch == 1:
                raise Crash

    whole = search(tmp_path / "whole")
    with pytest.raises(Crash):
        search(tmp_path / "cut", SecondTime(1))
    again = search(tmp_path / "cut")
    assert_equal(contents(again), contents(whole))
    names = {path.name for path in (tmp_path / "cut" / "untitled_project").iterdir()}
    assert {"checkpoint", "checkpoint_1", "history.jsonl", "history_1.jsonl"} <= names


class Sleeps(CrashAt):
    """Lets the clock go on by 100 seconds in the first iteration, and crashes later."""

    late = 0.0

    def on_epoch_end(self, epoch, logs=None):
        Sleeps.late = 100.0
        super().on_epoch_end(epoch, logs)


def test_executions_share_what_earlier_processes_have_left_of_the_time(
    build, tmp_path, data, monkeypatch
):
    now = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: now() + Sleeps.late)

    def search(max_time, *callbacks):
        tuner = make(build, tmp_path, executions_per_trial=2, population_size=2, max_time=max_time)
        Sleeps.late, began = 0.0, now()
        tuner.search(*data, **{**FIT, "epochs": 2}, callbacks=[*callbacks])
        return [run.loop.settings.deadline - began for run in tuner._runs]

    with pytest.raises(Crash):
        search(1000.0, Sleeps(1))
    first, second = search(1000.0)
    assert 350.0 < first <= 450.0  # half of the 900 seconds that are left
    assert 800.0 < second <= 900.0
    # What the first execution has used is known to the second one, and the other way round.
    assert max(search(50.0)) < 10.0


def test_max_trials(build, tmp_path, data):
    whole = make(build, tmp_path / "whole", max_trials=5)
    whole.search(*data, **FIT)
    crash(build, tmp_path / "cut", data, max_trials=5)
    again = make(build, tmp_path / "cut", max_trials=5)
    again.search(*data, **FIT)
    assert_equal(contents(again), contents(whole))
    assert len(again.oracle.trials) == 5


def test_a_closing_round_is_a_step_of_its_own(build, tmp_path, data):
    """Else KerasTuner takes the mean of its score and the last iteration's."""
    closing = ClosingPlan(rounds=1, batches=4, batch_size=8)

    def search(epochs):
        strategy = PopDescent.reference(num_samples=32, fine_tuning=closing)
        tuner = make(build, tmp_path, strategy=strategy, batches_per_iteration=4)
        tuner.search(*data, **{**FIT, "epochs": epochs})
        return tuner

    first, again, more = search(1), search(1), search(2)
    assert [record.closing for record in more.history.iterations()] == [0, 0, 1, 0, 0, 1]
    assert_equal(contents(again), contents(first))
    for tuner in (first, more):
        [execution] = tuner._runs[-1:]
        told = {trial.trial_id: [] for trial in execution.trials.values()}
        for record in tuner.history.iterations():
            for member in record.members:
                told[execution.trials[member.member_id].trial_id].append([member.score])
        for id_, scores in told.items():
            metrics = tuner.oracle.trials[id_].metrics
            if scores:
                assert [o.value for o in metrics.get_history("val_loss")] == scores


@pytest.mark.parametrize("limits", [(None, None), (4, 10)])
def test_executions_under_a_larger_budget(limits, build, tmp_path, data):
    """The first is born into again after the second: no trial is another one's."""

    def search(iterations, limit):
        tuner = make(build, tmp_path, executions_per_trial=2, population_size=2,
                     iterations=iterations, batches_per_iteration=1, max_trials=limit,
                     strategy=PopDescent(focus=None))  # fmt: skip
        return tuner, tuner.search(*data, validation_split=0.2, verbose=0)

    first, _ = search(3, limits[0])
    tuner, result = search(6, limits[1])
    for before, now in zip(first._runs, tuner._runs, strict=True):
        assert len(now.trials) > len(before.trials)
        for member, trial in now.trials.items():
            assert tuner.oracle.trials[trial.trial_id] is trial
            assert member not in before.trials or before.trials[member].trial_id == trial.trial_id
    numbers = [int(id_) for id_ in tuner.oracle.start_order]
    assert numbers == list(range(result.num_born))
    best = tuner.oracle.get_best_trials(1)[0]
    assert (best.trial_id, best.score) == (result.best_trial_id, result.best_score)
    again = make(build, tmp_path, max_trials=limits[1], executions_per_trial=2, population_size=2)
    for mine, other in zip(
        again.get_best_models()[0].get_weights(), result.best_model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    assert {id_: trial.get_state() for id_, trial in again.oracle.trials.items()} == {
        id_: trial.get_state() for id_, trial in tuner.oracle.trials.items()
    }
    assert again.oracle.start_order == tuner.oracle.start_order


def test_trials_that_two_executions_have_are_refused(build, tmp_path):
    """As an earlier version wrote them under a larger budget."""

    class Saved(Checkpoints):
        def extra(self, name):
            return {"before": [], "ids": ["0000", "0001"]}

    oracle = make(build, tmp_path).oracle
    with pytest.raises(ProjectError, match="Two executions have the same trials"):
        TrialRecords(oracle, {}, Saved(CheckpointPlan(tmp_path)), ["0001", "0002"])


def test_trials_are_ordered_by_number(build, tmp_path):
    """Ids that have one digit more come later, not between `1000` and `1001`."""
    tuner = make(build, tmp_path)
    tuner.oracle.taken = [f"{number:04d}" for number in range(9999)]
    for key in "ab":
        trial = tuner.oracle.birth(key, {BIRTH: 0})
        tuner.oracle.update_trial(trial.trial_id, {"val_loss": 1.0}, step=1)
        trial.status = "COMPLETED"
        tuner.oracle.end_trial(trial)
    tuner.save()
    for oracle in (tuner.oracle, make(build, tmp_path).oracle):
        assert oracle.start_order == oracle.end_order == ["9999", "10000"]
        assert [trial.trial_id for trial in oracle.get_best_trials(2)] == ["9999", "10000"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def nonsense(path):
    path.write_text('{"trial_id": "../../../elsewhere"}')


@pytest.mark.parametrize("damage", [truncated, emptied, removed, nonsense])
def test_files_of_kerastuner_that_were_cut_off(damage, build, tmp_path, data, whole):
    """A process that is killed while KerasTuner writes: what a file lacks is told again."""
    crash(build, tmp_path, data, 2)
    project = tmp_path / "untitled_project"
    for path in [project / "oracle.json", *project.glob("trial_*[02468]/trial.json")]:
        damage(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        tuner = make(build, tmp_path)
    tuner.search(*data, **FIT)
    assert_equal(contents(tuner), contents(whole))
    assert not (tmp_path.parent / "trial_elsewhere").exists()


def test_the_space_is_that_of_the_code(build, tmp_path, data):
    """KerasTuner would go on with the space that it has saved, and say nothing."""
    crash(build, tmp_path, data)

    def wider(hp):
        hp.Float("dropout", 0.0, 0.9)
        return build(hp)

    with pytest.raises(ProjectError, match=r"space.dropout.*highest: was 0.\d*, is 0.\d*"):
        make(wider, tmp_path).search(*data, **FIT)
    with pytest.raises(ProjectError, match="population_size: was 3, is 4"):
        make(build, tmp_path, population_size=4).search(*data, **FIT)
    with pytest.raises(ProjectError, match="batch_size: was 32, is 16"):
        make(build, tmp_path).search(*data, **{**FIT, "batch_size": 16})
    tuner = make(wider, tmp_path, overwrite=True)
    tuner.search(*data, **FIT)
    assert len(tuner.history) > 0


def test_a_project_in_use(build, tmp_path, data):
    tuner = make(build, tmp_path)
    marker = tmp_path / "untitled_project" / "kept"
    marker.touch()
    with FolderLock(tmp_path / "untitled_project"):
        with pytest.raises(ProjectError, match="in use"):
            tuner.search(*data, **FIT)
        # It would be deleted under the feet of the other one.
        with pytest.raises(ProjectError, match="in use"):
            make(build, tmp_path, overwrite=True)
    assert marker.exists()


def test_without_checkpoints(build, tmp_path, data):
    tuner = make(build, tmp_path, checkpoint=False)
    tuner.search(*data, **{**FIT, "epochs": 1})
    assert not list((tmp_path / "untitled_project").glob("checkpoint*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"checkpoint_every": 0}, "`checkpoint_every`"), ({"max_disk_mb": -1}, "`max_disk_mb`")],
)
def test_arguments(changes, message, build, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        make(build, tmp_path, **changes)


def size_of(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_a_bound_on_the_project(build, tmp_path, data, whole):
    """Snapshots, history, trials and the best weights together."""
    bound = size_of(Path(whole.project_dir)) * 1.5
    tuner = make(build, tmp_path, max_disk_mb=bound / 1e6)
    seen = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(size_of(tmp_path))

    tuner.search(*data, **FIT, callbacks=[Measure()])
    assert max([*seen, size_of(tmp_path)]) <= bound
    assert_equal(contents(tuner), contents(whole))
    with pytest.raises(ArgumentError, match="`max_disk_mb` is too small"):
        make(build, tmp_path / "small", max_disk_mb=0.02).search(*data, **FIT)


def test_a_full_disk(build, tmp_path, data, whole, monkeypatch):
    """Every file of KerasTuner's and of ours: the search is none the worse."""
    tuner = make(build, tmp_path)
    full = OSError(28, "No space left on device")
    written = []

    def refuse(*arguments, **options):
        written.append(arguments)
        raise full

    import keras_tuner.src.utils as utils

    monkeypatch.setattr(utils, "save_json", refuse)
    monkeypatch.setattr(base.History, "_write", refuse)
    with pytest.warns(CheckpointWarning, match="KerasTuner cannot write.*No space left"):
        tuner.search(*data, **FIT)
    assert len(written) > 3
    assert [m.score for r in tuner.history for m in r.members] == [
        m.score for r in whole.history for m in r.members
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_real_disk_that_is_full(share, build, tmp_path, data, whole, small_disk):
    """From the first files on, or later: the search is none the worse."""
    disk = small_disk(int(share * size_of(Path(whole.project_dir))))
    tuner = make(build, disk)
    with pytest.warns(CheckpointWarning, match="No space left"):
        tuner.search(*data, **FIT)
    assert [m.score for r in tuner.history for m in r.members] == [
        m.score for r in whole.history for m in r.members
    ]
    for mine, expected in zip(
        tuner.get_best_models()[0].get_weights(),
        whole.get_best_models()[0].get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, expected)
    # What is there, halves of files too, goes on elsewhere.
    shutil.copytree(disk, tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        again = make(build, tmp_path / "elsewhere")
        again.search(*data, **FIT)
    if any((disk / "untitled_project").rglob("snapshot*")):
        assert_equal(contents(again), contents(whole))
    else:  # it begins anew, beside the trials that there were
        assert len(again.oracle.trials) > len(whole.oracle.trials)
        assert again.history.num_replaced == whole.history.num_replaced


def test_kerastuner_still_calls_what_is_overridden(build, tmp_path):
    """A private method of its oracle, so that a full disk does not end a search."""
    tuner = make(build, tmp_path)
    saved = []
    tuner.oracle._save_trial = saved.append
    trial = tuner.oracle.birth("a", {})
    tuner.oracle.update_trial(trial.trial_id, {"val_loss": 1.0}, step=1)
    trial.status = "COMPLETED"
    tuner.oracle.end_trial(trial)
    assert saved == [trial] * 3
    assert os.path.basename(tuner._get_tuner_fname()) == "tuner0.json"


HOSTILE = ["../../x", "/x", "a/b", "..", ".", "trial_1/../../x", "a\0b", "~", "$HOME"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_the_directory(name, tmp_path, data, monkeypatch):
    """Names of hyperparameters and of models become parts of no path."""
    inside = tmp_path / "home" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)

    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        rate = hp.Float(name, 1e-4, 1e-1, sampling="log")
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        return model

    for _ in range(2):  # the second one reads what the first has written
        tuner = make(build, inside)
        tuner.search(*data, **{**FIT, "epochs": 1})
        assert name in tuner.get_best_hyperparameters()[0].values
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    project = Path("home", "inside", "untitled_project")
    assert all(project in (path, *path.parents) for path in found if len(path.parts) > 2)
    with pytest.raises(ArgumentError, match="`tuner_id`"):
        make(build, inside, tuner_id=f"{name}/x")


def test_names_that_are_taken(tmp_path, data):
    def build(hp):
        rate = hp.Float("popdescent/learning_rate", 1e-4, 1e-1)
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(rate), "mse")
        return model

    with pytest.raises(ArgumentError, match="`popdescent/learning_rate`.*begin with"):
        make(build, tmp_path).search(*data, **FIT)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../b", "..", ".", "a\0b", " "])
def test_hostile_project_names(name, overwrite, build, tmp_path):
    kept = tmp_path / "inside" / "kept"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(ArgumentError, match="project_name"):
        make(build, tmp_path / "inside", project_name=name, overwrite=overwrite)
    assert list(tmp_path.rglob("*")) == [kept.parent, kept]


def test_a_build_function_that_raises_for_live_values(tmp_path, data):
    """Live values are written, not built with: the search goes on, and so does its result."""

    def build(hp):
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2)
        if rate in winner:
            raise RuntimeError("no such rate")
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.Adam(rate), "mse", metrics=["mae"])
        return model

    winner = []
    x, y = data
    tuner = make(build, tmp_path)
    tuner.search(x, np.eye(3)[y], **FIT)
    expected = tuner.get_best_models()[0]
    values = tuner.get_best_hyperparameters()[0].values
    assert values["learning_rate"] != 1e-2
    winner.append(values["learning_rate"])
    found = tuner.get_best_models()[0]
    loaded = make(build, tmp_path).get_best_models()[0]
    for model in (found, loaded):
        np.testing.assert_allclose(float(model.optimizer.learning_rate), values["learning_rate"])
        for weight, other in zip(model.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)
        assert [v.path for v in model.optimizer.variables] == [
            v.path for v in expected.optimizer.variables
        ]
        model.save(tmp_path / "model.keras")
        keras.models.load_model(tmp_path / "model.keras")
