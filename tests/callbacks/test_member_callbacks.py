import keras
import numpy as np
import pytest

from keras_popdescent import PopDescentTuner
from keras_popdescent.callbacks.members import MemberCallbacks, digest, plain_attributes
from keras_popdescent.checkpoint import pack
from keras_popdescent.errors import ArgumentError
from keras_popdescent.population.budget import Budget
from keras_popdescent.population.member import Member
from tests.tuners.conftest import build_model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(320, 8)).astype("float32")
    return x, (x @ rng.normal(size=(8, 3))).argmax(axis=1)


def search(tmp_path, data, callbacks, **kwargs):
    arguments = {"objective": "val_loss", "seed": 0, "directory": tmp_path, **kwargs}
    tuner = PopDescentTuner(build_model, **arguments)
    # 8 batches an epoch; 2 batches an iteration: 4 iterations an epoch.
    tuner.batches_per_iteration = 2
    tuner.search(*data, epochs=4, batch_size=32, validation_split=0.2, verbose=0,
                 callbacks=callbacks)  # fmt: skip
    return tuner


class Recorder(keras.callbacks.Callback):
    """Writes down what it is told; `deepcopy` would give each copy a list of its own."""

    log = []

    def note(self, *what):
        Recorder.log.append((id(self), *what))

    def on_train_begin(self, logs=None):
        self.note("train_begin")

    def on_train_end(self, logs=None):
        self.note("train_end")

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch_begin", epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch_end", epoch, dict(logs))


def test_what_of_a_callback_is_saved():
    """What cannot be packed is left out, whatever it is."""
    callback, endless = keras.callbacks.Callback(), {}
    endless["itself"] = [endless]
    kept = {"number": 3, "array": np.arange(2), "nested": {"list": [1.5, None, "text", True]}}
    kept["scalar"] = np.float32(0.5)
    others = {"huge": 10**5000, "complex": 1j, "pair": (1, 2), "numbered": {1: 2}, "call": len}
    others["endless"] = endless
    if np.finfo(np.longdouble).bits > 64:
        others.update(wide=np.longdouble(0.1), wides=np.zeros(2, np.longdouble))
    for name, value in {**kept, **others}.items():
        setattr(callback, name, value)
    found = plain_attributes(callback)
    assert found.keys() == kept.keys()
    assert pack(found).num_bytes and set(map(len, map(digest, found.values()))) == {64}


