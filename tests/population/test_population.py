"""The library face: a population of one's own Keras model."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_popdescent import ESGD, PopDescentCallback
from keras_popdescent.errors import (
    ArgumentError,
    DataError,
    ModelError,
    ObjectiveError,
    PopDescentError,
)
from keras_popdescent.hyperparameters._keras_internals import weight_averages
from keras_popdescent.operators import NoiseSpec
from keras_popdescent.population import Observer, Population
from keras_popdescent.population.checks import check_mutate
from keras_popdescent.strategies import ClosingPlan, Offspring, PopDescent, ScoringPlan
from keras_popdescent.testing import FixedStrategy

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4)).astype("float32")
Y = np.stack([X.sum(axis=1), X[:, 0]], axis=1)
VALIDATION = (X[60:], Y[60:])
RATE, L2 = "popdescent/learning_rate", "popdescent/l2"
SHORT = {"iterations": 2, "batches_per_iteration": 3, "batch_size": 16, "verbose": 0}


def build():
    penalty = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, "tanh", kernel_regularizer=penalty), layers.Dense(2)]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    return model


def fit(population, **changes):
    arguments = {"validation_data": VALIDATION, **SHORT, **changes}
    return population.fit(X[:60], Y[:60], **arguments)


def evaluate(model):
    """The validation loss without the penalty, which is what members are compared by."""
    return float(np.mean(np.square(model.predict(VALIDATION[0], verbose=0) - VALIDATION[1])))


@pytest.fixture(scope="module")
def fitted():
    """Three members after six iterations; tests only look at it."""
    strategy = PopDescent(focus=None)
    population = Population.from_model(build(), 3, 1, strategy=strategy, seed=0)
    history = fit(population, iterations=6)
    return population, history


def test_the_history_is_returned_and_kept(fitted):
    population, history = fitted
    assert population.history is history
    assert len(list(history.iterations())) == 6
    assert history.num_replaced == 5 * 2  # nobody is replaced after the last iteration
    assert history.gradient_steps == 6 * 3 * 3


def test_the_models_are_the_living_members_best_first(fitted):
    population, history = fitted
    models = population.models()
    last = list(history.iterations())[-1]
    scores = [evaluate(model) for model in models]
    assert scores == pytest.approx(sorted(member.score for member in last.members), rel=1e-4)
    assert [int(keras.ops.convert_to_numpy(m.optimizer.iterations)) for m in models] == [18] * 3


def test_the_best_model_is_the_best_ever_seen(fitted):
    population, history = fitted
    every = [member.score for record in history.iterations() for member in record.members]
    assert population.best_score() == min(every)
    assert evaluate(population.best_model()) == pytest.approx(min(every), rel=1e-4)
    values = population.best_values()
    model = population.best_model()
    assert float(model.optimizer.learning_rate) == pytest.approx(values[RATE], rel=1e-6)
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(values[L2], rel=1e-6)


def test_what_was_returned_is_the_callers_own(fitted):
    population, _ = fitted
    population.best_values()[RATE] = 99.0
    assert population.best_values()[RATE] != 99.0
    population.best_model().layers[0].kernel.assign(np.zeros((4, 6)))
    assert np.any(keras.ops.convert_to_numpy(population.best_model().layers[0].kernel))


def test_the_paper_keeps_the_fittest_at_the_end():
    population = Population.from_model(build(), 3, 1, strategy=PopDescent.paper(), seed=0)
    history = fit(population, iterations=3)
    last = list(history.iterations())[-1]
    assert population.best_score() == min(member.score for member in last.members)


def test_fit_goes_on():
    """The members stay, iterations and gradient steps are counted on."""
    population = Population.from_model(build(), size=2, num_elites=2, seed=0)
    first = fit(population)
    before = evaluate(population.best_model())
    second = fit(population, iterations=4, batches_per_iteration=5)
    assert second is first
    assert [record.iteration for record in second.iterations()] == [1, 2, 3, 4, 5, 6]
    assert second.gradient_steps == 2 * (2 * 3 + 4 * 5)
    assert evaluate(population.best_model()) < before


def test_fit_goes_on_with_other_data():
    population = Population.from_model(build(), size=2, num_elites=1, seed=0)
    fit(population)
    other = (X[:10], 5.0 * Y[:10])
    history = fit(population, validation_data=other)
    last = list(history.iterations())[-1]
    best = population.models()[0]
    error = np.mean(np.square(best.predict(other[0], verbose=0) - other[1]))
    assert min(member.score for member in last.members) == pytest.approx(error, rel=1e-4)


def test_a_further_fit_has_notes_of_its_own():
    population = Population.from_model(build, size=2, num_elites=2, seed=0)
    fit(population, iterations=None, batches_per_iteration=None, epochs=2, max_time=1e-6)
    assert any("of 8 in all" in note for note in population._loop.notes)
    assert any("ended by max_time" in note for note in population._loop.notes)
    fit(population, iterations=1)
    assert not any("in all" in note or "max_time" in note for note in population._loop.notes)
    fit(population, iterations=40, batches_per_iteration=1)
    assert "weights are not averaged: the search began without averages" in population._loop.notes


def test_a_further_fit_refuses_what_it_cannot_heed():
    population = Population.from_model(build, size=2, num_elites=1, seed=0)
    fit(population, validation_samples=8)
    with pytest.raises(ArgumentError, match="first members already.*Received: initial_hyperpara"):
        fit(population, initial_hyperparameters=[{RATE: 0.1}])
    with pytest.raises(ArgumentError, match="stays as it was.*Received: validation_samples=9"):
        fit(population, validation_samples=9)
    assert len(population.history) == 2
    fit(population, validation_samples=8)
    fit(population)
    assert len(population.history) == 6


def test_a_schedule_of_esgd_begins_each_iteration_with_a_new_optimizer():
    population = Population.from_model(build, 2, 2, strategy=ESGD(num_offspring=1), seed=0)
    history = fit(population, iterations=4)
    first = history.schedule(0, until=12)
    lived = [record.iteration for record in history.iterations() for m in record.members
             if m.member_id == 0]  # fmt: skip
    assert len(first) == len(lived)
    assert {segment.optimizer_state for segment in first} == {"fresh"}


def test_a_function_has_no_weights_to_copy():
    with pytest.raises(ArgumentError, match="no weights to copy.*initial_weights='copied'"):
        Population.from_model(build, 2, initial_weights="copied")


def test_a_model_without_weights_has_none_to_copy():
    model = keras.Sequential([layers.Dense(2)])
    model.compile("adam", "mse")
    with pytest.raises(ArgumentError, match="no weights to copy"):
        Population.from_model(model, 2, initial_weights="copied")


def kernels(population):
    return [model.layers[0].get_weights()[0] for model in population.models()]


@pytest.mark.parametrize(
    ("source", "initial", "equal"),
    [
        (build(), None, True),
        (build(), "copied", True),
        (build(), "fresh", False),
        (build, None, False),
    ],
)
def test_what_the_first_members_start_with(source, initial, equal):
    """A model's own weights, for it may be trained; a function's are drawn anew."""
    population = Population.from_model(
        source, 2, 2, initial_weights=initial, strategy=FixedStrategy(), seed=0
    )
    given = [{RATE: 1e-9, L2: 0.01}] * 2
    fit(population, iterations=1, initial_hyperparameters=given)
    first, second = kernels(population)
    assert np.allclose(first, second, atol=1e-6) == equal
    if equal:
        np.testing.assert_allclose(first, source.layers[0].get_weights()[0], atol=1e-6)


def test_the_first_members_hyperparameters_can_be_given():
    strategy = FixedStrategy(first=[{RATE: 0.02, L2: 0.01}] * 3)
    population = Population.from_model(build(), 3, 3, strategy=strategy, seed=0)
    history = fit(population, iterations=1, initial_hyperparameters=[{RATE: 0.5}, {L2: 0.25}])
    births = history.births()
    assert births[0].values == {RATE: 0.5, L2: 0.01}
    assert births[1].values == {RATE: 0.02, L2: 0.25}
    assert births[2].values == {RATE: 0.02, L2: 0.01}


def test_a_birth_as_the_strategy_says():
    """From the parent's weights, with its own values; the record says what was done."""
    child = Offspring(1, (0,), {RATE: 0.5, L2: 0.25}, NoiseSpec("scalar", 0.0, 3), "fresh", 0.5)
    strategy = FixedStrategy({1: [child]})
    population = Population.from_model(build(), 2, 1, strategy=strategy, seed=0)
    seen = []

    class Watch(Observer):
        def births(self, members):
            executor = population.executor
            seen.append([executor.capture(slot) for slot in range(2)])

    history = fit(population, observers=[Watch()])
    parent, born = seen[1]  # the first ones are those of the first members
    for one, other in zip(parent.weights[:4], born.weights[:4], strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    birth = list(history.births().values())[2]
    assert (birth.slot, birth.parents, birth.replaced) == (1, (0,), 1)
    assert (birth.values, birth.strength) == (child.values, 0.5)
    assert (birth.optimizer_state, birth.inherited_steps) == ("fresh", 3)
    assert int(np.asarray(population.executor.capture(1).optimizer[0])) == 3
    assert population.executor.values_in_use(1) == pytest.approx(child.values)


def test_closing_rounds():
    closing = ClosingPlan(rounds=2, batches=4, batch_size=8)
    strategy = FixedStrategy(closing=closing, keep_best=False)
    population = Population.from_model(build(), 2, 2, strategy=strategy, seed=0)
    history = fit(population)
    assert history.gradient_steps == 2 * (2 * 3 + 2 * 4)
    assert evaluate(population.best_model()) == pytest.approx(population.best_score(), rel=1e-4)


@pytest.mark.backend
def test_an_interrupted_iteration_leaves_members_as_they_were_recorded():
    """One has trained in the third iteration, another one is half through."""

    class Batches:
        number = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.number += 1
            if self.number == 2 * 9 + 5:
                raise KeyboardInterrupt
            rows = (np.arange(16) + 16 * self.number) % 60
            return X[rows], Y[rows]

    strategy = FixedStrategy(keep_best=False)
    population = Population.from_model(build(), 3, 3, strategy=strategy, seed=0)
    arguments = {**SHORT, "iterations": 4, "validation_data": VALIDATION}
    population.fit(Batches(), **arguments)
    assert population.interrupted and len(population.history.iterations()) == 2
    models = population.models()
    assert [int(np.asarray(model.optimizer.iterations)) for model in models] == [6, 6, 6]
    scores = sorted(member.score for member in population.history.records[-1].members)
    assert [evaluate(model) for model in models] == pytest.approx(scores, rel=1e-4)
    # The member that was in the model is out of it.
    seen = []
    population.executor.visit(1, lambda model: seen.append(int(model.optimizer.iterations)))
    assert seen == [6]
    history = fit(population, iterations=1)
    assert [member.gradient_steps for member in history.records[-1].members] == [9, 9, 9]
    steps = [int(np.asarray(model.optimizer.iterations)) for model in population.models()]
    assert steps == [9, 9, 9]


def averaging(momentum=0.8):
    optimizer = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=momentum)
    model = build()
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


