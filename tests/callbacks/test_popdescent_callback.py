import gc
import math

import keras
import numpy as np
import pytest

from keras_popdescent import PopDescent, PopDescentCallback
from keras_popdescent.callbacks import fit_executor
from keras_popdescent.callbacks.fit_executor import FitExecutor
from keras_popdescent.errors import ArgumentError, BindingError, PopDescentError
from keras_popdescent.executors import verify
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies import Annealing, ClosingPlan, UnitMutation


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(320, 8)).astype("float32")
    y = (x @ rng.normal(size=(8, 3))).argmax(axis=1)
    return x[:256], y[:256], x[256:], y[256:]


class Counting(keras.Model):
    """A subclassed model with a train_step of its own, which counts its traces."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(
            16, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)
        )
        self.dropout = keras.layers.Dropout(0.2)
        self.head = keras.layers.Dense(3)
        self.traces = 0

    def call(self, x, training=False):
        return self.head(self.dropout(self.hidden(x), training=training))

    def train_step(self, *args):
        self.traces += 1
        return super().train_step(*args)


def compiled(model=None, rate=1e-2):
    if model is None:
        model = keras.Sequential(
            [
                keras.layers.Input((8,)),
                keras.layers.Dense(
                    16, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)
                ),
                keras.layers.Dense(3),
            ]
        )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(model, callback, data, epochs=20):
    return model.fit(data[0], data[1], batch_size=32, epochs=epochs, verbose=0,
                     callbacks=[callback])  # fmt: skip


@pytest.mark.backend
def test_the_model_holds_the_best_member_afterwards(data):
    model = compiled()
    callback = PopDescentCallback(
        population_size=4, num_elites=2, batches_per_iteration=4, validation_data=data[2:], seed=0
    )
    fit(model, callback, data)
    member_id, score = callback.history.best()
    logits = model.predict(data[2], verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(data[3], logits, from_logits=True)
    assert float(keras.ops.mean(loss)) == pytest.approx(score, rel=1e-4)
    values = callback.history.births()[member_id].values
    assert callback.best_values() == values
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(values["popdescent/learning_rate"])
    # Plain numbers again: the model can be saved, loaded and trained on.
    assert isinstance(model.layers[0].kernel_regularizer.l2, float)
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(values["popdescent/l2"])


def test_the_model_is_a_plain_keras_model_afterwards(data, tmp_path):
    model = compiled()
    callback = PopDescentCallback(3, 2, 4, validation_data=data[2:], seed=0)
    variables = len(model.variables)
    fit(model, callback, data, epochs=6)
    assert len(model.variables) == variables
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(data[2], verbose=0), model.predict(data[2], verbose=0), rtol=1e-5
    )
    history = model.fit(data[0], data[1], epochs=1, verbose=0)
    assert math.isfinite(history.history["loss"][0])


@pytest.mark.backend
def test_custom_train_step_is_traced_once(data):
    model = compiled(Counting())
    callback = PopDescentCallback(
        3, 1, 4, mutate=("learning_rate", "l2", "2:Dropout.rate"),
        validation_data=data[2:], seed=0,
    )  # fmt: skip
    traces = []
    # Before its first batch, the step is traced once more to see that the values act.
    count = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: traces.append(model.traces)
    )
    model.fit(data[0], data[1], batch_size=32, epochs=20, verbose=0, callbacks=[callback, count])
    births = callback.history.births().values()
    assert len({birth.values["2:Dropout.rate"] for birth in births}) > 3
    if keras.backend.backend() != "torch":  # which traces nothing
        assert model.traces == traces[0] + 1 <= 2
    assert isinstance(model.dropout.rate, float)
    assert model.dropout.rate == pytest.approx(callback.best_values()["2:Dropout.rate"])


def test_batches_are_dealt_out_in_turns(data):
    model = compiled()
    callback = PopDescentCallback(4, 2, 4, validation_data=data[2:], seed=0)
    # 8 batches an epoch, 20 epochs: 160 batches are 10 iterations of 4 members and 4 batches.
    fit(model, callback, data)
    history = callback.history
    assert len(history) == 10
    assert history.gradient_steps == 160
    steps = [member.gradient_steps for member in history.iterations()[0].members]
    assert steps == [4, 4, 4, 4]
    assert history.iterations()[-1].births == ()


def test_one_seed_one_search(data):
    scores = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(0)
        callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=seed)
        fit(compiled(), callback, data, epochs=10)
        scores.append([m.score for r in callback.history for m in r.members])
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_population_of_one_without_mutation_is_plain_fit(data):
    weights = []
    strategy = PopDescent(averaging=None)
    callback = PopDescentCallback(1, 1, 4, validation_data=data[2:], strategy=strategy)
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(1)
        model = compiled()
        model.fit(data[0], data[1], batch_size=32, epochs=4, shuffle=False, verbose=0,
                  callbacks=callbacks)  # fmt: skip
        weights.append(model.get_weights())
        if callbacks:
            best = callbacks[0].history.best()[0]
            last = callbacks[0].history.iterations()[-1].members[0]
            # The best of one member is itself, where its last score was its best.
            if last.score > callbacks[0].history.best()[1]:
                pytest.skip("the member was better before")
            assert best == 0
    for plain, sliced in zip(*weights, strict=True):
        np.testing.assert_allclose(sliced, plain, atol=1e-6)


def test_without_validation_data_the_training_loss_scores(data):
    model = compiled()
    callback = PopDescentCallback(3, 2, 4, seed=0)
    fit(model, callback, data, epochs=6)
    assert callback.objective.name == "loss"
    for record in callback.history.iterations():
        for member in record.members:
            assert member.score == pytest.approx(member.logs["loss"])


def test_a_model_without_weights_yet_starts_with_its_first_batch(data):
    model = compiled(Counting())
    callback = PopDescentCallback(3, 2, 4, seed=0)
    fit(model, callback, data, epochs=6)
    # Its 48 batches less the first, which was everybody's: three full iterations of 12.
    assert len(callback.history) == 3


def test_a_learning_rate_schedule_gets_a_multiplier(data):
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 200)
    model = compiled(rate=schedule)
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    fit(model, callback, data, epochs=6)
    births = callback.history.births().values()
    assert len({b.values["popdescent/learning_rate_multiplier"] for b in births}) > 1
    multiplier = callback.best_values()["popdescent/learning_rate_multiplier"]
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    steps = int(model.optimizer.iterations)
    assert rate == pytest.approx(float(schedule(steps)) * multiplier, rel=1e-5)


def test_metrics_of_fit_survive_the_scoring(data):
    class Watch(keras.callbacks.Callback):
        logs = []

        def on_train_batch_end(self, batch, logs=None):
            Watch.logs.append(dict(logs))

    callback = PopDescentCallback(3, 2, 4, validation_data=data[2:], seed=0)
    model = compiled()
    model.fit(data[0], data[1], batch_size=32, epochs=6, verbose=0, callbacks=[callback, Watch()])
    assert all(math.isfinite(logs["loss"]) and 0 <= logs["accuracy"] <= 1 for logs in Watch.logs)


class NoPenalties(keras.Sequential):
    """Leaves the penalties, which are in `self.losses`, out of its loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        )


