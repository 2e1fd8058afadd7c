"""What kind each hyperparameter of a build function is, found out by building."""

from __future__ import annotations

import itertools

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent.hyperparameters import Classification, classify
from keras_popdescent.hyperparameters.classify import metric_prints
from keras_popdescent.strategies import PopDescent
from keras_popdescent.tuners.blueprint import TunerBlueprint

layers = keras.layers
LEARNING_RATE = "optimizer.learning_rate"


def blueprint(build, **arguments) -> TunerBlueprint:
    hp = keras_tuner.HyperParameters()
    build(hp)
    return TunerBlueprint(build, hp, PopDescent(), **arguments)


def kinds(build, **arguments) -> dict[str, Classification]:
    return blueprint(build, **arguments).kinds


def finish(model, optimizer="sgd", loss="mse", **arguments):
    model.compile(optimizer=optimizer, loss=loss, **arguments)
    return model


def network(*middle, **arguments):
    return finish(
        keras.Sequential([keras.Input((4,)), layers.Dense(3), *middle, layers.Dense(1)]),
        **arguments,
    )


def typical(hp):
    """What people write: one hyperparameter of most kinds."""
    rate = hp.Float("rate", 0.0, 0.6, default=0.2)
    regularizer = keras.regularizers.L2(hp.Float("l2", 1e-6, 1e-1, sampling="log", default=1e-3))
    model = keras.Sequential([keras.Input((4,))])
    units = hp.Int("units", 4, 12, step=4)
    activation = hp.Choice("activation", ["relu", "tanh"])
    model.add(layers.Dense(units, activation, kernel_regularizer=regularizer))
    if hp.Boolean("batchnorm"):
        model.add(layers.BatchNormalization())
    model.add(layers.Dropout(rate))
    model.add(layers.Dense(1))
    learning_rate = hp.Float("lr", 1e-4, 1e-1, sampling="log", default=1e-3)
    momentum = hp.Float("momentum", 0.0, 0.9, default=0.5)
    return finish(model, keras.optimizers.SGD(learning_rate, momentum=momentum))


def test_a_typical_build_function():
    found = kinds(typical)
    assert found == {
        "rate": Classification("live", (("3:Dropout.rate", 1.0),)),
        "l2": Classification("live", (("2:Dense.kernel_regularizer.l2", 1.0),), unbounded=True),
        "units": Classification("structural"),
        "activation": Classification("rebuild"),
        "batchnorm": Classification("structural"),
        "lr": Classification("live", ((LEARNING_RATE, 1.0),), unbounded=True),
        "momentum": Classification("live", (("optimizer.momentum", 1.0),)),
    }


def test_the_learning_rate_is_the_number_that_was_asked_for():
    """The optimizer holds it in float32: 0.001 comes back as 0.001, not as 0.0010000000475."""
    found = kinds(lambda hp: network(optimizer=keras.optimizers.Adam(hp.Float("lr", 1e-3, 0.1))))
    assert found["lr"].targets == ((LEARNING_RATE, 1.0),) and not found["lr"].computed


def test_a_factor_is_found():
    def build(hp):
        rate = hp.Float("lr", 1e-4, 1e-1, default=1e-2)
        return network(optimizer=keras.optimizers.SGD(0.5 * rate))

    ((path, factor),) = kinds(build)["lr"].targets
    assert path == LEARNING_RATE
    assert factor == pytest.approx(0.5)


def test_one_hyperparameter_for_several_handles():
    def build(hp):
        rate = hp.Float("rate", 0.1, 0.4, default=0.2)
        return network(layers.Dropout(rate), layers.Dense(2), layers.Dropout(2.0 * rate))

    assert dict(kinds(build)["rate"].targets) == {
        "3:Dropout.rate": 1.0,
        "5:Dropout.rate": pytest.approx(2.0),
    }


@pytest.mark.parametrize("compute", [lambda v: 10.0**v, lambda v: 1.0 + v])
def test_what_follows_in_no_simple_way_is_computed(compute):
    def build(hp):
        value = hp.Float("exponent", -4.0, -1.0, default=-3.0)
        return network(optimizer=keras.optimizers.SGD(float(compute(value)), clipnorm=1.0))

    found = kinds(build)["exponent"]
    assert found.kind == "live" and found.computed
    assert [path for path, _ in found.targets] == [LEARNING_RATE]


