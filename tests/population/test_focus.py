"""The phase in which only the best train: who trains, what is recorded, and how it resumes."""

from __future__ import annotations

import math

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent import Focus, Observer, Offspring, PopDescent, PopDescentTuner, Population
from keras_popdescent.callbacks import PopDescentCallback
from keras_popdescent.errors import ArgumentError
from keras_popdescent.executors.sequential import SequentialExecutor
from keras_popdescent.population.budget import Budget
from keras_popdescent.testing import FixedStrategy, scripted_loop

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2))).astype("float32")


def focused(begin=0.5, patience=None, **changes):
    strategy = FixedStrategy(**changes)
    strategy.focus = Focus(begin, patience)
    return strategy


@pytest.mark.parametrize("arguments", [(-0.1,), (1.1,), (float("nan"),), (0.5, 0), (0.5, 1.5)])
def test_numbers_outside_of_their_range(arguments):
    with pytest.raises(ArgumentError):
        Focus(*arguments)


def turns(loop):
    return [(list(advance.slots), advance.num_batches) for advance in loop.executor.advances]


def scripted(strategy, rows, iterations, num_elites=0, **settings):
    """Return a loop whose members score by the iteration; the last row holds for all later ones."""

    def score(slot, iteration, values):
        return rows[min(iteration, len(rows)) - 1][slot]

    return scripted_loop(
        strategy, score, population_size=len(rows[0]), iterations=iterations,
        num_elites=num_elites, **settings,
    )  # fmt: skip


