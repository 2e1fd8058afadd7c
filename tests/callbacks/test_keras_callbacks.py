"""Keras's own callbacks in a search: each member has its own, from birth to replacement."""

import csv
import math

import keras
import numpy as np
import pytest

from keras_popdescent import PopDescentTuner
from keras_popdescent.errors import ArgumentError


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(80, 8)).astype("float32")
    return x, (x @ rng.normal(size=(8, 3))).argmax(axis=1)


def build(hp):
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def search(tmp_path, data, callbacks, epochs=4, **kwargs):
    arguments = {"objective": "val_loss", "seed": 0, "directory": tmp_path, "population_size": 3,
                 "batches_per_iteration": 2, **kwargs}  # fmt: skip
    tuner = PopDescentTuner(build, **arguments)
    # 64 samples in batches of 16: 4 batches an epoch, two iterations.
    tuner.search(*data, epochs=epochs, batch_size=16, validation_split=0.2, verbose=0,
                 callbacks=callbacks)  # fmt: skip
    return tuner


def test_early_stopping_ends_members(tmp_path, data):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=100.0)
    tuner = search(tmp_path, data, [stop], epochs=10, num_elites=3)
    # Nothing improves by 100, and nobody is replaced: each ends with its third epoch.
    assert {m.gradient_steps for m in tuner.history.iterations()[-1].members} == {12}
    assert tuner.history.gradient_steps == 3 * 12
    assert stop.model is None


@pytest.mark.backend
def test_callbacks_may_evaluate(tmp_path, data):
    """On JAX, Keras's own functions destroy the arrays that they begin with."""

    class Evaluate(keras.callbacks.Callback):
        def evaluate(self, *arguments):
            self.model.evaluate(*data, verbose=0)
            self.model.predict(data[0], verbose=0)

        on_train_begin = on_epoch_begin = on_epoch_end = on_train_end = evaluate
        on_train_batch_begin = on_train_batch_end = evaluate

    watched = search(tmp_path / "watched", data, [Evaluate()])
    plain = search(tmp_path / "plain", data, [])
    assert [m.score for r in watched.history for m in r.members] == pytest.approx(
        [m.score for r in plain.history for m in r.members], rel=1e-5
    )


def test_reduce_on_plateau_reduces_each_members_own_rate(tmp_path, data):
    reduced = {}

    class Watched(keras.callbacks.ReduceLROnPlateau):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            reduced.setdefault(id(self), []).append(rate)

    plateau = Watched("val_loss", factor=0.5, patience=1, min_delta=100.0)
    search(tmp_path, data, [lambda: Watched("val_loss", factor=0.5, patience=1, min_delta=100.0)],
           num_elites=3)  # fmt: skip
    assert plateau.model is None and len(reduced) == 3
    for rates in reduced.values():
        ratios = [after / before for before, after in zip(rates, rates[1:], strict=False)]
        assert ratios == pytest.approx([0.5] * 3)


def test_model_checkpoint_saves_what_can_be_loaded(tmp_path, data):
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True)
    search(tmp_path, data, [checkpoint], population_size=1)
    model = keras.models.load_model(path)
    assert model.predict(data[0], verbose=0).shape == (80, 3)
    assert not any("live" in variable.name for variable in model.variables)