@pytest.mark.backend
@pytest.mark.parametrize("rule", ["restart", "inherit", "fresh"])
def test_averaged_weights_are_scored_and_exported(rule):
    """As `fit` ends with them; a member goes on with its own weights."""
    strategy = PopDescent(focus=None, optimizer_state=rule, keep_best=False)
    population = Population.from_model(averaging(), 3, 1, strategy=strategy, seed=0)
    history = fit(population, iterations=4)
    model = population.best_model()
    assert evaluate(model) == pytest.approx(population.best_score(), rel=1e-4)
    for weight, average in weight_averages(model.optimizer):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, average)))
    scores = [[m.score for m in record.members] for record in history.iterations()]
    # A child's average does not begin with zeros, under the counter of its parent.
    assert np.max(scores[1:]) < 2.0 * np.max(scores[0])


@pytest.mark.backend
def test_one_member_with_averaged_weights_ends_as_fit_does():
    strategy = FixedStrategy(keep_best=False)
    model = averaging()
    population = Population.from_model(model, 1, 1, strategy=strategy, seed=0)
    arguments = {"batch_size": 15, "shuffle": False, "verbose": 0}
    population.fit(
        X[:60], Y[:60], validation_data=VALIDATION, iterations=4, batches_per_iteration=2,
        **arguments,
    )  # fmt: skip
    best = population.best_model()
    model.fit(X[:60], Y[:60], epochs=2, **arguments)
    pairs = zip(best.get_weights(), model.get_weights(), strict=True)
    for own, expected in pairs:
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)
    best.fit(X[:60], Y[:60], **arguments)


