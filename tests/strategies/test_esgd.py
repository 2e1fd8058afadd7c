"""Evolutionary SGD: children, ranking and survival, with scripted scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError, ObjectiveError
from keras_popdescent.population.loop import Loop
from keras_popdescent.strategies import ESGD, PopulationView, SearchSpace
from keras_popdescent.strategies.space import LogDimension
from keras_popdescent.testing import ScriptedExecutor, mixed_space, scripted_loop
from keras_popdescent.testing.spaces import spread_values

NAN = float("nan")


def view(scores, num_elites=1, **attributes):
    defaults = {"iteration": 2, "num_iterations": 10, "space": SearchSpace()}
    return PopulationView(
        np.array(scores), [{}] * len(scores), num_elites=num_elites, **{**defaults, **attributes}
    )


def tried(shown, scores, seed=0):
    """Return the view with so many of the strategy's children, scored as given."""
    children = ESGD().candidates(shown, np.random.default_rng(seed))[: len(scores)]
    pairs = zip(children, scores, strict=True)
    return replace(shown, candidates=[replace(child, score=score) for child, score in pairs])


def test_children_are_means_of_members_with_shrinking_noise():
    children = ESGD(4, 3, noise_scale=0.01).candidates(view([1.0] * 5), np.random.default_rng(0))
    assert len(children) == 20
    assert {len(child.parents) for child in children} == {3}
    assert {parent for child in children for parent in child.parents} == set(range(5))
    # sigma_0 / g with g = 2.
    assert {child.weight_noise.sd for child in children} == {0.005}
    assert {child.weight_noise.kind for child in children} == {"gaussian"}
    assert len({child.weight_noise.seed for child in children}) == 20


def test_parents_are_drawn_with_replacement_and_uniformly():
    shown = view([0.1, 100.0, 0.5])
    rng = np.random.default_rng(0)
    litters = [child.parents for _ in range(100) for child in ESGD().candidates(shown, rng)]
    counts = np.bincount(np.ravel(litters), minlength=3)
    # 3,600 draws: six standard deviations of a fair draw are 170.
    assert np.all(np.abs(counts - 1200) < 170)
    assert any(len(set(parents)) == 1 for parents in litters)


def test_diverged_members_have_no_children():
    children = ESGD().candidates(view([NAN, 1.0, NAN]), np.random.default_rng(0))
    assert {parent for child in children for parent in child.parents} == {1}
    assert ESGD().candidates(view([NAN, NAN]), np.random.default_rng(0)) == []


def test_parents_of_other_shapes_are_not_mixed():
    space = mixed_space()
    values = spread_values(space, 6)
    names = space.names("structural")
    assert names
    shown = PopulationView(np.ones(6), values, 1, 10, 1, space)
    for child in ESGD().candidates(shown, np.random.default_rng(0)):
        for name in names:
            assert {values[parent][name] for parent in child.parents} == {child.values[name]}


def test_the_best_of_members_and_children_survive():
    shown = tried(view([0.5, 2.0, 1.0], num_elites=3), [0.7, 0.2, 9.0])
    offspring = ESGD().evolve(shown, np.random.default_rng(0))
    # Member 0 stays; the children of scores 0.2 and 0.7 take the others' places.
    assert [child.score for child in offspring] == [0.2, 0.7]
    assert [child.slot for child in offspring] == [1, 2]
    first = shown.candidates[1]
    assert (offspring[0].parents, offspring[0].weight_noise) == (first.parents, first.weight_noise)


def test_a_larger_score_is_better_where_it_is_maximised():
    shown = tried(view([0.5, 0.1, 0.4], num_elites=3, direction="max"), [0.9, 0.2])
    offspring = ESGD().evolve(shown, np.random.default_rng(0))
    assert [(child.slot, child.score) for child in offspring] == [(1, 0.9)]


def test_the_others_are_drawn_from_the_rest_by_chance():
    shown = tried(view([0.5, 2.0, 1.0], num_elites=1), [0.7, 3.0])
    survivors = {0.5: 0, 2.0: 0, 1.0: 0, 0.7: 0, 3.0: 0}
    copies = 0
    for seed in range(400):
        offspring = ESGD().evolve(shown, np.random.default_rng(seed))
        left = [float(score) for score in shown.scores]
        for child in offspring:
            left[child.slot] = child.score
        assert 0.5 in left
        copies += len(set(left)) < 3
        for score in left:
            survivors[score] += 1
    assert survivors[0.5] == 400
    # 800 draws of four entries: six standard deviations are 74.
    assert all(abs(survivors[score] - 200) < 74 for score in (2.0, 1.0, 0.7, 3.0))
    assert copies > 50


def test_diverged_children_do_not_survive():
    shown = tried(view([0.5, NAN, 1.0], num_elites=2), [NAN, float("inf"), 0.1])
    for seed in range(20):
        offspring = ESGD().evolve(shown, np.random.default_rng(seed))
        assert all(np.isfinite(child.score) for child in offspring)
        assert 1 in {child.slot for child in offspring}


def test_a_search_evolves_after_its_last_iteration_too():
    loop = scripted_loop(ESGD(), [[1.0, 2.0, 3.0]] * 2, num_elites=3)
    loop.executor._candidate_scores = lambda child: 0.5 + child.weight_noise.seed / 2**40
    loop.run()
    births = loop.history.records[-1].births
    assert len(births) == 3
    # The children's scores are theirs from birth: the result is one of them.
    assert 0.5 <= loop.best().score < 0.51
    assert loop.best().member_id in {birth.member_id for birth in births}
    # Its weights are the mean of its parents' and noise of 0.01 / 2.
    assert loop.best().state.weights[0] == pytest.approx(1.0, abs=1.1)


def test_the_kept_best_can_be_a_child():
    loop = scripted_loop(ESGD(keep_best=True), [[1.0, 2.0, 3.0]] * 2, num_elites=3)
    scores = iter(np.linspace(0.1, 9.0, 24))
    loop.executor._candidate_scores = lambda child: float(next(scores))
    loop.run()
    assert loop.best().score == pytest.approx(0.1)


def test_an_objective_of_training_is_refused():
    with pytest.raises(ObjectiveError, match="val_loss"):
        scripted_loop(ESGD(), [[1.0, 2.0]], objective="loss")


@pytest.mark.parametrize(
    "arguments",
    [{"num_offspring": 0}, {"num_parents": 0}, {"noise_scale": -1.0}, {"noise_scale": NAN}],
)
def test_numbers_that_cannot_be_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        ESGD(**arguments)


def test_values_are_the_first_parents():
    space = SearchSpace([LogDimension("rate", 1e-4, 1e-1, default=1e-3)])
    values = [{"rate": 0.001}, {"rate": 0.01}]
    shown = PopulationView(np.ones(2), values, 1, 10, 1, space)
    for child in ESGD().candidates(shown, np.random.default_rng(0)):
        assert child.values == values[child.parents[0]]


def test_other_strategies_try_nothing_out():
    loop = scripted_loop(ESGD(), [[1.0, 2.0]])
    assert isinstance(loop, Loop) and isinstance(loop.executor, ScriptedExecutor)
    from keras_popdescent import PopDescent

    assert PopDescent().candidates(view([1.0, 2.0]), np.random.default_rng(0)) == []
