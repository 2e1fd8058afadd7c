"""KerasTuner's hyperparameters as a search space."""

from __future__ import annotations

import keras_tuner
import numpy as np
import pytest

from keras_popdescent.hyperparameters import Classification
from keras_popdescent.hyperparameters.space import (
    TunerDimension,
    fixed_values,
    probe_plan,
    search_space,
    tunable,
)

LIVE = Classification("live", (("optimizer.learning_rate", 1.0),), unbounded=True)


def space_of(declare) -> keras_tuner.HyperParameters:
    hp = keras_tuner.HyperParameters()
    declare(hp)
    return hp


def dimension(declare, classification=None) -> TunerDimension:
    (hyperparameter,) = space_of(declare).space
    return TunerDimension(hyperparameter, classification)


# name -> what is declared, values that are legal
DECLARED = {
    "float": (lambda hp: hp.Float("v", -1.0, 3.0), None),
    "float log": (lambda hp: hp.Float("v", 1e-4, 1e-1, sampling="log"), None),
    "float reverse log": (lambda hp: hp.Float("v", 0.1, 0.9, sampling="reverse_log"), None),
    "float step": (lambda hp: hp.Float("v", 0.0, 1.0, step=0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
    "float step 0.05": (
        lambda hp: hp.Float("v", 0.0, 1.0, step=0.05),
        [index * 0.05 for index in range(21)],
    ),
    "float step beside the end": (lambda hp: hp.Float("v", 0.0, 1.0, step=0.6), [0.0, 0.6]),
    "int": (lambda hp: hp.Int("v", 3, 6), [3, 4, 5, 6]),
    "int step": (lambda hp: hp.Int("v", 32, 128, step=32), [32, 64, 96, 128]),
    "int log": (lambda hp: hp.Int("v", 2, 16, step=2, sampling="log"), [2, 4, 8, 16]),
    "choice": (lambda hp: hp.Choice("v", ["relu", "tanh", "gelu"]), ["relu", "tanh", "gelu"]),
    "choice floats": (lambda hp: hp.Choice("v", [0.1, 0.01], ordered=False), [0.1, 0.01]),
    "choice ordered": (lambda hp: hp.Choice("v", [16, 64, 256], ordered=True), [16, 64, 256]),
    "boolean": (lambda hp: hp.Boolean("v"), [False, True]),
}


@pytest.fixture(params=DECLARED)
def declared(request):
    declare, legal = DECLARED[request.param]
    return dimension(declare), legal


def test_positions_lead_to_legal_values_of_plain_python_types(declared):
    tested, legal = declared
    hp = tested.hyperparameter
    for position in np.linspace(-0.5, 1.5, 41):
        value = tested.from_unit(float(position))
        assert type(value) in (bool, int, float, str)
        if legal is None:
            assert hp.min_value <= value <= hp.max_value
        else:
            assert value in legal


def test_a_value_comes_back_from_its_position(declared):
    tested, legal = declared
    values = legal or [tested.from_unit(u) for u in (0.0, 0.1, 0.5, 0.9)]
    for value in values:
        assert 0.0 <= tested.to_unit(value) <= 1.0
        back = tested.from_unit(tested.to_unit(value))
        assert back == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)


def test_the_whole_unit_interval_is_used(declared):
    tested, legal = declared
    if legal is not None:
        seen = {tested.from_unit(float(u)) for u in np.linspace(0.0, 1.0, 101)}
        assert seen == set(legal)
    else:
        assert tested.from_unit(0.0) == pytest.approx(tested.hyperparameter.min_value)
        assert tested.from_unit(1.0) == pytest.approx(tested.hyperparameter.max_value, rel=1e-6)


def test_the_unit_space_is_kerastuners_own():
    log = dimension(DECLARED["float log"][0])
    assert log.to_unit(1e-3) == pytest.approx(1.0 / 3.0)
    assert log.from_unit(2.0 / 3.0) == pytest.approx(1e-2)
    assert dimension(DECLARED["float"][0]).to_unit(0.0) == pytest.approx(0.25)


def test_a_maximum_beside_the_steps_has_the_last_ones_position():
    tested = dimension(DECLARED["float step beside the end"][0])
    assert tested.to_unit(1.0) == tested.to_unit(0.6) == 0.75


@pytest.mark.parametrize("name", ["int", "choice ordered", "float"])
def test_only_a_scale_itself_has_no_upper_end(name):
    computed = Classification("live", LIVE.targets, computed=True, unbounded=True)
    assert not dimension(DECLARED[name][0], computed).unbounded
    assert dimension(DECLARED[name][0], LIVE).unbounded == (name == "float")


def test_values_beyond_the_bounds_are_at_the_bounds():
    tested = dimension(DECLARED["float log"][0])
    assert tested.to_unit(5.0) == pytest.approx(1.0)
    assert tested.to_unit(1e-9) == pytest.approx(0.0)
    choice = dimension(DECLARED["choice"][0])
    assert choice.to_unit("swish") == choice.to_unit("relu")


def test_choices():
    assert dimension(DECLARED["choice"][0]).choices == ("relu", "tanh", "gelu")
    assert dimension(DECLARED["boolean"][0]).choices == (False, True)
    for name in ("float", "int step", "choice ordered"):
        assert dimension(DECLARED[name][0]).choices is None


def test_probes_are_other_values_than_the_default(declared):
    tested, legal = declared
    probes = tested.probes()
    assert probes and tested.default not in probes
    assert len(set(probes)) == len(probes)
    if legal is not None and not isinstance(legal[0], int):
        assert set(probes) <= set(legal)


def test_a_long_choice_is_not_probed_at_every_value():
    tested = dimension(lambda hp: hp.Choice("v", list(range(100)), ordered=True))
    assert len(tested.probes()) <= 3


def test_kind_and_scale_come_from_the_classification():
    declare = DECLARED["float log"][0]
    assert dimension(declare).kind == "rebuild" and not dimension(declare).unbounded
    assert dimension(declare, LIVE).kind == "live" and dimension(declare, LIVE).unbounded
    # A choice of words has no scale, whatever it controls.
    assert not dimension(DECLARED["choice"][0], LIVE).unbounded
    assert not dimension(DECLARED["boolean"][0], LIVE).unbounded


def test_what_has_one_value_only_is_fixed():
    hp = space_of(
        lambda hp: (
            hp.Fixed("fixed", 3),
            hp.Choice("single", ["a"]),
            hp.Int("point", 5, 5),
            hp.Float("rate", 0.0, 1.0),
            hp.Boolean("flag"),
        )
    )
    assert [d.name for d in tunable(hp)] == ["rate", "flag"]
    assert fixed_values(hp) == {"fixed": 3, "single": "a", "point": 5}


def conditional(hp):
    hp.Choice("kind", ["mlp", "cnn"])
    with hp.conditional_scope("kind", ["cnn"]):
        hp.Int("filters", 8, 32, step=8)
        hp.Choice("pool", ["max", "mean"])
        with hp.conditional_scope("pool", ["mean"]):
            hp.Float("rate", 0.0, 0.5)
    with hp.conditional_scope("kind", ["mlp"]):
        hp.Int("units", 8, 32, step=8)


def test_a_hyperparameter_is_active_within_its_scope():
    found = {d.name: d for d in tunable(space_of(conditional))}
    assert set(found) == {"kind", "filters", "pool", "rate", "units"}
    values = {"kind": "cnn", "pool": "max"}
    active = {name for name, tested in found.items() if tested.is_active(values)}
    assert active == {"kind", "filters", "pool"}


def test_the_plan_moves_one_at_a_time_within_its_scope():
    dimensions = tunable(space_of(conditional))
    base = {d.name: d.default for d in dimensions}
    plan = probe_plan(dimensions, base)
    assert plan["kind"] == [({**base, "kind": "cnn"}, "")]
    assert [(v["units"], v["kind"], of) for v, of in plan["units"]] == [
        (16, "mlp", ""),
        (24, "mlp", ""),
        (32, "mlp", ""),
    ]
    inside = {**base, "kind": "cnn", "pool": "mean"}
    assert plan["rate"][0] == (inside, "rate")
    for values, reference in plan["rate"][1:]:
        assert reference == "rate"
        assert {**values, "rate": base["rate"]} == inside
        assert values["rate"] != base["rate"]


def test_the_search_space_has_the_kinds_that_were_found():
    hp = space_of(lambda hp: (hp.Float("lr", 1e-3, 1e-1), hp.Int("units", 8, 32)))
    dimensions = tunable(hp)
    found = {"lr": LIVE, "units": Classification("structural")}
    space = search_space(dimensions, found)
    assert space.names("live") == ["lr"] and space.names("structural") == ["units"]
    assert space["lr"].unbounded
    assert space.defaults() == {"lr": 1e-3, "units": 8}