def test_two_hyperparameters_on_one_handle_are_computed():
    def build(hp):
        rate = hp.Float("scale", 0.1, 1.0, default=0.5) * hp.Float("base", 1e-3, 1e-2)
        return network(
            layers.Dropout(hp.Float("rate", 0.1, 0.5)), optimizer=keras.optimizers.SGD(rate)
        )

    found = kinds(build)
    assert found["scale"].computed and found["base"].computed
    assert not found["rate"].computed


def test_a_choice_of_numbers_can_be_live():
    found = kinds(
        lambda hp: network(optimizer=keras.optimizers.Adam(hp.Choice("lr", [1e-4, 1e-3, 1e-2])))
    )
    assert found["lr"] == Classification("live", ((LEARNING_RATE, 1.0),), unbounded=True)


def test_a_boolean_for_a_regularizer_is_a_rebuild():
    def build(hp):
        penalty = keras.regularizers.L2(1e-3) if hp.Boolean("penalty") else None
        return network(layers.Dense(2, kernel_regularizer=penalty))

    assert kinds(build)["penalty"].kind == "rebuild"


def test_a_boolean_for_a_dropout_layer_is_a_rebuild():
    def build(hp):
        return network(*([layers.Dropout(0.5)] if hp.Boolean("dropout") else []))

    assert kinds(build)["dropout"].kind == "rebuild"


def test_the_class_of_the_optimizer_is_a_rebuild():
    def build(hp):
        return network(optimizer=hp.Choice("optimizer", ["sgd", "adam", "rmsprop"]))

    assert kinds(build)["optimizer"].kind == "rebuild"


def test_the_class_of_the_schedule_is_a_rebuild_its_numbers_too():
    schedules = keras.optimizers.schedules

    def build(hp):
        schedule = schedules.ExponentialDecay(0.1, hp.Int("steps", 10, 30, step=10), 0.5)
        if hp.Boolean("cosine"):
            schedule = schedules.CosineDecay(0.1, 100)
        return network(optimizer=keras.optimizers.SGD(schedule))

    found = kinds(build)
    assert found["steps"].kind == found["cosine"].kind == "rebuild"


def test_the_loss_is_a_rebuild_its_smoothing_is_live():
    def build(hp):
        loss = keras.losses.BinaryCrossentropy(label_smoothing=hp.Float("smoothing", 0.0, 0.3))
        if hp.Boolean("hinge"):
            loss = keras.losses.Hinge()
        return network(loss=loss)

    # Where the loss is another one there is nothing to smooth; the default decides.
    found = kinds(build)
    assert found["smoothing"] == Classification("live", (("loss[0].label_smoothing", 1.0),))
    assert found["hinge"].kind == "rebuild"


def test_another_loss_function_is_a_rebuild():
    assert kinds(lambda hp: network(loss=hp.Choice("loss", ["mse", "mae"])))["loss"].kind == (
        "rebuild"
    )


def test_loss_weights_are_live():
    def build(hp):
        inputs = keras.Input((4,))
        outputs = {name: layers.Dense(1, name=name)(inputs) for name in ("b", "a")}
        return finish(
            keras.Model(inputs, outputs),
            loss={"a": "mse", "b": "mse"},
            loss_weights={"a": hp.Float("weight", 0.1, 1.0), "b": 1.0},
        )

    assert kinds(build)["weight"].targets == (("loss_weights[a]", 1.0),)


def test_a_hyperparameter_that_shows_nowhere_is_a_rebuild():
    """It may act in a closure; only a new model is sure to have it."""

    def build(hp):
        factor = hp.Float("factor", 0.5, 2.0)
        return network(loss=lambda y, p: factor * keras.ops.mean(keras.ops.square(y - p)))

    assert kinds(build)["factor"].kind == "rebuild"


def test_the_batch_size_acts_through_the_data():
    def build(hp):
        hp.Int("batch_size", 16, 64, step=16)
        return network(optimizer=keras.optimizers.SGD(hp.Float("lr", 1e-3, 1e-1)))

    assert kinds(build)["batch_size"] == Classification("live")


