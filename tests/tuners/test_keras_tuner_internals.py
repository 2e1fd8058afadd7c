"""Each private API of KerasTuner that is used: the tests fail when one of them changes."""

import ast
import inspect
from pathlib import Path

import keras_tuner
import pytest
from keras_tuner.engine.trial import Trial

import keras_popdescent
from keras_popdescent.checkpoint import CheckpointWarning
from keras_popdescent.tuners import _keras_tuner_internals
from keras_popdescent.tuners._keras_tuner_internals import (
    TolerantOracle,
    begin_trial,
    declare_space,
    project_of,
)

# What users of KerasTuner override, too.
HOOKS = {"_build_hypermodel", "_build_and_fit_model"}


def build(hp):
    hp.Int("units", 1, 4)


@pytest.fixture
def tuner(tmp_path):
    oracle = TolerantOracle(objective="val_loss", max_trials=3, seed=1)
    return keras_tuner.Tuner(oracle, build, directory=tmp_path, project_name="a project")


def begun(tuner):
    oracle, trial = tuner.oracle, Trial(tuner.oracle.get_space(), "7")
    oracle.trials["7"] = oracle.ongoing_trials["one"] = trial
    begin_trial(oracle, trial)
    return trial


def test_the_project_is_the_tuners(tuner):
    assert Path(project_of(tuner.oracle)) == Path(tuner.project_dir)


def test_the_space_is_declared_by_building(tuner):
    # A new tuner does so.
    assert [hp.name for hp in tuner.oracle.get_space().space] == ["units"]
    tuner.oracle.hyperparameters = keras_tuner.HyperParameters()
    declare_space(tuner)
    assert [hp.name for hp in tuner.oracle.get_space().space] == ["units"]


def test_a_trial_that_begins_is_written_and_shown(tuner, capsys):
    trial = begun(tuner)
    path = Path(tuner.get_trial_dir("7")) / "trial.json"
    assert Trial.load(str(path)).trial_id == "7"
    assert (Path(tuner.project_dir) / "oracle.json").exists()
    assert "Running Trial" in capsys.readouterr().out
    # The display looks up at a trial's end when it began.
    tuner.oracle.update_trial("7", {"val_loss": 1.0})
    trial.status = "COMPLETED"
    tuner.oracle.end_trial(trial)
    assert "Complete" in capsys.readouterr().out


def test_no_file_of_a_trial_ends_the_search(tuner, monkeypatch):
    tuner.oracle.verbose = 0
    trial = begun(tuner)

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trial, "save", full)
    with pytest.warns(CheckpointWarning, match="files of trials"):
        tuner.oracle.update_trial("7", {"val_loss": 1.0})
    trial.status = "COMPLETED"
    with pytest.warns(CheckpointWarning, match="files of trials"):
        tuner.oracle.end_trial(trial)
    assert tuner.oracle.ongoing_trials == {} and tuner.oracle.end_order == ["7"]


def test_hooks_are_called():
    build_and_fit = inspect.getsource(keras_tuner.Tuner._build_and_fit_model)
    assert "_try_build" in build_and_fit
    assert "self._build_hypermodel" in inspect.getsource(keras_tuner.Tuner._try_build)
    assert "self._build_and_fit_model" in inspect.getsource(keras_tuner.Tuner.run_trial)


def test_no_other_file_uses_a_private_name(tuner):
    private = {
        name
        for owner in (tuner, tuner.oracle)
        for name in dir(owner)
        if name.startswith("_") and not name.endswith("__")
    }
    assert {"_save_trial", "_display", "_populate_initial_space"} <= private
    root = Path(keras_popdescent.__file__).parent
    internals = Path(_keras_tuner_internals.__file__)
    used = {
        (path.relative_to(root).as_posix(), node.attr)
        for path in root.rglob("tuners/**/*.py")
        if path != internals
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in private - HOOKS
    }
    assert used == set()
