"""Blueprints: what is live in a model, and what a model looks like for given values."""

from __future__ import annotations

import random

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent.errors import ArgumentError, BindingError, ModelError
from keras_popdescent.hyperparameters import Binding, find_handles
from keras_popdescent.population.blueprint import ModelBlueprint, checked
from keras_popdescent.population.live_model import LiveModel
from keras_popdescent.strategies import PopDescent
from keras_popdescent.tuners.blueprint import TunerBlueprint

layers = keras.layers
L2 = keras.regularizers.L2
SGD = keras.optimizers.SGD
BATCH = (np.ones((4, 3), dtype="float32"), np.ones((4, 1), dtype="float32"))


def network(*middle, optimizer=None, **arguments):
    model = keras.Sequential([keras.Input((3,)), *middle, layers.Dense(1)])
    arguments.setdefault("loss", "mse")
    model.compile(optimizer=SGD(0.1) if optimizer is None else optimizer, **arguments)
    return model


def penalised(coefficient, units=2):
    return layers.Dense(units, kernel_regularizer=L2(coefficient))


def numbers(model):
    return {path: handle.static for path, handle in find_handles(model).items()}


# --- A compiled model, or a function that builds one -----------------------------------------


def test_a_models_own_values_are_tuned_around_where_they_are():
    blueprint = ModelBlueprint(network(penalised(0.01), penalised(0.01), optimizer=SGD(0.1)))
    rate, l2 = blueprint.space
    assert (rate.name, rate.default, rate.low, rate.high) == (
        "popdescent/learning_rate",
        pytest.approx(0.1),
        pytest.approx(0.001),
        pytest.approx(1.0),
    )
    assert (l2.name, l2.default, l2.low, l2.high) == (
        "popdescent/l2",
        0.01,
        pytest.approx(1e-4),
        pytest.approx(1.0),
    )
    assert blueprint.space.names("live") == ["popdescent/learning_rate", "popdescent/l2"]
    assert rate.unbounded and l2.unbounded


def test_penalties_that_differ_share_a_multiplier():
    blueprint = ModelBlueprint(network(penalised(0.01), penalised(0.02)), mutate=("l2",))
    assert blueprint.space.defaults() == {"popdescent/l2_multiplier": 1.0}
    model = blueprint.build({"popdescent/l2_multiplier": 3.0})
    found = [v for path, v in numbers(model).items() if path.endswith(".l2")]
    assert found == pytest.approx([0.03, 0.06])
    live = LiveModel(blueprint, {"popdescent/l2_multiplier": 1.0}, 0, BATCH)
    live.write_values({"popdescent/l2_multiplier": 2.0})
    assert [h.read() for h in live.handles] == pytest.approx([0.02, 0.04])


def test_a_schedule_has_a_multiplier():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    blueprint = ModelBlueprint(network(optimizer=SGD(schedule)))
    assert blueprint.space.defaults() == {"popdescent/learning_rate_multiplier": 1.0}
    model = blueprint.build({"popdescent/learning_rate_multiplier": 0.5})
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_without_penalties_there_is_nothing_to_tune_but_the_rate():
    assert ModelBlueprint(network()).space.names() == ["popdescent/learning_rate"]
    assert ModelBlueprint(network(), mutate=()).space.names() == []


def test_other_values_are_tuned_by_path():
    model = network(layers.Dropout(0.2), optimizer=SGD(0.1, momentum=0.5, weight_decay=0.01))
    paths = ("optimizer.momentum", "optimizer.weight_decay", "2:Dropout.rate")
    blueprint = ModelBlueprint(model, mutate=paths)
    assert blueprint.space.defaults() == dict(zip(paths, (0.5, 0.01, 0.2), strict=True))
    momentum, decay, rate = blueprint.space
    assert (momentum.high, rate.high) == (0.95, 0.95)  # no rate ever reaches 1
    assert decay.high == pytest.approx(1.0) and decay.unbounded and not rate.unbounded
    built = blueprint.build(dict(zip(paths, (0.25, 0.02, 0.4), strict=True)))
    assert [numbers(built)[path] for path in paths] == pytest.approx([0.25, 0.02, 0.4])