def test_layers_with_hyperparameters_of_their_own():
    """The usual `for i in range(hp.Int("num_layers"))`, with a scope of its own for each layer."""

    def build(hp):
        model = keras.Sequential([keras.Input((4,))])
        for i in range(hp.Int("num_layers", 1, 3)):
            with hp.conditional_scope("num_layers", list(range(i + 1, 4))):
                model.add(layers.Dense(hp.Int(f"units_{i}", 2, 6, step=2)))
                model.add(layers.Dropout(hp.Float(f"rate_{i}", 0.1, 0.5)))
        model.add(layers.Dense(1))
        return finish(model)

    hp = keras_tuner.HyperParameters()
    build(hp)
    hp.values["num_layers"] = 3
    build(hp)  # as KerasTuner does: build until no new hyperparameter appears
    hp.values["num_layers"] = 1
    found = TunerBlueprint(build, hp, PopDescent()).kinds
    assert found["num_layers"].kind == "structural"
    assert {found[f"units_{i}"].kind for i in range(3)} == {"structural"}
    assert {found[f"rate_{i}"].kind for i in range(3)} == {"live"}
    assert found["rate_2"].targets == (("7:Dropout.rate", 1.0),)


def test_a_hyperparameter_of_another_branch():
    """A scope that is closed by default is opened to look at what is inside."""

    def build(hp):
        if hp.Choice("optimizer", ["adam", "sgd"]) == "sgd":
            with hp.conditional_scope("optimizer", ["sgd"]):
                momentum = hp.Float("momentum", 0.0, 0.9, default=0.5)
            return network(optimizer=keras.optimizers.SGD(0.1, momentum=momentum))
        return network(optimizer="adam")

    hp = keras_tuner.HyperParameters()
    build(hp)
    hp.values["optimizer"] = "sgd"
    build(hp)
    hp.values["optimizer"] = "adam"
    found = TunerBlueprint(build, hp, PopDescent()).kinds
    assert found["optimizer"].kind == "rebuild"
    assert found["momentum"] == Classification("live", (("optimizer.momentum", 1.0),))


class Subclassed(keras.Model):
    """A model without `get_config`, whose weights appear with the first batch."""

    def __init__(self, units, rate, act):
        super().__init__()
        self.hidden = layers.Dense(units, activation=act)
        self.drop = layers.Dropout(rate)
        self.out = layers.Dense(1)
        self.repeat = 1 if act == "relu" else 2

    def call(self, inputs, training=False):
        return self.out(self.drop(self.hidden(inputs), training=training))


def subclassed(hp):
    return finish(
        Subclassed(
            hp.Int("units", 2, 6, step=2),
            hp.Float("rate", 0.1, 0.5),
            hp.Choice("act", ["relu", "tanh"]),
        )
    )


def test_a_subclassed_model():
    found = kinds(subclassed, batch=(np.zeros((2, 4), "float32"), np.zeros((2, 1), "float32")))
    assert found["units"].kind == "structural"
    assert found["rate"] == Classification("live", (("2:Dropout.rate", 1.0),))
    assert found["act"].kind == "rebuild"


def test_a_subclassed_model_that_is_not_built_has_no_structural_hyperparameters():
    """Without a batch nobody knows the shapes; another model is then the least that can be said."""
    assert kinds(subclassed)["units"].kind == "rebuild"


def test_an_attribute_of_a_subclassed_model_is_seen():
    class Repeating(keras.Model):
        def __init__(self, times):
            super().__init__()
            self.times = times
            self.layer = layers.Dense(4)

        def call(self, inputs):
            for _ in range(self.times):
                inputs = self.layer(inputs)
            return inputs

    found = kinds(lambda hp: finish(Repeating(hp.Int("times", 1, 3))))
    assert found["times"].kind == "rebuild"


def test_other_wiring_of_the_same_layers_is_a_rebuild():
    def build(hp):
        inputs = keras.Input((4,))
        first, second = layers.Dense(4)(inputs), layers.Dense(4)(inputs)
        hidden = layers.Add()([first, inputs if hp.Boolean("skip") else second])
        second_out = layers.Dense(1)(second)
        return finish(keras.Model(inputs, [layers.Dense(1)(hidden), second_out]))

    assert kinds(build)["skip"].kind == "rebuild"


def test_wiring_is_compared_without_automatic_names():
    """Layers are numbered on: the same function gives other names each time."""

    def build(hp):
        inputs = keras.Input((4,))
        hidden = layers.Dropout(hp.Float("rate", 0.1, 0.5))(layers.Dense(4)(inputs))
        return finish(keras.Model(inputs, layers.Dense(1)(hidden)))

    assert kinds(build)["rate"] == Classification("live", (("3:Dropout.rate", 1.0),))