def test_csv_logger_of_one_member(tmp_path, data):
    path = tmp_path / "log.csv"
    search(tmp_path, data, [keras.callbacks.CSVLogger(path)], population_size=1)
    rows = list(csv.DictReader(path.open()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert all(math.isfinite(float(row["val_loss"])) for row in rows)


def test_a_function_may_ask_for_the_member(tmp_path, data):
    def make(member):
        return keras.callbacks.CSVLogger(tmp_path / f"member_{member.member_id}.csv")

    tuner = search(tmp_path, data, [make])
    lived = {m.member_id for r in tuner.history.iterations() for m in r.members}
    files = {int(path.stem.split("_")[1]) for path in tmp_path.glob("member_*.csv")}
    # A member that was replaced in the middle of its first epoch has written its header at most.
    assert {0, 1, 2} & lived <= files <= set(tuner.history.births())


def test_lambda_callbacks(tmp_path, data):
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"]))
    )
    search(tmp_path, data, [callback])
    # Two epochs of three members; then, in four turns of an epoch and a half, the copy of the best.
    assert [epoch for epoch, _ in seen] == [0, 0, 0, 1, 1, 1, *(epoch for epoch, _ in seen[6:])]
    assert len(seen) == 2 * 3 + 4 and seen[-1][0] >= 5


def test_learning_rate_scheduler_sets_the_members_rate(tmp_path, data):
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)
    search(tmp_path, data, [halve, Rates()], population_size=1)
    assert rates == pytest.approx([1e-2 * 0.5**n for n in (1, 2, 3, 4)], rel=1e-4)


def test_terminate_on_nan_and_history(tmp_path, data):
    tuner = search(tmp_path, data, [keras.callbacks.TerminateOnNaN(), keras.callbacks.History()])
    assert tuner.history.gradient_steps == 3 * 4 * 4


@pytest.mark.parametrize("wrong", ["early stopping", 3, lambda: 5])
def test_what_is_no_callback(tmp_path, data, wrong):
    with pytest.raises(ArgumentError, match="Keras callbacks, or functions"):
        search(tmp_path, data, [wrong])


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("tensorboard")
        if keras.backend.backend() != "tensorflow":
            pytest.skip("its event files are TensorFlow's")

    def test_a_folder_for_each_member_with_its_hyperparameters(self, tmp_path, data):
        import tensorflow as tf
        from tensorboard.plugins.hparams import plugin_data_pb2

        board = keras.callbacks.TensorBoard(tmp_path / "logs")
        tuner = search(tmp_path, data, [board])
        for trial_id, trial in tuner.oracle.trials.items():
            if trial.status != "COMPLETED":
                continue
            found = {}
            for path in (tmp_path / "logs" / trial_id).rglob("events*"):
                for record in tf.compat.v1.io.tf_record_iterator(str(path)):
                    event = tf.compat.v1.Event.FromString(record)
                    for value in event.summary.value:
                        if value.tag == "_hparams_/session_start_info":
                            content = value.metadata.plugin_data.content
                            data_ = plugin_data_pb2.HParamsPluginData.FromString(content)
                            for name, hparam in data_.session_start_info.hparams.items():
                                found[name] = hparam.number_value
            expected = trial.hyperparameters.get("learning_rate")
            assert found == {"learning_rate": pytest.approx(expected)}

    @pytest.mark.parametrize(("update_freq", "every"), [("batch", 1), (2, 2)])
    @pytest.mark.parametrize("num_elites", [1, 3])
    def test_batches_are_written_to_their_members_folder(
        self, tmp_path, data, update_freq, every, num_elites
    ):
        import tensorflow as tf

        told = {}

        def note(member):
            losses = told.setdefault(member.member_id, [])
            return keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
            )

        board = keras.callbacks.TensorBoard(tmp_path / "logs", update_freq=update_freq)
        tuner = search(tmp_path, data, [board, note], num_elites=num_elites, epochs=6)
        assert not tf.summary.should_record_summaries()
        assert len(told) == len(tuner.oracle.trials)
        found = [written_batches(tmp_path / "logs" / name) for name in tuner.oracle.trials]
        expected = [
            {step: pytest.approx(loss) for step, loss in enumerate(losses, 1) if step % every == 0}
            for losses in told.values()
        ]
        assert sorted(map(len, found)) == sorted(map(len, expected))
        for batches in expected:
            assert batches in found


def written_batches(folder):
    """Return the losses of batches that are in a member's event files."""
    import tensorflow as tf

    found = {}
    for path in (folder / "train").glob("events*"):
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == "batch_loss":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found
