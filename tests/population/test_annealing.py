"""Annealing in the loop, in the records, on resume, and where a rate is not to be annealed."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import PopDescentTuner
from keras_popdescent.callbacks import PopDescentCallback
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.population import Population
from keras_popdescent.population.budget import Budget
from keras_popdescent.strategies import (
    Annealing,
    ClosingPlan,
    PopDescent,
    TrainingPlan,
    UnitMutation,
)
from keras_popdescent.testing import FixedStrategy, scripted_loop

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2))).astype("float32")
RATE = "popdescent/learning_rate"
COSINE = [(1.0 + math.cos(math.pi * i / 4)) / 2.0 for i in range(4)]


def annealed(**changes):
    strategy = FixedStrategy(**changes)
    strategy.annealing = Annealing()
    return strategy


def factors(loop):
    return [advance.rate_factor for advance in loop.executor.advances]


class TestLoop:
    def test_the_factor_falls_over_the_iterations_and_is_recorded(self):
        loop = scripted_loop(annealed(), [[1.0, 2.0]] * 4)
        loop.run()
        assert factors(loop) == pytest.approx(COSINE)
        recorded = [record.rate_factor for record in loop.history.iterations()]
        assert recorded == factors(loop)

    def test_without_annealing_it_is_one(self):
        loop = scripted_loop(FixedStrategy(), [[1.0, 2.0]] * 3)
        loop.run()
        assert factors(loop) == [1.0] * 3

    def test_an_iteration_alone_is_not_annealed(self):
        loop = scripted_loop(annealed(), [[1.0]])
        loop.run()
        assert factors(loop) == [1.0]

    def test_more_iterations_begin_anew(self):
        loop = scripted_loop(annealed(), lambda slot, call, values: 1.0, population_size=1,
                             iterations=4)  # fmt: skip
        loop.run()
        loop.go_on(loop.executor.data, Budget(4, 4, 16))
        loop.run()
        assert factors(loop) == pytest.approx(COSINE * 2)

    def test_closing_rounds_have_the_last_factor(self):
        loop = scripted_loop(annealed(closing=ClosingPlan(rounds=2)), [[1.0]] * 6, iterations=4)
        loop.run()
        assert factors(loop) == pytest.approx([*COSINE, COSINE[-1], COSINE[-1]])
        assert loop.history.records[-1].closing
        assert loop.history.records[-1].rate_factor == pytest.approx(COSINE[-1])

    def test_the_time_counts_where_it_ends_first(self):
        loop = scripted_loop(annealed(), [[1.0]] * 100)
        now = time.perf_counter()
        loop._budget_began = now - 9.0
        loop.settings = replace(loop.settings, deadline=now + 1.0)
        assert loop.begin_iteration() == pytest.approx(Annealing().factor(0.9), abs=0.02)

    def test_an_executor_that_does_not_anneal_is_told_nothing(self):
        strategy = annealed()
        loop = scripted_loop(strategy, [[1.0]] * 3)
        loop.executor.anneals = False
        loop.run()
        assert factors(loop) == [1.0] * 3
        assert {record.rate_factor for record in loop.history} == {1.0}


def build(rate=0.02):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"),
                              keras.layers.Dense(2)])  # fmt: skip
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def fit(population, **changes):
    arguments = {"iterations": 4, "batches_per_iteration": 3, "batch_size": 8, "verbose": 0}
    population.fit(X[:40], Y[:40], validation_data=(X[40:], Y[40:]), **{**arguments, **changes})
    return population


def still(**changes):
    """Nothing is mutated, and children are copies."""
    defaults = {"annealing": Annealing(), "averaging": None, "keep_best": False}
    return PopDescent(UnitMutation(0.0), **{**defaults, **changes})


def rate_of(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(rate_of(self.model))


@pytest.mark.backend
def test_one_member_trains_as_fit_does_under_such_a_schedule():
    population = fit(Population.from_model(build(), 1, strategy=still(), seed=0,
                                           initial_weights="copied"), shuffle=False)  # fmt: skip
    plain = build()
    plain.set_weights(_first_weights(population))
    for index, factor in enumerate(COSINE):
        plain.optimizer.learning_rate = 0.02 * factor
        order = [(index * 3 + batch) % 5 for batch in range(3)]
        for batch in order:
            plain.train_on_batch(X[8 * batch : 8 * batch + 8], Y[8 * batch : 8 * batch + 8])
    for one, other in zip(population.best_model().get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert rate_of(population.best_model()) == pytest.approx(0.02)


def _first_weights(population):
    """The weights that a population's only member began with."""
    return population._initial_weights


