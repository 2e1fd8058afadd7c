import json
import math
import random
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import History, PopDescent, PopDescentTuner
from keras_popdescent.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    ModelError,
    ObjectiveError,
    ProjectError,
)
from keras_popdescent.strategies import UnitMutation
from keras_popdescent.tuners.execution import BIRTH, INHERITED, PARENT

FIT = {"epochs": 4, "batch_size": 32, "validation_split": 0.2, "verbose": 0}


def make(build, tmp_path, **kwargs):
    kwargs = {"objective": "val_loss", "seed": 0, "directory": tmp_path, **kwargs}
    return PopDescentTuner(build, **kwargs)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, data):
    from tests.tuners.conftest import build_model

    tuner = make(build_model, tmp_path_factory.mktemp("searched"))
    tuner.search(*data, **FIT)
    return tuner


def test_takes_the_place_of_random_search(build, tmp_path, data):
    # The same call with each, as in a notebook in which one name is changed.
    for tuner_class in (keras_tuner.RandomSearch, PopDescentTuner):
        tuner = tuner_class(
            build,
            objective="val_accuracy",
            max_trials=5,
            executions_per_trial=1,
            directory=str(tmp_path),
            project_name=tuner_class.__name__,
            overwrite=True,
            seed=0,
        )
        tuner.search_space_summary()
        tuner.search(*data, **FIT)
        tuner.results_summary()
        model = tuner.get_best_models(1)[0]
        hp = tuner.get_best_hyperparameters(1)[0]
        assert set(hp.values) >= {"l2", "dropout", "learning_rate"}
        assert model.predict(data[0][:4], verbose=0).shape == (4, 3)
        assert len(tuner.oracle.get_best_trials(3)) == 3
        assert tuner.hypermodel.build(hp).optimizer.learning_rate > 0


def test_the_budget_is_that_of_the_epochs(searched):
    # 256 training samples in batches of 32, 4 epochs, 5 slots.
    assert searched.history.gradient_steps == 8 * 4 * 5


def test_a_trial_is_a_member(searched):
    births = searched.history.births()
    trials = searched.oracle.trials
    assert len(trials) == len(births)
    scores = {}
    for record in searched.history.iterations():
        for member in [member for member in record.members if member.logs]:
            scores.setdefault(member.member_id, []).append(member.score)
    for member_id, birth in births.items():
        trial = trials[f"{member_id:04d}"]
        values = trial.hyperparameters.values
        for name, value in birth.values.items():
            assert values[name] == value
        parent = f"{birth.parents[0]:04d}" if birth.parents else ""
        assert values[PARENT] == parent
        assert values[INHERITED] == birth.inherited_steps
        assert trial.status == "COMPLETED"
        assert trial.score == pytest.approx(min(scores[member_id]))
        observed = trial.metrics.get_history("val_loss")
        assert [point.value[0] for point in observed] == pytest.approx(scores[member_id])
        if birth.parents:
            assert observed[0].step == values[BIRTH] + 1


def test_best_models_score_what_their_trials_say(searched, data):
    x, y = data[0][256:], data[1][256:]
    trials = searched.oracle.get_best_trials(3)
    for model, trial in zip(searched.get_best_models(3), trials, strict=True):
        logits = model.predict(x, verbose=0)
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        assert float(keras.ops.mean(loss)) == pytest.approx(trial.score, rel=1e-4)
        # The live penalty is left out of the score, and is in the model.
        with_penalty = model.evaluate(x, y, verbose=0)[0]
        assert with_penalty > trial.score
        values = trial.hyperparameters.values
        assert float(model.optimizer.learning_rate) == pytest.approx(values["learning_rate"])
        assert model.layers[1].rate == pytest.approx(values["dropout"])
        assert model.layers[0].kernel_regularizer.l2 == pytest.approx(values["l2"])


def test_best_models_are_plain_keras_models(searched, data, tmp_path):
    model = searched.get_best_models()[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0), rtol=1e-5
    )
    history = loaded.fit(*data, epochs=1, verbose=0)
    assert math.isfinite(history.history["loss"][0])


