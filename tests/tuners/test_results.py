"""After a search: result, tables, schedule, retraining, held-out data; and budgets."""

import csv
import gc
import json
import math
import time
import weakref
from dataclasses import replace

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import PopDescent, PopDescentTuner, Schedule
from keras_popdescent.errors import (
    ArgumentError,
    BindingError,
    ModelError,
    PopDescentError,
    ProjectError,
)
from keras_popdescent.history import Segment
from keras_popdescent.strategies import ClosingPlan, UnitMutation
from keras_popdescent.tuners.arguments import check_initial_values
from keras_popdescent.tuners.retraining import retrain
from tests.tuners.conftest import build_model

FIT = {"batch_size": 32, "validation_split": 0.2, "verbose": 0}


def make(tmp_path, build=build_model, **kwargs):
    kwargs = {"objective": "val_loss", "seed": 0, "directory": tmp_path, "population_size": 4,
              "strategy": PopDescent(UnitMutation(1.0)), **kwargs}  # fmt: skip
    return PopDescentTuner(build, **kwargs)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, data):
    tuner = make(tmp_path_factory.mktemp("searched"), iterations=6, batches_per_iteration=4)
    held = (data[0][:64], data[1][:64])
    result = tuner.search(*data, **FIT, heldout_data=held)
    return tuner, result


def test_a_stopped_members_row_has_what_it_reported_last(tmp_path, data):
    def stop(member):
        # The first member stops at once.
        stopping = keras.callbacks.LambdaCallback()
        if member.member_id == 0:
            stopping.on_epoch_end = lambda epoch, logs: setattr(
                stopping.model, "stop_training", True
            )
        return stopping

    # Nobody is replaced: only the callback can end the training.
    tuner = make(tmp_path, iterations=6, batches_per_iteration=8, num_elites=4)
    tuner.search(*data, **FIT, callbacks=[stop])
    rows = tuner.results_dataframe()
    row = rows[rows["member_id"] == 0].iloc[0]
    assert row["gradient_steps"] < 48
    assert set(rows[rows["member_id"] != 0]["gradient_steps"]) == {48}
    assert math.isfinite(row["val_loss"])


