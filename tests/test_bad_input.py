"""Bad input, systematically: each case works, or raises an error of this package that helps.

Every test draws right arguments and puts wild values in the place of one to three of them. What
raises must raise a `PopDescentError` whose message says something. More cases than CI tries:
`BAD_INPUT_EXAMPLES=2000 pytest tests/test_bad_input.py`.
"""

from __future__ import annotations

import os
import string
import warnings
from collections import Counter
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from keras_popdescent import (
    ESGD,
    Annealing,
    ClosingPlan,
    Focus,
    LinearDimension,
    LogDimension,
    Objective,
    PopDescent,
    PopDescentCallback,
    PopDescentTuner,
    Population,
    ScoringPlan,
    SearchSpace,
    TrainingPlan,
)
from keras_popdescent.errors import PopDescentError
from keras_popdescent.strategies.mutations import (
    LogNormalMutation,
    ReferenceMutation,
    UnitMutation,
)
from keras_popdescent.testing.doubles import ScriptedBlueprint, ScriptedExecutor

EXAMPLES = os.environ.get("BAD_INPUT_EXAMPLES")
# How many cases were tried, and how they ended; printed at the end.
TRIED: Counter[str] = Counter()


def tries(number: int):
    return settings(
        max_examples=int(EXAMPLES) if EXAMPLES else number,
        deadline=None,
        derandomize=EXAMPLES is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        # A failing case with real models would be made smaller for minutes.
        phases=[Phase.explicit, Phase.generate],
    )


@pytest.fixture(scope="module", autouse=True)
def _count():
    yield
    if EXAMPLES:
        print(f"\ncases: {sum(TRIED.values())}, {dict(TRIED)}")