def test_schedule_leads_to_the_winner(searched):
    schedule = searched.get_best_schedule()
    best = searched.history.best()[0]
    assert schedule.segments[0].start == 0
    assert schedule.segments[-1].member_id == best
    for before, after in zip(schedule.segments, schedule.segments[1:], strict=False):
        assert before.stop == after.start
    hp = searched.get_best_hyperparameters()[0].values
    assert schedule.at(schedule.gradient_steps - 1)["learning_rate"] == hp["learning_rate"]


def test_values_stay_within_the_search_space(searched):
    for birth in searched.history.births().values():
        assert 1e-4 <= birth.values["learning_rate"] <= 1e-1
        assert 1e-6 <= birth.values["l2"] <= 1e-2
        assert 0.0 <= birth.values["dropout"] <= 0.5


def test_a_finished_project_is_reloaded(searched, data):
    again = PopDescentTuner(
        searched.hypermodel, seed=0, directory=searched.directory, objective="val_loss"
    )
    expected = searched.get_best_models()[0].predict(data[0], verbose=0)
    before = random.getstate()
    again.get_best_models()
    assert random.getstate() == before
    np.testing.assert_allclose(
        again.get_best_models()[0].predict(data[0], verbose=0), expected, rtol=1e-5
    )
    assert len(again.oracle.trials) == len(searched.oracle.trials)
    with pytest.raises(ProjectError, match="Nothing has been searched"):
        again.get_best_schedule()


def test_max_trials_bounds_the_births(build, tmp_path, data):
    tuner = make(build, tmp_path, max_trials=7)
    tuner.search(*data, **FIT)
    assert "max_trials: nobody is replaced after 2 births" in tuner._runs[0].loop.notes
    assert len(tuner.oracle.trials) == 7
    assert tuner.remaining_trials == 0
    # Training goes on without replacement.
    assert tuner.history.gradient_steps == 8 * 4 * 5
    unsaved = make(build, tmp_path, max_trials=7, checkpoint=False)
    with pytest.raises(ProjectError, match="No more trials"):
        unsaved.search(*data, **FIT)


def test_fewer_trials_than_members(build, tmp_path, data):
    tuner = make(build, tmp_path, max_trials=2)
    tuner.search(*data, **FIT)
    assert tuner.population_size == 2
    assert len(tuner.oracle.trials) == 2
    notes = [note for note in tuner._runs[0].loop.notes if note.startswith("max_trials: nobody")]
    assert notes and "does not train alone" in notes[0]


def test_executions_are_independent_populations(build, tmp_path, data):
    tuner = make(build, tmp_path, executions_per_trial=2, population_size=2)
    tuner.search(*data, **{**FIT, "epochs": 1})
    values = [t.hyperparameters.values["learning_rate"] for t in tuner.oracle.trials.values()]
    assert len(set(values)) > 2
    assert (Path(tuner.project_dir) / "history_1.jsonl").exists()
    best = min(t.score for t in tuner.oracle.trials.values())
    assert tuner.history.best()[1] == pytest.approx(best)


def test_each_execution_has_max_trials(build, tmp_path, data):
    # As public notebooks have it: so many trials, each executed twice.
    tuner = make(build, tmp_path, max_trials=7, executions_per_trial=2)
    tuner.search(*data, **FIT)
    assert len(tuner.oracle.trials) == 14
    assert tuner.remaining_trials == 0


def test_searches_of_one_project_have_histories_of_their_own(build, tmp_path, data):
    for _ in range(2):
        tuner = make(build, tmp_path, population_size=2, checkpoint=False)
        tuner.search(*data, **{**FIT, "epochs": 1})
        path = tuner.history.path
        assert lineage(History.load(path)) == lineage(tuner.history)
    assert path.name == "history_1.jsonl"


def test_one_seed_one_search(build, tmp_path, data):
    runs = []
    for name in ("a", "b"):
        tuner = make(build, tmp_path, project_name=name)
        tuner.search(*data, **FIT)
        runs.append(tuner.history)
    assert lineage(runs[0]) == lineage(runs[1])
    other = make(build, tmp_path, project_name="c", seed=1)
    other.search(*data, **FIT)
    assert lineage(other.history) != lineage(runs[0])