def test_a_rate_of_0_moves_up_to_095():
    blueprint = ModelBlueprint(network(), mutate=("optimizer.momentum",))
    (momentum,) = blueprint.space
    assert (momentum.low, momentum.high, momentum.default) == (0.0, 0.95, 0.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("momentum", "no such live scalar.*optimizer.momentum.*mutate='momentum'"),
        ("2:Dropout.rate", "no such live scalar"),
        ("optimizer.weight_decay", "`optimizer.weight_decay` is 0"),
    ],
)
def test_a_path_that_tunes_nothing_is_refused(path, message):
    model = network(optimizer=SGD(0.1, weight_decay=0.0))
    with pytest.raises(ArgumentError, match=message):
        ModelBlueprint(model, mutate=("learning_rate", path))


def test_a_model_is_cloned_and_stays_as_it_is():
    model = network(penalised(0.01))
    before = [array.copy() for array in model.get_weights()]
    blueprint = ModelBlueprint(model)
    built = blueprint.build({"popdescent/learning_rate": 0.5, "popdescent/l2": 0.25})
    assert built is not model and built.optimizer is not model.optimizer
    assert numbers(built)["optimizer.learning_rate"] == pytest.approx(0.5)
    assert numbers(built)["2:Dense.kernel_regularizer.l2"] == pytest.approx(0.25)
    assert numbers(model)["optimizer.learning_rate"] == pytest.approx(0.1)
    assert numbers(model)["2:Dense.kernel_regularizer.l2"] == 0.01
    for array, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3),
        keras.losses.Huber(0.1),  # Keras 3.15 leaves its delta out of its configuration
        "mse",
        ["mae"],
    ],
    ids=["smoothing", "huber", "name", "list"],
)
def test_a_clone_is_compiled_as_the_model_is(loss):
    model = network(loss=loss, metrics=["mae"], loss_weights=0.5 if loss != ["mae"] else [0.5])
    built = ModelBlueprint(model).build({})
    built.set_weights(model.get_weights())
    batch = (BATCH[0], 5.0 * BATCH[1])
    first, second = (m.test_on_batch(*batch, return_dict=True) for m in (model, built))
    assert set(first) == {"loss", "mae"}
    assert first == second


def test_a_function_builds_anew_each_time():
    calls = []

    def build():
        calls.append(network())
        return calls[-1]

    blueprint = ModelBlueprint(build)
    assert blueprint.build({}) is calls[-1]
    assert blueprint.build({}) is not calls[-2]


def test_initial_weights_follow_from_the_seed_and_nothing_else():
    blueprint = ModelBlueprint(lambda: network(layers.Dropout(0.5)))
    random.seed(1)
    first = blueprint.build_seeded({}, 5)
    random.seed(2)
    second = blueprint.build_seeded({}, 5)
    other = blueprint.build_seeded({}, 6)

    def state(model):
        return np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in model.variables])

    np.testing.assert_array_equal(state(first), state(second))
    assert np.abs(state(first) - state(other)).max() > 0.0


def test_building_leaves_the_global_generators_alone():
    blueprint = ModelBlueprint(lambda: network(layers.Dropout(0.5)))
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    blueprint.build_seeded({}, 5)
    assert random.getstate() == states[0]
    np.testing.assert_equal(np.random.get_state(), states[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "no Keras model.*Received: returned='NoneType'"),
        (layers.Dense(1), "no Keras model.*Received: returned='Dense'"),
        (keras.Sequential([layers.Dense(1)]), "not compiled.*model.compile"),
    ],
)
def test_anything_but_a_compiled_model_is_refused(returned, message):
    with pytest.raises(ModelError, match=message):
        checked(returned)
    with pytest.raises(ModelError, match=message):
        ModelBlueprint(lambda: returned)


def test_a_model_that_cannot_be_cloned_says_what_to_do():
    class Own(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.layer = layers.Dense(units)

        def call(self, inputs):
            return self.layer(inputs)

    model = Own(2)
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ModelError, match="cannot be cloned.*Pass a function"):
        ModelBlueprint(model)


def test_multipliers_of_a_strategy():
    blueprint = ModelBlueprint(
        network(penalised(0.5)), mutate=(), multipliers=("loss_scale", "l2_scale")
    )
    assert list(blueprint.bindings({})) == ["popdescent/loss_scale", "popdescent/l2_scale"]
    live = LiveModel(blueprint, {}, 0, BATCH)
    live.write_values({"popdescent/loss_scale": 0.5, "popdescent/l2_scale": 4.0})
    assert [handle.read() for handle in live.handles] == [0.5, 2.0]


