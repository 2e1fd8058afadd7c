"""What people do with `keras_tuner.RandomSearch`, done with `PopDescentTuner`.

The behaviours are those that KerasTuner's own tests of its tuners hold; what means something else
here is in docs/differences.md.
"""

import inspect
import json
import math
import random
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import PopDescent, PopDescentTuner
from keras_popdescent.errors import ArgumentError, ModelError, ObjectiveError, ProjectError
from keras_popdescent.strategies import UnitMutation
from keras_popdescent.tuners.building import refuse_several_replicas

FIT = {"epochs": 2, "batch_size": 32, "validation_split": 0.25, "verbose": 0}
LOSS = "sparse_categorical_crossentropy"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(128, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    return x, y


def dense(*layers, optimizer="adam", loss=LOSS, metrics=("accuracy",), **kwargs):
    model = keras.Sequential([keras.layers.Input((6,)), *layers, keras.layers.Dense(3, "softmax")])
    model.compile(optimizer, loss, metrics=list(metrics), **kwargs)
    return model


def build_layers(hp):
    layers = [
        keras.layers.Dense(hp.Int(f"units_{i}", 4, 8), "relu")
        for i in range(hp.Int("num_layers", 1, 3))
    ]
    rate = hp.Choice("learning_rate", [1e-2, 1e-3])
    return dense(*layers, optimizer=keras.optimizers.Adam(rate))


def make(build, tmp_path, **kwargs):
    kwargs = {"objective": "val_loss", "seed": 0, "directory": tmp_path, "population_size": 3,
              **kwargs}  # fmt: skip
    return PopDescentTuner(build, **kwargs)


class TestArguments:
    def test_positional_arguments_are_those_of_random_search(self):
        def positional(tuner_class):
            parameters = inspect.signature(tuner_class).parameters.values()
            return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

        assert positional(PopDescentTuner) == positional(keras_tuner.RandomSearch)

    def test_attributes_are_those_of_random_search(self, tmp_path, data):
        arguments = {
            "objective": "val_accuracy",
            "max_trials": 2,
            "executions_per_trial": 3,
            "directory": tmp_path,
            "tuner_id": "mine",
        }
        tuner = PopDescentTuner(build_layers, **arguments)
        other = keras_tuner.RandomSearch(build_layers, project_name="other", **arguments)
        for one in (tuner, other):
            assert one.oracle.objective.name == "val_accuracy"
            assert one.executions_per_trial == 3
            assert one.directory == tmp_path
            assert one.tuner_id == "mine"
            assert one.project_name in ("untitled_project", "other")
            assert {hp.name for hp in one.oracle.get_space().space} == {
                "num_layers", "units_0", "learning_rate",
            }  # fmt: skip
        tuner.search(*data, **FIT)
        assert (tmp_path / "untitled_project" / "oracle.json").exists()
        tuner.results_summary()

    def test_global_generators_are_left_as_they_were(self, tmp_path):
        states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        for _ in range(2):
            make(build_layers, tmp_path).save()
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002

    def test_max_trials_is_that_of_each_execution(self, tmp_path):
        tuner = make(build_layers, tmp_path, max_trials=4, executions_per_trial=2)
        assert tuner.remaining_trials == tuner.oracle.max_trials == 8

    def test_several_objectives(self, tmp_path, data):
        tuner = make(build_layers, tmp_path, objective=["val_accuracy", "val_loss"])
        assert tuner.oracle.objective.name == "multi_objective"
        tuner.search(*data, **FIT)
        tuner.results_summary()
        for record in tuner.history.iterations():
            for member in [member for member in record.members if member.logs]:
                expected = member.logs["val_loss"] - member.logs["val_accuracy"]
                assert member.score == pytest.approx(expected)
        best = tuner.oracle.get_best_trials(1)[0]
        assert best.score == pytest.approx(tuner.history.best()[1])

    def test_an_objective_of_both_kinds(self, tmp_path, data):
        mixed = [keras_tuner.Objective("val_loss", "min"), "val_accuracy"]
        tuner = make(build_layers, tmp_path, objective=mixed)
        tuner.search(*data, **FIT)
        assert math.isfinite(tuner.history.best()[1])

    def test_no_objective_is_the_validation_loss(self, tmp_path, data):
        tuner = make(build_layers, tmp_path, objective=None)
        tuner.search(*data, **FIT)
        assert tuner.history.best()[1] == pytest.approx(
            min(m.logs["val_loss"] for r in tuner.history for m in r.members if m.logs)
        )

    @pytest.mark.parametrize("objective", ["loss", "accuracy", "val_mae"])
    def test_objectives_of_public_notebooks(self, tmp_path, data, objective):
        def build(hp):
            model = keras.Sequential(
                [keras.layers.Input((6,)), keras.layers.Dense(hp.Int("units", 4, 8)),
                 keras.layers.Dense(1)]
            )  # fmt: skip
            model.compile("adam", "mse", metrics=["mae", "accuracy"])
            return model

        tuner = make(build, tmp_path, objective=objective)
        x, y = data
        split = {} if not objective.startswith("val_") else {"validation_split": 0.2}
        tuner.search(x, y.astype("float64"), epochs=2, verbose=0, **split)
        best = tuner.oracle.get_best_trials(1)[0]
        assert best.score == pytest.approx(best.metrics.get_best_value(objective))

    def test_a_direction_that_cannot_be_told(self, tmp_path):
        with pytest.raises(ValueError, match="custom_metric"):
            make(build_layers, tmp_path, objective="custom_metric")

    def test_optimizer_loss_and_metrics_override_what_was_compiled(self, tmp_path, data):
        tuner = make(
            build_layers, tmp_path, objective="val_mse", optimizer="rmsprop", loss="mse",
            metrics=["mse", "mae"],
        )  # fmt: skip
        x, y = data
        tuner.search(x, keras.utils.to_categorical(y), **FIT)
        model = tuner.get_best_models()[0]
        assert type(model.optimizer).__name__ == "RMSprop"
        assert model.loss == "mse"
        assert {"val_mse", "val_mae"} <= set(tuner.history.iterations()[0].members[0].logs)

    def test_a_given_optimizer_is_copied(self, tmp_path, data):
        given = keras.optimizers.Adam(0.02)
        tuner = make(build_layers, tmp_path, optimizer=given)
        tuner.search(*data, **FIT)
        assert not given.built
        first = tuner.history.births()[0].values
        assert first["popdescent/learning_rate"] == pytest.approx(0.02)

    def test_an_uncompiled_model_with_all_three(self, tmp_path, data):
        def build(hp):
            return keras.Sequential(
                [keras.layers.Input((6,)), keras.layers.Dense(hp.Int("units", 4, 8)),
                 keras.layers.Dense(3, "softmax")]
            )  # fmt: skip

        tuner = make(build, tmp_path, optimizer="adam", loss=LOSS, metrics=["accuracy"])
        tuner.search(*data, **FIT)
        assert tuner.get_best_models()[0].optimizer is not None

    def test_models_that_are_too_large_are_refused(self, tmp_path, data):
        with pytest.raises(ModelError, match="max_model_size"):
            make(build_layers, tmp_path, max_model_size=4).search(*data, **FIT)
        make(build_layers, tmp_path, project_name="b", max_model_size=400).search(*data, **FIT)

    def test_distribution_strategy(self, tmp_path, data):
        tf = pytest.importorskip("tensorflow")
        if keras.backend.backend() != "tensorflow":
            pytest.skip("a strategy of TensorFlow")
        one = tf.distribute.OneDeviceStrategy("/cpu:0")
        tuner = make(build_layers, tmp_path, distribution_strategy=one)
        tuner.search(*data, **FIT)
        assert math.isfinite(tuner.history.best()[1])
        several = tf.distribute.MirroredStrategy(["/cpu:0"])
        assert several.num_replicas_in_sync == 1
        tuner = make(build_layers, tmp_path, project_name="b", distribution_strategy=several)
        tuner.search(*data, **FIT)
        assert math.isfinite(tuner.history.best()[1])

    def test_several_devices_are_refused(self):
        with pytest.raises(ArgumentError, match="on one device.*replicas=2"):
            refuse_several_replicas(SimpleNamespace(num_replicas_in_sync=2))
        refuse_several_replicas(None)

    def test_a_chief_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        with pytest.raises(ArgumentError, match="in one process"):
            make(build_layers, tmp_path)

    def test_unknown_arguments(self, tmp_path):
        with pytest.raises((TypeError, ValueError), match="unrecognized"):
            make(build_layers, tmp_path, unrecognized=3)

    def test_arguments_of_the_constructor_in_search(self, tmp_path, data):
        tuner = make(build_layers, tmp_path)
        with pytest.raises(ArgumentError, match="in its constructor.*'batches_per_iteration'"):
            tuner.search(*data, **FIT, batches_per_iteration=4)

    def test_no_hypermodel(self, tmp_path):
        with pytest.raises(ValueError, match="hypermodel=None"):
            make(None, tmp_path)

    def test_a_hypermodel_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match="`hypermodel` must be a function"):
            make("build_model", tmp_path)

    def test_overwrite(self, tmp_path, data):
        make(build_layers, tmp_path).search(*data, **FIT)
        with pytest.raises(ArgumentError, match="nothing to search in"):
            make(None, tmp_path, overwrite=True)
        assert make(build_layers, tmp_path).oracle.trials
        assert not make(build_layers, tmp_path, overwrite=True).oracle.trials

    def test_another_tuner_in_the_directory(self, tmp_path, data):
        make(build_layers, tmp_path, max_trials=3).search(*data, **FIT)
        with pytest.raises(RuntimeError, match="overwrite=True"):
            keras_tuner.BayesianOptimization(
                build_layers, objective="val_loss", max_trials=3, directory=tmp_path
            )

    def test_in_the_directory_of_another_tuner(self, tmp_path):
        other = keras_tuner.RandomSearch(build_layers, objective="val_loss", directory=tmp_path)
        other.oracle.create_trial("tuner0")
        other.save()
        files = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
        with pytest.raises(ProjectError, match="trials of another tuner.*overwrite=True"):
            make(build_layers, tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == files
        assert not make(build_layers, tmp_path, overwrite=True).oracle.trials


class TestSpaces:
    def test_a_static_space(self, tmp_path, data):
        def build(hp):
            layers = [keras.layers.Dense(hp.get(f"units_{i}")) for i in range(hp.get("num_layers"))]
            return dense(*layers, optimizer=keras.optimizers.Adam(hp.get("learning_rate")))

        hp = keras_tuner.HyperParameters()
        hp.Int("num_layers", 1, 2, default=2)
        hp.Int("units_0", 4, 6)
        hp.Int("units_1", 4, 6)
        hp.Choice("learning_rate", [0.01, 0.001])
        tuner = make(build, tmp_path, hyperparameters=hp, allow_new_entries=False)
        tuner.search(*data, **FIT)
        assert len(tuner.oracle.get_space().space) == 4

    def test_new_entries_that_are_not_allowed(self, tmp_path):
        hp = keras_tuner.HyperParameters()
        hp.Int("num_layers", 1, 2)
        with pytest.raises(RuntimeError, match="`allow_new_entries` is `False`"):
            make(build_layers, tmp_path, hyperparameters=hp, allow_new_entries=False)

    def test_new_entries_that_are_not_tuned(self, tmp_path, data):
        hp = keras_tuner.HyperParameters()
        hp.Int("num_layers", 1, 2, default=2)
        hp.Choice("learning_rate", [0.01, 0.001, 0.0001])
        hp.Fixed("units_0", 5)
        tuner = make(build_layers, tmp_path, hyperparameters=hp, tune_new_entries=False)
        tuner.search(*data, **FIT)
        assert {p.name for p in tuner.oracle.get_space().space} == {
            "num_layers", "learning_rate", "units_0",
        }  # fmt: skip
        for birth in tuner.history.births().values():
            assert "units_1" not in birth.values
        assert tuner.get_best_models()[0].layers[0].units == 5

    def test_entries_that_appear_under_other_values(self, tmp_path, data, capsys):
        tuner = make(build_layers, tmp_path, population_size=6, iterations=4,
                     batches_per_iteration=2)  # fmt: skip
        tuner.search(*data, validation_split=0.25, verbose=0)
        names = {"num_layers", "units_0", "units_1", "units_2", "learning_rate"}
        assert {p.name for p in tuner.oracle.get_space().space} == names
        births = tuner.history.births().values()
        # They are drawn for the first members, and children keep them with the weights.
        assert len({b.values["units_2"] for b in births}) > 1
        assert tuner._blueprint.kinds["units_2"].kind == "structural"
        for birth in births:
            if birth.parents:
                parent = tuner.history.births()[birth.parents[0]].values
                assert {n: birth.values[n] for n in names - {"learning_rate"}} == {
                    n: parent[n] for n in names - {"learning_rate"}
                }
        for trial in tuner.oracle.trials.values():
            model = tuner.hypermodel.build(trial.hyperparameters)
            assert len(model.layers) == trial.hyperparameters.get("num_layers") + 1
        again = make(build_layers, tmp_path)
        again.search_space_summary()
        assert "units_2: structural" in capsys.readouterr().out

    def test_live_entries_that_appear_under_other_values(self, tmp_path, data):
        def build(hp):
            layers = []
            for i in range(hp.Int("num_layers", 1, 2)):
                layers.append(keras.layers.Dense(6))
                layers.append(keras.layers.Dropout(hp.Float(f"dropout_{i}", 0.1, 0.5)))
            return dense(*layers)

        tuner = make(build, tmp_path, population_size=4, iterations=4, batches_per_iteration=2)
        tuner.search(*data, validation_split=0.25, verbose=0)
        assert tuner._blueprint.kinds["dropout_1"].kind == "live"
        deep = [t for t in tuner.oracle.trials.values() if t.hyperparameters["num_layers"] == 2]
        assert len({t.hyperparameters["dropout_1"] for t in deep}) > 1

    def test_conditional_scopes(self, tmp_path, data):
        def build(hp):
            kind = hp.Choice("kind", ["wide", "deep"])
            with hp.conditional_scope("kind", ["wide"]):
                if kind == "wide":
                    layers = [keras.layers.Dense(hp.Int("width", 8, 12))]
            with hp.conditional_scope("kind", ["deep"]):
                if kind == "deep":
                    rate = hp.Float("dropout", 0.1, 0.5)
                    layers = [keras.layers.Dense(4), keras.layers.Dropout(rate)]
            return dense(*layers)

        tuner = make(build, tmp_path, population_size=6)
        tuner.search(*data, **FIT)
        kinds = {b.values["kind"] for b in tuner.history.births().values()}
        assert kinds == {"wide", "deep"}
        for trial in tuner.oracle.trials.values():
            active = trial.hyperparameters
            assert active.is_active("width") == (active.get("kind") == "wide")
            # Only what has a meaning is in a trial, as in KerasTuner.
            assert ("width" in active.values) == (active.get("kind") == "wide")
            assert ("dropout" in active.values) == (active.get("kind") == "deep")

    def test_declared_hyperparameters_and_parents(self, tmp_path, data):
        class Hyper(keras_tuner.HyperModel):
            def declare_hyperparameters(self, hp):
                hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")

            def build(self, hp):
                hp.Boolean("parent", default=True)
                hp.Boolean("child", parent_name="parent", parent_values=[False])
                return dense(optimizer=keras.optimizers.SGD(hp.get("learning_rate")))

        tuner = make(Hyper(), tmp_path)
        names = {p.name for p in tuner.oracle.get_space().space}
        assert names == {"learning_rate", "parent", "child"}
        tuner.search(*data, **FIT)
        assert tuner._blueprint.kinds["learning_rate"].kind == "live"

    def test_structural_only_and_the_models_own_rate(self, tmp_path, data):
        def build(hp):
            return dense(keras.layers.Dense(hp.Int("units", 4, 16, step=4), "relu"))

        tuner = make(build, tmp_path, iterations=4, batches_per_iteration=2)
        tuner.search(*data, validation_split=0.2, verbose=0)
        for trial in tuner.oracle.trials.values():
            assert trial.hyperparameters.values["popdescent/learning_rate"] > 0.0
        rates = {b.values["popdescent/learning_rate"] for b in tuner.history.births().values()}
        assert len(rates) > 1

    def test_a_choice_of_rates_keeps_to_the_choice(self, tmp_path, data):
        tuner = make(build_layers, tmp_path, iterations=6, batches_per_iteration=2,
                     strategy=PopDescent(UnitMutation(3.0)))  # fmt: skip
        tuner.search(*data, validation_split=0.2, verbose=0)
        rates = {b.values["learning_rate"] for b in tuner.history.births().values()}
        assert rates == {1e-2, 1e-3}


class TestModels:
    def test_subclassed_without_an_input_shape(self, tmp_path, data):
        class Mine(keras.Model):
            def __init__(self, rate):
                super().__init__()
                self.dropout = keras.layers.Dropout(rate)
                self.hidden = keras.layers.Dense(8, "relu")
                self.out = keras.layers.Dense(3, "softmax")

            def call(self, x, training=False):
                return self.out(self.dropout(self.hidden(x), training=training))

        def build(hp):
            model = Mine(hp.Float("dropout", 0.0, 0.5))
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
            return model

        tuner = make(build, tmp_path, objective="val_accuracy")
        tuner.search_space_summary()
        tuner.search(*data, **FIT)
        assert tuner._blueprint.kinds["dropout"].kind == "live"
        x, y = data[0][96:], data[1][96:]
        model = tuner.get_best_models()[0]
        score = tuner.oracle.get_best_trials(1)[0].score
        assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(score)

    def test_several_inputs_and_outputs(self, tmp_path, data):
        def build(hp):
            a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
            both = keras.layers.Concatenate()([a, b])
            hidden = keras.layers.Dense(hp.Int("units", 4, 8), "relu")(both)
            outputs = {
                "kind": keras.layers.Dense(3, "softmax", name="kind")(hidden),
                "size": keras.layers.Dense(1, name="size")(hidden),
            }
            model = keras.Model({"a": a, "b": b}, outputs)
            model.compile(
                keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")),
                loss={"kind": LOSS, "size": "mse"},
                loss_weights={"kind": 1.0, "size": hp.Float("size_weight", 0.1, 1.0)},
                metrics={"kind": ["accuracy"], "size": ["mae"]},
            )
            return model

        x, y = data
        tuner = make(build, tmp_path, objective=keras_tuner.Objective("val_kind_accuracy", "max"))
        tuner.search(
            {"a": x, "b": x[:, ::-1]}, {"kind": y, "size": x.sum(axis=1, keepdims=True)}, **FIT
        )
        assert tuner._blueprint.kinds["size_weight"].kind == "live"
        predicted = tuner.get_best_models()[0].predict({"a": x, "b": x}, verbose=0)
        assert predicted["kind"].shape == (128, 3)

    @pytest.mark.parametrize("other", ["constant", "computed"])
    def test_members_of_all_structures_are_compared_under_one_loss_weight(self, tmp_path, other):
        """Equal predictions score equally: under the default weight, whoever is built first."""

        def build(hp):
            weight = hp.Float("weight", 0.5, 2.0, default=1.0)
            zeros = {"kernel_initializer": "zeros"}
            hidden = keras.layers.Dense(hp.Choice("units", [8, 9]), "relu", **zeros)
            inputs = keras.Input((6,))
            outputs = {name: keras.layers.Dense(1, name=name, **zeros) for name in "ab"}
            inner = hidden(inputs)
            model = keras.Model(inputs, {name: layer(inner) for name, layer in outputs.items()})
            weights = {"a": weight, "b": 1.0 if other == "constant" else 3.0 - weight}
            model.compile(
                keras.optimizers.SGD(1e-9), {"a": "mse", "b": "mse"}, loss_weights=weights
            )
            return model

        x = np.ones((64, 6), "float32")
        first = [{"units": 8, "weight": 2.0}, {"units": 9, "weight": 0.5}]
        tuner = make(
            build, tmp_path, population_size=2, num_elites=2, initial_hyperparameters=first
        )
        y = {"a": np.full((64, 1), 2.0), "b": np.ones((64, 1))}
        tuner.search(x, y, **FIT)
        # Squared errors of 4 and 1.
        expected = 4.0 + (1.0 if other == "constant" else 2.0)
        scores = [m.score for record in tuner.history.iterations() for m in record.members]
        assert scores == pytest.approx([expected] * len(scores), rel=1e-4)

    def test_recurrent_layers_and_embeddings(self, tmp_path):
        def build(hp):
            cell = keras.layers.GRU if hp.Boolean("gru") else keras.layers.LSTM
            model = keras.Sequential(
                [
                    keras.layers.Input((5,), dtype="int32"),
                    keras.layers.Embedding(20, hp.Choice("dimension", [4, 8]), mask_zero=True),
                    cell(4, recurrent_dropout=0.1),
                    keras.layers.Dense(1, "sigmoid"),
                ]
            )
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.RMSprop(rate), "binary_crossentropy")
            return model

        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 20, (64, 5)), rng.integers(0, 2, 64)
        tuner = make(build, tmp_path)
        tuner.search(x, y, **FIT)
        assert tuner._blueprint.kinds["gru"].kind == "structural"
        assert tuner._blueprint.kinds["dimension"].kind == "structural"
        tuner.get_best_models()[0].predict(x, verbose=0)

    def test_preprocessing_layers_adapted_beforehand(self, tmp_path, data):
        x, y = data[0] * 50.0 + 7.0, data[1]
        normalization = keras.layers.Normalization()
        normalization.adapt(x)

        def build(hp):
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            return dense(normalization, optimizer=keras.optimizers.Adam(rate))

        tuner = make(build, tmp_path)
        tuner.search(x, y, **FIT)
        model = tuner.get_best_models()[0]
        np.testing.assert_allclose(
            np.asarray(model.layers[0].mean).ravel(), x.mean(axis=0), rtol=1e-4
        )

    def test_preprocessing_layers_adapted_in_build(self, tmp_path, data):
        x, y = data[0] * 50.0 + 7.0, data[1]

        def build(hp):
            normalization = keras.layers.Normalization()
            normalization.adapt(x)
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            return dense(normalization, optimizer=keras.optimizers.Adam(rate))

        tuner = make(build, tmp_path)
        tuner.search(x, y, **FIT)
        mean = tuner.get_best_models()[0].layers[0].mean
        np.testing.assert_allclose(np.asarray(mean).ravel(), x.mean(axis=0), rtol=1e-4)

    def test_text_vectorization(self, tmp_path):
        if keras.backend.backend() != "tensorflow":
            pytest.skip("strings are TensorFlow's")
        texts = np.array([["good film"], ["bad film"], ["good"], ["bad"]] * 16, dtype=object)
        labels = np.array([1, 0, 1, 0] * 16)
        layer = keras.layers.TextVectorization(output_sequence_length=3)
        layer.adapt(texts.ravel().tolist())

        def build(hp):
            model = keras.Sequential(
                [keras.layers.Input((1,), dtype="string"), layer, keras.layers.Embedding(10, 4),
                 keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")]
            )  # fmt: skip
            rate = hp.Float("learning_rate", 1e-2, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
            return model

        tuner = make(build, tmp_path, objective="val_accuracy")
        tuner.search(texts, labels, **{**FIT, "epochs": 8})
        assert tuner.history.best()[1] == 1.0

    def test_frozen_layers_stay_frozen(self, tmp_path, data):
        base = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(8, "relu")])
        before = base.get_weights()

        def build(hp):
            body = keras.models.clone_model(base)
            body.set_weights(before)
            body.trainable = False
            model = keras.Sequential([body, keras.layers.BatchNormalization(),
                                      keras.layers.Dense(3, "softmax")])  # fmt: skip
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(rate), LOSS)
            return model

        tuner = make(build, tmp_path)
        tuner.search(*data, **FIT)
        model = tuner.get_best_models()[0]
        for own, frozen in zip(model.layers[0].get_weights(), before, strict=True):
            np.testing.assert_array_equal(own, frozen)
        assert np.abs(model.layers[1].get_weights()[2]).sum() > 0.0  # the moving mean moved

    def test_one_shared_pretrained_body(self, tmp_path, data):
        # As in transfer learning notebooks: the body is made once, outside of build_model.
        body = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(8, "relu")])
        body.trainable = False
        before = [w.copy() for w in body.get_weights()]

        def build(hp):
            model = keras.Sequential([body, keras.layers.Dense(3, "softmax")])
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(rate), LOSS)
            return model

        tuner = make(build, tmp_path)
        tuner.search(*data, **FIT)
        for now, then in zip(body.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_mixed_precision(self, tmp_path, data):
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:

            def build(hp):
                model = keras.Sequential(
                    [keras.layers.Input((6,)), keras.layers.Dense(8, "relu"),
                     keras.layers.Dense(3, "softmax", dtype="float32")]
                )  # fmt: skip
                rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
                model.compile(keras.optimizers.Adam(rate), LOSS)
                return model

            tuner = make(build, tmp_path)
            tuner.search(*data, **FIT)
            model = tuner.get_best_models()[0]
        finally:
            keras.mixed_precision.set_global_policy("float32")
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        best = tuner.get_best_hyperparameters()[0].get("learning_rate")
        assert float(model.optimizer.learning_rate) == pytest.approx(best, rel=1e-5)

    def test_a_custom_train_step(self, tmp_path, data):
        class Mine(keras.Sequential):
            seen = 0

            def train_step(self, *args):
                Mine.seen += 1
                return super().train_step(*args)

        def build(hp):
            model = Mine([keras.layers.Input((6,)), keras.layers.Dense(3, "softmax")])
            rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(rate), LOSS)
            return model

        make(build, tmp_path).search(*data, **FIT)
        assert Mine.seen > 0

    def test_class_weight_changes_the_result(self, tmp_path, data):
        scores = []
        for name, weights in (("none", None), ("some", {0: 10.0, 1: 1.0, 2: 1.0})):
            tuner = make(build_layers, tmp_path, project_name=name)
            tuner.search(*data, **FIT, class_weight=weights)
            scores.append(tuner.history.best()[1])
        assert scores[0] != scores[1]

    def test_pandas_and_float64(self, tmp_path, data):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(data[0].astype("float64"), columns=list("abcdef"))
        labels = pandas.Series(data[1])
        tuner = make(build_layers, tmp_path)
        tuner.search(frame, labels, **FIT)
        arrays = make(build_layers, tmp_path, project_name="arrays")
        arrays.search(data[0], data[1], **FIT)
        assert tuner.history.best()[1] == pytest.approx(arrays.history.best()[1], rel=1e-5)

    def test_string_labels_are_refused_in_words(self, tmp_path, data):
        labels = np.array(["cat", "dog", "cow"])[data[1]]
        with pytest.raises(ArgumentError, match="labels are words.*numpy.unique"):
            make(build_layers, tmp_path).search(data[0], labels, **FIT)