def lineage(history):
    return [
        (
            [(m.member_id, m.score, dict(m.values)) for m in record.members],
            [(b.slot, b.parents, dict(b.values)) for b in record.births],
        )
        for record in history
    ]


SCRIPT = """
import json, sys
import numpy as np
sys.path.append({root!r})
from tests.tuners.conftest import build_model
from keras_popdescent import PopDescentTuner
rng = np.random.default_rng(7)
x = rng.normal(size=(320, 8)).astype("float32")
y = (x @ rng.normal(size=(8, 3))).argmax(axis=1)
tuner = PopDescentTuner(build_model, objective="val_loss", seed=0, directory={folder!r})
tuner.search(x, y, epochs=4, batch_size=32, validation_split=0.2, verbose=0)
print(json.dumps([[m.score, m.values] for r in tuner.history for m in r.members]))
"""


@pytest.mark.slow
def test_one_seed_one_search_in_two_processes(searched, tmp_path):
    root = str(Path(__file__).parents[2])
    script = SCRIPT.format(root=root, folder=str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    expected = [[m.score, dict(m.values)] for r in searched.history for m in r.members]
    assert json.loads(result.stdout.splitlines()[-1]) == expected


def test_nothing_live_declared_mutates_the_models_own_values(tmp_path, data, capsys):
    def build(hp):
        model = keras.Sequential(
            [
                keras.layers.Input((8,)),
                keras.layers.Dense(
                    hp.Choice("units", [8, 16]), kernel_regularizer=keras.regularizers.L2(1e-3)
                ),
                keras.layers.Dense(3),
            ]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = make(build, tmp_path)
    tuner.search(*data, **{**FIT, "verbose": 1})
    assert "the model's own learning_rate, l2 is mutated" in capsys.readouterr().out
    births = tuner.history.births().values()
    first = [b.values for b in births if not b.parents]
    assert {v["popdescent/learning_rate"] for v in first} == {1e-3}
    assert {v["popdescent/l2"] for v in first} == {1e-3}
    assert len({b.values["popdescent/learning_rate"] for b in births}) > 1
    for birth in births:
        if birth.parents:
            parent = tuner.history.births()[birth.parents[0]]
            assert birth.values["units"] == parent.values["units"]
    best = tuner.get_best_hyperparameters()[0].values
    model = tuner.get_best_models()[0]
    assert float(model.optimizer.learning_rate) == pytest.approx(best["popdescent/learning_rate"])
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(best["popdescent/l2"])

    quiet = make(build, tmp_path, project_name="quiet", implicit_mutation=False)
    quiet.search(*data, **FIT)
    assert quiet._blueprint.space.names() == ["units"]


def test_search_space_summary_says_what_it_cannot_know_yet(tmp_path, capsys):
    def build(hp, layers=()):
        units = hp.Int("units", 4, 8)
        model = keras.Sequential([*layers, keras.layers.Dense(units), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    make(build, tmp_path / "unbuilt").search_space_summary()
    said = capsys.readouterr().out
    assert "units: rebuild" in said and "once `search` has seen the data" in said
    make(lambda hp: build(hp, [keras.Input((3,))]), tmp_path / "built").search_space_summary()
    said = capsys.readouterr().out
    assert "units: structural" in said and "has seen the data" not in said


def test_search_space_summary_shows_the_kinds(tmp_path, capsys):
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,))])
        for _ in range(hp.Int("layers", 1, 2)):
            model.add(keras.layers.Dense(8, activation=hp.Choice("activation", ["relu", "tanh"])))
        model.add(keras.layers.Dense(3))
        model.compile(keras.optimizers.SGD(0.1, momentum=hp.Float("momentum", 0.0, 0.9)), "mse")
        hp.Int("batch_size", 16, 64)
        return model

    make(build, tmp_path).search_space_summary()
    printed = capsys.readouterr().out
    assert "layers: structural" in printed
    assert "activation: rebuild" in printed
    assert "momentum: live (optimizer.momentum)" in printed
    assert "batch_size: live (the data stream)" in printed


def test_bindings_overrule_what_was_found(build, tmp_path, data):
    tuner = make(build, tmp_path, bindings={"dropout": "rebuild"})
    tuner.search(*data, **{**FIT, "epochs": 1})
    assert tuner._blueprint.kinds["dropout"].kind == "rebuild"
    with pytest.raises(ArgumentError, match="that is not in the search space"):
        make(build, tmp_path, project_name="b", bindings={"typo": "live"}).search(*data, **FIT)