def test_nested_models_are_seen():
    def build(hp):
        penalty = keras.regularizers.L1(hp.Float("l1", 1e-4, 1e-1))
        inner = keras.Sequential(
            [
                layers.Dense(4, kernel_regularizer=penalty),
                layers.Dropout(hp.Float("rate", 0.1, 0.5)),
                layers.Dense(hp.Int("inner_units", 2, 4)),
            ]
        )
        inputs = keras.Input((3, 4))
        hidden = layers.Flatten()(layers.TimeDistributed(inner)(inputs))
        return finish(keras.Model(inputs, layers.Dense(1)(hidden)))

    found = kinds(build)
    assert found["l1"].kind == found["rate"].kind == "live"
    assert found["l1"].targets[0][0].endswith("Dense.kernel_regularizer.l1")
    assert found["inner_units"].kind == "structural"


def test_a_frozen_layer_is_structural():
    def build(hp):
        model = network()
        model.layers[0].trainable = not hp.Boolean("frozen")
        return finish(model)

    assert kinds(build)["frozen"].kind == "structural"


def test_a_clipping_threshold_of_0_is_no_clipping_at_all():
    def build(hp):
        return network(
            optimizer=keras.optimizers.SGD(0.1, clipnorm=hp.Choice("clip", [0.0, 1.0, 2.0]))
        )

    assert kinds(build)["clip"].kind == "rebuild"


def test_metrics_and_callables_do_not_disturb():
    def build(hp):
        def error(y, p):
            return keras.ops.mean(keras.ops.abs(y - p))

        model = network(
            layers.Lambda(lambda x: x * 2.0), layers.Dropout(hp.Float("rate", 0.1, 0.5))
        )
        return finish(model, metrics=[error, "mae"], loss=lambda y, p: error(y, p))

    assert kinds(build)["rate"].kind == "live"


def test_a_conditional_hyperparameter_is_compared_within_its_scope():
    """Of its own probes only, not with the default model, which has another structure."""
    calls = []

    def build(values):
        calls.append(dict(values))
        if values["deep"]:
            return network(layers.Dense(3), layers.Dropout(values["rate"]))
        return network()

    base = {"deep": False, "rate": 0.1}
    opened = {"deep": True, "rate": 0.1}
    found = classify(
        build,
        {"rate": [(opened, "rate"), ({**opened, "rate": 0.3}, "rate")]},
        base,
    )
    assert found["rate"] == Classification("live", (("4:Dropout.rate", 1.0),))
    assert calls == [base, opened, {**opened, "rate": 0.3}]


class Within(keras.metrics.Mean):
    """The part of the predictions that are within a distance of the truth."""

    def __init__(self, distance=0.1, name="within", **options):
        super().__init__(name, **options)
        self.distance = distance

    def get_config(self):
        return {**super().get_config(), "distance": self.distance}


def prints(*metrics, reported="val_within", **arguments):
    return metric_prints(network(metrics=list(metrics), **arguments), [reported])


def test_metrics_are_told_apart_by_class_and_config():
    def within(y, p):
        return 1.0

    found = [
        prints(metric)
        for metric in (Within(0.1), Within(0.2), Within(np.float32(0.3)), within, "mae")
    ]
    assert all(first != second for first, second in itertools.combinations(found, 2))
    assert found[0] == {"within": [[("class", "Within"), ("distance", 0.1), ("dtype", "float32")]]}
    assert found[3]["within"] == [[("class", f"{within.__qualname__}")]]
    assert found[4] == {}
    assert prints(weighted_metrics=[Within(0.1)]) == found[0]


def test_metrics_are_the_same_in_each_build():
    """Neither addresses nor the numbers of automatic names nor lines of code are in it."""

    def build():
        def within(y, p):
            return 1.0

        alone = keras.metrics.MeanMetricWrapper(lambda y, p: 1.0, name="within")
        return prints(within, alone, Within()), prints(keras.metrics.AUC(), reported="val_auc_1")

    first, second = build(), build()
    assert first == second
    assert len(first[0]["within"]) == 3
    assert [pairs[0] for pairs in first[1]["auc"]] == [("class", "AUC")]
    assert "lambda" in repr(first) and " at 0x" not in repr(first)


def test_metrics_that_score_nobody_are_left_out():
    assert prints("mae", keras.metrics.AUC(), Within()).keys() == {"within"}
    assert prints("mae", Within(), reported="val_loss") == {}
    # Of an output of that name.
    assert prints(Within(), reported="val_first_within").keys() == {"within"}