class TestResult:
    def test_the_numbers(self, searched):
        tuner, result = searched
        assert result.best_score == tuner.history.best()[1]
        best = tuner.oracle.get_best_trials(1)[0]
        assert result.best_trial_id == best.trial_id
        for name, value in result.best_hyperparameters.items():
            assert best.hyperparameters.get(name) == value
        assert result.gradient_steps == 4 * 6 * 4
        assert result.num_born == len(tuner.oracle.trials)
        assert result.iterations == 6 and not result.interrupted
        assert result.schedule.gradient_steps == tuner.get_best_schedule().gradient_steps
        assert isinstance(result.best_model, keras.Model)
        assert len(result.table) == result.num_born

    def test_two_searches_have_results_of_their_own(self, tmp_path, data):
        tuner = make(tmp_path, checkpoint=False, batches_per_iteration=4)
        results = []
        for iterations in (8, 1):
            tuner.iterations = iterations
            results.append(tuner.search(*data, **FIT, heldout_data=(data[0][:64], data[1][:64])))
        first, second = results
        assert first.best_score < second.best_score  # so the tuner's best is the first one's
        assert second.schedule.gradient_steps <= 4 < first.schedule.gradient_steps
        assert len(second.table) == second.num_born == 4
        assert len(first.table) == first.num_born
        for result in results:
            model = result.best_model
            held = model.evaluate(data[0][:64], data[1][:64], verbose=0, return_dict=True)
            assert held == pytest.approx(result.heldout, rel=1e-4)
            assert result.table["trial_id"][0] == result.best_trial_id
            last = result.schedule.segments[-1].values["learning_rate"]
            assert last == result.best_hyperparameters["learning_rate"]

    def test_a_result_holds_no_population(self, tmp_path, data):
        tuner = make(tmp_path, checkpoint=False, iterations=1, batches_per_iteration=2)
        result = tuner.search(*data, **FIT)
        population = weakref.ref(tuner._runs[0].loop.executor)
        tuner._runs.clear()
        gc.collect()
        assert population() is None
        assert isinstance(result.best_model, keras.Model)

    def test_closing_training_is_no_iteration(self, tmp_path, data):
        strategy = PopDescent(closing=ClosingPlan(rounds=1, batches=2))
        tuner = make(tmp_path, strategy=strategy, iterations=3, batches_per_iteration=2)
        result = tuner.search(*data, **FIT)
        assert result.iterations == 3 and "3 iterations" in repr(result)
        assert result.history.records[-1].closing

    def test_numbers_only(self, searched):
        alone = replace(searched[1], tuner=None, sources=None)
        assert "best val_loss" in repr(alone)
        for ask in ("best_model", "schedule", "table"):
            with pytest.raises(PopDescentError, match="numbers only"):
                getattr(alone, ask)

    def test_the_words(self, searched):
        _, result = searched
        text = repr(result)
        assert f"{result.best_score:.4g} (trial {result.best_trial_id})" in text
        assert "4 members" in text and "96 gradient steps" in text and "held out" in text
        html = result._repr_html_()
        assert html.count("<table>") == 2 and f"{result.best_score:.4g}" in html
        assert "<th>learning_rate</th>" in html

    def test_names_are_escaped(self, searched):
        _, result = searched
        odd = replace(result, best_hyperparameters={"<b>": 1.0})
        assert "<b>" not in odd._repr_html_() and "&lt;b&gt;" in odd._repr_html_()

    def test_held_out_data_is_scored_once_as_validation_is(self, searched, data):
        tuner, result = searched
        model = tuner.get_best_models()[0]
        expected = model.evaluate(data[0][:64], data[1][:64], verbose=0, return_dict=True)
        assert result.heldout == pytest.approx(expected, rel=1e-4)
        expected = model.evaluate(data[0][256:], data[1][256:], verbose=0, return_dict=True)
        assert result.validation == pytest.approx(expected, rel=1e-4)

    def test_held_out_batches(self, tmp_path, data):
        def batches():
            for start in range(0, 96, 32):
                yield data[0][start : start + 32], data[1][start : start + 32]

        tuner = make(tmp_path, iterations=1, batches_per_iteration=2, population_size=1)
        result = tuner.search(*data, **FIT, heldout_data=batches())
        model = tuner.get_best_models()[0]
        expected = model.evaluate(data[0][:96], data[1][:96], verbose=0, return_dict=True)
        assert result.heldout == pytest.approx(expected, rel=1e-4)

    def test_held_out_data_without_labels(self, tmp_path, data):
        with pytest.raises(ArgumentError, match="no labels"):
            make(tmp_path).search(*data, **FIT, heldout_data=(data[0],))

    def test_equal_scores_have_one_order(self, tmp_path, data):
        tuner = make(tmp_path, objective="val_accuracy", iterations=8, batches_per_iteration=4)
        tuner.search(*data, **FIT)
        best = tuner.get_best_hyperparameters()[0]
        model = tuner.get_best_models()[0]
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        assert rate == pytest.approx(best.get("learning_rate"))
        last = tuner.get_best_schedule().segments[-1].values
        assert last["learning_rate"] == pytest.approx(rate)