def test_initial_hyperparameters(build, tmp_path, data):
    given = {"learning_rate": 3e-3, "dropout": 0.25}
    tuner = make(build, tmp_path, initial_hyperparameters=[given])
    tuner.search(*data, **{**FIT, "epochs": 1})
    first = tuner.history.births()[0].values
    assert {name: first[name] for name in given} == given
    # What is left out is the default, and member 1 is drawn.
    assert first["l2"] == 1e-6
    assert tuner.history.births()[1].values["learning_rate"] != 3e-3


def test_batch_size_is_live(tmp_path, data):
    seen = set()

    class Watcher(keras.Sequential):
        def train_step(self, batch):
            seen.add(int(batch[0].shape[0]))
            return super().train_step(batch)

    def build(hp):
        hp.Choice("batch_size", [16, 32])
        model = Watcher([keras.layers.Input((8,)), keras.layers.Dense(3)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = make(build, tmp_path, iterations=4, batches_per_iteration=4)
    tuner.search(*data, validation_split=0.2, verbose=0)
    assert {16, 32} <= seen


def test_batch_size_beside_a_data_set_of_batches_has_no_effect(tmp_path, data):
    def build(hp):
        hp.Choice("batch_size", [16, 32])
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    x, y = data
    tuner = make(build, tmp_path, iterations=1, batches_per_iteration=1)
    batches = iter([(x[:20], y[:20])] * 9)
    with pytest.warns(UserWarning, match="`batch_size` has no effect: the data set decides"):
        tuner.search(batches, validation_data=(x[:20], y[:20]), verbose=0)


def test_presets_run(build, tmp_path, data):
    for name, strategy in {
        "paper": PopDescent.paper(num_samples=32),
        "reference": PopDescent.reference(num_samples=32, passes=2),
    }.items():
        tuner = make(build, tmp_path, project_name=name, strategy=strategy, iterations=3,
                     batches_per_iteration=4)  # fmt: skip
        tuner.search(*data, batch_size=32, validation_split=0.2, verbose=0)
        passes = 2 if name == "reference" else 1
        assert tuner.history.gradient_steps == 3 * 4 * 5 * passes
    # reference(): the user's values stay, the multipliers move; a plain model has the user's.
    births = tuner.history.births().values()
    assert {b.values["learning_rate"] for b in births} == {1e-2}
    assert len({b.values["popdescent/loss_scale"] for b in births}) == len(births)
    assert float(tuner.get_best_models()[0].optimizer.learning_rate) == pytest.approx(1e-2)


def test_a_diverged_member_is_a_failed_trial_and_no_parent(tmp_path, data):
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
        rate = hp.Choice("learning_rate", [0.01, 1e30])
        model.compile(keras.optimizers.SGD(rate), "mse")
        return model

    x, y = data
    tuner = make(
        build, tmp_path, iterations=4, batches_per_iteration=4,
        initial_hyperparameters=[{"learning_rate": v} for v in (1e30, 0.01, 1e30, 1e30, 0.01)],
        num_elites=4,
    )  # fmt: skip
    tuner.search(x, y.astype("float32"), validation_split=0.2, verbose=0)
    first = tuner.history.iterations()[0]
    diverged = [m.member_id for m in first.members if not math.isfinite(m.score)]
    assert diverged == [0, 2, 3]
    assert sorted(b.replaced for b in first.births) == diverged
    assert {b.parents[0] for b in first.births} <= {1, 4}
    assert tuner.oracle.trials["0000"].status == "FAILED"
    assert math.isfinite(tuner.oracle.get_best_trials(1)[0].score)


def test_all_diverged_is_an_error_with_the_hyperparameters(tmp_path, data):
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Choice("learning_rate", [1e30, 1e29])), "mse")
        return model

    tuner = make(build, tmp_path, iterations=9, batches_per_iteration=4)
    with pytest.raises(DivergedError, match=r"1e\+30"):
        tuner.search(data[0], data[1].astype("float32"), validation_split=0.2, verbose=0)
    for ask in (tuner.get_best_models, tuner.get_best_schedule):
        with pytest.raises(ProjectError, match="no member ever had a finite score"):
            ask()


