"""The phase in which only the best train: who trains, what is recorded, and how it resumes."""

from __future__ import annotations

import math

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import ClosingPlan, Focus, Observer, PopDescent, PopDescentTuner, Population
from keras_popdescent.callbacks import PopDescentCallback
from keras_popdescent.errors import ArgumentError
from keras_popdescent.testing import FixedStrategy, scripted_loop

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2))).astype("float32")


def focused(begin=0.5, members=1, **changes):
    strategy = FixedStrategy(**changes)
    strategy.focus = Focus(begin, members)
    return strategy


def turns(loop):
    return [list(advance.slots) for advance in loop.executor.advances]


class TestTurns:
    def test_the_best_have_the_turns_of_all(self):
        assert Focus(members=1).turns([0, 1, 2], [2, 0, 1]) == [[2], [2], [2]]
        assert Focus(members=2).turns([0, 1, 2, 3, 4], [4, 1, 0]) == [[4, 1], [4, 1], [4]]
        assert Focus(members=9).turns([0, 1, 2], [2, 0]) == [[2, 0], [2]]

    def test_where_nobody_has_a_score_all_train(self):
        assert Focus().turns([0, 1], []) == [[0, 1]]

    @pytest.mark.parametrize("arguments", [(-0.1,), (1.1,), (float("nan"),), (0.5, 0), (0.5, 1.5)])
    def test_numbers_outside_of_their_range(self, arguments):
        with pytest.raises(ArgumentError):
            Focus(*arguments)


def scripted(strategy, rows, iterations, num_elites=0):
    """Return a loop whose members score by the turn; the last row holds for all later turns."""

    def score(slot, turn, values):
        return rows[min(turn, len(rows)) - 1][slot]

    return scripted_loop(
        strategy, score, population_size=len(rows[0]), iterations=iterations, num_elites=num_elites
    )


class TestLoop:
    def test_from_the_half_on_only_the_best_trains(self):
        loop = scripted(focused(), [[3.0, 1.0, 2.0]], 4)
        loop.run()
        assert turns(loop) == [[0, 1, 2]] * 2 + [[1]] * 6
        assert loop.history.gradient_steps == 4 * 3 * 4
        steps = [member.gradient_steps for member in loop.history.records[-1].members]
        assert steps == [8, 8 + 24, 8]

    def test_who_is_best_is_asked_in_each_iteration(self):
        # The first member is best until it has trained alone.
        loop = scripted(focused(), [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0]], 4)
        loop.run()
        assert turns(loop) == [[0, 1]] * 2 + [[0], [0], [1], [1]]

    def test_the_best_turn_is_what_is_recorded(self):
        loop = scripted(focused(), [[1.0, 2.0], [0.5, 2.0], [0.8, 2.0]], 2)
        loop.run()
        assert turns(loop) == [[0, 1], [0], [0]]
        assert loop.history.records[-1].members[0].score == 0.5
        assert loop.best().score == 0.5
        assert loop.best().gradient_steps == 8
        assert loop.members[0].score == 0.8

    def test_a_closing_round_is_recorded_as_it_is(self):
        loop = scripted(
            focused(closing=ClosingPlan(rounds=1)),
            [[1.0, 2.0], [0.5, 2.0], [0.8, 2.0], [0.9, 3.0]],
            2,
        )
        loop.run()
        last = loop.history.records[-1]
        assert last.closing
        assert [member.score for member in last.members] == [0.9, 3.0]

    def test_a_member_that_diverges_in_the_phase_is_left_alone(self):
        loop = scripted(focused(), [[1.0, 2.0], [1.0, 2.0], [math.nan, 2.0]], 4)
        loop.run()
        assert turns(loop)[2:] == [[0], [0], [1], [1]]
        assert loop.best().score == 1.0

    def test_nobody_is_born_who_would_not_train(self):
        loop = scripted(PopDescent(focus=Focus(0.5)), [[3.0, 1.0, 2.0]], 6, num_elites=1)
        loop.run()
        births = [len(record.births) for record in loop.history.iterations()]
        assert births == [2, 2, 0, 0, 0, 0]

    def test_without_it_all_train_to_the_end(self):
        loop = scripted(FixedStrategy(), [[3.0, 1.0]], 4)
        loop.run()
        assert turns(loop) == [[0, 1]] * 4