@pytest.mark.backend
def test_the_values_are_those_without_the_factor():
    population = fit(Population.from_model(build, 3, 1, strategy=still(), seed=0))
    for record in population.history.iterations():
        assert [member.values[RATE] for member in record.members] == pytest.approx([0.02] * 3)
    assert [rate_of(model) for model in population.models()] == pytest.approx([0.02] * 3)


@pytest.mark.backend
def test_a_schedule_of_the_models_own_is_left_alone():
    def scheduled():
        return build(keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.9))

    weights = []
    for annealing in (Annealing(), None):
        strategy = PopDescent(UnitMutation(0.0), annealing=annealing, keep_best=False)
        population = fit(Population.from_model(scheduled, 2, strategy=strategy, seed=0))
        weights.append(population.best_model().get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.backend
def test_the_callback_anneals_too():
    model, watch = build(), Rates()
    callback = PopDescentCallback(2, 1, 3, strategy=still(), seed=0,
                                  validation_data=(X[40:], Y[40:]))  # fmt: skip
    # 5 batches an epoch: 24 batches are 4 iterations of 3 for each of 2 members, and one is over.
    model.fit(X[:40], Y[:40], batch_size=8, epochs=5, verbose=0, callbacks=[callback, watch])
    expected = [0.02 * factor for factor in COSINE for _ in range(6)]
    assert watch.rates[:24] == pytest.approx(expected, rel=1e-5)
    assert [r.rate_factor for r in callback.history.iterations()] == pytest.approx(COSINE)
    assert rate_of(model) == pytest.approx(0.02)


def test_what_a_callback_writes_is_the_rate_in_force():
    from keras_popdescent.population.blueprint import ModelBlueprint
    from keras_popdescent.population.live_model import LiveModel

    live = LiveModel(ModelBlueprint(build), {RATE: 0.02}, 0, (X[:8], Y[:8]))
    with live.annealed(0.5):
        assert rate_of(live.model) == pytest.approx(0.01)
        live.model.optimizer.learning_rate = 0.001
    assert rate_of(live.model) == pytest.approx(0.002)
    with pytest.raises(RuntimeError), live.annealed(0.0):
        assert rate_of(live.model) == 0.0
        raise RuntimeError
    assert rate_of(live.model) == pytest.approx(0.002)


@pytest.mark.backend
def test_the_schedule_replays_annealing_and_restarts(tmp_path):
    """Plain `fit` on the same batches, from the same weights, ends with the winner's weights."""

    def hyper(hp):
        return build(hp.Float("learning_rate", 0.005, 0.05, sampling="log", default=0.02))

    strategy = PopDescent(
        UnitMutation(0.5, least=0.2), annealing=Annealing(), optimizer_state="restart",
        training=TrainingPlan("common"), keep_best=False, focus=None,
    )  # fmt: skip
    tuner = PopDescentTuner(
        hyper, strategy=strategy, population_size=3, num_elites=0, iterations=4,
        batches_per_iteration=5, seed=3, directory=tmp_path, checkpoint=False,
    )  # fmt: skip
    first = []
    start = SequentialExecutor.start

    def watched(executor, setup):
        start(executor, setup)
        first.extend(executor.capture(slot) for slot in range(3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequentialExecutor, "start", watched)
        tuner.search(X[:40], Y[:40], validation_data=(X[40:], Y[40:]), batch_size=8,
                     shuffle=False, verbose=0)  # fmt: skip
    schedule = tuner.get_best_schedule()
    assert len({segment.rate_factor for segment in schedule}) == 4
    assert "restart" in {segment.optimizer_state for segment in schedule}
    model = hyper(keras_tuner.HyperParameters())
    ancestor = first[schedule.segments[0].member_id]
    for variable, weight in zip(model.weights, ancestor.weights, strict=False):
        variable.assign(weight)
    model.fit(X[:40], Y[:40], batch_size=8, epochs=4, shuffle=False, verbose=0,
              callbacks=[schedule.as_callback()])  # fmt: skip
    winner = tuner.get_best_models()[0]
    for one, other in zip(model.get_weights(), winner.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert int(model.optimizer.iterations) == int(winner.optimizer.iterations) == 20