def test_scoring_on_a_part():
    """All see the same part; a whole validation set would score otherwise."""
    strategy = FixedStrategy()
    strategy.scoring = ScoringPlan("common", 5)
    population = Population.from_model(build(), 2, 2, strategy=strategy, seed=0)
    history = fit(population, iterations=1)
    for record in history.iterations():
        assert all(np.isfinite(member.score) for member in record.members)
    assert evaluate(population.models()[0]) != pytest.approx(population.best_score(), rel=1e-4)
    population = Population.from_model(build(), 2, 2, strategy=FixedStrategy(), seed=0)
    fit(population, iterations=1, validation_samples=5)
    assert evaluate(population.models()[0]) != pytest.approx(population.best_score(), rel=1e-4)


def test_an_objective_to_maximise():
    """The mean absolute error, for the sake of the test."""
    population = Population.from_model(build(), 3, 1, objective=("val_mae", "max"), seed=0)
    history = fit(population)
    every = [member.score for record in history.iterations() for member in record.members]
    assert population.best_score() == max(every)


@pytest.mark.backend
def test_a_function_serves_where_a_model_cannot_be_cloned():
    class Own(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.layer = layers.Dense(units)

        def call(self, inputs):
            return self.layer(inputs)

    def build_own():
        model = Own(2)
        model.compile("adam", "mse")
        return model

    with pytest.raises(ModelError, match="cannot be cloned"):
        Population.from_model(build_own())
    population = Population.from_model(build_own, size=2, num_elites=1, seed=0)
    fit(population)
    assert type(population.best_model()) is Own
    assert evaluate(population.best_model()) == pytest.approx(population.best_score(), rel=1e-4)


def test_a_model_that_was_fitted_before_goes_on_from_there():
    model = build()
    model.fit(X[:60], Y[:60], epochs=3, verbose=0)
    before = evaluate(model)
    population = Population.from_model(model, 2, 2, strategy=FixedStrategy(), seed=0)
    given = [{RATE: 1e-9, L2: 0.01}] * 2
    fit(population, iterations=1, initial_hyperparameters=given)
    assert population.best_score() == pytest.approx(before, rel=1e-3)


# --- What cannot work is said before any training --------------------------------------------


@pytest.mark.parametrize(
    ("size", "num_elites", "message"),
    [
        (0, None, "`size` must be a whole number of at least 1.*size=0"),
        (2.5, None, "`size` must be a whole number"),
        (3, 4, "`num_elites` is outside 0 ... size.*num_elites=4, size=3"),
        (3, -1, "`num_elites` must be"),
    ],
)
def test_sizes(size, num_elites, message):
    with pytest.raises(ArgumentError, match=message):
        Population.from_model(build, size, num_elites)


def test_two_in_five_are_replaced_by_default():
    sizes = (1, 2, 3, 5, 10)
    elites = [Population.from_model(build, size).num_elites for size in sizes]
    assert elites == [1, 1, 2, 3, 6]


def test_what_is_mutated_is_nothing_to_a_strategy_that_mutates_other_things():
    reference = PopDescent.reference()
    for mutate in ("learning_rate", ["l2"], ("optimizer.beta_1",)):
        with pytest.raises(ArgumentError, match=r"does not mutate.*mutate=.*PopDescent"):
            Population.from_model(build, 2, mutate=mutate, strategy=reference)
        with pytest.raises(ArgumentError, match="does not mutate"):
            PopDescentCallback(2, mutate=mutate, strategy=ESGD())
    for mutate in (None, ()):
        population = Population.from_model(build, 2, mutate=mutate, strategy=reference)
        assert population.blueprint.space.names() == []
    assert Population.from_model(build, 2).blueprint.space.names() == [RATE, L2]


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_of_what_is_mutated_has_an_order(kind):
    """Its own would be another one in each process."""
    names = [f"optimizer.{name}" for name in ("beta_1", "beta_2", "clipnorm", "epsilon", "rho")]
    assert check_mutate(kind(names), PopDescent()) == tuple(names)
    assert check_mutate(names[::-1], PopDescent()) == tuple(names[::-1])


def test_a_strategy_that_starts_with_what_is_not_there():
    strategy = FixedStrategy(first=[{RATE: 0.01, L2: 0.01, "learning_rate": 0.5}])
    population = Population.from_model(build, 2, strategy=strategy)
    message = f"`FixedStrategy` starts with.*There are: {RATE}, {L2}.*unknown=.'learning_rate'"
    with pytest.raises(ArgumentError, match=message):
        fit(population)


def test_initial_values_of_what_is_not_there():
    population = Population.from_model(build(), size=3, seed=0)
    with pytest.raises(ArgumentError, match=r"are not in the search space.*unknown=\['"):
        fit(population, iterations=1, initial_hyperparameters=[{"learning_rat": 0.5}])
    assert not population.history.iterations()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"validation_data": None}, DataError, "`val_loss` is measured on validation data"),
        ({"iterations": 0}, ArgumentError, "`iterations` must be a whole number"),
        ({"validation_samples": 0}, ArgumentError, "`validation_samples` must be a whole number"),
        ({"validation_data": (X[60:], Y[61:])}, DataError, "different lengths.*19, 20"),
        ({"sample_weight": np.ones(3)}, DataError, "different lengths"),
    ],
)
def test_arguments(changes, error, message):
    population = Population.from_model(build, 2)
    with pytest.raises(error, match=message):
        fit(population, **changes)
    with pytest.raises(PopDescentError, match="not been trained yet.*Call `fit` first"):
        population.best_model()


def test_data():
    population = Population.from_model(build, 2)
    with pytest.raises(DataError, match="different lengths.*60, 80"):
        population.fit(X[:60], Y, validation_data=VALIDATION, **SHORT)
    with pytest.raises(DataError, match="does not take the data"):
        population.fit(X[:60, :3], Y[:60], validation_data=VALIDATION, **SHORT)
    # Nothing is left of it: the population can be fitted as if nothing had been.
    fit(population)
    assert len(population.models()) == 2


def test_an_objective_that_the_model_does_not_report():
    population = Population.from_model(build, 2, objective=("val_accuracy", "max"))
    message = "does not report the objective.*loss, mae, val_loss, val_mae.*'val_accuracy'"
    with pytest.raises(ObjectiveError, match=message):
        fit(population)


def test_models():
    with pytest.raises(ModelError, match="not compiled"):
        Population.from_model(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(ModelError, match="no Keras model.*NoneType"):
        Population.from_model(lambda: None)


def test_an_executor_that_is_not_there():
    with pytest.raises(ArgumentError, match="no such executor.*sequential.*executor='quantum'"):
        Population.from_model(build, executor="quantum")