# --- A KerasTuner build function -------------------------------------------------------------


def tuned(build, **arguments) -> TunerBlueprint:
    hp = keras_tuner.HyperParameters()
    while True:
        known = len(hp.space)
        for option in (True, False):
            for name in ("deep", "shared"):
                hp.values[name] = option
            build(hp)
        if len(hp.space) == known:
            hp.values.update(deep=False, shared=False)
            return TunerBlueprint(build, hp, PopDescent(), **arguments)


def deep_or_not(hp):
    """Another structure has the same hyperparameters in other places."""
    rate = hp.Float("rate", 0.1, 0.5, default=0.2)
    l2 = hp.Float("l2", 1e-4, 1e-1, sampling="log", default=1e-2)
    middle = [layers.BatchNormalization(), penalised(2.0 * l2)] if hp.Boolean("deep") else []
    lr = hp.Float("lr", 1e-3, 1e-1, default=1e-2) * hp.Float("scale", 0.5, 2.0, default=1.0)
    return network(*middle, penalised(l2), layers.Dropout(rate), optimizer=SGD(lr))


def live_numbers(blueprint, values, written=None):
    """What a live model of some values uses after other values were written to it."""
    live = LiveModel(blueprint, values, 0, BATCH)
    live.write_values(values if written is None else written)
    found = find_handles(live.model)
    # Attached handles of the optimizer's rate and of layers can be read as numbers.
    return {path: round(float(handle.static), 6) for path, handle in found.items()}


@pytest.mark.parametrize("deep", [False, True])
def test_in_every_structure_the_right_handles_follow(deep):
    """The live model, whatever was written to it, holds what a plain model of the values holds."""
    blueprint = tuned(deep_or_not)
    assert blueprint.space.names("live") == ["rate", "l2", "lr", "scale"]
    start = {**blueprint.space.defaults(), "deep": deep}
    moved = {**start, "rate": 0.45, "l2": 0.07, "lr": 0.03, "scale": 1.5}
    expected = {p: round(v, 6) for p, v in numbers(blueprint.build(moved)).items()}
    assert live_numbers(blueprint, start, moved) == expected


def test_the_key_of_a_structure_has_no_live_values():
    blueprint = tuned(deep_or_not)
    values = blueprint.space.defaults()
    assert blueprint.structure_key(values) == blueprint.structure_key({**values, "lr": 0.09})
    assert blueprint.structure_key(values) != blueprint.structure_key({**values, "deep": True})


def test_a_hyperparameter_that_is_live_in_one_structure_only_must_not_be_lost():
    """With `shared`, `rate` also decides the activation: live by default, not so there."""

    def build(hp):
        rate = hp.Float("rate", 0.1, 0.5, default=0.2)
        activation = "relu"
        if hp.Boolean("shared"):
            activation = "relu" if rate < 0.3 else "tanh"
        return network(layers.Dense(2, activation), layers.Dropout(rate))

    blueprint = tuned(build)
    assert blueprint.kinds["rate"].kind == "live"
    apart = {"rate": 0.2, "shared": True}, {"rate": 0.4, "shared": True}
    assert blueprint.structure_key(apart[0]) != blueprint.structure_key(apart[1])
    assert blueprint.bindings(apart[0]) == {}
    for shared in (True, False):
        first, second = ({"rate": rate, "shared": shared} for rate in (0.2, 0.25))
        assert (blueprint.structure_key(first) == blueprint.structure_key(second)) is not shared


def test_what_is_live_by_default_must_not_change_shapes_elsewhere():
    def build(hp):
        rate = hp.Float("rate", 0.1, 0.5, default=0.2)
        units = int(10 * rate) if hp.Boolean("shared") else 2
        return network(layers.Dense(units), layers.Dropout(rate))

    blueprint = tuned(build)
    with pytest.raises(BindingError, match='`rate` is live.*bindings={"rate": "structural"}'):
        blueprint.bindings({"rate": 0.2, "shared": True})


def only_structure(hp):
    units = hp.Int("units", 2, 4)
    return network(penalised(0.01 * units, units), optimizer="adam")


def test_where_nothing_is_live_the_models_own_values_are_mutated():
    blueprint = tuned(only_structure)
    assert blueprint.implicit_names == ["popdescent/learning_rate", "popdescent/l2"]
    assert blueprint.space.names() == ["units", "popdescent/learning_rate", "popdescent/l2"]
    assert tuned(only_structure, implicit_mutation=False).space.names() == ["units"]
    assert tuned(deep_or_not).implicit_names == []