class TestTables:
    def test_a_row_a_member(self, searched):
        tuner, result = searched
        frame = tuner.results_dataframe()
        assert list(frame["best_score"].dropna()) == sorted(frame["best_score"].dropna())
        assert set(frame["trial_id"]) == set(tuner.oracle.trials)
        first = frame.iloc[0]
        assert first["trial_id"] == result.best_trial_id
        assert str(frame["parent"].dtype) == "Int64"
        births = tuner.history.births()
        for row in frame.to_dict("records"):
            birth = births[row["member_id"]]
            assert row["learning_rate"] == birth.values["learning_rate"]
            assert row["inherited_steps"] == birth.inherited_steps
            if birth.parents:
                assert row["parent"] == birth.parents[0]

    def test_long_form(self, searched):
        tuner, _ = searched
        frame = tuner.history_dataframe()
        # Score, loss, accuracy, val_loss, val_accuracy; of one member in the second half.
        assert len(frame) == (3 * 4 + 3) * 5
        scores = frame[frame["metric"] == "val_loss"]["value"].to_numpy()
        trained = [m for r in tuner.history.iterations() for m in r.members if m.logs]
        expected = [member.score for member in trained]
        np.testing.assert_allclose(scores, expected)

    @pytest.mark.parametrize("table", ["results", "history"])
    def test_csv(self, searched, tmp_path, table):
        tuner, _ = searched
        path = tmp_path / "new" / "table.csv"
        tuner.to_csv(path, table)
        rows = list(csv.DictReader(path.open()))
        frame = tuner.results_dataframe() if table == "results" else tuner.history_dataframe()
        assert len(rows) == len(frame) and list(rows[0]) == list(frame.columns)
        if table == "results":
            assert float(rows[0]["best_score"]) == pytest.approx(frame["best_score"][0])

    def test_no_such_table(self, searched, tmp_path):
        with pytest.raises(ArgumentError, match="no such table"):
            searched[0].to_csv(tmp_path / "x.csv", "members")

    def test_without_pandas(self, searched, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "pandas", None)
        rows = searched[0].results_dataframe()
        assert isinstance(rows, list) and rows[0]["trial_id"] == searched[1].best_trial_id
        assert {"metric", "value"} <= set(searched[0].history_dataframe()[0])

    def test_in_a_later_session(self, searched):
        tuner, _ = searched
        again = make(tuner.directory)
        frame = again.results_dataframe()
        assert list(frame["best_score"].dropna()) == list(
            tuner.results_dataframe()["best_score"].dropna()
        )

    def test_before_any_search(self, tmp_path):
        with pytest.raises(ProjectError, match="Call `search` first"):
            make(tmp_path).results_dataframe()