def unpenalised():
    penalty = keras.regularizers.L2(1e-3)
    layers = [
        keras.layers.Dense(16, activation="relu", kernel_regularizer=penalty),
        keras.layers.Dense(3),
    ]
    return compiled(NoPenalties([keras.layers.Input((8,)), *layers]))


@pytest.mark.backend
def test_a_value_that_does_not_act_is_found_before_the_first_batch(data):
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    with pytest.raises(BindingError, match="`popdescent/l2` is said to be live"):
        fit(unpenalised(), callback, data)
    callback = PopDescentCallback(
        3, 1, 4, mutate=["learning_rate"], validation_data=data[2:], seed=0
    )
    fit(unpenalised(), callback, data, epochs=3)


def test_trying_it_trains_nothing(data, monkeypatch):
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
        model = compiled()
        fit(model, callback, data, epochs=6)
        weights.append(model.get_weights())
        monkeypatch.setattr(fit_executor, "verify_bindings", lambda *arguments: None)
    for tried, untried in zip(*weights, strict=True):
        np.testing.assert_array_equal(tried, untried)


def test_a_train_step_that_takes_other_data_than_scores_is_not_tried(data):
    class Autoencoder(keras.Sequential):
        """Trains without labels, and is scored with some."""

        def train_step(self, x):
            if isinstance(x, tuple) and len(x) == 2:
                raise ValueError("no labels, please")
            return super().train_step((x, x))

        def test_step(self, samples):
            return super().test_step((samples[0], samples[0]))

    model = Autoencoder([keras.layers.Input((8,)), keras.layers.Dense(8)])
    model.compile("adam", "mse")
    batches = [data[0][i : i + 32] for i in range(0, 256, 32)]
    callback = PopDescentCallback(2, 1, 2, mutate=["learning_rate"], validation_data=data[2:])
    with pytest.warns(UserWarning, match="Nobody has tried .* no labels, please"):
        model.fit(Listed(batches), epochs=2, verbose=0, callbacks=[callback])
    assert len(callback.history) == 4