class TestAfterwards:
    def test_nothing_searched(self, tmp_path):
        tuner = make(build_layers, tmp_path)
        assert tuner.get_best_hyperparameters() == []
        with pytest.raises(Exception, match="Call `search` first"):
            tuner.get_best_models()

    def test_results_and_remaining_trials(self, tmp_path, data, capsys):
        tuner = make(build_layers, tmp_path, max_trials=4)
        assert tuner.remaining_trials == 4
        tuner.search(*data, **FIT)
        tuner.results_summary(2)
        printed = capsys.readouterr().out
        assert "Results summary" in printed and "Score:" in printed
        assert tuner.remaining_trials == 4 - len(tuner.oracle.trials)

    def test_reload(self, tmp_path, data):
        tuner = make(build_layers, tmp_path)
        tuner.search(*data, **FIT)
        tuner.save()
        again = make(build_layers, tmp_path)
        again.reload()
        assert len(again.oracle.trials) == len(tuner.oracle.trials)
        assert again.get_best_hyperparameters()[0].values == (
            tuner.get_best_hyperparameters()[0].values
        )

    def test_silence(self, tmp_path, data, capsys):
        make(build_layers, tmp_path).search(*data, **FIT)
        assert capsys.readouterr().out == ""

    def test_the_oracles_files_are_json(self, tmp_path, data):
        tuner = make(build_layers, tmp_path)
        tuner.search(*data, **FIT)
        files = list((tmp_path / "untitled_project").rglob("*.json"))
        # A file for each trial, the oracle's, the tuner's.
        names = [path.name for path in files]
        assert names.count("trial.json") == len(tuner.oracle.trials) > 0
        assert {"oracle.json", "tuner0.json"} <= set(names)
        for path in files:
            json.loads(path.read_text())

    def test_hooks_of_a_subclass(self, tmp_path, data):
        calls = []

        class Mine(PopDescentTuner):
            def on_search_begin(self):
                calls.append("search_begin")

            def on_search_end(self):
                calls.append("search_end")

            def on_trial_begin(self, trial):
                calls.append("trial_begin")
                super().on_trial_begin(trial)

            def on_trial_end(self, trial):
                calls.append("trial_end")
                super().on_trial_end(trial)

            def on_epoch_begin(self, trial, model, epoch, logs=None):
                assert isinstance(model, keras.Model)
                calls.append(("epoch_begin", trial.trial_id, epoch))

            def on_epoch_end(self, trial, model, epoch, logs=None):
                assert math.isfinite(logs["val_loss"])
                calls.append(("epoch_end", trial.trial_id, epoch))

        tuner = Mine(build_layers, objective="val_loss", seed=0, directory=tmp_path,
                     population_size=2)  # fmt: skip
        tuner.search(*data, **FIT)
        assert calls[0] == "search_begin" and calls[-1] == "search_end"
        assert calls.count("trial_begin") == calls.count("trial_end") == len(tuner.oracle.trials)
        ended = [call for call in calls if call[0] == "epoch_end"]
        # Who trains on alone in the second half goes on for two more.
        assert {epoch for _, _, epoch in ended} == {0, 1, 2}
        assert {trial for _, trial, _ in ended} <= set(tuner.oracle.trials)

    def test_batch_hooks_of_a_subclass(self, tmp_path, data):
        class Mine(PopDescentTuner):
            begun = ended = 0

            def on_batch_begin(self, trial, model, batch, logs):
                Mine.begun += 1

            def on_batch_end(self, trial, model, batch, logs=None):
                assert math.isfinite(logs["loss"])
                Mine.ended += 1

        tuner = Mine(build_layers, objective="val_loss", directory=tmp_path, population_size=2)
        tuner.search(*data, **FIT)
        assert Mine.begun == Mine.ended == tuner.history.gradient_steps