class TestSchedule:
    def test_what_it_says(self, searched, tmp_path):
        tuner, _ = searched
        schedule = tuner.get_best_schedule()
        assert len(schedule) > 1
        for segment in schedule:
            scalars = segment.scalars
            assert scalars["optimizer.learning_rate"] == pytest.approx(
                segment.values["learning_rate"]
            )
            assert segment.values["dropout"] in scalars.values()
        text = repr(schedule)
        assert text.startswith(f"Schedule of {len(schedule)} segments")
        assert text.count("learning_rate=") == len(schedule)
        schedule.save(tmp_path / "schedule.json")
        assert Schedule.load(tmp_path / "schedule.json") == schedule
        json.loads((tmp_path / "schedule.json").read_text())

    def test_a_file_of_an_earlier_version(self, tmp_path):
        old = {"segments": [{"start": 0, "stop": 3, "values": {"a": 1.0}, "member_id": 0}]}
        (tmp_path / "old.json").write_text(json.dumps(old))
        schedule = Schedule.load(tmp_path / "old.json")
        assert schedule.gradient_steps == 3
        with pytest.raises(ArgumentError, match="does not say what"):
            schedule.as_callback()

    @pytest.mark.backend
    def test_as_a_callback_of_plain_fit(self, searched, data):
        tuner, _ = searched
        schedule = tuner.get_best_schedule()
        model = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
        used = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                used.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

        epochs = -(-schedule.gradient_steps // -(-len(data[0]) // 32))
        model.fit(*data, batch_size=32, epochs=epochs, verbose=0,
                  callbacks=[schedule.as_callback(), Watch()])  # fmt: skip
        steps = range(schedule.gradient_steps)
        expected = [schedule.at(step)["learning_rate"] for step in steps]
        assert used[: len(expected)] == pytest.approx(expected, rel=1e-5)
        assert set(np.round(used[len(expected) :], 9)) <= {np.round(used[len(expected) - 1], 9)}
        # A plain model again, with the last values.
        last = schedule.segments[-1].values
        assert model.layers[1].rate == pytest.approx(last["dropout"])
        assert model.layers[0].kernel_regularizer.l2 == pytest.approx(last["l2"], rel=1e-5)
        assert isinstance(model.layers[1].rate, float)
        assert len(model.weights) == 4

    @pytest.mark.backend
    def test_dropout_and_penalty_really_change(self, data):
        from keras_popdescent.history import Segment

        def build():
            model = keras.Sequential(
                [keras.layers.Input((8,)),
                 keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(1e-3))]
            )  # fmt: skip
            model.compile("sgd", "mse")
            return model

        path = next(p for p in _handles(build()) if p.endswith(".l2"))
        schedule = Schedule(
            (
                Segment(0, 3, {"l2": 1e-3}, 0, {path: 1e-3}),
                Segment(3, 6, {"l2": 9.0}, 1, {path: 9.0}),
            )
        )
        losses = []
        log = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
        )
        x = np.zeros((6, 8), "float32")
        build().fit(x, np.zeros((6, 4)), batch_size=1, shuffle=False, verbose=0,
                    callbacks=[schedule.as_callback(), log])  # fmt: skip
        assert losses[2] < 0.1 < losses[3]

    def test_stopping_with_the_schedule(self, searched, data):
        schedule = searched[0].get_best_schedule()
        model = build_of(searched[0])
        model.fit(*data, batch_size=32, epochs=50, verbose=0,
                  callbacks=[schedule.as_callback(stop=True)])  # fmt: skip
        assert int(model.optimizer.iterations) == schedule.gradient_steps

    def test_a_fit_that_ends_before_its_schedule(self, searched, data):
        schedule = searched[0].get_best_schedule()
        with pytest.warns(UserWarning, match="ended after 10 of the schedule's"):
            build_of(searched[0]).fit(
                *data, batch_size=32, verbose=0, callbacks=[schedule.as_callback()]
            )

    def test_several_steps_an_execution(self, searched, data):
        model = build_of(searched[0])
        model.compile("adam", model.loss, steps_per_execution=2)
        callback = searched[0].get_best_schedule().as_callback()
        with pytest.raises(ArgumentError, match="steps_per_execution=1"):
            model.fit(*data, verbose=0, callbacks=[callback])

    @pytest.mark.parametrize("name", ["popdescent/loss_scale", "popdescent/l2_scale"])
    def test_a_constant_multiplier_is_refused_too(self, name):
        scalars = {"optimizer.learning_rate": 0.1}

        def schedule(scale):
            return Schedule((Segment(0, 4, {name: scale}, 0, scalars),), (name,))

        with pytest.raises(ArgumentError, match=f"scales the loss.*{name}"):
            schedule(0.5).as_callback()
        with pytest.raises(ArgumentError, match=f"scales the loss.*{name}"):
            retrain(schedule(0.5), lambda values: pytest.fail("built"), None, {}, None)
        schedule(1.0).as_callback()

    def test_another_model(self, searched, data):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        model.compile("adam", "mse")
        with pytest.raises(BindingError, match="own build function"):
            model.fit(*data, verbose=0, callbacks=[searched[0].get_best_schedule().as_callback()])

    def test_a_model_without_weights(self, searched, data):
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile("adam", "sparse_categorical_crossentropy")
        callback = searched[0].get_best_schedule().as_callback()
        callback.set_model(model)
        with pytest.raises(ModelError, match="no weights yet"):
            callback.on_train_begin()

    def test_stretched(self, searched):
        schedule = searched[0].get_best_schedule()
        longer = schedule.stretched(10 * schedule.gradient_steps)
        assert [s.start for s in longer] == [10 * s.start for s in schedule]
        assert longer.gradient_steps == 10 * schedule.gradient_steps
        shorter = schedule.stretched(1)
        assert len(shorter) == 1 and shorter.gradient_steps == 1
        with pytest.raises(ArgumentError, match="at least one"):
            schedule.stretched(0)


def _handles(model):
    from keras_popdescent import find_handles

    return find_handles(model)


def build_of(tuner):
    return tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])


