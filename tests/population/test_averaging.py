"""Moving averages of weights: what they are, who has them, where they go."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent import Averaging, PopDescent, PopDescentTuner, Population
from keras_popdescent.callbacks import PopDescentCallback
from keras_popdescent.callbacks.schedule import ScheduleCallback
from keras_popdescent.errors import ArgumentError
from keras_popdescent.executors.stepping import make_stepper
from keras_popdescent.history import Schedule
from keras_popdescent.history.schedule import Segment
from keras_popdescent.operators import NO_NOISE, NoiseSpec
from keras_popdescent.population.averages import averaged_indices, moved, rate
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.export import export_model
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.state import (
    capture,
    from_arrays,
    inherit,
    restore,
    to_arrays,
    with_fresh_optimizer,
)
from keras_popdescent.strategies import ClosingPlan, TrainingPlan, UnitMutation
from keras_popdescent.testing import FixedStrategy, scripted_loop
from keras_popdescent.testing.doubles import ScriptedExecutor

pytestmark = pytest.mark.backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 2)) + RNG.normal(size=(96, 2))).astype("float32")
TRAINING, VALIDATION = (X[:64], Y[:64]), (X[64:], Y[64:])
EXECUTORS = ["sequential", *(["vectorized"] if keras.backend.backend() == "jax" else [])]
MOMENTUM = 0.6
# In searches of few iterations, too.
AVERAGING = Averaging(MOMENTUM, reach=1.0)


def build(optimizer=None):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.02), "mse", metrics=["mse"])
    return model


def make_live(momentum=MOMENTUM, optimizer=None):
    blueprint = ModelBlueprint(lambda: build(optimizer and optimizer()), ("learning_rate",))
    return LiveModel(blueprint, {}, 0, TRAINING, ema_momentum=momentum)


def numbers(tensors):
    return [np.array(keras.ops.convert_to_numpy(tensor)) for tensor in tensors]


def weights_of(live):
    return numbers(live.weight_variables[: live.num_plain[0]])


def assert_all_close(first, second, **tolerance):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 1e-5, "atol": 1e-7, **tolerance})


def expected(path, momentum=MOMENTUM):
    """Return the average of a path of weights, by the definition."""
    average = [np.zeros_like(weight) for weight in path[0]]
    for k, weights in enumerate(path):
        m = min(momentum, k / (k + 1))
        average = [m * a + (1 - m) * w for a, w in zip(average, weights, strict=True)]
    return average


class TestTheAverage:
    def test_at_first_it_is_a_mean_then_it_forgets(self):
        parts = [float(rate(keras.ops.convert_to_tensor(k), 0.7)) for k in range(5)]
        assert parts == pytest.approx([1.0, 1 / 2, 1 / 3, 0.3, 0.3])

    def test_what_was_not_finite_is_forgotten_at_once(self):
        average = moved(
            keras.ops.ones((2,)), keras.ops.convert_to_tensor([np.nan, 0.0]),
            keras.ops.convert_to_tensor(1.0),
        )  # fmt: skip
        assert numbers([average])[0].tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan"), "a half"])
    def test_a_momentum_is_a_part(self, momentum):
        with pytest.raises(ArgumentError, match="momentum"):
            Averaging(momentum)

    @pytest.mark.parametrize("reach", [0.0, 1.1])
    def test_a_reach_is_a_part_of_the_search(self, reach):
        with pytest.raises(ArgumentError, match="reach"):
            Averaging(reach=reach)

    def test_few_iterations_are_averaged_less(self):
        found = [Averaging().momentum_over(n) for n in (1, 8, 10, 20, 40, 1000)]
        assert found == pytest.approx([0.0, 0.0, 0.2, 0.6, 0.8, 0.8])
        assert Averaging(0.5, reach=1.0).momentum_over(2) == 0.5

    def test_of_a_live_model(self):
        live = make_live()
        stepper = make_stepper(live.model)
        path = []
        for _ in range(4):
            stepper.train_batch(TRAINING)
            live.update_averages()
            path.append(weights_of(live))
            *averages, count = numbers(capture(live).averages)
            assert_all_close(averages, expected(path))
            assert count == len(path)
        # The weights go their own way, and moving statistics are averaged too.
        assert len(averages) == len(path[0]) == 8
        assert not np.allclose(averages[4], path[-1][4])

    def test_integers_are_not_averaged(self):
        assert averaged_indices([np.ones(2, "float16"), np.ones(2, "int32"), np.ones(1)]) == [0, 2]

    def test_an_optimizer_that_averages_itself_gets_no_others(self):
        live = make_live(optimizer=lambda: keras.optimizers.Adam(0.02, use_ema=True))
        assert live.num_averages == 0
        assert len(live.averages) == 6


@pytest.fixture(scope="module")
def trained():
    """A live model, and states of it: fresh, and two with different histories."""
    live = make_live()
    stepper = make_stepper(live.model)
    fresh = capture(live)
    states = []
    for iterations in (2, 3):
        restore(live, fresh)
        for _ in range(iterations):
            for _ in range(iterations):
                stepper.train_batch(TRAINING)
            live.update_averages()
        states.append(capture(live))
    return live, fresh, states


def child_of(trained, *parents, optimizer="inherit", noise=NO_NOISE):
    live, fresh, states = trained
    parents = [states[parent] for parent in parents]
    return inherit(parents, live, optimizer=optimizer, fresh=fresh, seed=3, noise=noise)


class TestStates:
    @pytest.mark.parametrize("rule", ["inherit", "restart", "fresh", "fresh_slots"])
    def test_a_child_goes_on_from_its_parent_s_whatever_the_optimizer_does(self, trained, rule):
        child = child_of(trained, 1, optimizer=rule)
        assert_all_close(numbers(child.averages), numbers(trained[2][1].averages), rtol=0, atol=0)
        assert child.num_averages == 8

    def test_of_several_parents_it_is_the_mean(self, trained):
        live, _, states = trained
        child = child_of(trained, 0, 1)
        first, second = (numbers(state.averages) for state in states)
        found = numbers(child.averages)
        for index, (a, b, mean) in enumerate(zip(first, second, found, strict=True)):
            trains = index in live.trainable_indices
            np.testing.assert_allclose(mean, (a + b) / 2 if trains else a, rtol=1e-6)

    @pytest.mark.parametrize("kind", ["gaussian", "scalar", "relative"])
    def test_it_has_the_noise_that_the_weights_have(self, trained, kind):
        live, _, _ = trained
        noisy, plain = (
            child_of(trained, 0, noise=noise) for noise in (NoiseSpec(kind, 0.1, 5), NO_NOISE)
        )
        for index in range(8):
            shift = numbers([noisy.weights[index]])[0] - numbers([plain.weights[index]])[0]
            found = numbers([noisy.averages[index]])[0] - numbers([plain.averages[index]])[0]
            np.testing.assert_allclose(found, shift, atol=1e-6)
            assert np.any(shift) == (index in live.trainable_indices)

    def test_a_fresh_optimizer_leaves_it(self, trained):
        _, fresh, states = trained
        renewed = with_fresh_optimizer(states[1], fresh)
        assert_all_close(numbers(renewed.averages), numbers(states[1].averages))
        plain = len(fresh.optimizer) - 9
        assert_all_close(numbers(renewed.optimizer[:plain]), numbers(fresh.optimizer[:plain]))

    def test_of_a_parent_whose_optimizer_averaged_itself_it_begins_anew(self, trained):
        live, fresh, states = trained
        other = make_live(optimizer=lambda: keras.optimizers.Adam(0.02, use_ema=True))
        child = inherit([capture(other)], live, optimizer="inherit", fresh=fresh, seed=3,
                        noise=NO_NOISE)  # fmt: skip
        *averages, count = numbers(child.averages)
        assert_all_close(averages, weights_of(other))
        assert count == 0

    def test_it_is_saved(self, trained):
        state = from_arrays(to_arrays(trained[2][0]))
        assert_all_close(numbers(state.averages), numbers(trained[2][0].averages))

    def test_a_state_that_was_saved_before_there_were_any(self, trained):
        saved = to_arrays(trained[2][0])
        del saved["num_averages"]
        assert from_arrays(saved).averages == ()

    def test_members_are_scored_and_exported_with_it(self, trained):
        live, _, states = trained
        restore(live, states[1])
        weights = weights_of(live)
        *averages, _ = numbers(states[1].averages)
        with live.neutral():
            assert_all_close(weights_of(live), averages)
        assert_all_close(weights_of(live), weights)
        model = export_model(live.blueprint, {}, states[1], TRAINING)
        assert_all_close(model.get_weights(), averages)


def still(**changes):
    """Nothing is mutated, and children are copies."""
    defaults = {"averaging": AVERAGING, "focus": None}
    return PopDescent(UnitMutation(0.0), **{**defaults, **changes})


def fitted(strategy, size=3, **changes):
    population = Population.from_model(
        build, size, 1, strategy=strategy, seed=4, objective=changes.pop("objective", "val_mse"),
        executor=changes.pop("executor", "sequential"),
    )  # fmt: skip
    arguments = {"validation_data": VALIDATION, "iterations": 5, "batches_per_iteration": 4}
    population.fit(*TRAINING, batch_size=16, verbose=0, **{**arguments, **changes})
    return population


class Stop(Exception):
    pass


class StopAfter(Observer):
    def __init__(self, iterations):
        self.left = iterations

    def iteration_end(self, record):
        self.left -= 1
        if not self.left:
            raise Stop


class StopAtOnce(Observer):
    def search_begin(self, loop):
        raise Stop


class TestPopulation:
    def test_the_training_is_as_without(self):
        raw = [
            fitted(still(keep_best=False, averaging=averaging), size=1).executor.capture(0).weights
            for averaging in (None, AVERAGING)
        ]
        assert_all_close(numbers(raw[0]), numbers(raw[1]), rtol=0, atol=0)

    def test_the_result_is_the_average_of_what_plain_fit_goes_through(self):
        path = [
            fitted(still(keep_best=False, averaging=None), size=1, iterations=i).best_model()
            for i in range(1, 6)
        ]
        model = fitted(still(keep_best=False), size=1).best_model()
        assert_all_close(model.get_weights(), expected([m.get_weights() for m in path]))

    @pytest.mark.parametrize("strategy", [still(), PopDescent(averaging=AVERAGING)])
    def test_the_best_model_reproduces_its_score(self, strategy):
        population = fitted(strategy)
        loss = population.best_model().evaluate(*VALIDATION, verbose=0, return_dict=True)["mse"]
        assert loss == pytest.approx(population.best_score(), rel=1e-5)

    def test_without_validation_data_nothing_is_averaged(self):
        population = fitted(still(), validation_data=None, objective="loss")
        assert {record.ema_momentum for record in population.history} == {None}
        model, state = population.best_model(), population.executor.capture(0)
        assert state.averages == ()
        assert len(model.get_weights()) == 8

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_closing_training_is_scored_as_it_ends(self, executor):
        """It is the last word on the weights, however long it is: no average of before."""
        plan = ClosingPlan(rounds=2, batches=30)
        population = fitted(
            still(closing=plan, keep_best=False), size=2, iterations=4, executor=executor
        )
        state = population.executor.capture(0)
        *averages, count = numbers(state.averages)
        assert count == 1
        assert_all_close(averages, numbers(state.weights[:8]))
        winner = population.history.best()[0]
        schedule = population.history.schedule(winner)
        assert schedule.averaged_at == (schedule.gradient_steps,) == (4 * 4 + 60,)

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_what_a_visit_changes_is_what_is_exported(self, executor):
        population = fitted(still(), iterations=4, executor=executor)
        population.executor.visit(0, lambda model: None)
        count = int(population.executor.capture(0).averages[-1])
        assert count > 1

        def clear(model):
            model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])

        population.executor.visit(0, clear)
        state = population.executor.capture(0)
        assert int(state.averages[-1]) == 0
        model = population.executor.export({}, state)
        assert not any(weight.any() for weight in model.get_weights())

    def test_initial_weights_are_what_the_first_average_is_of(self):
        model = build()
        population = Population.from_model(model, 2, strategy=still(), initial_weights="copied")
        with pytest.raises(Stop):
            population.fit(*TRAINING, validation_data=VALIDATION, iterations=9, verbose=0,
                           observers=[StopAtOnce()])  # fmt: skip
        *averages, _ = numbers(population.executor.capture(1).averages)
        assert_all_close(averages, model.get_weights())

    def test_so_few_iterations_that_nothing_is_averaged(self):
        population = fitted(PopDescent())
        assert {record.ema_momentum for record in population.history} == {None}
        assert population.executor.capture(0).averages == ()

    def test_it_resumes_bit_for_bit(self, tmp_path):
        strategy = PopDescent(UnitMutation(0.5, least=0.3), averaging=AVERAGING)
        whole = fitted(strategy, iterations=6)
        arguments = {"checkpoint_dir": tmp_path, "checkpoint_every": 1}
        with pytest.raises(Stop):
            fitted(strategy, iterations=6, **arguments, observers=[StopAfter(3)])
        again = fitted(strategy, iterations=6, **arguments)
        assert [r.members for r in again.history][-1][0].score == (
            [r.members for r in whole.history][-1][0].score
        )
        assert_all_close(
            again.best_model().get_weights(), whole.best_model().get_weights(), rtol=0, atol=0
        )

    @pytest.mark.parametrize("iterations", [4, 9])
    def test_a_larger_budget_keeps_the_momentum_that_it_began_with(self, tmp_path, iterations):
        strategy = PopDescent(averaging=Averaging(reach=0.2))
        first, second = (
            fitted(strategy, iterations=n, checkpoint_dir=tmp_path) for n in (iterations, 30)
        )
        momentum = first.history.records[-1].ema_momentum
        assert (momentum is None) == (iterations == 4)
        assert {record.ema_momentum for record in second.history} == {momentum}
        loss = second.best_model().evaluate(*VALIDATION, verbose=0, return_dict=True)["mse"]
        assert loss == pytest.approx(second.best_score(), rel=1e-5)

    def test_an_optimizer_that_begins_anew_each_iteration(self):
        plan = TrainingPlan(fresh_optimizer=True)
        population = fitted(still(training=plan, keep_best=False), size=1)
        assert int(population.executor.capture(0).averages[-1]) == 5


def hyper(hp):
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    return build(keras.optimizers.SGD(rate, momentum=0.9))


def searched(tmp_path, **changes):
    strategy = PopDescent(**{"focus": None, "averaging": AVERAGING, **changes})
    tuner = PopDescentTuner(
        hyper, "val_loss", population_size=3, num_elites=1, strategy=strategy, seed=6,
        directory=tmp_path, overwrite=True,
    )  # fmt: skip
    tuner.search(*TRAINING, validation_data=VALIDATION, epochs=6, batch_size=16, verbose=0)
    return tuner


class TestSchedules:
    def test_a_schedule_says_when(self, tmp_path):
        tuner = searched(tmp_path)
        schedule = tuner.get_best_schedule()
        assert schedule.ema_momentum == MOMENTUM
        assert schedule.averaged_at[-1] == schedule.gradient_steps
        assert len(schedule.averaged_at) > 2
        schedule.save(tmp_path / "schedule.json")
        assert Schedule.load(tmp_path / "schedule.json") == schedule
        assert searched(tmp_path, averaging=None).get_best_schedule().averaged_at == ()

    def test_stretched_and_beyond_its_end(self):
        schedule = Schedule((Segment(0, 8, {}, 0),), (), 0.7, (2, 4, 8))
        assert [step for step in range(1, 17) if schedule.averages_after(step)] == [2, 4, 8, 12, 16]
        assert schedule.stretched(4).averaged_at == (1, 2, 4)
        assert not Schedule((Segment(0, 8, {}, 0),)).averages_after(8)

    @pytest.mark.parametrize("rule", ["inherit", "restart"])
    def test_a_retraining_that_builds_anew_goes_on_with_the_averages(self, tmp_path, rule):
        """All begin with the same weights, and every step sees the same batch."""

        def two_structures(hp):
            start = {"kernel_initializer": keras.initializers.GlorotUniform(seed=1)}
            activation = hp.Choice("activation", ["tanh", "relu", "selu"])
            model = keras.Sequential([
                keras.Input((6,)), keras.layers.Dense(8, activation, **start),
                keras.layers.Dense(2, **start),
            ])  # fmt: skip
            learning_rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
            model.compile(keras.optimizers.Adam(learning_rate), "mse")
            return model

        strategy = PopDescent(
            UnitMutation(0.5, least=0.5),
            optimizer_state=rule,
            focus=None,
            keep_best=False,
            averaging=AVERAGING,
        )
        tuner = PopDescentTuner(
            two_structures, "val_loss", population_size=3, num_elites=0, strategy=strategy, seed=1,
            iterations=5, batches_per_iteration=3, directory=tmp_path,
        )  # fmt: skip
        data = {"x": X, "y": Y, "batch_size": len(X), "verbose": 0}
        tuner.search(**data, validation_data=(X, Y))
        schedule = tuner.get_best_schedule()
        assert len({segment.values["activation"] for segment in schedule}) > 1
        winner = tuner.get_best_models()[0]
        assert_all_close(
            tuner.retrain_best(**data).get_weights(), winner.get_weights(), rtol=1e-4, atol=1e-5
        )

    def test_the_callback_gives_the_averages_of_its_path(self):
        schedule = Schedule(
            (Segment(0, 8, {}, 0, {"optimizer.learning_rate": 0.02}),), (), MOMENTUM, (2, 4, 8)
        )
        path = Path()
        keras.utils.set_random_seed(3)
        model = build()
        arguments = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
        model.fit(*TRAINING, **arguments, callbacks=[path, schedule.as_callback()])
        weights = [path.weights[step] for step in (2, 4, 8)]
        assert_all_close(model.get_weights(), expected(weights))
        # It can be trained on.
        model.fit(*TRAINING, **arguments)

    def test_a_fit_that_ends_before_the_first_average_keeps_its_weights(self):
        schedule = Schedule(
            (Segment(0, 8, {}, 0, {"optimizer.learning_rate": 0.02}),), (), MOMENTUM, (6, 8)
        )
        models = []
        for callbacks in ([], [schedule.as_callback()]):
            keras.utils.set_random_seed(3)
            model = build()
            model.fit(*TRAINING, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks)
            models.append(model.get_weights())
        assert_all_close(models[0], models[1])

    def test_two_fits_are_one(self):
        schedule = Schedule(
            (Segment(0, 16, {}, 0, {"optimizer.learning_rate": 0.02}),), (), MOMENTUM,
            tuple(range(2, 17, 2)),
        )  # fmt: skip
        arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
        models = []
        for parts in ((4,), (2, 2)):
            keras.utils.set_random_seed(3)
            model, previous = build(), None
            for number, epochs in enumerate(parts):
                previous = ScheduleCallback(schedule, initial_step=8 * number, previous=previous)
                model.fit(*TRAINING, **arguments, epochs=epochs, callbacks=[previous])
            models.append(model.get_weights())
        assert_all_close(models[0], models[1], rtol=1e-4, atol=1e-6)

    def test_an_optimizer_with_averages_of_its_own_keeps_to_them(self):
        schedule = Schedule(
            (Segment(0, 8, {}, 0, {"optimizer.learning_rate": 0.02}),), (), MOMENTUM, (2, 4, 8)
        )
        models = []
        for callbacks in ([], [schedule.as_callback()]):
            keras.utils.set_random_seed(3)
            model = build(keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5))
            model.fit(*TRAINING, batch_size=16, epochs=2, shuffle=False, verbose=0,
                      callbacks=callbacks)  # fmt: skip
            models.append(model.get_weights())
        assert_all_close(models[0], models[1])


class Path(keras.callbacks.Callback):
    """Keeps the weights after each batch."""

    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.weights[len(self.weights) + 1] = self.model.get_weights()


class TestElsewhere:
    def test_within_fit(self):
        callback = PopDescentCallback(
            population_size=2, num_elites=1, batches_per_iteration=2, strategy=still(),
            validation_data=VALIDATION, objective="val_mse", seed=0,
        )  # fmt: skip
        model = build()
        model.fit(*TRAINING, batch_size=16, epochs=6, verbose=0, callbacks=[callback])
        loss = model.evaluate(*VALIDATION, verbose=0, return_dict=True)["mse"]
        assert loss == pytest.approx(callback.history.best()[1], rel=1e-4)
        assert {r.ema_momentum for r in callback.history.iterations()} == {MOMENTUM}
        model.fit(*TRAINING, verbose=0)

    @pytest.mark.parametrize("epochs", [1, 3])
    def test_within_a_fit_that_ends_in_the_first_turn_nothing_is_lost(self, epochs):
        callback = PopDescentCallback(
            population_size=2, batches_per_iteration=epochs * 100, strategy=still(),
            validation_data=VALIDATION, seed=0,
        )  # fmt: skip
        callback.set_params({})
        keras.utils.set_random_seed(0)
        model = build()
        before = model.get_weights()
        with pytest.warns(UserWarning, match="not one turn"):
            model.fit(*TRAINING, batch_size=16, epochs=epochs, verbose=0, callbacks=[callback])
        assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))

    def test_within_a_fit_of_unknown_length_nothing_is_averaged(self):
        def batches():
            for _ in range(8):
                yield TRAINING

        callback = PopDescentCallback(
            population_size=2, batches_per_iteration=2, strategy=still(),
            validation_data=VALIDATION, seed=0,
        )  # fmt: skip
        build().fit(batches(), epochs=1, verbose=0, callbacks=[callback])
        assert {record.ema_momentum for record in callback.history.iterations()} == {None}

    def test_an_executor_that_does_not_average_is_told_nothing(self, monkeypatch):
        strategy = FixedStrategy()
        strategy.averaging = AVERAGING
        monkeypatch.setattr(ScriptedExecutor, "averages", False)
        loop = scripted_loop(strategy, [[1.0]] * 2)
        loop.run()
        assert {record.ema_momentum for record in loop.history} == {None}
        assert loop.notes == ["weights are not averaged: your own training scores the members"]
