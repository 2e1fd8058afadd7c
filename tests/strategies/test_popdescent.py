"""PopDescent by hand: who is replaced, by whom, how hard; and what the presets are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.operators import NoiseSpec
from keras_popdescent.strategies import (
    Averaging,
    ClosingPlan,
    LogDimension,
    LogNormalMutation,
    Offspring,
    PopDescent,
    PopulationView,
    ReferenceMutation,
    ScoringPlan,
    SearchSpace,
    TrainingPlan,
    UnitMutation,
)
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE
from keras_popdescent.testing import ScriptedGenerator, mixed_space

NAN = float("nan")
SPACE = SearchSpace([LogDimension("learning_rate", 1e-4, 1e-1, 1e-3)])


def view(scores, values=None, num_elites=3, **attributes):
    return PopulationView(
        scores=np.array(scores),
        values=values or [{"learning_rate": 1e-3}] * len(scores),
        iteration=1,
        num_iterations=10,
        num_elites=num_elites,
        space=attributes.pop("space", SPACE),
        **attributes,
    )


def evolved(strategy, shown, **draws):
    """Evolve under given draws, all of which must be used."""
    rng = ScriptedGenerator(**draws)
    offspring = strategy.evolve(shown, rng)
    assert not any(rng.remaining.values())
    return offspring


@pytest.mark.parametrize(
    ("scores", "direction"),
    [
        # Fitness is 1, or 1e-12, for all of them.
        ([2.45e-19, 3.60e-19, 2.04e-18, 2.58e-18, 2.27e-19], "min"),
        ([1.45e15, 1.60e15, 2.04e15, 2.58e15, 1.27e15], "min"),
        ([3e-14, 2e-14, 1e-14, 0.0, 4e-14], "max"),
    ],
)
def test_the_weakest_are_told_apart_where_fitness_is_not(scores, direction):
    shown = view(scores, [{"learning_rate": 1e-3}] * 5, direction=direction)
    assert len(set(shown.fitness)) == 1
    offspring = PopDescent().evolve(shown, np.random.default_rng(0))
    assert [child.slot for child in offspring] == [3, 2]


def test_one_iteration_by_hand():
    # Fitness: 0.8, 0.5, 2/3, 0.25, 1. The weakest two are slots 3 and 1.
    rates = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]
    shown = view([0.5, 2.0, 1.0, 6.0, 0.0], [{"learning_rate": rate} for rate in rates])
    offspring = evolved(
        PopDescent(UnitMutation(1.0), noise_scale=0.01, optimizer_state="inherit"),
        shown,
        choice=[[4, 0]],
        standard_normal=[1.0, 1.0],
        random=[0.5, 0.5],
        integers=[11, 22],
    )
    assert offspring == [
        # Fitness 1: a copy as it is.
        Offspring(3, (4,), {"learning_rate": 5e-3}, NoiseSpec("relative", 0.0, 11), "inherit", 0.0),
        # 1e-3 is at 1/3 of the range of three decades; moved by 0.2 * 1.
        Offspring(
            1,
            (0,),
            {"learning_rate": pytest.approx(10 ** (-4 + 3 * (1 / 3 + 0.2)))},
            NoiseSpec("relative", 0.01 * (1 - 0.8), 22),
            "inherit",
            pytest.approx(0.2),
        ),
    ]


@pytest.mark.parametrize(
    ("scores", "attributes", "slots"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], {"num_elites": 3}, [4, 3]),
        ([0.5, 0.4, 0.3, 0.2, 0.1], {"num_elites": 4}, [0]),
        ([0.5, 0.4, 0.3], {"num_elites": 3}, []),
        ([0.5, 0.4, 0.3], {"num_elites": 0}, [0, 1, 2]),
        ([0.9, 0.5, 0.7], {"num_elites": 2, "direction": "max"}, [1]),
        ([90.0, 50.0, 70.0], {"num_elites": 1, "direction": "max"}, [1, 2]),
        ([-5.0, -9.0, -1.0], {"num_elites": 2}, [2]),
        # Ties: the higher slot is the weaker one.
        ([0.5, 0.5, 0.5], {"num_elites": 1}, [2, 1]),
        # Diverged members are replaced first, and even where that is more than 5 - 3 or 4 - 3.
        ([NAN, 0.5, 0.1, 0.2, 0.9], {"num_elites": 3}, [0, 4]),
        ([NAN, 0.5, NAN, 1.0], {"num_elites": 3}, [2, 0]),
        ([NAN, 0.5, NAN, 1.0], {"num_elites": 3, "births_left": 1}, [2]),
    ],
)
def test_who_is_replaced(scores, attributes, slots):
    offspring = PopDescent().evolve(view(scores, **attributes), np.random.default_rng(0))
    assert [child.slot for child in offspring] == slots


@pytest.mark.parametrize(
    ("score", "direction", "strength"),
    [
        (0.25, "min", 1 - 2 / 2.25),
        (2.6, "min", 1 - 2 / 4.6),
        (0.0, "min", 0.0),
        (0.9, "max", 0.1),
        (1.0, "max", 0.0),
    ],
)
def test_strength_and_noise_follow_the_parents_fitness(score, direction, strength):
    strategy = PopDescent(noise_scale=0.5, noise_kind="gaussian")
    children = strategy.evolve(
        view([score] * 3, num_elites=0, direction=direction), np.random.default_rng(0)
    )
    for child in children:
        assert child.strength == pytest.approx(strength, abs=1e-12)
        assert child.weight_noise.kind == "gaussian"
        assert child.weight_noise.sd == pytest.approx(0.5 * strength, abs=1e-12)


def test_the_weakest_may_be_parents_too():
    rng, shown = np.random.default_rng(0), view([0.0, 2.0, 6.0], num_elites=1)
    parents = [child.parents[0] for _ in range(2000) for child in PopDescent().evolve(shown, rng)]
    shares = np.bincount(parents, minlength=3) / len(parents)
    # Fitness 1, 1/2, 1/4 of a sum of 7/4; standard errors below 0.008.
    np.testing.assert_allclose(shares, [4 / 7, 2 / 7, 1 / 7], atol=0.035)


def test_parents_are_drawn_without_those_that_diverged():
    rng, shown = np.random.default_rng(0), view([NAN, 2.0, 2.0], num_elites=0)
    parents = [child.parents[0] for _ in range(200) for child in PopDescent().evolve(shown, rng)]
    assert set(parents) == {1, 2}


def test_paper_by_hand():
    strategy = PopDescent.paper(beta_1=0.1, beta_2=1.0)
    (child,) = evolved(
        strategy,
        view([2.0, 6.0], num_elites=1),
        choice=[[0]],
        standard_normal=[0.3, -1.0],  # the first is the unit move that is overwritten
        random=[0.5],
        integers=[5],
    )
    # Strength 1/2, half a decade down.
    assert child == Offspring(
        slot=1,
        parents=(0,),
        values={"learning_rate": pytest.approx(1e-3 * 10**-0.5)},
        weight_noise=NoiseSpec("gaussian", 0.05, 5),
        optimizer_state="inherit",
        strength=0.5,
    )


def test_reference_by_hand():
    values = [{"learning_rate": 1e-3, LOSS_SCALE: 1e-4, L2_SCALE: 2.0}] * 2
    (child,) = evolved(
        PopDescent.reference(),
        view([2.0, 6.0], values, num_elites=1),
        choice=[[0]],
        standard_normal=[0.4, -0.8],
        integers=[5],
    )
    # 15 octaves times strength 1/2: r is moved by 3, c by -6.
    assert child == Offspring(
        slot=1,
        parents=(0,),
        values={
            "learning_rate": 1e-3,
            LOSS_SCALE: pytest.approx(1e-4 / 64),
            L2_SCALE: pytest.approx(16.0),
        },
        weight_noise=NoiseSpec("scalar", 0.005, 5),
        optimizer_state="fresh_slots",
        strength=0.5,
    )


def test_reference_starts_from_the_authors_distributions():
    members = PopDescent.reference().start(3000, mixed_space(), np.random.default_rng(0))
    for name, mean in ((LOSS_SCALE, -4.0), (L2_SCALE, 0.0)):
        decades = np.log10([member[name] for member in members])
        assert decades.mean() == pytest.approx(mean, abs=0.15)
        assert decades.std() == pytest.approx(2.0, abs=0.1)
    defaults = mixed_space().defaults()
    assert all({**member, **defaults} == member for member in members)


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        (PopDescent.paper, "beta_1", -1.0),
        (PopDescent.paper, "beta_2", -1.0),
        (PopDescent.paper, "num_samples", 0),
        (PopDescent.reference, "passes", 0),
        (PopDescent.reference, "fine_tuning", "x"),
        (PopDescent.reference, "input_factor", -1.0),
    ],
)
def test_errors_of_presets_name_their_own_arguments(preset, name, value):
    with pytest.raises(ArgumentError, match=f"Received: {name}={value!r}"):
        preset(**{name: value})


@pytest.mark.parametrize("strategy", [PopDescent(), PopDescent.paper()])
def test_the_other_presets_start_with_the_defaults_and_the_prior(strategy):
    first, *others = strategy.start(20, mixed_space(), np.random.default_rng(0))
    assert first == mixed_space().defaults()
    assert len({member["activation"] for member in others}) == 4


def test_default_preset():
    strategy = PopDescent()
    assert strategy.mutation == UnitMutation(0.5, least=0.2)
    assert (strategy.noise_scale, strategy.noise_kind) == (0.0, "relative")
    assert strategy.optimizer_state == "inherit"
    assert strategy.averaging == Averaging(0.8, reach=0.125)
    assert strategy.annealing is None
    assert strategy.training == TrainingPlan("own", 1)
    assert strategy.scoring == ScoringPlan("whole")
    assert strategy.closing.rounds == 0
    assert strategy.keep_best and strategy.implicit
    assert strategy.multipliers == ()


def test_paper_preset():
    strategy = PopDescent.paper(num_samples=100)
    assert strategy.mutation == LogNormalMutation()
    assert (strategy.noise_scale, strategy.noise_kind) == (0.01, "gaussian")
    assert strategy.optimizer_state == "inherit"
    assert strategy.training == TrainingPlan("common", 1)
    assert strategy.scoring == ScoringPlan("common", 100)
    assert strategy.closing.rounds == 0
    assert not strategy.keep_best
    assert strategy.implicit
    assert strategy.multipliers == ()


def test_reference_preset():
    strategy = PopDescent.reference()
    assert strategy.mutation == ReferenceMutation(15.0)
    assert (strategy.noise_scale, strategy.noise_kind) == (0.01, "scalar")
    assert strategy.optimizer_state == "fresh_slots"
    assert strategy.training == TrainingPlan("subset", 1)
    assert strategy.scoring == ScoringPlan("own", 640)
    assert strategy.closing == ClosingPlan(0)
    assert strategy.regularization == "first"
    assert not strategy.keep_best
    assert not strategy.implicit
    assert strategy.multipliers == ("loss_scale", "l2_scale")


def test_reference_switches():
    fine_tuning = ClosingPlan(rounds=3, batches=256, batch_size=64)
    strategy = PopDescent.reference(
        passes=2,
        num_samples=64,
        fine_tuning=fine_tuning,
        regularization="unused",
        noise_kind="gaussian",
        optimizer_state="fresh",
        input_factor=4.0,
    )
    assert strategy.training == TrainingPlan("subset", 2)
    assert strategy.scoring == ScoringPlan("own", 64)
    assert strategy.closing == fine_tuning
    assert strategy.regularization == "unused"
    assert strategy.noise_kind == "gaussian"
    assert strategy.optimizer_state == "fresh"
    assert strategy.mutation == ReferenceMutation(4.0)


@pytest.mark.parametrize("noise_scale", [-0.1, float("inf"), NAN])
def test_a_noise_scale_that_cannot_be(noise_scale):
    with pytest.raises(
        ArgumentError, match=r"`noise_scale` must be a finite number of at least 0\. Received: "
    ):
        PopDescent(noise_scale=noise_scale)


def test_no_noise():
    children = PopDescent(noise_scale=0.0).evolve(view([2.0, 6.0], num_elites=0), rng())
    assert [child.weight_noise.is_zero for child in children] == [True, True]


def test_config_says_all_that_was_chosen():
    config = PopDescent.reference(passes=2, fine_tuning=ClosingPlan(5, 64, 128)).get_config()
    assert json.loads(json.dumps(config)) == {
        "class": "PopDescent",
        "mutation": {"class": "ReferenceMutation", "input_factor": 15.0},
        "noise_scale": 0.01,
        "noise_kind": "scalar",
        "optimizer_state": "fresh_slots",
        "training": {"batches": "subset", "passes": 2, "fresh_optimizer": False},
        "scoring": {"sample": "own", "num_samples": 640},
        "closing": {"rounds": 5, "batches": 64, "batch_size": 128, "passes": 1},
        "annealing": None,
        "focus": None,
        "averaging": None,
        "keep_best": False,
        "regularization": "first",
    }


def rng():
    return np.random.default_rng(0)