class TestRetraining:
    @pytest.mark.backend
    def test_as_many_steps_as_the_schedule(self, searched, data):
        tuner, _ = searched
        model = tuner.retrain_best(*data, batch_size=32, verbose=0, seed=1)
        assert int(model.optimizer.iterations) == tuner.get_best_schedule().gradient_steps
        again = tuner.retrain_best(*data, batch_size=32, verbose=0, seed=1, shuffle=False)
        assert again is not model
        last = tuner.get_best_schedule().segments[-1].values
        assert model.layers[1].rate == pytest.approx(last["dropout"])

    def test_for_more_epochs(self, searched, data):
        model = searched[0].retrain_best(
            *data, batch_size=32, epochs=6, verbose=0, validation_split=0.2
        )
        assert int(model.optimizer.iterations) == 6 * 8
        assert len(model.history.history["val_loss"]) == 6

    def test_rebuild_and_batch_size_on_the_way(self, tmp_path, data):
        def build(hp):
            hp.Choice("batch_size", [16, 32])
            model = keras.Sequential(
                [keras.layers.Input((8,)),
                 keras.layers.Dense(8, hp.Choice("activation", ["relu", "tanh"])),
                 keras.layers.Dense(3)]
            )  # fmt: skip
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(rate), loss)
            return model

        tuner = make(tmp_path, build, iterations=8, batches_per_iteration=3, seed=4, num_elites=1,
                     strategy=PopDescent(UnitMutation(3.0)))  # fmt: skip
        tuner.search(*data, **FIT)
        schedule = tuner.get_best_schedule()
        changing = {
            name
            for name in ("activation", "batch_size")
            if len({segment.values[name] for segment in schedule}) > 1
        }
        assert changing, "this seed's winner should have changed one"
        with pytest.raises(ArgumentError, match="retrain_best"):
            schedule.as_callback()
        model = tuner.retrain_best(*data, verbose=0)
        assert int(model.optimizer.iterations) == schedule.gradient_steps
        assert model.layers[0].activation.__name__ == schedule.segments[-1].values["activation"]

    def test_several_steps_an_execution(self, tmp_path, data):
        """As many steps as the schedule has, and the model is as its author compiled it."""

        def build(hp):
            model = build_model(hp)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(model.optimizer, loss, steps_per_execution=4)
            return model

        tuner = make(tmp_path, build, iterations=5, batches_per_iteration=3)
        tuner.search(*data, **FIT)
        model = tuner.retrain_best(*data, verbose=0)
        assert int(model.optimizer.iterations) == tuner.get_best_schedule().gradient_steps
        assert model.steps_per_execution == 4
        model.fit(*data, batch_size=32, verbose=0)

    def test_the_models_own_values(self, tmp_path, data):
        def build(hp):
            model = keras.Sequential(
                [keras.layers.Input((8,)), keras.layers.Dense(hp.Int("units", 4, 8)),
                 keras.layers.Dense(3)]
            )  # fmt: skip
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss)
            return model

        tuner = make(tmp_path, build, iterations=5, batches_per_iteration=3)
        tuner.search(*data, **FIT)
        model = tuner.retrain_best(*data, verbose=0)
        last = tuner.get_best_schedule().segments[-1].values["popdescent/learning_rate"]
        assert float(model.optimizer.learning_rate) == pytest.approx(last, rel=1e-5)