class TestLoop:
    def test_from_the_half_on_a_copy_of_the_best_trains_alone(self):
        loop = scripted(focused(), [[3.0, 1.0, 2.0]], 4)
        loop.run()
        # In the weakest one's slot, with everybody's steps.
        assert turns(loop) == [([0, 1, 2], 4)] * 2 + [([0], 12)] * 2
        assert loop.history.gradient_steps == 4 * 3 * 4
        steps = [member.gradient_steps for member in loop.history.records[-1].members]
        # The best scored 1.0 after one iteration for the first time.
        assert steps == [4 + 24, 8, 8]

    def test_the_copy_is_of_the_best_ever_as_it_was_then(self):
        # Who was best after the first iteration is replaced after it.
        offspring = {1: [Offspring(1, (0,), {})]}
        loop = scripted(focused(offspring=offspring), [[3.0, 1.0], [3.0, 2.0]], 4, num_kept=2)
        loop.run()
        births = [record.births for record in loop.history.iterations()]
        [birth] = births[1]
        assert (birth.slot, birth.parents, birth.replaced) == (0, (1,), 0)
        assert (birth.inherited_steps, birth.optimizer_state) == (4, "restart")
        assert [len(born) for born in births] == [1, 1, 0, 0]
        # Its weight is that of the first member in slot 1, which is gone.
        assert loop.executor.capture(0).weights == (1.0,)
        schedule = loop.history.schedule(birth.member_id)
        assert [(s.member_id, s.start, s.stop) for s in schedule] == [(1, 0, 4), (3, 4, 4 + 2 * 8)]

    def test_nobody_else_is_born_in_the_phase(self):
        loop = scripted(PopDescent(focus=Focus(0.5, None)), [[3.0, 1.0, 2.0]], 6, num_elites=1)
        loop.run()
        births = [len(record.births) for record in loop.history.iterations()]
        assert births == [2, 2, 1, 0, 0, 0]

    def test_it_begins_after_the_first_iteration_at_the_earliest(self):
        loop = scripted(focused(begin=0.0), [[3.0, 1.0]], 3)
        loop.run()
        assert turns(loop) == [([0, 1], 4)] + [([0], 8)] * 2

    @pytest.mark.parametrize(
        ("rows", "settings"),
        [
            ([[1.0]], {}),
            ([[3.0, 1.0]], {"num_elites": 2}),
            ([[3.0, 1.0]], {"max_births": 2}),
            ([[math.nan, math.nan]], {}),
        ],
    )
    def test_where_nobody_can_be_replaced_all_train_to_the_end(self, rows, settings):
        loop = scripted(PopDescent(), rows, 2, **settings)
        loop.run()
        assert turns(loop) == [(list(range(len(rows[0]))), 4)] * 2

    def test_the_last_birth_is_kept_for_it(self):
        loop = scripted(PopDescent(), [[3.0, 1.0, 2.0]], 6, num_elites=1, max_births=6)
        loop.run()
        births = [len(record.births) for record in loop.history.iterations()]
        assert births == [2, 0, 1, 0, 0, 0]

    @pytest.mark.parametrize(
        ("later", "alone"),
        [
            # Scores of the copy: never better, better once, better each time.
            ([1.0] * 6, [True, True, False, False, False, False]),
            ([1.1, 0.9, 1.0, 1.2, 0.9, 0.9], [True, True, True, True, False, False]),
            ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [True] * 6),
        ],
    )
    def test_it_is_over_where_nothing_gets_better(self, later, alone):
        rows = [[3.0, 1.0]] * 2 + [[score, 1.0] for score in later]
        loop = scripted(focused(begin=0.25, patience=2), rows, 8)
        loop.run()
        expected = [([0], 8) if is_alone else ([0, 1], 4) for is_alone in alone]
        assert turns(loop)[2:] == expected
        assert loop.history.gradient_steps == 8 * 2 * 4

    def test_after_it_members_are_replaced_again(self):
        loop = scripted(PopDescent(focus=Focus(0.5, 1)), [[3.0, 1.0, 2.0]], 6, num_elites=1)
        loop.run()
        births = [len(record.births) for record in loop.history.iterations()]
        assert births == [2, 2, 1, 2, 2, 0]
        assert [len(slots) for slots, _ in turns(loop)] == [3, 3, 3, 1, 3, 3]

    def test_a_copy_that_diverges_is_replaced_by_another(self):
        rows = [[3.0, 1.0], [3.0, 1.0], [math.nan, 1.0], [0.5, 1.0]]
        loop = scripted(focused(), rows, 4)
        loop.run()
        assert turns(loop)[2:] == [([0], 8)] * 2
        births = [record.births for record in loop.history.iterations()]
        assert [b.optimizer_state for born in births for b in born] == ["restart", "inherit"]
        assert loop.best().score == 0.5
        assert loop.best().gradient_steps == 4 + 8

    def test_nobody_is_born_after_the_last_iteration(self):
        rows = [[3.0, 1.0]] * 3 + [[math.nan, 1.0]]
        loop = scripted(focused(), rows, 4)
        loop.run()
        births = [len(record.births) for record in loop.history.iterations()]
        assert births == [0, 1, 0, 0]
        assert loop.members[0].score != loop.members[0].score
        assert loop.best().score == 1.0

    def test_scores_of_those_who_wait_are_not_counted_again(self):
        rows = [[math.nan, 1.0, 3.0], [2.0, 1.0, 3.0], [math.nan, 1.0, math.nan], [0.5] * 3]
        loop = scripted(focused(), rows, 6)
        loop.run()
        last = loop.history.records[-1].members
        assert sum(math.isnan(member.score) for member in last) == 1
        assert loop.history.num_diverged == 3

    def test_where_no_other_copy_may_be_born_all_train_again(self):
        rows = [[3.0, 1.0], [3.0, 1.0], [math.nan, 1.0]]
        loop = scripted(focused(), rows, 4, max_births=3)
        loop.run()
        assert turns(loop)[2:] == [([0], 8), ([0, 1], 4)]

    def test_a_copy_that_is_stopped_gives_way(self):
        """`EarlyStopping` ends a member, not the search."""

        def score(slot, iteration, values):
            loop.members[0].stopped = iteration >= 4
            return [3.0, 1.0, 2.0][slot]

        loop = scripted_loop(focused(), score, population_size=3, num_elites=0, iterations=6)
        loop.run()
        assert turns(loop) == [([0, 1, 2], 4)] * 3 + [([0], 12)] + [([1, 2], 4)] * 2

    def test_more_iterations_begin_with_all(self):
        loop = scripted(focused(), [[3.0, 1.0]], 4)
        loop.run()
        loop.go_on(loop.executor.data, Budget(2, 4, 8))
        loop.run()
        assert turns(loop)[4:] == [([0, 1], 4), ([0], 8)]

    def test_it_is_said_at_the_beginning(self):
        loop = scripted(focused(begin=0.25), [[3.0, 1.0]], 4)
        [note] = loop.notes
        assert "from 25% of the search on, a copy of the best model trains alone" in note
        assert scripted(focused(), [[3.0]], 4).notes == []

    def test_without_it_all_train_to_the_end(self):
        loop = scripted(PopDescent(focus=None), [[3.0, 1.0]], 4)
        loop.run()
        assert turns(loop) == [([0, 1], 4)] * 4

    def test_presets_of_the_paper_have_none(self):
        assert PopDescent().focus == Focus(0.5, 3) == Focus()
        assert PopDescent.paper().focus is None
        assert PopDescent.reference().focus is None


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
            Population.from_model(build, 3, seed=1, strategy=PopDescent(focus=Focus(0.5, None)))
        )
        assert population.history.gradient_steps == 6 * 3 * 3
        last = population.history.records[-1].members
        copy = next(b for r in population.history.records[3:4] for b in r.births)
        steps = {member.member_id: member.gradient_steps for member in last}
        assert steps[copy.member_id] == copy.inherited_steps + 3 * 3 * 3
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

    @pytest.mark.parametrize("averages", [False, True])
    def test_the_schedule_replays_to_the_copy(self, averages, tmp_path, monkeypatch):
        """Plain `fit` with the recorded schedule ends with the winner's weights."""

        def hyper(hp):
            model = build()
            rate = hp.Float("rate", 0.01, 0.1, default=0.02)
            model.compile(keras.optimizers.Adam(rate, use_ema=averages, ema_momentum=0.9), "mse")
            return model

        first = []
        start = SequentialExecutor.start

        def watched(executor, setup):
            start(executor, setup)
            first.extend(executor.capture(slot) for slot in range(3))

        monkeypatch.setattr(SequentialExecutor, "start", watched)
        tuner = PopDescentTuner(
            hyper, population_size=3, num_elites=1, iterations=4, batches_per_iteration=5, seed=3,
            directory=tmp_path, checkpoint=False, executor="sequential",
        )  # fmt: skip
        # One batch: every step sees the same.
        data = {"x": X, "y": Y, "batch_size": len(X), "verbose": 0}
        tuner.search(**data, validation_data=(X, Y))
        schedule = tuner.get_best_schedule()
        [copy] = tuner.history.records[2].births
        assert schedule.segments[-1].member_id == copy.member_id
        assert schedule.segments[-1].optimizer_state == "restart"
        assert schedule.gradient_steps == copy.inherited_steps + 2 * 15
        model = hyper(keras_tuner.HyperParameters())
        ancestor = first[schedule.segments[0].member_id]
        for variable, weight in zip(model.weights, ancestor.weights, strict=False):
            variable.assign(weight)
        model.fit(**data, epochs=schedule.gradient_steps, callbacks=[schedule.as_callback()])
        winner = tuner.get_best_models()[0]
        for one, other in zip(model.get_weights(), winner.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

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