class TestBadInput:
    def test_no_validation_data(self, build, tmp_path, data):
        with pytest.raises(DataError, match="Pass `validation_data"):
            make(build, tmp_path).search(*data, epochs=1)

    def test_objective_that_the_model_does_not_report(self, build, tmp_path, data):
        tuner = make(build, tmp_path, objective=keras_tuner.Objective("val_f1", "max"))
        with pytest.raises(ObjectiveError, match="val_accuracy, val_loss"):
            tuner.search(*data, **FIT)

    @pytest.mark.parametrize("num_elites", [-1, 6])
    def test_num_elites(self, build, tmp_path, num_elites):
        with pytest.raises(ArgumentError, match="num_elites"):
            make(build, tmp_path, num_elites=num_elites)

    def test_nothing_is_deleted_for_arguments_that_are_refused(self, build, tmp_path):
        kept = tmp_path / "untitled_project" / "kept.txt"
        kept.parent.mkdir()
        kept.touch()
        with pytest.raises(ArgumentError, match="Expected 'auto' or one of: sequential"):
            make(build, tmp_path, executor="fast", overwrite=True)
        assert kept.exists()

    def test_the_likeliest_slip_of_the_pen(self, build, tmp_path):
        with pytest.raises(ArgumentError, match="no argument `max_trial`.*mean `max_trials`"):
            make(build, tmp_path, max_trial=3)

    def test_unknown_argument(self, build, tmp_path):
        with pytest.raises(ArgumentError, match="no argument `colour`.*Expected one of.*seed") as e:
            make(build, tmp_path, colour=3)
        assert "oracle" not in str(e.value) and "kwargs" not in str(e.value)

    @pytest.mark.parametrize("size", [0, -3])
    def test_population_size(self, build, tmp_path, size):
        with pytest.raises(
            ArgumentError, match="`population_size` must be a whole number of at least 1"
        ):
            make(build, tmp_path, population_size=size)

    def test_lengths(self, build, tmp_path, data):
        with pytest.raises(DataError, match="different lengths"):
            make(build, tmp_path).search(data[0], data[1][:-1], **FIT)

    def test_nan(self, build, tmp_path, data):
        x = data[0].copy()
        x[:, 1] = np.nan
        with pytest.warns(UserWarning, match="not finite"), pytest.raises(DivergedError):
            make(build, tmp_path).search(x, data[1], **FIT)

    def test_no_model(self, tmp_path, data):
        with pytest.raises(ModelError, match="return model"):
            make(lambda hp: None, tmp_path).search(*data, **FIT)

    def test_not_compiled(self, tmp_path, data):
        def build(hp):
            return keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])

        with pytest.raises(ModelError, match="not compiled"):
            make(build, tmp_path).search(*data, **FIT)

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_what_was_refused_was_not_searched(self, checkpoint, build, tmp_path, data):
        tuner = make(build, tmp_path, checkpoint=checkpoint,
                     objective=keras_tuner.Objective("val_f1", "max"))  # fmt: skip
        with pytest.raises(ObjectiveError):
            tuner.search(*data, **FIT)
        with pytest.raises(ProjectError, match="Nothing has been searched"):
            tuner.get_best_models()

    def test_unknown_argument_of_fit(self, build, tmp_path, data):
        with pytest.raises(ArgumentError, match="epoch_count"):
            make(build, tmp_path).search(*data, epoch_count=3)