class Stop(Exception):
    pass


class Break(Observer):
    """Ends a search with an error, after so many iterations."""

    def __init__(self, iteration):
        self.iteration = iteration

    def iteration_end(self, record):
        if record.iteration == self.iteration + 1:
            raise Stop


def build(rate=0.05):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def build_tuned(hp):
    return build(hp.Float("rate", 1e-3, 1e-1, sampling="log"))


@pytest.mark.backend
class TestModels:
    def fit(self, population, iterations=6):
        population.fit(
            X, Y, validation_split=0.25, batch_size=8, iterations=iterations,
            batches_per_iteration=3, verbose=0,
        )  # fmt: skip
        return population

    def test_the_best_goes_on_with_the_steps_of_all(self):
        population = self.fit(
            Population.from_model(build, 3, seed=1, strategy=PopDescent(focus=Focus()))
        )
        assert population.history.gradient_steps == 6 * 3 * 3
        last = population.history.records[-1].members
        assert max(member.gradient_steps for member in last) == 3 * 3 + 3 * 3 * 3
        best = population.best_model()
        score = best.evaluate(X[72:], Y[72:], verbose=0)
        recorded = min(m.score for r in population.history.iterations() for m in r.members)
        assert score == pytest.approx(recorded, rel=1e-5)

    def test_trials_models_and_hyperparameters_agree(self, tmp_path):
        tuner = PopDescentTuner(
            build_tuned, objective="val_loss", seed=2, directory=tmp_path, population_size=3,
            strategy=PopDescent(focus=Focus(0.4)), batches_per_iteration=3,
        )  # fmt: skip
        tuner.search(X, Y, epochs=4, batch_size=8, validation_split=0.25, verbose=0)
        assert tuner.history.gradient_steps == 3 * 4 * 9
        [trial] = tuner.oracle.get_best_trials(1)
        score = tuner.get_best_models()[0].evaluate(X[72:], Y[72:], verbose=0)
        assert score == pytest.approx(trial.score, rel=1e-5)
        schedule = tuner.get_best_schedule()
        assert schedule.segments[-1].values["rate"] == tuner.get_best_hyperparameters()[0]["rate"]

    def test_it_resumes_within_the_phase(self, tmp_path):
        def search(folder, iterations, strategy):
            population = Population.from_model(build, 3, seed=3, strategy=strategy)
            population.fit(
                X, Y, validation_split=0.25, batch_size=8, iterations=iterations,
                batches_per_iteration=3, verbose=0, checkpoint_dir=folder, checkpoint_every=1,
                **({"observers": [Break(4)]} if folder.name == "cut" else {}),
            )  # fmt: skip
            return population

        whole = search(tmp_path / "whole", 6, PopDescent(focus=Focus()))
        with pytest.raises(Stop):
            search(tmp_path / "cut", 6, PopDescent(focus=Focus()))
        (tmp_path / "cut").rename(tmp_path / "again")
        again = search(tmp_path / "again", 6, PopDescent(focus=Focus()))
        assert [r.members for r in again.history.iterations()][-1][0].score == (
            [r.members for r in whole.history.iterations()][-1][0].score
        )
        for one, other in zip(
            whole.best_model().get_weights(), again.best_model().get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_in_fit_members_take_turns_to_the_end():
    model = build()
    popdescent = PopDescentCallback(
        population_size=2, strategy=PopDescent(focus=Focus(0.0)), batches_per_iteration=2
    )
    model.fit(X, Y, epochs=2, batch_size=8, callbacks=[popdescent], verbose=0)
    steps = [member.gradient_steps for member in popdescent.history.records[-1].members]
    assert steps[0] == steps[1]


def test_overridden_training_is_called_as_often_for_all(tmp_path):
    class Mine(PopDescentTuner):
        def run_trial(self, trial, *args, **kwargs):
            return trial.hyperparameters.Float("value", 0.0, 1.0)

    tuner = Mine(
        directory=tmp_path,
        seed=0,
        iterations=4,
        population_size=3,
        strategy=PopDescent(focus=Focus(0.0)),
    )
    tuner.search(verbose=0)
    assert tuner.history.gradient_steps == 4 * 3
    assert isinstance(tuner.oracle, keras_tuner.Oracle)
