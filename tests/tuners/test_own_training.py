"""Overridden `run_trial`, `_build_and_fit_model` and `HyperModel.fit`: the user's code trains."""

import gc
import json
import math
import random
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import ESGD, ClosingPlan, Offspring, PopDescent, PopDescentTuner
from keras_popdescent.errors import (
    ArgumentError,
    DivergedError,
    ModelError,
    ObjectiveError,
    ProjectError,
    ResultError,
    TrainingError,
)
from keras_popdescent.testing import FixedStrategy
from keras_popdescent.tuners.own.calls import Calls, plan_calls
from keras_popdescent.tuners.own.metrics import metrics_of
from keras_popdescent.tuners.own.state import OwnState, inherit
from keras_popdescent.tuners.own.training import OwnTraining
from tests.callbacks.test_keras_callbacks import written_batches

LOSS = "sparse_categorical_crossentropy"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(96, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    return x, y


class Hyper(keras_tuner.HyperModel):
    def build(self, hp):
        model = keras.Sequential(
            [
                keras.layers.Input((6,)),
                keras.layers.Dense(hp.Int("units", 4, 8), "relu"),
                keras.layers.Dense(3, "softmax"),
            ]
        )
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
        return model

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, shuffle=hp.Boolean("shuffle"), **kwargs)


def make(hypermodel, tmp_path, tuner=PopDescentTuner, **kwargs):
    kwargs = {"objective": "val_loss", "seed": 0, "directory": tmp_path, "population_size": 3,
              **kwargs}  # fmt: skip
    return tuner(hypermodel, **kwargs)


def fit(tuner, data, **kwargs):
    tuner.search(*data, **{"validation_split": 0.25, "epochs": 4, "verbose": 0, **kwargs})
    return tuner