def test_one_lifetime_a_member_and_continuous_epochs(tmp_path, data):
    Recorder.log = []
    made = []

    def factory():
        made.append(Recorder())
        return made[-1]

    tuner = search(tmp_path, data, [factory])
    births = tuner.history.births()
    # One for each member that lived.
    assert len(made) == len(births)
    lives = {}
    for key, *what in Recorder.log:
        lives.setdefault(key, []).append(tuple(what))
    for life in lives.values():
        names = [what[0] for what in life]
        assert names.count("train_begin") == 1 and names[0] == "train_begin"
        assert names.count("train_end") == 1 and names[-1] == "train_end"
        begun = [what[1] for what in life if what[0] == "epoch_begin"]
        # Who trains on alone has turns of ten batches: some end two epochs, which is told once.
        assert set(np.diff(begun)) <= {1, 2}
        for what in life:
            if what[0] == "epoch_end":
                assert {"loss", "val_loss", "accuracy"} <= set(what[2])
    # A child goes on counting where its parent was.
    starts = [next(what[1] for what in life if what[0] == "epoch_begin") for life in lives.values()]
    lived = {m.member_id for r in tuner.history.iterations() for m in r.members}
    assert sorted(starts) == sorted(births[member].inherited_steps // 8 for member in lived)
    assert max(starts) > 0


def test_callbacks_are_copied_for_each_member(tmp_path, data):
    class Counter(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1

    counter = Counter()
    search(tmp_path, data, [counter])
    assert counter.epochs == 0


def test_a_callback_that_cannot_be_copied(tmp_path, data):
    class Stubborn(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            raise TypeError("a file handle")

    with pytest.raises(ArgumentError, match="Pass a function that returns"):
        search(tmp_path, data, [Stubborn()])
    search(tmp_path, data, [Stubborn], project_name="factory")


def test_batch_hooks_see_every_batch(tmp_path, data):
    class Batches(keras.callbacks.Callback):
        count = 0

        def on_train_batch_end(self, batch, logs=None):
            assert np.isfinite(logs["loss"])
            Batches.count += 1

    tuner = search(tmp_path, data, [Batches()])
    assert Batches.count == tuner.history.gradient_steps == 8 * 4 * 5


def test_an_epoch_begins_with_its_first_batch(tmp_path, data):
    """So a rate for each of the epochs is enough for `LearningRateScheduler`."""
    rates = [1e-2, 1e-3, 1e-3, 1e-4]
    told = []

    class Note(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            told.append(("begin", epoch, float(self.model.optimizer.learning_rate)))

        def on_epoch_end(self, epoch, logs=None):
            told.append(("end", epoch, float(self.model.optimizer.learning_rate)))

    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch])
    search(tmp_path, data, [scheduler, Note()], population_size=1, num_elites=1)
    expected = [(kind, epoch) for epoch in range(4) for kind in ("begin", "end")]
    assert [(kind, epoch) for kind, epoch, _ in told] == expected
    assert [rate for *_, rate in told] == pytest.approx(np.repeat(rates, 2), rel=1e-5)


def test_who_wants_to_hear_of_every_batch(tmp_path):
    known = keras.callbacks
    path = tmp_path / "model.keras"

    class Own(known.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            pass

    wanted = {
        known.EarlyStopping("loss"): False,
        known.ModelCheckpoint(path): False,
        known.ModelCheckpoint(path, save_freq=3): True,
        Own(path): True,
        known.LambdaCallback(on_epoch_end=print): False,
        known.LambdaCallback(on_train_batch_end=print): True,
        known.TerminateOnNaN(): True,
    }
    for callback, expected in wanted.items():
        callbacks = MemberCallbacks([lambda given=callback: given], 8, Budget(4, 2, 8))
        callbacks.births([Member(0, 0, {})])
        assert callbacks.needs_batches(0) is expected


@pytest.mark.parametrize("as_function", [False, True])
def test_no_member_begins_with_what_another_one_left(tmp_path, data, as_function):
    given = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ArgumentError, match="weights of another one.*Leave it out"):
        search(tmp_path, data, [(lambda: given) if as_function else given])


@pytest.mark.parametrize("as_function", [False, True])
def test_averages_are_not_exchanged_between_epochs(tmp_path, data, as_function):
    given = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with pytest.raises(ArgumentError, match="exchanged.*exported with the averages"):
        search(tmp_path, data, [(lambda: given) if as_function else given])


def test_a_swap_of_averages_for_tests_is_taken(tmp_path, data):
    search(tmp_path, data, [keras.callbacks.SwapEMAWeights()])


def test_what_a_callback_does_at_the_end_is_not_handed_on(tmp_path, data):
    """As `EarlyStopping` puts weights back in members that are being replaced."""
    begun = []

    class Clear(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(bool(np.any(self.model.get_weights()[0])))

        def on_train_end(self, logs=None):
            self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])

    # All are replaced, by copies of one another.
    search(tmp_path, data, [Clear()], population_size=2, num_elites=0)
    assert len(begun) > 2 and all(begun)


def test_batch_hooks_change_nothing(tmp_path, data):
    class Silent(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    scores = []
    for name, callbacks in (("none", None), ("silent", [Silent()])):
        tuner = search(tmp_path, data, callbacks, project_name=name)
        scores.append([m.score for r in tuner.history for m in r.members])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_early_stopping_counts_over_iterations_and_stops_a_member(tmp_path, data):
    class StopAfter(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.stop_training = True

    tuner = search(tmp_path, data, [StopAfter()], num_elites=5)
    # Nobody is replaced: all stop after two of four epochs, and the search ends.
    assert tuner.history.gradient_steps == 8 * 2 * 5
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    tuner = search(tmp_path, data, [stopping], num_elites=5, project_name="early")
    assert tuner.history.gradient_steps <= 8 * 4 * 5


def test_reduce_lr_on_plateau_keeps_its_effect(tmp_path, data):
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.1, patience=0, min_delta=10.0, min_lr=0.0
    )
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    search(tmp_path, data, [plateau, Watch()], population_size=1, num_elites=1)
    # The first epoch improves on infinity; each later one is a plateau.
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5], rel=1e-4)


def test_model_checkpoints_are_plain_models(tmp_path, data):
    paths = [tmp_path / "whole.keras", tmp_path / "some.weights.h5"]
    checkpoints = [
        keras.callbacks.ModelCheckpoint(paths[0], monitor="val_loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(paths[1], save_weights_only=True),
    ]
    tuner = search(tmp_path, data, checkpoints)
    loaded = keras.models.load_model(paths[0])
    assert len(loaded.get_weights()) == 4
    assert isinstance(loaded.layers[0].kernel_regularizer.l2, float)
    plain = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
    plain.load_weights(paths[1])
    assert len(tuner.history) == 16


def test_a_model_saved_in_a_batch_hook_is_plain(tmp_path, data):
    path = tmp_path / "model.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq=5)
    tuner = search(tmp_path, data, [checkpoint], population_size=2)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded.layers[0].kernel_regularizer.l2, float)
    assert len(tuner.history) == 16


def test_what_a_callback_sets_on_a_layer_is_kept(tmp_path, data):
    rates = []

    class Set(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(self.model.layers[1].rate)
            self.model.layers[1].rate = 0.125

    search(tmp_path, data, [Set()], population_size=1, num_elites=1)
    assert rates[1:] == [0.125] * 3