def works_or_explains(action) -> None:
    """Call what either works or raises one of the package's errors, with more than its type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            action()
        except PopDescentError as error:
            TRIED[type(error).__name__] += 1
            assert len(str(error)) > 20, repr(error)
            assert len(str(error)) < 5000, len(str(error))
        else:
            TRIED["works"] += 1


class Odd:
    """An object that is nothing in particular."""

    def __repr__(self):
        return "Odd()"


WILD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([10**18, -(10**18), 2**31, 0.0, -0.5, 0.3, 1.0, 2.0, 2.5, 1e300, 1e-320]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1j, b"bytes", "", " ", "auto"]),
    st.text(string.printable, max_size=4),
    st.sampled_from(["val_loss", "own", "common", "whole", "relative", "../x", "a\0b", "1"]),
    st.builds(list),
    st.builds(dict),
    st.builds(tuple),
    st.builds(Odd),
    st.sampled_from([Odd, print, len, np.int64(2), np.float32(0.5), np.float64("nan")]),
    st.builds(lambda: np.zeros(0)),
    st.builds(lambda: np.ones(3)),
    st.builds(lambda: np.array(2)),
    st.builds(lambda: [1, "two", None]),
    st.builds(lambda: {"learning_rate": "high", 3: Odd()}),
    st.builds(lambda: [{"learning_rate": Odd()}]),
    st.builds(lambda: ("val_loss", "sideways")),
    st.builds(lambda: ("val_loss", "min", "max")),
)


@st.composite
def spoiled(draw, right, more=()):
    """Right arguments, of which one to three are something else, or names that are unknown."""
    arguments = {name: draw(value) for name, value in right.items() if draw(st.booleans())}
    names = st.sampled_from([*right, *more])
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        arguments[name] = draw(WILD)
    return arguments


def plans(kind, **fields):
    return st.builds(kind, **fields)


WHOLE = st.integers(1, 3)
RECORDS = {
    TrainingPlan: {
        "batches": st.sampled_from(["own", "common", "subset"]),
        "passes": WHOLE,
        "fresh_optimizer": st.booleans(),
    },
    ScoringPlan: {
        "sample": st.sampled_from(["whole", "common", "own"]),
        "num_samples": st.none() | WHOLE,
    },
    ClosingPlan: {
        "rounds": st.integers(0, 2),
        "batches": st.none() | WHOLE,
        "batch_size": st.none() | WHOLE,
        "passes": WHOLE,
    },
    LogDimension: {
        "name": st.just("learning_rate"),
        "low": st.just(1e-4),
        "high": st.just(1e-1),
        "default": st.just(1e-2),
        "kind": st.sampled_from(["live", "rebuild", "structural"]),
    },
    LinearDimension: {
        "name": st.just("dropout"),
        "low": st.just(0.0),
        "high": st.just(0.9),
        "default": st.just(0.5),
        "kind": st.sampled_from(["live", "rebuild", "structural"]),
    },
    UnitMutation: {"width": st.floats(0.0, 2.0)},
    LogNormalMutation: {"beta_2": st.floats(0.0, 2.0)},
    ReferenceMutation: {"input_factor": st.floats(0.0, 20.0)},
    PopDescent: {
        "mutation": st.builds(UnitMutation),
        "noise_scale": st.just(0.01),
        "noise_kind": st.sampled_from(["none", "gaussian", "relative", "scalar"]),
        "optimizer_state": st.sampled_from(["inherit", "restart", "fresh", "fresh_slots"]),
        "annealing": st.none() | st.builds(Annealing),
        "focus": st.none() | st.builds(Focus),
        "training": st.builds(TrainingPlan),
        "scoring": st.builds(ScoringPlan),
        "closing": st.builds(ClosingPlan),
        "keep_best": st.booleans(),
        "regularization": st.sampled_from(["first", "all", "unused"]),
    },
    Annealing: {"floor": st.floats(0.0, 1.0), "begin": st.floats(0.0, 0.9)},
    Focus: {"begin": st.floats(0.0, 1.0), "patience": st.none() | st.integers(1, 9)},
    ESGD: {
        "num_offspring": WHOLE,
        "num_parents": WHOLE,
        "noise_scale": st.just(0.01),
        "training": st.builds(TrainingPlan),
        "scoring": st.builds(ScoringPlan),
        "closing": st.builds(ClosingPlan),
        "keep_best": st.booleans(),
    },
    Objective: {
        "name": st.just("val_loss"),
        "direction": st.sampled_from(["min", "max"]),
    },
    SearchSpace: {"dimensions": st.builds(list)},
}
NEEDED = {
    LogDimension: ("name", "low", "high", "default"),
    LinearDimension: ("name", "low", "high", "default"),
    Objective: ("name", "direction"),
}
SPACE = SearchSpace([LogDimension("learning_rate", 1e-4, 1e-1, 1e-2)])


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_records(kind):
    @tries(60)
    @given(st.data())
    def check(data):
        arguments = data.draw(spoiled(RECORDS[kind]))
        for name in NEEDED.get(kind, ()):
            if name not in arguments:
                arguments[name] = data.draw(RECORDS[kind][name])

        tame(arguments, ["num_offspring", "num_parents"])

        def make_and_use():
            made = kind(**arguments)
            if kind in (PopDescent, ESGD):
                search(strategy=made)
            elif kind in (LogDimension, LinearDimension):
                value = made.from_unit(0.3)
                assert made.low <= value <= made.high
                assert 0.0 <= made.to_unit(value) <= 1.0
            elif kind in (UnitMutation, LogNormalMutation):
                rng = np.random.default_rng(0)
                assert set(made.mutate(SPACE.defaults(), 0.5, SPACE, rng)) == {"learning_rate"}

        works_or_explains(make_and_use)

    check()


X = np.zeros((8, 2), "float32")
Y = np.zeros((8, 1), "float32")
FIT = {"validation_data": (X, Y), "iterations": 2, "batches_per_iteration": 1, "verbose": 0}


def search(fit=None, x=X, y=Y, **arguments):
    """A search whose models and scores are scripted: it costs a millisecond."""
    given = {"executor": ScriptedExecutor(lambda slot, call, values: 1.0 + slot), **arguments}
    population = Population(given.pop("blueprint", ScriptedBlueprint(SPACE)), **given)
    population.fit(x, y, **{**FIT, **(fit or {})})


POPULATION = {
    "blueprint": st.just(ScriptedBlueprint(SPACE)),
    "size": WHOLE,
    "num_elites": st.none() | st.integers(0, 1),
    "strategy": st.builds(PopDescent),
    "objective": st.sampled_from(["val_loss", ("val_loss", "min")]),
    "seed": st.none() | st.integers(0, 9),
}


@tries(200)
@given(spoiled(POPULATION, ["executor", "initial_weights", "deterministic"]))
@example({"size": float("nan")})
@example({"seed": -1})
@example({"size": True})
def test_population(arguments):
    if isinstance(arguments.get("size"), int | float | np.number) and arguments["size"] > 99:
        arguments["size"] = 99  # right, but large
    works_or_explains(lambda: search(**arguments))


ARRAYS = {
    "x": st.just(X),
    "y": st.just(Y),
    "validation_data": st.just((X, Y)),
    "batch_size": st.none() | WHOLE,
    "validation_batch_size": st.none() | WHOLE,
    "sample_weight": st.none() | st.just(np.ones(8)),
    "class_weight": st.none() | st.just({0: 1.0}),
    "shuffle": st.booleans(),
    "steps_per_epoch": st.none() | WHOLE,
    "validation_steps": st.none() | WHOLE,
    "verbose": st.just(0),
}
POPULATION_FIT = {
    **ARRAYS,
    "validation_split": st.just(0.0),
    "iterations": st.none() | st.just(2),
    "batches_per_iteration": st.none() | st.just(1),
    "epochs": st.none() | WHOLE,
    "max_gradient_steps": st.none() | st.just(30),
    "max_time": st.none() | st.just(5.0),
    "validation_samples": st.none() | WHOLE,
    "initial_hyperparameters": st.just([{"learning_rate": 0.01}]),
    "observers": st.just(()),
    "checkpoint_every": st.none() | WHOLE,
    "max_disk_mb": st.none() | st.just(5.0),
}


def tame(arguments, names, most=5):
    """Let numbers that are right, and large, be small: the search would go on for long."""
    for name in names:
        value = arguments.get(name)
        if isinstance(value, int | float | np.number) and most < value < float("inf"):
            arguments[name] = most
    return arguments


BUDGET = ("iterations", "epochs", "batches_per_iteration", "steps_per_epoch")


@tries(300)
@given(spoiled(POPULATION_FIT))
@example({"shuffle": "batch"})
@example({"validation_split": 1.0, "validation_data": None})
@example({"class_weight": {"cat": 1.0}})
@example({"max_time": float("nan")})
@example({"max_time": np.array([])})
@example({"max_time": float("inf"), "iterations": 1})
def test_fit_of_a_population(arguments):
    x, y = arguments.pop("x", X), arguments.pop("y", Y)
    works_or_explains(lambda: search(tame(arguments, BUDGET), x, y))


@tries(40)
@given(directory=WILD, every=WILD, bound=WILD)
def test_checkpoints_of_a_population(tmp_path_factory, directory, every, bound):
    folder = tmp_path_factory.mktemp("bad")
    home = os.getcwd()
    os.chdir(folder)
    try:
        given = {"checkpoint_dir": directory, "checkpoint_every": every, "max_disk_mb": bound}
        works_or_explains(lambda: search(given))
    finally:
        os.chdir(home)


def build_model(hp):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
    return model


def make_space():
    space = keras_tuner.HyperParameters()
    space.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    return space


TUNER = {
    "hypermodel": st.just(build_model),
    "objective": st.sampled_from(
        ["val_loss", "val_accuracy", keras_tuner.Objective("val_x", "max"), ["val_loss", "loss"]]
    ),
    "max_trials": st.none() | st.integers(1, 9),
    "population_size": WHOLE,
    "num_elites": st.none() | st.integers(0, 1),
    "batches_per_iteration": st.none() | st.just(1),
    "iterations": st.none() | st.just(2),
    "max_gradient_steps": st.none() | st.just(30),
    "max_time": st.none() | st.just(5.0),
    "strategy": st.builds(PopDescent),
    "executor": st.just("sequential"),
    "bindings": st.none() | st.just({"learning_rate": "rebuild"}),
    "validation_samples": st.none() | WHOLE,
    "implicit_mutation": st.booleans(),
    "initial_hyperparameters": st.just([{"learning_rate": 0.01}]),
    "checkpoint": st.booleans(),
    "checkpoint_every": st.none() | WHOLE,
    "max_disk_mb": st.none() | st.just(5.0),
    "seed": st.none() | st.integers(0, 9),
    "deterministic": st.just(False),
    "hyperparameters": st.none() | st.builds(make_space),
    "tune_new_entries": st.booleans(),
    "allow_new_entries": st.booleans(),
    "max_retries_per_trial": st.integers(0, 1),
    "max_consecutive_failed_trials": st.none() | WHOLE,
    "project_name": st.none() | st.just("project"),
    "overwrite": st.booleans(),
    "executions_per_trial": WHOLE,
    "max_model_size": st.none() | st.just(10),
    "tuner_id": st.none() | st.just("tuner1"),
}
MORE = ["popsize", "max_epochs", "directory", "optimizer", "loss", "metrics"]


@pytest.fixture
def alone(tmp_path_factory, monkeypatch):
    """Return what makes a new directory to work in, with one that must stay empty around it."""

    def enter():
        folder = tmp_path_factory.mktemp("bad") / "inside"
        folder.mkdir()
        monkeypatch.chdir(folder)
        return folder

    return enter


def nothing_outside(folder: Path) -> None:
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@tries(200)
@given(arguments=spoiled(TUNER, MORE))
@example(arguments={"project_name": "..", "overwrite": True})
@example(arguments={"project_name": ".", "overwrite": True})
@example(arguments={"project_name": "../other", "overwrite": True})
@example(arguments={"tuner_id": "../../tuner"})
@example(arguments={"objective": "my_score"})
@example(arguments={"executor": 3})
def test_tuner(alone, arguments):
    folder = alone()
    (folder / "kept").touch()

    def make():
        given = {"hypermodel": build_model, "directory": str(folder), **arguments}
        PopDescentTuner(**given)

    works_or_explains(make)
    assert (folder / "kept").exists()
    nothing_outside(folder)


CALLBACK = {
    "population_size": WHOLE,
    "num_elites": st.none() | st.integers(0, 1),
    "batches_per_iteration": st.none() | WHOLE,
    "mutate": st.just(("learning_rate",)),
    "validation_data": st.none() | st.just((X, Y)),
    "validation_batch_size": WHOLE,
    "validation_samples": st.none() | WHOLE,
    "objective": st.none() | st.just("loss"),
    "strategy": st.none() | st.builds(PopDescent),
    "seed": st.none() | st.just(0),
    "verbose": st.just(0),
}


@tries(150)
@given(spoiled(CALLBACK))
def test_callback(arguments):
    works_or_explains(lambda: PopDescentCallback(**arguments))


def tune(folder, fit, build=build_model, **arguments):
    """A search of a tuner with real models, as small as it can be."""
    given = {
        "directory": str(folder),
        "objective": "val_loss",
        "population_size": 2,
        "iterations": 2,
        "batches_per_iteration": 1,
        "checkpoint": False,
        "seed": 0,
        **arguments,
    }
    tuner = PopDescentTuner(build, **given)
    tuner.search(**{"x": X, "y": Y, "validation_data": (X, Y), "verbose": 0, **fit})


SEARCH = {
    **ARRAYS,
    "validation_split": st.just(0.0),
    "epochs": st.none() | WHOLE,
    "callbacks": st.none() | st.builds(list),
    "initial_epoch": st.just(0),
    "validation_freq": st.just(1),
    "heldout_data": st.none() | st.just((X, Y)),
}


@tries(40)
@given(arguments=spoiled(SEARCH, ["metrics", "generator"]))
@example(arguments={"callbacks": [3]})
@example(arguments={"initial_epoch": 5, "epochs": 3})
@example(arguments={"heldout_data": (X, None)})
def test_search(alone, arguments):
    folder = alone()
    works_or_explains(lambda: tune(folder, tame(arguments, BUDGET)))
    nothing_outside(folder)


DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "bool", "complex64", "object",
          "U3", "S3", "datetime64[s]"]  # fmt: skip
SHAPES = st.one_of(
    st.sampled_from([(8, 2), (8, 1), (8,), (0, 2), (), (8, 3), (7, 2), (1, 2), (8, 2, 1)]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


@st.composite
def arrays(draw):
    shape, dtype = draw(SHAPES), draw(st.sampled_from(DTYPES))
    array = np.ones(shape).astype(dtype)
    if array.dtype.kind == "f" and array.size and draw(st.integers(0, 3)) == 0:
        array.flat[0] = draw(st.sampled_from([np.nan, np.inf]))
    as_other = draw(st.sampled_from(["array", "array", "list", "dict", "tuple", "generator"]))
    if as_other == "list":
        return array.tolist()
    if as_other == "generator":
        return iter([(array, array)])
    return {"array": array, "dict": {"a": array}, "tuple": (array, array)}[as_other]


@tries(40)
@given(x=arrays() | st.just(X), y=arrays() | st.just(Y), spoil=st.integers(0, 3), other=arrays())
@example(x=X, y=np.ones((8, 1), "complex64"), spoil=3, other=X)
@example(x=np.ones((8, 2), object), y=Y, spoil=3, other=X)
@example(x=np.full((8, 2), None), y=Y, spoil=3, other=X)
@example(x=[[1.0, 2.0], [3.0]], y=Y, spoil=3, other=X)
@example(x=X, y=np.ones((8, 4, 4)), spoil=3, other=X)
@example(x=X.astype("datetime64[s]"), y=Y, spoil=3, other=X)
def test_shapes_and_dtypes(alone, x, y, spoil, other):
    folder = alone()
    fit = {"x": x, "y": y}
    if spoil < 2:
        fit["validation_data"] = [(other, Y), (X, other)][spoil]
    elif spoil == 2:
        fit["sample_weight"] = other
    works_or_explains(lambda: tune(folder, fit))


NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["../../x", "/etc/x", "a/b", "con", ".", "..", "\0", "popdescent/x", "x" * 300]
    ),
    st.sampled_from(["batch_size", "learning_rate", "popdescent/learning_rate", "tuner/epochs"]),
)


@st.composite
def spaces(draw):
    """Functions that declare some hyperparameters, of which some make no sense."""
    declared = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=3)):
        kind = draw(st.sampled_from(["Float", "Int", "Choice", "Boolean", "Fixed"]))
        low = draw(st.sampled_from([0, 1, 1e-4, -1, 16, float("nan")]))
        high = draw(st.sampled_from([0, 1, 1e-1, 64, float("inf")]))
        values = draw(
            st.sampled_from([[16], [16, 32], ["a", "b"], [True, False], [], [0.0, 1e30], [1, "a"]])
        )
        sampling = draw(st.sampled_from([None, "linear", "log", "reverse_log", "odd"]))
        declared.append((kind, name, low, high, values, sampling))
    use = draw(st.booleans())

    def declare(hp, kind, name, low, high, values, sampling):
        if kind == "Float":
            return hp.Float(name, float(low), float(high), sampling=sampling)
        if kind == "Int":
            return hp.Int(name, low, high, sampling=sampling)
        if kind == "Choice":
            return hp.Choice(name, values)
        return hp.Boolean(name) if kind == "Boolean" else hp.Fixed(name, values[0])

    def build(hp):
        got = [declare(hp, *one) for one in declared]
        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        rate = got[0] if use else 0.01
        model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
        return model

    build.declared = (declared, use)
    return build


class UserError(Exception):
    """Stands for what KerasTuner or the user's own function raises about a space."""


@tries(25)
@given(build=spaces())
def test_spaces(alone, build):
    """What `build_model` itself raises under the default values is the user's to see."""
    folder = alone()
    raised = []

    def watched(hp):
        try:
            return build(hp)
        except Exception as error:
            raised.append(error)
            raise

    def attempt():
        try:
            tune(folder, {}, watched)
        except Exception as error:
            if error not in raised:
                raise
            TRIED["build_model raised"] += 1

    works_or_explains(attempt)
    nothing_outside(folder)