class TestFit:
    @pytest.mark.backend
    def test_segments_go_on_with_inherited_weights(self, tmp_path, data):
        begun = []

        class Watched(Hyper):
            def fit(self, hp, model, *args, **kwargs):
                weights = [w.copy() for w in model.get_weights()]
                steps = int(model.optimizer.iterations)
                begun.append((kwargs["initial_epoch"], kwargs["epochs"], steps, weights))
                history = super().fit(hp, model, *args, **kwargs)
                ended.append([w.copy() for w in model.get_weights()])
                return history

        ended = []
        tuner = fit(make(Watched(), tmp_path), data)
        # 4 epochs in 4 calls for each of 3 slots, epochs counted on, the optimizer's steps too.
        assert [call[:2] for call in begun] == [(i, i + 1) for i in range(4) for _ in range(3)]
        assert [call[2] for call in begun] == [3 * i for i in range(4) for _ in range(3)]
        assert len(tuner.history) == 4
        assert tuner.history.gradient_steps == 3 * 4 * 3
        # An elite that was not replaced begins where it ended.
        survivors = 0
        births = {b.member_id: b for b in tuner.history.births().values()}
        for later in range(1, 4):
            record = tuner.history.iterations()[later]
            for member in record.members:
                if births[member.member_id].parents:
                    continue
                survivors += 1
                for now, before in zip(
                    begun[3 * later + member.slot][3],
                    ended[3 * (later - 1) + member.slot],
                    strict=True,
                ):
                    np.testing.assert_array_equal(now, before)
        assert survivors > 0

    def test_an_interrupt_leaves_members_as_they_were_recorded(self, tmp_path, data):
        class Interrupted(Hyper):
            calls = 0

            def fit(self, hp, model, *args, **kwargs):
                Interrupted.calls += 1
                if Interrupted.calls == 2 * 3 + 2:
                    raise KeyboardInterrupt
                return super().fit(hp, model, *args, **kwargs)

        strategy = FixedStrategy(keep_best=False)
        tuner = fit(make(Interrupted(), tmp_path, strategy=strategy), data)
        [execution] = tuner._runs
        recorded = [m.gradient_steps for m in tuner.history.iterations()[-1].members]
        assert len(tuner.history) == 2
        assert [execution.loop.executor.capture(slot).steps for slot in range(3)] == recorded

    def test_what_only_fit_declares_is_found_and_mutated(self, tmp_path, data):
        tuner = fit(make(Hyper(), tmp_path, population_size=5), data, epochs=8)
        assert "shuffle" in tuner.oracle.get_space()
        assert {b.values["shuffle"] for b in tuner.history.births().values()} == {True, False}
        assert tuner._blueprint.kinds["units"].kind == "structural"
        assert tuner._blueprint.kinds["shuffle"].kind == "rebuild"
        for birth in tuner.history.births().values():
            if birth.parents:
                parent = tuner.history.births()[birth.parents[0]]
                assert birth.values["units"] == parent.values["units"]

    def test_trials_and_models_are_those_of_any_search(self, tmp_path, data):
        tuner = fit(make(Hyper(), tmp_path, objective="val_accuracy"), data)
        trials = tuner.oracle.trials
        assert len(trials) == len(tuner.history.births())
        best = tuner.oracle.get_best_trials(1)[0]
        model = tuner.get_best_models()[0]
        x, y = data[0][72:], data[1][72:]
        assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(best.score, abs=1e-6)
        rate = tuner.get_best_hyperparameters()[0].get("learning_rate")
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)
        again = make(Hyper(), tmp_path, objective="val_accuracy")
        np.testing.assert_allclose(
            again.get_best_models()[0].predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
        )

    def test_one_seed_one_search(self, tmp_path, data):
        class Ordered(Hyper):
            def fit(self, hp, model, *args, **kwargs):
                # Keras draws the order of the samples from a generator of TensorFlow's.
                return model.fit(*args, shuffle=False, **kwargs)

        scores = []
        for name in ("a", "b"):
            tuner = fit(make(Ordered(), tmp_path, project_name=name, population_size=2), data)
            scores.append([m.score for r in tuner.history for m in r.members])
        assert scores[0] == scores[1]

    @pytest.mark.parametrize(
        "result",
        [
            lambda history: history,
            lambda history: history.history["val_loss"][-1],
            lambda history: {"val_loss": history.history["val_loss"][-1], "other": 1.0},
            lambda history: [history, history],
            lambda history: np.float32(history.history["val_loss"][-1]),
        ],
        ids=["history", "float", "dict", "list", "numpy"],
    )
    def test_what_may_be_returned(self, tmp_path, data, result):
        seen = []

        class Mine(Hyper):
            def fit(self, hp, model, *args, **kwargs):
                history = model.fit(*args, **kwargs)
                seen.append(history.history["val_loss"][-1])
                return result(history)

        tuner = fit(make(Mine(), tmp_path), data, epochs=2)
        scores = [m.score for r in tuner.history.iterations() for m in r.members]
        assert scores == pytest.approx(seen)

    @pytest.mark.parametrize("max_trials", [1, 2, 3, 5, 6, 10])
    def test_as_many_trials_are_born_as_may_be(self, tmp_path, max_trials):
        class Mine(PopDescentTuner):
            called = 0

            def run_trial(self, trial, *args, **kwargs):
                Mine.called += 1
                return trial.hyperparameters.Float("value", 0.0, 10.0)

        tuner = Mine(directory=tmp_path, max_trials=max_trials, seed=1)
        tuner.search(verbose=0)
        first = min(max_trials, 5)
        assert len(tuner.oracle.trials) >= first
        assert len(tuner.oracle.trials) <= max_trials
        assert Mine.called == first * round(max_trials / first)

    def test_without_epochs_as_many_calls_as_random_search(self, tmp_path):
        calls = []

        class Mine(Hyper):
            def fit(self, hp, model, *args, **kwargs):
                calls.append(hp.Float("value", 0.0, 10.0))
                return calls[-1]

        tuner = make(Mine(), tmp_path, objective=None, max_trials=9)
        tuner.search(verbose=0)
        assert len(calls) == 9
        assert tuner.oracle.get_best_trials(1)[0].score == min(calls)

    def test_an_uncompiled_model_with_a_loop_of_its_own(self, tmp_path, data):
        tf = pytest.importorskip("tensorflow")
        if keras.backend.backend() != "tensorflow":
            pytest.skip("a loop in TensorFlow")

        class Loop(keras_tuner.HyperModel):
            def build(self, hp):
                return keras.Sequential(
                    [keras.layers.Input((6,)), keras.layers.Dense(3, "softmax")]
                )

            def fit(self, hp, model, x, y, epochs, callbacks=None, verbose=0):
                rate = hp.Float("learning_rate", 1e-2, 1.0, sampling="log")
                optimizer = keras.optimizers.SGD(rate)
                loss = keras.losses.SparseCategoricalCrossentropy()
                for callback in callbacks:
                    callback.set_model(model)
                for epoch in range(epochs):
                    with tf.GradientTape() as tape:
                        value = loss(y, model(x))
                    gradients = tape.gradient(value, model.trainable_variables)
                    optimizer.apply_gradients(
                        zip(gradients, model.trainable_variables, strict=True)
                    )
                    for callback in callbacks:
                        callback.on_epoch_end(epoch, logs={"loss": float(value)})
                return float(value)

        tuner = make(Loop(), tmp_path, objective="loss")
        tuner.search(*data, epochs=20, verbose=0)
        scores = [m.score for r in tuner.history.iterations() for m in r.members]
        assert len(scores) == 20 * 3
        # Weights are inherited, so the loss falls over the calls.
        assert min(scores[-3:]) < 0.8 * min(scores[:3])
        assert tuner.get_best_models()[0].predict(data[0], verbose=0).shape == (96, 3)

    def test_a_model_without_an_input_shape(self, tmp_path, data):
        class Unbuilt(Hyper):
            def build(self, hp):
                model = keras.Sequential(
                    [keras.layers.Dense(hp.Int("units", 4, 8)), keras.layers.Dense(3, "softmax")]
                )
                model.compile(keras.optimizers.Adam(1e-2), LOSS)
                return model

        tuner = fit(make(Unbuilt(), tmp_path), data)
        assert tuner._blueprint.kinds["units"].kind == "structural"
        assert tuner.get_best_models()[0].built
        again = make(Unbuilt(), tmp_path)
        assert again.get_best_models()[0].built