class TestBudgets:
    def test_gradient_steps(self, tmp_path, data):
        tuner = make(tmp_path, max_gradient_steps=100)
        tuner.search(*data, **FIT)
        assert tuner.history.gradient_steps == 4 * 25
        short = make(tmp_path, project_name="b", max_gradient_steps=42)
        short.search(*data, **FIT, epochs=50)
        assert short.history.gradient_steps == 40
        long = make(tmp_path, project_name="c", max_gradient_steps=10**6)
        long.search(*data, **FIT, epochs=1)
        assert long.history.gradient_steps == 4 * 8

    def test_gradient_steps_of_several_executions(self, tmp_path, data):
        tuner = make(tmp_path, max_gradient_steps=80, executions_per_trial=2)
        assert tuner.search(*data, **FIT).gradient_steps == 80

    def test_time(self, tmp_path, data):
        tuner = make(tmp_path, max_time=0.5, batches_per_iteration=2)
        began = time.perf_counter()
        result = tuner.search(*data, **{**FIT, "epochs": 10**5})
        assert time.perf_counter() - began < 60.0
        # Nobody was born after the last iteration.
        assert result.history.records[-1].births == ()
        assert all(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())
        assert math.isfinite(result.best_score)

    def test_time_that_is_over(self, tmp_path, data):
        """The same call again returns at once: the seconds count from the first one's beginning."""

        def search(**limits):
            tuner = make(tmp_path, executions_per_trial=2, batches_per_iteration=2, **limits)
            tuner.search(*data, **FIT, epochs=None if "iterations" in limits else 10**5)
            return [len(run.loop.history) for run in tuner._runs]

        done = search(max_time=0.5)
        assert search(max_time=0.5) == done
        more = max(done) + 1
        assert search(max_time=1e4, iterations=more) == [more, more]

    @pytest.mark.parametrize("limit", [{"max_time": 0}, {"max_gradient_steps": 3},
                                       {"max_gradient_steps": 0}, {"max_time": -1.0}])  # fmt: skip
    def test_limits_that_allow_nothing(self, tmp_path, data, limit):
        with pytest.raises(ArgumentError, match="max_"):
            make(tmp_path, **limit).search(*data, **FIT)

    @pytest.mark.parametrize("epochs", [1.5, 0, -1, "3", True])
    def test_epochs_that_are_none(self, tmp_path, data, epochs):
        with pytest.raises(ArgumentError, match="whole number"):
            make(tmp_path).search(*data, **FIT, epochs=epochs)

    def test_a_validation_batch_size_of_0(self, tmp_path, data):
        with pytest.raises(
            ArgumentError, match="`validation_batch_size` must be a whole number of at least 1"
        ):
            make(tmp_path).search(*data, **FIT, validation_batch_size=0)

    def test_an_interrupt_keeps_the_best_so_far(self, tmp_path, data):
        class Interrupt(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 1:
                    raise KeyboardInterrupt

        tuner = make(tmp_path, executions_per_trial=3, batches_per_iteration=2)
        result = tuner.search(*data, **FIT, epochs=9, callbacks=[Interrupt()])
        assert result.interrupted and "interrupt" in repr(result)
        assert result.best_score == tuner.history.best()[1]
        assert isinstance(tuner.get_best_models()[0], keras.Model)
        # The executions that had not begun did not begin.
        assert len(tuner._runs) == 1

    def test_an_interrupt_before_anything(self, tmp_path, data):
        class Interrupt(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make(tmp_path).search(*data, **FIT, callbacks=[Interrupt()])


def test_initial_hyperparameters_with_a_typo(tmp_path, data):
    tuner = make(tmp_path, initial_hyperparameters=[{"learning_rat": 0.01}])
    with pytest.raises(ArgumentError, match="learning_rat.*|.*has not"):
        tuner.search(*data, **FIT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"rate": 5.0}, "a number from 0.001 to 0.1"),
        ({"rate": "a"}, "a number from 0.001 to 0.1"),
        ({"rate": math.nan}, "a number from 0.001 to 0.1"),
        ({"units": 3.7}, "a whole number from 2 to 8"),
        ({"units": True}, "a whole number from 2 to 8"),
        ({"activation": "elu"}, "one of .'relu', 'tanh'."),
        ({"activation": ["relu"]}, "one of .'relu', 'tanh'."),
    ],
)
def test_initial_values_that_cannot_be(value, expected):
    space = keras_tuner.HyperParameters()
    space.Float("rate", 1e-3, 1e-1)
    space.Int("units", 2, 8)
    space.Choice("activation", ["relu", "tanh"])
    right = {"rate": np.float32(0.01), "units": np.int64(8), "activation": "tanh"}
    check_initial_values([right, {"popdescent/l2": 1.0}], space)
    with pytest.raises(ArgumentError, match=f"cannot have. Expected {expected}"):
        check_initial_values([right, {**right, **value}], space)


def test_initial_values_are_checked_before_training(tmp_path, data):
    tuner = make(tmp_path, initial_hyperparameters=[{"learning_rate": 5.0}])
    with pytest.raises(ArgumentError, match="a value that `learning_rate` cannot have"):
        tuner.search(*data, **FIT)


def test_models_that_share_layers_hold_the_weights_of_the_best(tmp_path, data):
    shared = keras.layers.Dense(8, "relu", name="shared")

    def build(hp):
        model = keras.Sequential(
            [keras.layers.Input((8,)), shared, keras.layers.Dense(hp.Int("units", 4, 8)),
             keras.layers.Dense(3)]
        )  # fmt: skip
        model.compile(
            keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    tuner = make(tmp_path, build, iterations=6, batches_per_iteration=4)
    tuner.search(*data, **FIT)
    with pytest.warns(UserWarning, match="share trainable weights.*make the layers inside"):
        best, *_ = tuner.get_best_models(3)
    x, y = (part[-len(part) // 5 :] for part in data)
    expected = tuner.oracle.get_best_trials()[0].score
    assert best.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-4)