def test_an_error_in_the_middle_keeps_what_was_trained(build, tmp_path, data):
    class Stop(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("the user's own error")

    tuner = make(build, tmp_path)
    with pytest.raises(RuntimeError, match="own error"):
        tuner.search(*data, **FIT, callbacks=[Stop()])
    assert len(tuner.history) >= 1
    assert tuner.get_best_models()[0].predict(data[0], verbose=0).shape == (320, 3)


def test_positional_arguments_are_those_of_fit(build, tmp_path, data):
    tuner = make(build, tmp_path)
    # x, y, batch_size, epochs, verbose, callbacks, validation_split
    tuner.search(*data, 32, 2, 0, None, 0.2)
    assert tuner.history.gradient_steps == 8 * 2 * 5


def test_seed_zero_is_a_seed(build, tmp_path):
    assert make(build, tmp_path, seed=0).oracle.seed == 0
    assert make(build, tmp_path, project_name="none", seed=None).oracle.seed is None


def test_tensorboard_is_not_imported(tmp_path):
    root = str(Path(__file__).parents[2])
    script = (
        SCRIPT.format(root=root, folder=str(tmp_path)) + "\nprint('tensorboard' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert result.stdout.splitlines()[-1] == "False"


def test_a_layer_of_dropout_more_or_less(tmp_path, data):
    # The search space of KerasTuner's own introduction: same weights, another number of seeds.
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(8)])
        if hp.Boolean("dropout"):
            model.add(keras.layers.Dropout(0.25))
        model.add(keras.layers.Dense(3))
        optimizer = hp.Choice("optimizer", ["adam", "sgd", "rmsprop"])
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    strategy = PopDescent(UnitMutation(3.0))
    tuner = make(build, tmp_path, iterations=6, batches_per_iteration=3, strategy=strategy)
    tuner.search(*data, batch_size=32, validation_split=0.2, verbose=0)
    births = tuner.history.births()
    crossed = [
        birth
        for birth in births.values()
        if birth.parents and birth.values["dropout"] != births[birth.parents[0]].values["dropout"]
    ]
    assert crossed
    assert tuner._blueprint.kinds["dropout"].kind == "rebuild"
    assert tuner._blueprint.kinds["optimizer"].kind == "rebuild"
    tuner.get_best_models(3)


def test_automatic_names_of_metrics_are_those_of_a_first_build(tmp_path, data):
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1, "sigmoid")])
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(
            keras.optimizers.Adam(rate), "binary_crossentropy", metrics=[keras.metrics.AUC()]
        )
        return model

    tuner = make(build, tmp_path, objective=keras_tuner.Objective("val_auc", "max"))
    tuner.search(data[0], data[1] == 1, **{**FIT, "epochs": 1})
    assert {"auc", "val_auc"} <= set(tuner.history.iterations()[0].members[0].logs)


def test_a_model_that_only_a_batch_builds(tmp_path, data):
    """In a later session nobody knows its shapes: the error says what to do, and that helps."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    def build(hp):
        model = Net()
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        return model

    limits = {"population_size": 2, "iterations": 1, "batches_per_iteration": 1}
    make(build, tmp_path, **limits).search(*data, validation_split=0.2, verbose=0)
    tuner = make(build, tmp_path, **limits)
    with pytest.raises(ProjectError, match="first batch.*Call `search`"):
        tuner.get_best_models()
    tuner.search(*data, validation_split=0.2, verbose=0)
    assert len(tuner.get_best_models()[0].get_weights()) == 2


def test_a_worse_search_hides_no_better_model(build, tmp_path, data):
    make(build, tmp_path).search(*data, **{**FIT, "epochs": 8})
    again = make(build, tmp_path, seed=1, checkpoint=False)
    again.search(*data, **{**FIT, "epochs": 1})
    best = again.oracle.get_best_trials(1)[0].score
    x, y = data[0][256:], data[1][256:]
    logits = again.get_best_models()[0].predict(x, verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    assert float(keras.ops.mean(loss)) == pytest.approx(best, rel=1e-4)


def test_accumulated_gradients(tmp_path, data):
    def build(hp):
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        optimizer = keras.optimizers.Adam(rate, gradient_accumulation_steps=3)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = make(build, tmp_path)
    tuner.search(*data, **{**FIT, "epochs": 1})
    assert tuner._blueprint.kinds["learning_rate"].kind == "live"


def test_a_second_optimizer_is_refused(tmp_path, data):
    class Two(keras.Sequential):
        def compile(self, *args, **kwargs):
            super().compile(*args, **kwargs)
            self.other = keras.optimizers.Adam()

    def build(hp):
        model = Two([keras.layers.Input((8,)), keras.layers.Dense(3)])
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        return model

    with pytest.raises(ModelError, match="second optimizer.*other"):
        make(build, tmp_path).search(*data, **FIT)