class TestGarbage:
    """KerasTuner collects garbage before each build, which is slow where much is in memory."""

    def search(self, tmp_path):
        frozen = []

        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                frozen.append(gc.get_freeze_count())
                return trial.hyperparameters.Float("x", -2.0, 2.0)

        Mine(seed=0, directory=tmp_path, iterations=2, overwrite=True).search(verbose=0)
        return frozen

    def test_a_search_keeps_it_off_what_was_there_before(self, tmp_path):
        assert gc.get_freeze_count() == 0
        assert min(self.search(tmp_path)) > 100_000
        assert gc.get_freeze_count() == 0

    def test_objects_that_somebody_else_has_frozen_stay_so(self, tmp_path):
        gc.freeze()
        try:
            count = gc.get_freeze_count()
            self.search(tmp_path)
            assert gc.get_freeze_count() >= 0.9 * count
        finally:
            gc.unfreeze()


class TestRunTrial:
    def test_a_black_box(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                return (trial.hyperparameters.Float("x", -2.0, 2.0, default=2.0) - 1.0) ** 2

        tuner = Mine(seed=0, directory=tmp_path, iterations=20)
        tuner.search(verbose=0)
        assert len({b.values["x"] for b in tuner.history.births().values()}) > 10
        assert tuner.get_best_hyperparameters()[0].get("x") == pytest.approx(1.0, abs=0.2)
        assert tuner.oracle.get_best_trials(1)[0].score < 0.05
        with pytest.raises(ModelError, match="no Keras model"):
            tuner.get_best_models()

    def test_the_example_of_the_documentation(self, tmp_path, data):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                hp = trial.hyperparameters
                model = self.hypermodel.build(hp)
                return self.hypermodel.fit(hp, model, *args, **kwargs)

        hypermodel = Hyper()
        tuner = fit(make(hypermodel, tmp_path, Mine), data)
        assert tuner.hypermodel is hypermodel
        first = min(m.score for m in tuner.history.iterations()[0].members)
        assert tuner.history.best()[1] < first
        assert tuner.get_best_models()[0].predict(data[0], verbose=0).shape == (96, 3)

    @pytest.mark.backend
    def test_cross_validation_keeps_the_folds_apart(self, tmp_path, data):
        starts = {0: [], 1: []}

        class Mine(PopDescentTuner):
            def run_trial(self, trial, x, y, **kwargs):
                scores = []
                for fold in range(2):
                    model = self.hypermodel.build(trial.hyperparameters)
                    starts[fold].append(model.get_weights()[0].copy())
                    held = np.arange(len(x)) % 2 == fold
                    model.fit(x[~held], y[~held], verbose=0, epochs=1)
                    ends.append((fold, model.get_weights()[0].copy()))
                    scores.append(model.evaluate(x[held], y[held], verbose=0)[0])
                return scores

        ends = []
        tuner = make(Hyper(), tmp_path, Mine, population_size=1, iterations=3)
        tuner.search(*data, verbose=0)
        for fold in range(2):
            own_ends = [weights for which, weights in ends if which == fold]
            for end, start in zip(own_ends, starts[fold][1:], strict=False):
                np.testing.assert_array_equal(end, start)

    def test_calling_super(self, tmp_path, data):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                kwargs["batch_size"] = trial.hyperparameters.Choice("batch_size", [16, 32])
                return super().run_trial(trial, *args, **kwargs)

        tuner = fit(make(Hyper().build, tmp_path, Mine, population_size=5), data)
        assert {b.values["batch_size"] for b in tuner.history.births().values()} == {16, 32}

    def test_outside_of_a_search(self, tmp_path, data):
        class Mine(PopDescentTuner):
            def _build_and_fit_model(self, trial, *args, **kwargs):
                self.was_called = True
                return super()._build_and_fit_model(trial, *args, **kwargs)

        tuner = make(Hyper(), tmp_path, Mine)
        trial = tuner.oracle.birth("mine", {"units": 4, "learning_rate": 0.01})
        history = tuner.run_trial(trial, *data, epochs=2, verbose=0, validation_split=0.25)
        assert tuner.was_called and len(history.history["val_loss"]) == 2

    def test_build_and_fit_model(self, tmp_path, data):
        class Mine(PopDescentTuner):
            calls = 0

            def _build_and_fit_model(self, trial, *args, **kwargs):
                Mine.calls += 1
                return super()._build_and_fit_model(trial, *args, **kwargs)

        fit(make(Hyper().build, tmp_path, Mine), data)
        assert Mine.calls == 3 * 4

    def test_reporting_to_the_oracle_oneself(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                value = trial.hyperparameters.Float("value", 1.0, 10.0)
                self.oracle.update_trial(trial.trial_id, {"val_loss": value})

        tuner = Mine(objective="val_loss", seed=0, directory=tmp_path, max_trials=6)
        with pytest.warns(DeprecationWarning):
            tuner.search(verbose=0)
        best = tuner.oracle.get_best_trials(1)[0]
        assert best.score == best.hyperparameters.get("value")

    def test_only_what_this_call_reports_to_the_oracle_counts(self, tmp_path):
        class Mine(PopDescentTuner):
            count = 0

            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Float("value", 1.0, 10.0)
                Mine.count += 1
                for step in range(2):
                    told = {"val_loss": 10.0 - Mine.count + step}
                    self.oracle.update_trial(trial.trial_id, told, step=step)

        tuner = Mine(
            objective="val_loss", seed=0, directory=tmp_path, population_size=1, iterations=4
        )
        with pytest.warns(DeprecationWarning, match="Please remove the call"):
            tuner.search(verbose=0)
        scores = [
            member.score for record in tuner.history.iterations() for member in record.members
        ]
        assert scores == [10.0, 9.0, 8.0, 7.0]
        assert tuner.oracle.get_best_trials(1)[0].score == 7.0

    def test_a_call_that_reports_nothing_does_not_get_an_older_score(self, tmp_path):
        class Mine(PopDescentTuner):
            told = False

            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Float("value", 1.0, 10.0)
                was, Mine.told = Mine.told, True
                return None if was else 1.0

        tuner = Mine(directory=tmp_path, population_size=1, iterations=2)
        with pytest.raises(ResultError, match="Did you forget"):
            tuner.search(verbose=0)


class TestLateDeclarations:
    def search(self, tmp_path, **kwargs):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                hp = trial.hyperparameters
                if not hp.Boolean("opened", default=False):
                    return 3.0
                return 1.0 + abs(hp.Float("inner", 0.0, 1.0, default=0.9) - 0.4)

        tuner = Mine(seed=1, directory=tmp_path, iterations=8, **kwargs)
        tuner.search(verbose=0)
        trials = list(tuner.oracle.trials.values())
        return tuner, {t.trial_id: t.hyperparameters.values for t in trials}

    def test_children_inherit_and_mutate_what_a_later_call_declares(self, tmp_path):
        tuner, values = self.search(tmp_path)
        late = [own for own in values.values() if "inner" in own]
        assert "inner" not in next(iter(values.values()))
        assert len({own["inner"] for own in late}) >= 3
        # A child's value is its parent's, moved: never drawn anew over the whole range.
        moves = [
            abs(own["inner"] - values[own["popdescent/parent_trial"]].get("inner", 0.9))
            for own in late
            if own["popdescent/parent_trial"]
        ]
        assert moves and np.median(moves) < 0.4
        assert tuner.oracle.get_best_trials(1)[0].score < 1.4
        assert "inner" in tuner.get_best_hyperparameters()[0].values
        assert tuner.results_dataframe() is not None
        assert tuner.get_best_schedule() is not None

    def test_one_seed_one_search(self, tmp_path):
        found = []
        for number in (1, 2):
            random.seed(number)
            found.append(self.search(tmp_path / str(number))[1])
        assert found[0] == found[1]

    def test_not_where_new_entries_are_not_to_be_tuned(self, tmp_path):
        _, values = self.search(tmp_path, tune_new_entries=False, hyperparameters=opened())
        assert {own.get("inner", 0.9) for own in values.values()} == {0.9}
        assert any("inner" in own for own in values.values())


def opened():
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Boolean("opened", default=False)
    return hyperparameters


class TestModelsThatAreNotKeras:
    class Mine(PopDescentTuner):
        def run_trial(self, trial, *args, **kwargs):
            value = trial.hyperparameters.Float("value", 0.0, 10.0)
            path = Path(self.get_trial_dir(trial.trial_id)) / "model.json"
            path.write_text(json.dumps({"value": value}))
            return value

        def load_model(self, trial):
            path = Path(self.get_trial_dir(trial.trial_id)) / "model.json"
            return json.loads(path.read_text())

    def test_an_own_load_model_gives_the_best_ones(self, tmp_path):
        tuner = self.Mine(seed=1, directory=tmp_path)
        with pytest.raises(ProjectError, match="Nothing has been searched"):
            tuner.get_best_models()
        tuner.search(verbose=0)
        best = tuner.get_best_models(3)
        scores = [trial.score for trial in tuner.oracle.get_best_trials(3)]
        assert [model["value"] for model in best] == scores == sorted(scores)
        assert self.Mine(seed=1, directory=tmp_path).get_best_models(3) == best

    def test_it_may_ask_for_the_model_that_is_kept(self, tmp_path, data):
        class Mine(PopDescentTuner):
            def load_model(self, trial):
                return trial.trial_id, super().load_model(trial)

        tuner = make(Hyper().build, tmp_path, Mine)
        fit(tuner, data)
        found = tuner.get_best_models(2)
        assert [name for name, _ in found] == [t.trial_id for t in tuner.oracle.get_best_trials(2)]
        scores = [model.evaluate(*data, verbose=0)[0] for _, model in found]
        assert all(np.isfinite(scores))


class TestFailures:
    @pytest.mark.parametrize("settings", [{"max_trials": 2}, {"population_size": 2}, {}])
    def test_an_error_of_the_users_is_the_cause(self, tmp_path, settings):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Float("value", 1.0, 10.0)
                raise KeyError("my own bug")

        with pytest.raises(TrainingError, match="my own bug") as caught:
            Mine(directory=tmp_path, **settings).search(verbose=0)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_an_error_is_told_where_nobody_is_finite(self, tmp_path):
        class Mine(PopDescentTuner):
            count = 0

            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Float("value", 1.0, 10.0)
                Mine.count += 1
                if Mine.count % 2:
                    raise KeyError("my own bug")
                return math.nan

        with pytest.raises(TrainingError, match="my own bug"):
            Mine(directory=tmp_path, population_size=2, iterations=5).search(verbose=0)

    def test_no_call_beyond_max_trials(self, tmp_path):
        class Mine(PopDescentTuner):
            count = 0

            def run_trial(self, trial, *args, **kwargs):
                Mine.count += 1
                return trial.hyperparameters.Float("value", 1.0, 10.0)

        tuner = Mine(directory=tmp_path, max_trials=2)
        tuner.search(verbose=0)
        with pytest.raises(ProjectError, match="No more trials"):
            tuner.search(verbose=0)
        assert Mine.count == len(tuner.oracle.trials) == 2

    def test_diverged_members_alone_are_no_error_of_the_users(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Float("value", 1.0, 10.0)
                return math.nan

        with pytest.raises(DivergedError):
            Mine(directory=tmp_path, population_size=2, iterations=5).search(verbose=0)

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_that_it_is_not_saved_is_said(self, tmp_path, capsys, checkpoint):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                return trial.hyperparameters.Float("value", 1.0, 10.0)

        tuner = Mine(directory=tmp_path, population_size=2, iterations=2, checkpoint=checkpoint)
        tuner.search(verbose=1)
        said = "your own training is not saved: a search that is cut off begins anew"
        assert (said in capsys.readouterr().out) is checkpoint

    def test_a_call_that_raises_is_a_member_that_is_replaced(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                value = trial.hyperparameters.Int("value", 1, 6, default=2)
                if value == 5:
                    raise ValueError("wrong value")
                return float(value)

        tuner = Mine(seed=1, directory=tmp_path, iterations=4, population_size=6)
        tuner.search(verbose=0)
        failed = [t for t in tuner.oracle.trials.values() if t.status == "FAILED"]
        assert failed and all("wrong value" in trial.message for trial in failed)
        assert tuner.oracle.get_best_trials(1)[0].score < 5.0

    def test_a_build_that_raises_for_some_values(self, tmp_path, data):
        class Mine(Hyper):
            def build(self, hp):
                # The first is the default, and what the others are tried beside.
                if hp.Choice("depth", [1, 2, 3, 4, 5, 6]) > 4:
                    raise ValueError("too deep")
                return super().build(hp)

        tuner = make(Mine(), tmp_path, population_size=6, num_elites=2)
        fit(tuner, data, epochs=6)
        kinds = {name: found.kind for name, found in tuner._blueprint.kinds.items()}
        assert kinds["depth"] == "rebuild" and kinds["units"] == "structural"
        failed = [t for t in tuner.oracle.trials.values() if t.status == "FAILED"]
        assert failed and all("too deep" in trial.message for trial in failed)
        assert len(tuner.history) == 6
        assert all(trial.hyperparameters.get("depth") > 4 for trial in failed)
        assert tuner.get_best_hyperparameters()[0].get("depth") <= 4

    def test_a_build_that_is_refused_ends_the_search(self, tmp_path, data):
        class Mine(Hyper):
            def build(self, hp):
                if hp.Int("depth", 1, 3) > 1:
                    raise ModelError("not like that")
                return super().build(hp)

        with pytest.raises(ModelError, match="not like that"):
            fit(make(Mine(), tmp_path), data)

    def test_retries(self, tmp_path):
        class Mine(PopDescentTuner):
            count = 0

            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Int("value", 1, 6)
                Mine.count += 1
                if Mine.count % 2:
                    raise ValueError("now and then")
                return 1.0

        tuner = Mine(seed=0, directory=tmp_path, iterations=2, population_size=2,
                     max_retries_per_trial=1)  # fmt: skip
        tuner.search(verbose=0)
        assert Mine.count == 2 * 4

    def test_too_many_in_a_row(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                raise keras_tuner.errors.FailedTrialError("never works")

        tuner = Mine(directory=tmp_path, iterations=4, max_retries_per_trial=7)
        with pytest.raises(TrainingError, match="3 times in a row.*never works"):
            tuner.search(verbose=0)

    def test_fatal_errors_end_the_search(self, tmp_path):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                raise keras_tuner.errors.FatalError("fatal")

        with pytest.raises(keras_tuner.errors.FatalError, match="fatal"):
            Mine(directory=tmp_path).search(verbose=0)

    @pytest.mark.parametrize(("result", "words"), [("a", "to be one of"), (None, "forget")])
    def test_what_cannot_be_a_score(self, tmp_path, result, words):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, *args, **kwargs):
                return result

        with pytest.raises(TypeError, match=rf"Tuner\.run_trial\(\).*{words}"):
            Mine(directory=tmp_path).search(verbose=0)

    def test_what_fit_cannot_return(self, tmp_path, data):
        class Mine(Hyper):
            def fit(self, hp, model, *args, **kwargs):
                return "a"

        with pytest.raises(TypeError, match=r"HyperModel\.fit\(\) to be one of"):
            fit(make(Mine(), tmp_path), data)

    def test_bindings_to_a_handle(self, tmp_path, data):
        tuner = make(Hyper(), tmp_path, bindings={"learning_rate": "optimizer.learning_rate"})
        with pytest.raises(ArgumentError, match="training of your own"):
            fit(tuner, data)

    def test_no_schedule_before_a_search(self, tmp_path):
        with pytest.raises(ProjectError, match="Call `search` first"):
            make(Hyper(), tmp_path).get_best_schedule()


class TestCallbacks:
    def test_one_lifetime_a_member(self, tmp_path, data):
        lives = {}

        class Recorder(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                lives.setdefault(id(self), (self, []))[1].append("begin")

            def on_epoch_end(self, epoch, logs=None):
                lives[id(self)][1].append(epoch)

            def on_train_end(self, logs=None):
                lives[id(self)][1].append("end")

        tuner = fit(make(Hyper(), tmp_path), data, callbacks=[Recorder()])
        lived = [
            birth
            for birth in tuner.history.births().values()
            if any(
                m.member_id == birth.member_id
                for r in tuner.history.iterations()
                for m in r.members
            )
        ]
        assert len(lives) == len(lived)
        for _, log in lives.values():
            assert log[0] == "begin" and log[-1] == "end" and log.count("begin") == 1
            epochs = log[1:-1]
            assert epochs == list(range(epochs[0], epochs[0] + len(epochs)))

    @pytest.mark.parametrize("given", [[], None])
    def test_they_arrive_where_they_were_given(self, tmp_path, given):
        class Mine(PopDescentTuner):
            def run_trial(self, trial, callbacks):
                assert callbacks == []
                return trial.hyperparameters.Float("value", 1.0, 10.0)

        Mine(directory=tmp_path, max_trials=2).search(callbacks=given)

    @pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="HParams: TensorFlow only")
    def test_tensorboard_has_a_folder_for_each_trial(self, tmp_path, data):
        pytest.importorskip("tensorboard")
        tuner = make(Hyper(), tmp_path)
        board = keras.callbacks.TensorBoard(tmp_path / "logs")
        fit(tuner, data, callbacks=[board])
        folders = sorted(path.name for path in (tmp_path / "logs").iterdir())
        assert folders == sorted(tuner.oracle.trials)

    @pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's event files")
    @pytest.mark.parametrize("update_freq", ["batch", 2])
    def test_tensorboard_may_write_batches(self, tmp_path, data, update_freq):
        import tensorflow as tf

        pytest.importorskip("tensorboard")
        tuner = make(Hyper(), tmp_path)
        board = keras.callbacks.TensorBoard(tmp_path / "logs", update_freq=update_freq)
        fit(tuner, data, callbacks=[board])
        assert not tf.summary.should_record_summaries()
        for trial in tuner.oracle.trials:
            assert written_batches(tmp_path / "logs" / trial)

    def test_averages_of_the_optimizer_may_be_scored(self, tmp_path, data):
        """A search without overridden training refuses it; here `fit` puts all in order."""

        class Averaging(Hyper):
            def build(self, hp):
                model = super().build(hp)
                model.compile(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9), LOSS)
                return model

        tuner = make(Averaging(), tmp_path)
        fit(tuner, data, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
        held = data[0][72:], data[1][72:]
        logs = tuner.get_best_models()[0].evaluate(*held, verbose=0, return_dict=True)
        assert logs["loss"] == pytest.approx(tuner.oracle.get_best_trials(1)[0].score, rel=1e-5)

    def test_early_stopping_counts_across_calls(self, tmp_path, data):
        stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=100.0)
        tuner = make(Hyper(), tmp_path, population_size=2, num_elites=2)
        fit(tuner, data, epochs=10, callbacks=[stop])
        # Nothing improves by 100: each stops after its third epoch.
        assert {m.gradient_steps for m in tuner.history.iterations()[-1].members} == {9}

    def test_hooks_of_the_tuner(self, tmp_path, data):
        seen = []

        class Mine(PopDescentTuner):
            def on_epoch_end(self, trial, model, epoch, logs=None):
                seen.append((trial.trial_id, epoch))

        tuner = fit(make(Hyper(), tmp_path, Mine), data)
        assert len(seen) == len(set(seen)) == 3 * 4
        assert {trial for trial, _ in seen} <= set(tuner.oracle.trials)


def test_children_of_several_parents_have_their_average():
    def parent(value):
        inner = OwnState((np.full(2, -value),), (), (1, 0), trainable=(0,))
        return OwnState(
            (np.full(2, value), np.array([value])), (np.array(7),), (2, 1), "Adam",
            models=(inner,), trainable=(0,), steps=7,
        )  # fmt: skip

    child = Offspring(slot=0, parents=(0, 1), values={}, optimizer_state="fresh")
    state = inherit([parent(1.0), parent(3.0)], child)
    np.testing.assert_array_equal(state.weights[0], [2.0, 2.0])
    # What is not trained is the first parent's.
    np.testing.assert_array_equal(state.weights[1], [1.0])
    np.testing.assert_array_equal(state.models[0].weights[0], [-2.0, -2.0])
    assert (state.optimizer, state.num_plain, state.steps) == ((), (2, 0), 0)
    alone = Offspring(slot=0, parents=(0,), values={})
    assert inherit([parent(1.0)], alone).steps == 7


@pytest.mark.parametrize(("rule", "kept"), [("inherit", 2), ("restart", 1), ("fresh", 0)])
def test_the_optimizer_of_a_child(rule, kept):
    slots = (np.array(7), np.ones(2))
    parent = OwnState((np.ones(2),), slots, (1, 2), "Adam", trainable=(0,), steps=7)
    state = inherit([parent], Offspring(0, (0,), {}, optimizer_state=rule))
    assert state.optimizer == slots[:kept]
    assert (state.num_plain, state.steps) == ((1, kept), 7 if kept else 0)


def test_children_cannot_be_tried_out():
    with pytest.raises(ObjectiveError, match="before they are born"):
        OwnTraining.try_out(object.__new__(OwnTraining), [])


def test_a_child_cannot_share_its_parents_step_counter():
    child = Offspring(slot=0, parents=(0,), values={}, optimizer_state="fresh_slots")
    with pytest.raises(ArgumentError, match="share a step counter.*fresh_slots"):
        inherit([OwnState((), (), (0, 0))], child)


class TestStrategies:
    @pytest.mark.parametrize(
        ("strategy", "words"),
        [
            (PopDescent.reference(), "scales the loss.*loss_scale"),
            (PopDescent(optimizer_state="fresh_slots"), "share a step counter"),
            (ESGD(), "before they are born"),
        ],
    )
    def test_what_would_have_no_effect_is_refused_before_any_call(self, tmp_path, strategy, words):
        class Uncalled(keras_tuner.HyperModel):
            def build(self, hp):
                hp.Float("rate", 1e-3, 1e-1)

            def fit(self, hp, model, **kwargs):
                raise keras_tuner.errors.FatalError("called")

        tuner = make(Uncalled(), tmp_path, strategy=strategy)
        with pytest.raises(ArgumentError, match=words):
            tuner.search(epochs=2, verbose=0)
        assert tuner.oracle.trials == {}

    def test_closing_training_is_passed_over(self, tmp_path, data):
        strategy = FixedStrategy(closing=ClosingPlan(rounds=2))
        tuner = make(Hyper(), tmp_path, strategy=strategy)
        result = tuner.search(*data, validation_split=0.25, epochs=4, verbose=0)
        for mine, best in zip(
            result.best_model.get_weights(), tuner.get_best_models()[0].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(mine, best)
        assert not any(record.closing for record in tuner.history.records)
        assert tuner.history.gradient_steps == 3 * 4 * 3
        loop = tuner._runs[0].loop
        assert any("no closing training" in note for note in loop.notes)
        # The display waits for no more rounds.
        assert loop.rounds_closed == 2


def test_calls_planned():
    def takes(hp, model, **kwargs):
        """Takes anything."""

    def narrow(hp, model, x, epochs):
        """Takes no `initial_epoch`."""

    def plan(code, iterations=None, max_trials=None, **kwargs):
        return plan_calls(code, kwargs, iterations=iterations, population_size=5,
                          max_trials=max_trials)  # fmt: skip

    assert plan(takes) == Calls(2)
    assert plan(takes, max_trials=40) == Calls(8)
    assert plan(takes, max_trials=2) == Calls(1)
    assert plan(takes, iterations=7) == Calls(7)
    assert plan(takes, epochs=30) == Calls(15, 30, 2)
    assert plan(takes, epochs=30, iterations=4) == Calls(4, 30, 8)
    last = plan(takes, epochs=30, iterations=4)
    assert last.arguments(3) == {"epochs": 30, "initial_epoch": 24}
    assert plan(narrow, epochs=3).arguments(1) == {"epochs": 1}
    assert plan(takes, epochs=6, initial_epoch=2).arguments(0) == {"epochs": 3, "initial_epoch": 2}


def test_metrics_of():
    history = keras.callbacks.History()
    history.history = {"loss": [3.0, 2.0], "val_loss": [4.0, 5.0]}
    assert metrics_of(history, "val_loss", "fit") == {"loss": 2.0, "val_loss": 5.0}
    assert metrics_of([1, 3.0], "score", "fit") == {"score": 2.0}
    assert metrics_of([{"a": 1.0, "b": 2.0}, {"a": 3.0}], "a", "fit") == {"a": 2.0}
    assert math.isnan(metrics_of(float("nan"), "score", "fit")["score"])
    for wrong in ("a", None, [], [None], object()):
        with pytest.raises(ResultError):
            metrics_of(wrong, "score", "fit")
