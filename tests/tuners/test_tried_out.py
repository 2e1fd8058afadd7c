"""ESGD in a tuner: children have a score from before their birth, in trials, history and result."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_popdescent import ESGD, PopDescentTuner
from keras_popdescent.plots import plot_lineage, plot_search
from tests.tuners.conftest import Crash, CrashAt, build_model

FIT = {"batch_size": 32, "validation_split": 0.2, "verbose": 0}


def make(directory, **changes):
    arguments = {"objective": "val_loss", "seed": 2, "population_size": 4, "checkpoint_every": 1,
                 "strategy": ESGD(keep_best=True), "iterations": 3,
                 "batches_per_iteration": 8}  # fmt: skip
    return PopDescentTuner(build_model, directory=directory, **{**arguments, **changes})


@pytest.fixture(scope="module", params=[True, False], ids=["best ever", "fittest at the end"])
def searched(request, tmp_path_factory, data):
    strategy = ESGD(keep_best=request.param)
    tuner = make(tmp_path_factory.mktemp("tried_out"), strategy=strategy)
    return tuner, tuner.search(*data, **FIT)


def test_children_are_sound_trials(searched):
    tuner, _ = searched
    born = tuner.history.births()
    assert any(birth.parents for birth in born.values())
    for birth in born.values():
        assert (birth.score is not None) == bool(birth.parents)
    for trial in tuner.oracle.trials.values():
        assert trial.status == "COMPLETED" and math.isfinite(trial.score)


def test_the_result_is_one(searched, data):
    tuner, result = searched
    [best] = tuner.oracle.get_best_trials(1)
    if tuner.strategy.keep_best:
        assert best.trial_id == result.best_trial_id
        assert best.score == result.best_score == tuner.history.best()[1]
        table = tuner.history.member_table()
        assert min(row["best_score"] for row in table) == result.best_score
    x, y = (array[-64:] for array in data)
    logits = tuner.get_best_models()[0].predict(x, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    # Without the penalty, as members are scored.
    loss = float(np.mean(keras.ops.convert_to_numpy(losses)))
    assert loss == pytest.approx(result.best_score, rel=1e-4)


def test_pictures(searched):
    pytest.importorskip("matplotlib")
    tuner, _ = searched
    assert plot_search(tuner.history) is not None
    assert plot_lineage(tuner.history) is not None


def test_a_crash_leaves_no_trace(tmp_path, data):
    def contents(tuner):
        trials = {id_: trial.get_state() for id_, trial in tuner.oracle.trials.items()}
        return trials, tuner.history.best(), tuner.history.member_table()

    whole = make(tmp_path / "whole")
    whole.search(*data, **FIT)
    with pytest.raises(Crash):
        make(tmp_path / "cut").search(*data, **FIT, callbacks=[CrashAt(1)])
    # As after a kill while a trial was written.
    newest = sorted(Path(tmp_path / "cut").rglob("trial.json"))[-1]
    newest.write_text("{")
    with pytest.warns(UserWarning, match="cannot be read"):
        tuner = make(tmp_path / "cut")
    tuner.search(*data, **FIT)
    assert contents(tuner) == contents(whole)