class Listed(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def validation_loss(model, data):
    logits = model.predict(data[2], verbose=0)
    return float(keras.ops.mean(
        keras.losses.sparse_categorical_crossentropy(data[3], logits, from_logits=True)
    ))  # fmt: skip


@pytest.mark.backend
@pytest.mark.parametrize("stop_after", [None, 45])
def test_the_fittest_at_the_end_is_as_it_was_scored(data, stop_after):
    """Batches that are left over, or an iteration that was cut off, train nobody for good."""

    class Stop(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            Stop.seen += 1
            self.model.stop_training = Stop.seen == stop_after

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = stop_after is not None and Stop.seen >= stop_after

    strategy = PopDescent(UnitMutation(0.0), focus=None, averaging=None, keep_best=False)
    # 2 members, 5 batches: 8 iterations of 10 in 88 batches, and 8 batches are left.
    callback = PopDescentCallback(2, 2, 5, strategy=strategy, validation_data=data[2:], seed=0)
    model = compiled()
    model.fit(data[0], data[1], batch_size=32, epochs=11, verbose=0, callbacks=[callback, Stop()])
    last = callback.history.iterations()[-1].members
    assert validation_loss(model, data) == pytest.approx(min(m.score for m in last), rel=1e-4)


def test_a_fit_without_a_whole_iteration_keeps_what_it_trained(data):
    callback = PopDescentCallback(2, 1, 128, validation_data=data[2:], seed=0)
    model = compiled()
    before = model.get_weights()
    batches = -(-len(data[0]) // 32)
    with pytest.warns(UserWarning, match=f"has {batches} batches.*Nobody will be replaced"):
        fit(model, callback, data, epochs=1)
    assert np.any(before[0] != model.get_weights()[0])


def test_epochs_that_are_left_out_are_not_planned(data):
    strategy = PopDescent(UnitMutation(0.0), focus=None, annealing=Annealing())
    callback = PopDescentCallback(2, 1, 4, strategy=strategy, validation_data=data[2:], seed=0)
    compiled().fit(data[0], data[1], batch_size=32, initial_epoch=10, epochs=20, verbose=0,
                   callbacks=[callback])  # fmt: skip
    factors = [record.rate_factor for record in callback.history.iterations()]
    assert len(factors) == 10
    assert factors == pytest.approx([Annealing().factor(i / 10) for i in range(10)])
    # In 10 iterations, an eighth of them is the mean of little more than one.
    assert callback.history.records[0].ema_momentum == pytest.approx(0.2)


def test_epochs_that_are_left_out_of_a_model_without_weights(data):
    callback = PopDescentCallback(2, 1, 4, seed=0)
    compiled(Counting()).fit(data[0], data[1], batch_size=32, initial_epoch=10, epochs=20,
                             verbose=0, callbacks=[callback])  # fmt: skip
    assert callback._running().settings.iterations == 10
    assert len(callback.history) == 9


class TestBadInput:
    def test_sizes(self):
        with pytest.raises(ArgumentError, match="num_elites"):
            PopDescentCallback(5, 6)
        with pytest.raises(
            ArgumentError, match="`population_size` must be a whole number of at least 1"
        ):
            PopDescentCallback(0)
        with pytest.raises(
            ArgumentError, match="`batches_per_iteration` must be a whole number of at least 1"
        ):
            PopDescentCallback(batches_per_iteration=0)

    def test_objective_without_validation_data(self):
        with pytest.raises(ArgumentError, match="Pass `validation_data` to the callback"):
            PopDescentCallback(objective="val_loss")

    def test_validation_data_with_nan(self, data):
        x = data[2].copy()
        x[0, 0] = np.nan
        with pytest.warns(UserWarning, match="not finite"):
            PopDescentCallback(validation_data=(x, data[3]))

    def test_strategy_that_scales_the_loss(self):
        with pytest.raises(ArgumentError, match="from_model"):
            PopDescentCallback(strategy=PopDescent.reference())

    def test_strategy_that_trains_on_at_the_end(self):
        strategy = PopDescent(closing=ClosingPlan(rounds=2))
        with pytest.raises(ArgumentError, match=r"when `fit` is over.*from_model.*rounds=2"):
            PopDescentCallback(strategy=strategy)

    def test_unknown_handle(self, data):
        callback = PopDescentCallback(mutate=("nonsense",), validation_data=data[2:])
        with pytest.raises(ArgumentError, match="optimizer.learning_rate"):
            fit(compiled(), callback, data, epochs=1)

    def test_results_before_fit(self):
        with pytest.raises(PopDescentError, match=r"Pass it to `model.fit`"):
            _ = PopDescentCallback().history


@pytest.mark.backend
def test_averaged_weights_are_scored_and_left_in_the_model(data):
    model = compiled()
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    fit(model, callback, data)
    logits = model.predict(data[2], verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(data[3], logits, from_logits=True)
    assert float(keras.ops.mean(loss)) == pytest.approx(callback.history.best()[1], rel=1e-4)
    model.fit(*data[:2], verbose=0)


def test_no_mutation_leaves_the_values(data):
    strategy = PopDescent(UnitMutation(0.0), noise_scale=0.0)
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], strategy=strategy, seed=0)
    fit(compiled(), callback, data, epochs=10)
    births = callback.history.births().values()
    assert {birth.values["popdescent/learning_rate"] for birth in births} == {0.01}


def test_a_short_fit_has_shorter_turns(data):
    callback = PopDescentCallback(validation_data=data[2:], seed=0)
    # 8 batches an epoch, 13 epochs: 20 batches for each of 5 members.
    fit(compiled(), callback, data, epochs=13)
    assert len(callback.history) == 20


def test_a_fit_without_a_single_iteration_says_so(data):
    callback = PopDescentCallback(5, batches_per_iteration=128, validation_data=data[2:])
    with pytest.warns(UserWarning, match="Nobody will be replaced"):
        fit(compiled(), callback, data, epochs=2)


def test_finish_after_an_interrupted_fit(data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 9:
                raise KeyboardInterrupt

    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        model.fit(data[0], data[1], batch_size=32, epochs=20, verbose=0,
                  callbacks=[callback, Interrupt()])  # fmt: skip
    callback.finish()
    callback.finish()
    logits = model.predict(data[2], verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(data[3], logits, from_logits=True)
    assert float(keras.ops.mean(loss)) == pytest.approx(callback.history.best()[1], rel=1e-4)
    model.save(tmp_path / "model.keras")


def stop():
    raise KeyboardInterrupt


def plain_again(model, folder, data):
    """Save the model, load it, and compare; train both a step."""
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(data[2], verbose=0), model.predict(data[2], verbose=0), rtol=1e-5
    )
    for one in (loaded, model):
        one.fit(data[0], data[1], epochs=1, verbose=0)
    return loaded


@pytest.mark.backend
@pytest.mark.parametrize("place", ["live", "probes", "copies", "turn"])
def test_a_start_that_is_interrupted_leaves_the_model_as_it_was(place, data, tmp_path, monkeypatch):
    model = compiled()
    weights = model.get_weights()
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    whole = {
        "live": (LiveModel, "_index_comparable"),
        "probes": (verify, "_acts"),
        "copies": (fit_executor, "inherit"),
        "turn": (FitExecutor, "swap_in"),
    }[place]
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*whole, lambda *args, **kwargs: stop())
        fit(model, callback, data, epochs=6)
    callback.finish()
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == rate
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(1e-3)
    with pytest.raises(PopDescentError, match="not been used"):
        _ = callback.history
    plain_again(model, tmp_path, data)
    fit(model, callback, data, epochs=6)
    assert len(callback.history) > 1


class StopAt(keras.callbacks.Callback):
    """Ctrl-C at a batch."""

    def __init__(self, batch):
        super().__init__()
        self.batches_left = batch

    def on_train_batch_begin(self, batch, logs=None):
        self.batches_left -= 1
        if self.batches_left == 0:
            stop()


def interrupted(model, callback, data, batch):
    with pytest.raises(KeyboardInterrupt):
        model.fit(data[0], data[1], batch_size=32, epochs=6, verbose=0,
                  callbacks=[callback, StopAt(batch)])  # fmt: skip


@pytest.mark.backend
@pytest.mark.parametrize("another", [False, True])
@pytest.mark.parametrize("batch", [3, 30])
def test_a_fit_after_an_interrupted_one_begins_with_its_best(another, batch, data, tmp_path):
    def make():
        return PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)

    model = compiled()
    variables = len(model.variables)
    first = make()
    interrupted(model, first, data, batch)
    best = first.history.best()[1] if batch == 30 else None
    callback = make() if another else first
    begun = []
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda _: begun.append(validation_loss(model, data))
    )
    model.fit(data[0], data[1], batch_size=32, epochs=6, verbose=0, callbacks=[callback, look])
    # After 3 batches nobody has been scored yet.
    assert best is None or begun[0] == pytest.approx(best, rel=1e-4)
    assert len(callback.history) == 4
    assert len(model.variables) == variables
    plain_again(model, tmp_path, data)


def test_the_callback_of_an_interrupted_fit_may_be_forgotten(data, tmp_path):
    model = compiled()
    interrupted(model, PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0), data, 30)
    gc.collect()
    fit(model, PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0), data, epochs=6)
    plain_again(model, tmp_path, data)


def test_an_interrupted_fit_of_another_model_is_finished_too(data, tmp_path):
    callback = PopDescentCallback(3, 1, 4, validation_data=data[2:], seed=0)
    model = compiled()
    interrupted(model, callback, data, 30)
    fit(compiled(), callback, data, epochs=6)
    plain_again(model, tmp_path, data)


def test_several_steps_an_execution_are_refused(data):
    x, y, *validation = data
    model = compiled()
    model.steps_per_execution = 2
    with pytest.raises(ArgumentError, match="steps_per_execution=1"):
        model.fit(x, y, verbose=0, callbacks=[PopDescentCallback(2, validation_data=validation)])