def test_an_objective_that_is_not_reported(tmp_path, data):
    tuner = make(build_layers, tmp_path, objective="val_auc")
    with pytest.raises(ObjectiveError, match="val_accuracy"):
        tuner.search(*data, **FIT)


class TestDeclaredInACall:
    """Weights appear with the first batch, and some hyperparameters too: as in a `Lambda`."""

    @staticmethod
    def scaled(hp):
        model = keras.Sequential(
            [
                keras.layers.Dense(4, activation="relu"),
                keras.layers.Lambda(lambda x: x * hp.Float("scale", 0.1, 2.0)),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        return model

    @staticmethod
    def shifted(hp):
        class Shifted(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(3, activation="softmax")

            def call(self, x):
                return self.dense(x + hp.Float("shift", 0.0, 1.0))

        model = Shifted()
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        return model

    @pytest.mark.backend
    @pytest.mark.parametrize(("build", "name"), [(scaled, "scale"), (shifted, "shift")])
    def test_it_is_found_and_tuned(self, build, name, tmp_path, data):
        tuner = make(build, tmp_path, population_size=4)
        tuner.search(*data, **FIT)
        values = [t.hyperparameters.get(name) for t in tuner.oracle.trials.values()]
        assert len(set(values)) >= 4
        validation = data[0][-32:], data[1][-32:]
        score = tuner.get_best_models()[0].evaluate(*validation, verbose=0)
        assert score == pytest.approx(tuner.oracle.get_best_trials(1)[0].score, rel=1e-4)


def test_a_fit_of_the_models_own_is_said_not_to_be_called(tmp_path, data):
    class Mine(keras.Sequential):
        def fit(self, *args, **kwargs):
            raise AssertionError("called")

    def build(hp):
        model = Mine([keras.layers.Input((6,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1)), loss)
        return model

    tuner = make(build, tmp_path)
    with pytest.warns(UserWarning, match="`Mine.fit` is not called.*HyperModel"):
        tuner.search(*data, **FIT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"populaton_size": 3}, "Received: argument='populaton_size', value=3"),
        ({"fix": 1}, "Received: argument='fix', value=1"),
        ({"tune_new_entries": False}, "nothing to tune.*Received: hyperparameters=None"),
    ],
)
def test_what_came_is_said(tmp_path, given, words):
    with pytest.raises(ArgumentError, match=words):
        make(build_layers, tmp_path, **given)