@pytest.mark.parametrize("units", [2, 4])
def test_implicit_values_are_those_of_the_members_own_structure(units):
    blueprint = tuned(only_structure)
    values = blueprint.complete({"units": units})
    assert values == {
        "units": units,
        "popdescent/l2": pytest.approx(0.01 * units),
        "popdescent/learning_rate": 0.001,
    }
    moved = {**values, "popdescent/l2": 0.08, "popdescent/learning_rate": 0.5}
    expected = {p: round(v, 6) for p, v in numbers(blueprint.build(moved)).items()}
    assert expected["optimizer.learning_rate"] == 0.5
    assert expected["2:Dense.kernel_regularizer.l2"] == pytest.approx(0.08)
    # Whatever values the compiled model was built for.
    assert live_numbers(blueprint, values, moved) == expected
    assert live_numbers(blueprint, moved, moved) == expected


@pytest.mark.parametrize("deep", [False, True])
def test_implicit_penalties_keep_their_proportions_in_other_structures(deep):
    def build(hp):
        return network(penalised(0.01), *([penalised(0.03)] if hp.Boolean("deep") else []))

    blueprint = tuned(build)
    values = blueprint.complete({"deep": deep})
    assert values["popdescent/l2"] == 0.01
    moved = {**values, "popdescent/l2": 0.02}
    expected = [0.02, 0.06] if deep else [0.02]
    found = live_numbers(blueprint, values, moved)
    assert [v for path, v in found.items() if path.endswith(".l2")] == pytest.approx(expected)


def rated(hp):
    hp.Float("momentum", 0.1, 0.9, default=0.5)
    return network(layers.Dropout(hp.Float("rate", 0.1, 0.5)), optimizer=SGD(0.1, momentum=0.5))


def test_a_kind_can_be_overruled():
    blueprint = tuned(rated, overrides={"rate": "rebuild"}, implicit_mutation=False)
    assert blueprint.kinds["rate"].kind == "rebuild"
    assert blueprint.bindings(blueprint.space.defaults()) == {}


def test_a_path_can_be_given():
    """The build function does not use the value; models that are exported have it all the same."""
    assert tuned(rated).kinds["momentum"].kind == "rebuild"
    blueprint = tuned(rated, overrides={"momentum": "optimizer.momentum"})
    values = {"momentum": 0.25, "rate": 0.2}
    live = LiveModel(blueprint, values, 0, BATCH)
    live.write_values(values)
    assert live.bindings["momentum"].read() == 0.25
    assert numbers(blueprint.build(values))["optimizer.momentum"] == 0.25


class Momentum(Binding):
    def attach(self, model):
        self.handle = find_handles(model)["optimizer.momentum"]
        self.handle.attach(model)

    def read(self):
        return self.handle.read()

    def write(self, value):
        self.handle.write(value)


@pytest.mark.parametrize("given", [Momentum, Momentum(), lambda: Momentum()])
def test_an_own_binding_can_be_given(given):
    """A class, a function or an instance; each model has a binding of its own."""
    blueprint = tuned(rated, overrides={"momentum": given})
    values = blueprint.space.defaults()
    first, second = (LiveModel(blueprint, values, 0, BATCH) for _ in range(2))
    first.write_values({"momentum": 0.25})
    second.write_values({"momentum": 0.75})
    assert [m.bindings["momentum"].read() for m in (first, second)] == [0.25, 0.75]


def test_what_cannot_be_live_cannot_be_declared_live():
    with pytest.raises(BindingError, match="`momentum` is declared live.*optimizer.momentum"):
        tuned(rated, overrides={"momentum": "live"})


def test_bindings_must_name_hyperparameters():
    with pytest.raises(ArgumentError, match="`bindings`.*momentum, rate.*bindings='decay'"):
        tuned(rated, overrides={"decay": "rebuild"})


def test_a_live_model_reads_back_what_was_written():
    class Deaf(Momentum):
        def write(self, value):
            pass

    values = {"momentum": 0.5, "rate": 0.2}
    live = LiveModel(tuned(rated, overrides={"momentum": Deaf}), values, 0, BATCH)
    with pytest.raises(BindingError, match="`momentum` was written and did not arrive"):
        live.write_values({"momentum": 0.25})
