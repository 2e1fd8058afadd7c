"""A search that is cut off and goes on is the search that was not: weights, lineage, all of it."""

from __future__ import annotations

import os
import shutil
import warnings

import keras
import keras_tuner
import numpy as np
import pytest

from keras_popdescent.checkpoint import CheckpointWarning, FolderLock
from keras_popdescent.checkpoint import folder as folders
from keras_popdescent.errors import (
    ArgumentError,
    DamagedError,
    DataError,
    PopDescentError,
    ProjectError,
)
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.population import Observer, Population
from keras_popdescent.strategies import (
    ESGD,
    Annealing,
    Averaging,
    ClosingPlan,
    Focus,
    PopDescent,
    TrainingPlan,
)
from keras_popdescent.testing import FixedStrategy
from keras_popdescent.tuners.blueprint import TunerBlueprint

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2))).astype("float32")
VALIDATION = (X[40:], Y[40:])
RATE = "popdescent/learning_rate"


class Crash(Exception):
    """What ends a search in these tests, in the middle of an iteration."""


class Crashes(Observer):
    """Raises when the record of an iteration is there and nobody has been replaced yet."""

    def __init__(self, iteration, closing=False):
        self.iteration = iteration
        self.closing = closing

    def iteration_end(self, record):
        if record.iteration == self.iteration and record.closing == self.closing:
            raise Crash


class CrashesInExecutor:
    """Raises in the n-th call of `advance` from now on, when some members have been trained."""

    def __init__(self, population, call):
        self.left, self.inner = call, population.executor._advance_one
        population.executor._advance_one = self

    def __call__(self, slot, *arguments):
        report = self.inner(slot, *arguments)
        if slot == 1:
            self.left -= 1
            if not self.left:
                self.act()
        return report

    def act(self):
        raise Crash


def build(units=5, rate=0.02, activation="tanh"):
    """A model in which everything that a member is has a part: statistics, masks, penalties."""
    penalty = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(units, activation, kernel_regularizer=penalty),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "mse", metrics=["mae"])
    return model


def make(strategy=None, model=build, size=3, **changes):
    arguments = {"num_elites": 1, "seed": 0, **changes}
    return Population.from_model(model, size, strategy=strategy, **arguments)


def fit(population, directory=None, data=(X[:40], Y[:40]), **changes):
    arguments = {
        **{"validation_data": VALIDATION, "iterations": 5, "batches_per_iteration": 3},
        **{"batch_size": 7, "verbose": 0, "checkpoint_dir": directory, "checkpoint_every": 1},
        **changes,
    }
    return population.fit(*data, **arguments)


def contents(population):
    """All that a search has come to, but for times."""
    tensors = [
        np.array(keras.ops.convert_to_numpy(tensor))
        for slot in range(population.size)
        for part in ("weights", "optimizer")
        for tensor in getattr(population.executor.capture(slot), part)
    ]
    tensors += [np.array(weight) for weight in population.best_model().get_weights()]
    return tensors, records(population.history)


def records(history):
    told = []
    for record in history.records:
        members = [(m.member_id, m.values, m.score, m.gradient_steps) for m in record.members]
        births = [(b.member_id, b.slot, b.parents, b.values) for b in record.births]
        told.append((record.iteration, record.gradient_steps, record.closing, members, births))
    return told


def assert_equal(first, second):
    for one, other in zip(first[0], second[0], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert first[1] == second[1]


STRATEGIES = {
    "default": lambda: PopDescent(focus=None),
    "annealed": lambda: PopDescent(annealing=Annealing(0.1), focus=None),
    "paper": PopDescent.paper,
    # Shared step counters, subsets, own scores, and two kinds of rounds at the end.
    "reference": lambda: PopDescent.reference(
        num_samples=9, fine_tuning=ClosingPlan(rounds=3, batches=2, batch_size=5)
    ),
    # Candidates that are tried out, and optimizers as just built in every iteration.
    "esgd": ESGD,
    "passes": lambda: PopDescent(
        training=TrainingPlan("common", passes=2), noise_scale=0.1, focus=None
    ),
}


@pytest.mark.backend
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_crash_leaves_no_trace(name, tmp_path):
    """Twice: between the record and the births, and between two members."""
    whole = make(STRATEGIES[name]())
    fit(whole)

    with pytest.raises(Crash):
        fit(make(STRATEGIES[name]()), tmp_path, observers=[Crashes(3)])
    again = make(STRATEGIES[name]())
    CrashesInExecutor(again, 2)
    with pytest.raises(Crash):
        fit(again, tmp_path)
    last = make(STRATEGIES[name]())
    history = fit(last, tmp_path)
    assert_equal(contents(last), contents(whole))
    assert len(history) == 5 + (name == "reference")


@pytest.mark.parametrize("call", [6, 7, 8])
def test_a_crash_in_a_closing_round(call, tmp_path):
    whole = make(STRATEGIES["reference"]())
    fit(whole)
    again = make(STRATEGIES["reference"]())
    CrashesInExecutor(again, call)
    with pytest.raises(Crash):
        fit(again, tmp_path)
    last = make(STRATEGIES["reference"]())
    notes = []
    fit(last, tmp_path, observers=[Notes(notes)])
    assert_equal(contents(last), contents(whole))
    assert notes[0] == f"resuming the training after iteration 5 from {tmp_path}"


class Notes(Observer):
    """Keeps what the search has to say."""

    def __init__(self, notes):
        self.notes = notes

    def search_begin(self, loop):
        self.notes += loop.notes


def test_snapshots_that_are_rarer_cost_iterations_not_exactness(tmp_path):
    whole = make()
    fit(whole)
    with pytest.raises(Crash):
        fit(make(), tmp_path, observers=[Crashes(4)], checkpoint_every=2)
    last = make()
    notes = []
    fit(last, tmp_path, observers=[Notes(notes)])
    assert notes[0] == f"resuming iteration 3 of 5 from {tmp_path}"
    assert_equal(contents(last), contents(whole))


def test_without_a_seed_the_search_on_disk_has_one(tmp_path):
    first = make(seed=None)
    with pytest.raises(Crash):
        fit(first, tmp_path, observers=[Crashes(3)])
    second = make(seed=None)
    fit(second, tmp_path)
    assert records(second.history)[:3] == records(first.history)[:3]


def build_structures(hp):
    rate = hp.Float("lr", 1e-3, 1e-1, sampling="log", default=1e-2)
    drop = [layers.Dropout(0.5)] if hp.Boolean("drop") else []
    units = hp.Int("units", 2, 6, step=2)
    inputs = [keras.Input((4,)), layers.Dense(units, hp.Choice("act", ["tanh", "relu"]))]
    model = keras.Sequential([*inputs, *drop, layers.Dense(2)])
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def structured():
    hp = keras_tuner.HyperParameters()
    build_structures(hp)
    blueprint = TunerBlueprint(build_structures, hp, PopDescent())
    return Population(blueprint, 4, 1, strategy=PopDescent(), seed=1)


def test_several_structures(tmp_path):
    """Models are built while the search runs; after a crash, others and in another order."""
    whole = structured()
    history = fit(whole, iterations=6)
    seen = {tuple(sorted(b.values.items())) for b in history.births().values()}
    assert len({dict(values)["units"] for values in seen}) > 1
    assert len({dict(values)["act"] for values in seen}) > 1
    for crash in (2, 5):
        with pytest.raises(Crash):
            fit(structured(), tmp_path, iterations=6, observers=[Crashes(crash)])
    last = structured()
    fit(last, tmp_path, iterations=6)
    assert_equal(contents(last), contents(whole))


# --- Data sets of batches: the position in the stream ----------------------------------------


class Batches(keras.utils.PyDataset):
    """Its order is that of the search's seed; on top of it, it turns its own samples around."""

    def __init__(self, **options):
        super().__init__(**options)
        self.turns = 0

    @property
    def num_batches(self):
        return 4

    def __getitem__(self, index):
        rows = slice(10 * index, 10 * index + 10)
        sign = -1.0 if self.turns % 2 else 1.0
        return sign * X[rows], sign * Y[rows]

    def on_epoch_end(self):
        self.turns += 1


def endless():
    rng = np.random.default_rng(5)
    while True:
        rows = rng.integers(0, 40, 6)
        yield X[rows], Y[rows]


def tf_data():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X[:40], Y[:40])).shuffle(40, seed=3).batch(9)


class Shuffled:
    """An iterable that draws its order when it is first read."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def __iter__(self):
        order = self.rng.permutation(40)
        for start in range(0, 40, 9):
            rows = order[start : start + 9]
            yield X[rows], Y[rows]


def from_generator():
    tf = pytest.importorskip("tensorflow")
    types = tf.TensorSpec((None, 4)), tf.TensorSpec((None, 2))
    source = Shuffled()
    return tf.data.Dataset.from_generator(lambda: iter(source), output_signature=types)


def cached():
    return tf_data().unbatch().cache().batch(9)


@pytest.mark.parametrize(
    "source",
    [
        *(Batches, lambda: Batches(workers=3), endless, tf_data),
        *(Shuffled, from_generator, cached),
    ],
)
@pytest.mark.parametrize("crash", [1, 4])
def test_streams_of_batches(source, crash, tmp_path):
    """A data set that yields the same batches in a new process: all these do."""
    whole = make()
    fit(whole, data=(source(),))
    with pytest.raises(Crash):
        fit(make(), tmp_path, data=(source(),), observers=[Crashes(crash)])
    last = make()
    fit(last, tmp_path, data=(source(),))
    assert_equal(contents(last), contents(whole))


def test_a_stream_that_has_become_shorter(tmp_path):
    batches = [(X[:8], Y[:8])] * 100
    with pytest.raises(Crash):
        fit(make(), tmp_path, data=(iter(batches),), observers=[Crashes(3)])
    with pytest.raises(DataError, match="ends before the batch.*not yet read.*position=18"):
        fit(make(), tmp_path, data=(iter(batches[:17]),))


# --- Budgets ---------------------------------------------------------------------------------


def test_what_is_finished_returns_at_once(tmp_path):
    first = make()
    fit(first, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.glob("snapshot*")}
    second = make()
    notes = []
    second.executor.advance = None  # nothing is trained
    fit(second, tmp_path, observers=[Notes(notes)])
    assert_equal(contents(second), contents(first))
    assert notes[0] == f"all 5 iterations are done, in {tmp_path}; more need a larger budget"
    assert {path: path.read_bytes() for path in tmp_path.glob("snapshot*")} == files
    # In the same process too.
    assert fit(second, tmp_path) is second.history
    assert_equal(contents(second), contents(first))


def test_a_larger_budget_goes_on(tmp_path):
    fit(make(STRATEGIES["reference"]()), tmp_path)
    population = make(STRATEGIES["reference"]())
    notes = []
    history = fit(population, tmp_path, iterations=7, observers=[Notes(notes)])
    assert notes[0] == f"resuming iteration 6 of 7 from {tmp_path}"
    told = [(record.iteration, record.closing) for record in history.iterations()]
    assert told == [
        *((i, False) for i in range(1, 6)),
        (5, True),
        (6, False),
        (7, False),
        (7, True),
    ]
    assert history.gradient_steps == 3 * (7 * 3 + 2 * 3 * 2)


def test_a_smaller_budget_is_done_already(tmp_path):
    first = make(STRATEGIES["reference"]())
    with pytest.raises(Crash):
        fit(first, tmp_path, observers=[Crashes(4)])
    second = make(STRATEGIES["reference"]())
    second.executor.advance = None
    assert len(fit(second, tmp_path, iterations=2)) == 3


def test_epochs_that_grow_keep_the_batches_of_an_iteration(tmp_path):
    """Twice the epochs would have meant iterations twice as long."""
    changes = {"iterations": None, "batches_per_iteration": None, "batch_size": 1}
    fit(make(size=2), tmp_path, **changes, epochs=1)
    population = make(size=2)
    history = fit(population, tmp_path, **changes, epochs=2)
    steps = [record.gradient_steps for record in history.iterations()]
    assert steps == list(range(4, 161, 4))
    # 1 epoch is 20 iterations of 2 batches; a third one that is not whole ends with a short one.
    history = fit(make(size=2), tmp_path, **{**changes, "batch_size": 1}, epochs=3)
    assert history.gradient_steps == 2 * 3 * 40


def test_a_population_that_was_trained_without(tmp_path):
    population = make()
    fit(population)
    with pytest.raises(ArgumentError, match="without checkpoints before.*first `fit` on"):
        fit(population, tmp_path)


# --- Another search in the directory ---------------------------------------------------------


def wider():
    return build(units=6)


def relu():
    return build(activation="relu")


def faster():
    return build(rate=0.04)


@pytest.mark.parametrize(
    ("population", "changes", "message"),
    [
        (lambda: make(model=wider), {}, r"model\.weights\S*: was 5, is 6"),
        (lambda: make(model=relu), {}, "activation: was 'tanh', is 'relu'"),
        (lambda: make(model=faster), {}, "learning_rate.default: was 0.02, is 0.04"),
        (lambda: make(PopDescent.paper()), {}, "mutation.class: was 'UnitMutation', is 'LogN"),
        (lambda: make(PopDescent(noise_scale=0.5)), {}, "noise_scale: was 0.0, is 0.5"),
        (lambda: make(size=4), {}, "population_size: was 3, is 4"),
        (lambda: make(num_elites=2), {}, "num_elites: was 1, is 2"),
        (lambda: make(seed=1), {}, "seed: was 0, is 1"),
        (lambda: make(objective="val_mae"), {}, "objective.name: was 'val_loss', is 'val_mae'"),
        (lambda: make(mutate=["learning_rate"]), {}, r"space.popdescent/l2: was .*, is not there"),
        (make, {"batch_size": 8}, "data.batch_size: was 7, is 8"),
        (make, {"data": (X[:39], Y[:39])}, r"data.training.0.shape.0: was 40, is 39"),
        (make, {"data": (X[:40], -Y[:40])}, r"data.training.1.content: was '\w+', is '\w+'"),
        (make, {"validation_samples": 5}, "strategy.scoring.num_samples: was None, is 5"),
        (make, {"initial_hyperparameters": [{RATE: 0.5}]}, r"first_values.0.\S*rate: was .*0.5"),
        (make, {"batches_per_iteration": 4}, "batches_per_iteration: was 3, is 4"),
    ],
)
def test_what_differs_is_shown(population, changes, message, searched):
    before = {path: path.read_bytes() for path in searched.iterdir()}
    with pytest.raises(ProjectError, match=f"differs from this one.*{message}.*begin anew"):
        fit(population(), searched, **changes)
    assert {path: path.read_bytes() for path in searched.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "phase", "message"),
    [
        ("annealing", Annealing(), "strategy.annealing: was not there, is .*floor"),
        ("focus", Focus(), "strategy.focus: was not there, is .*patience"),
        ("averaging", Averaging(0.6), "strategy.averaging: was not there, is .*0.6"),
    ],
)
def test_phases_of_a_strategy_of_one_s_own_count(name, phase, message, tmp_path):
    """Its `get_config` says nothing of them."""
    fit(make(FixedStrategy()), tmp_path)
    strategy = FixedStrategy()
    setattr(strategy, name, phase)
    with pytest.raises(ProjectError, match=message):
        fit(make(strategy), tmp_path)
    fit(make(FixedStrategy()), tmp_path)


class Within(keras.metrics.Mean):
    def __init__(self, distance, name="within", **options):
        super().__init__(name, **options)
        self.distance = distance

    def update_state(self, y, p, sample_weight=None):
        return super().update_state(keras.ops.cast(keras.ops.abs(y - p) < self.distance, "float32"))

    def get_config(self):
        return {**super().get_config(), "distance": self.distance}


def test_another_metric_of_the_same_name(tmp_path):
    """Scores of the one would be compared with those of the other."""

    def search(distance, *others):
        def model():
            made = build()
            made.compile(made.optimizer, "mse", metrics=[Within(distance), *others])
            return made

        fit(make(model=model, objective=("val_within", "max")), tmp_path, iterations=1)

    search(0.1)
    with pytest.raises(ProjectError, match=r"Changed: model.metrics.within.0.distance: was 0.1, "):
        search(2.0)
    search(0.1, "mae")  # it scores nobody


def test_the_order_of_what_is_mutated_counts(tmp_path):
    """Values are drawn in it."""
    names = ["optimizer.beta_1", "optimizer.beta_2"]
    fit(make(mutate=names), tmp_path, iterations=1)
    with pytest.raises(ProjectError, match=r"Changed: order.0: was '.*beta_1', is '.*beta_2'; "):
        fit(make(mutate=names[::-1]), tmp_path, iterations=1)
    fit(make(mutate=set(names)), tmp_path, iterations=1)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A directory with a search that is finished; tests leave it as it is."""
    directory = tmp_path_factory.mktemp("searched")
    fit(make(), directory)
    return directory


def in_batches(y, order=slice(None), size=8):
    rows = np.arange(len(y))[order]
    return iter([(X[40:][r], y[r]) for r in np.array_split(rows, -(-len(y) // size))])


def test_validation_batches_that_differ(tmp_path):
    """Samples count, not their order: a data set that is shuffled goes on."""
    _, y = VALIDATION
    fit(make(), tmp_path, validation_data=in_batches(y), iterations=1)
    for order in (slice(None), slice(None, None, -1)):
        fit(make(), tmp_path, validation_data=in_batches(y, order), iterations=1)
    other = y.copy()
    other[-1] *= 100.0
    for given in (in_batches(other), in_batches(y[::-1])):
        with pytest.raises(ProjectError, match=r"data.validation.content: was '\w+', is '\w+'"):
            fit(make(), tmp_path, validation_data=given, iterations=1)


def test_class_weights_of_a_data_set_that_differ(tmp_path):
    batches = [(X[:8], np.arange(8) % 2)] * 9

    def run(**changes):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        population = Population.from_model(model, 2, seed=0)
        data = (iter(batches),)
        validation = (X[:8], np.arange(8) % 2)
        fit(population, tmp_path, data, iterations=1, validation_data=validation, **changes)

    run(class_weight={0: 1.0, 1: 2.0})
    run(class_weight={0: 1.0, 1: 2.0})
    with pytest.raises(ProjectError, match=r"data.class_weight.1: was 2.0, is 3.0"):
        run(class_weight={0: 1.0, 1: 3.0})


def test_a_directory_in_use(tmp_path):
    with FolderLock(tmp_path), pytest.raises(ProjectError, match="in use by another search"):
        fit(make(), tmp_path)
    fit(make(), tmp_path, iterations=1)


def test_a_search_that_fails_leaves_the_directory_free(tmp_path):
    with pytest.raises(DataError, match="does not take the data"):
        fit(make(), tmp_path, data=(X[:40, :3], Y[:40]))
    fit(make(), tmp_path, iterations=1)


# --- The disk --------------------------------------------------------------------------------


def test_two_snapshots_stay(tmp_path):
    fit(make(), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    snapshots = ["snapshot-00000005.safetensors", "snapshot-00000006.safetensors"]
    assert names == ["history.jsonl", "lock", *snapshots]


def test_the_need_is_said_before_training(tmp_path):
    notes = []
    fit(make(), tmp_path, observers=[Notes(notes)])
    [said] = [note for note in notes if note.startswith("checkpoints in")]
    size = max(path.stat().st_size for path in tmp_path.glob("snapshot*"))
    about = float(said.split("about ")[1].split(" MB")[0]) * 1e6
    assert size <= about * 1.05 and about <= size * 1.2


def used(directory):
    return sum(path.stat().st_size for path in directory.iterdir())


class Measures:
    """In place of the system's `fsync`: looks at the directory when a snapshot is whole."""

    def __init__(self, directory):
        self.directory = directory
        self.sizes = []

    def __call__(self, descriptor):
        self.sizes.append(used(self.directory))


def test_a_bound_is_kept_at_every_moment(tmp_path, monkeypatch):
    """Room for two snapshots, not for three: the older one goes before the next is written."""
    fit(make(), tmp_path / "free", iterations=12)
    size = max(path.stat().st_size for path in (tmp_path / "free").glob("snapshot*"))
    bound = 2.7 * size + (tmp_path / "free" / "history.jsonl").stat().st_size + folders._MIN_MARGIN
    directory = tmp_path / "bound"
    measured = Measures(directory)
    monkeypatch.setattr(folders.os, "fsync", measured)
    fit(make(), directory, iterations=12, max_disk_mb=bound / 1e6)
    assert 2 * size < max(measured.sizes) <= bound
    assert len(measured.sizes) > 24  # nothing was left out
    with pytest.raises(Crash):
        fit(make(), directory, iterations=14, max_disk_mb=bound / 1e6, observers=[Crashes(13)])
    assert len(fit(make(), directory, iterations=12)) == 12


def test_a_bound_that_cannot_be_kept(tmp_path):
    with pytest.raises(ArgumentError, match="`max_disk_mb` is too small.*at least 0.0.*Raise it"):
        fit(make(), tmp_path, max_disk_mb=0.01)


def test_a_bound_that_is_reached_ends_the_saving_only(tmp_path):
    """The history grows on; the search is the same."""
    whole = make()
    fit(whole, iterations=40)
    bound = 0.1
    population = make()
    with pytest.warns(CheckpointWarning, match="No more checkpoints.*`max_disk_mb` is reached"):
        fit(population, tmp_path, iterations=40, max_disk_mb=bound)
    assert_equal(contents(population), contents(whole))
    assert used(tmp_path) <= bound * 1e6
    # What was saved goes on.
    again = make()
    fit(again, tmp_path, iterations=40)
    assert_equal(contents(again), contents(whole))


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the vectorized executor needs JAX")
@pytest.mark.parametrize("iteration", [1, 3])
def test_the_vectorized_executor_goes_on(iteration, tmp_path):
    """Bit for bit: one process compiles the same program twice, and it adds in the same order."""
    whole = make(executor="vectorized")
    fit(whole)
    with pytest.raises(Crash):
        fit(make(executor="vectorized"), tmp_path, observers=[Crashes(iteration)])
    again = make(executor="vectorized")
    fit(again, tmp_path)
    assert_equal(contents(again), contents(whole))
    with pytest.raises(ProjectError, match='executor: was .*pass `executor="vectorized"` to go on'):
        fit(make(executor="sequential"), tmp_path, iterations=9)


@pytest.mark.backend
def test_a_snapshot_of_another_executor(tmp_path):
    """As where `"auto"` chooses another one, on a machine with a GPU, say."""

    class OtherExecutor(SequentialExecutor):
        pass

    fit(make(executor="sequential"), tmp_path)
    with pytest.raises(ProjectError, match='executor: was .*pass `executor="sequential"` to go on'):
        fit(make(executor=OtherExecutor()), tmp_path, iterations=9)


@pytest.mark.parametrize("num_bytes", [32_768, 81_920, 131_072])
def test_a_real_disk_that_is_full(num_bytes, small_disk, tmp_path):
    """At the first snapshot, while the second or third is written, or by the history."""
    whole = make()
    fit(whole, iterations=60)
    disk = small_disk(num_bytes)
    population = make()
    with pytest.warns(CheckpointWarning, match="No more checkpoints"):
        fit(population, disk / "search", iterations=60)
    assert_equal(contents(population), contents(whole))
    if any((disk / "search").glob("snapshot*")):
        # What was saved goes on elsewhere.
        shutil.copytree(disk / "search", tmp_path / "elsewhere")
        again = make()
        fit(again, tmp_path / "elsewhere", iterations=60)
        assert_equal(contents(again), contents(whole))


@pytest.mark.parametrize("name", ["write", "history_mark"])
def test_a_full_disk_ends_the_saving_only(name, tmp_path, monkeypatch):
    whole = make()
    fit(whole)
    inner, calls = getattr(folders.Folder, name), []

    def full(self, *arguments):
        calls.append(name)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return inner(self, *arguments)

    monkeypatch.setattr(folders.Folder, name, full)
    population = make()
    with pytest.warns(CheckpointWarning, match="No space left on device.*that of iteration 1"):
        fit(population, tmp_path)
    assert len(calls) == 3  # it is not tried again
    assert_equal(contents(population), contents(whole))
    monkeypatch.undo()
    again = make()
    fit(again, tmp_path)
    assert_equal(contents(again), contents(whole))


class Disturbs(CrashesInExecutor):
    """Does something else there."""

    def __init__(self, population, call, what):
        super().__init__(population, call)
        self.act = what


@pytest.mark.parametrize("what", ["moved", "removed", "history removed", "history emptied"])
def test_what_is_taken_away_ends_the_saving_only(what, tmp_path):
    """Nothing is written that no search could go on with."""
    directory, moved = tmp_path / "search", tmp_path / "moved"
    disturbs = {
        "moved": lambda: directory.rename(moved),
        "removed": lambda: shutil.rmtree(directory),
        "history removed": (directory / "history.jsonl").unlink,
        "history emptied": lambda: (directory / "history.jsonl").write_bytes(b""),
    }
    whole, population = make(), make()
    fit(whole)
    Disturbs(population, 3, disturbs[what])
    with pytest.warns(CheckpointWarning, match="No more checkpoints.*that of iteration 2") as told:
        fit(population, directory)
    assert [warning.category for warning in told].count(CheckpointWarning) == 1
    assert_equal(contents(population), contents(whole))
    assert directory.exists() == what.startswith("history")
    if what == "moved":
        again = make()
        fit(again, moved)
        assert_equal(contents(again), contents(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_every": 0}, "`checkpoint_every`.*at least 1.*checkpoint_every=0"),
        ({"checkpoint_every": 1.5}, "`checkpoint_every`"),
        ({"checkpoint_every": "often"}, "`checkpoint_every`"),
        ({"max_disk_mb": 0}, "`max_disk_mb`.*above 0"),
        ({"max_disk_mb": float("nan")}, "`max_disk_mb`"),
        ({"max_disk_mb": "1 GB"}, "`max_disk_mb`"),
    ],
)
def test_arguments(changes, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        fit(make(), tmp_path, **changes)


# --- Damage ----------------------------------------------------------------------------------


def test_a_damaged_snapshot_and_the_one_before_it(tmp_path):
    whole = make()
    fit(whole)
    with pytest.raises(Crash):
        fit(make(), tmp_path, observers=[Crashes(4)])
    newest = sorted(tmp_path.glob("snapshot*"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    last = make()
    with pytest.warns(CheckpointWarning, match="newest snapshot.*damaged; the one before it"):
        fit(last, tmp_path)
    assert_equal(contents(last), contents(whole))
    # And the damage is gone.
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        fit(make(), tmp_path)


def test_nothing_but_damage(tmp_path):
    fit(make(), tmp_path, iterations=2)
    for path in tmp_path.glob("snapshot*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="snapshot is damaged.*snapshot-00000003"):
        fit(make(), tmp_path)


def test_a_history_without_its_snapshots(tmp_path):
    fit(make(), tmp_path, iterations=2)
    history = (tmp_path / "history.jsonl").read_bytes()
    for path in tmp_path.glob("snapshot*"):
        path.unlink()
    with pytest.raises(ProjectError, match="history without the snapshot.*records=3"):
        fit(make(), tmp_path)
    assert (tmp_path / "history.jsonl").read_bytes() == history


def test_a_history_that_was_changed(tmp_path):
    fit(make(), tmp_path, iterations=2)
    path = tmp_path / "history.jsonl"
    path.write_text(path.read_text().replace('"iteration": 1', '"iteration": 7'))
    with pytest.raises(DamagedError, match="history does not fit the snapshot"):
        fit(make(), tmp_path)


def test_a_start_that_was_cut_off(tmp_path):
    """Killed before the first snapshot: a history of nothing but the first births."""
    (tmp_path / "history.jsonl").write_text('{"objective": "val_loss", "direction": "min"}\n{"it')
    (tmp_path / "writing.tmp").write_bytes(b"half a snapshot")
    population = make()
    fit(population, tmp_path, iterations=2)
    assert len(population.history) == 2
    assert sorted(path.name for path in tmp_path.iterdir())[:2] == ["history.jsonl", "lock"]
    assert not (tmp_path / "writing.tmp").exists()


# --- One directory ---------------------------------------------------------------------------


def test_a_population_keeps_to_its_directory(tmp_path):
    population = make()
    fit(population, tmp_path / "one", iterations=2)
    for other in (tmp_path / "two", None):
        with pytest.raises(ArgumentError, match="another directory before.*checkpoint_dir='.*one'"):
            fit(population, other, checkpoint_every=None)
    assert not (tmp_path / "two").exists()
    fit(population, tmp_path / "two" / ".." / "one", iterations=3)
    assert len(population.history) == 3


class Moves(Observer):
    """Changes the process's directory in the middle of the search."""

    def __init__(self, directory):
        self.directory = directory

    def iteration_end(self, record):
        os.chdir(self.directory)


def test_a_relative_directory_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    fit(make(), "runs", iterations=2, observers=[Moves(tmp_path / "elsewhere")])
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(fit(make(), tmp_path / "runs", iterations=3)) == 3


def test_what_cannot_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ProjectError, match="directory cannot be used: .*Received: directory="):
        fit(make(), tmp_path / "file")


@pytest.mark.parametrize("error", [KeyboardInterrupt, Crash])
def test_a_further_call_that_is_cut_off_as_it_starts(error, tmp_path, monkeypatch):
    """New members are never shown under the scores of old ones."""
    other, population = make(), make()
    fit(other, tmp_path / "other", iterations=3)
    fit(other, tmp_path / "other")
    fit(population, tmp_path, iterations=3)

    def cut_off(state):
        raise error

    monkeypatch.setattr(population.executor, "restore", cut_off)
    with pytest.raises(error):
        fit(population, tmp_path)
    monkeypatch.undo()
    for ask in (population.models, population.best_model, population.best_score):
        with pytest.raises(PopDescentError, match="not been trained yet.*Call `fit` first"):
            ask()
    assert not population.history.records
    fit(population, tmp_path)
    assert_equal(contents(population), contents(other))


def test_a_further_call_that_is_refused_takes_nothing_away(tmp_path):
    population = make()
    fit(population, tmp_path, iterations=1)
    before = contents(population)
    with pytest.raises(ProjectError, match="batch_size"):
        fit(population, tmp_path, batch_size=8)
    assert_equal(contents(population), before)


def test_no_directory_after_training_without(tmp_path):
    population = make()
    fit(population, iterations=1, checkpoint_every=None)
    with pytest.raises(ArgumentError, match="without checkpoints before.*Received: checkpoint_dir"):
        fit(population, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_call_again_with_first_values(tmp_path):
    first = {"initial_hyperparameters": [{RATE: 0.03}]}
    population = make()
    fit(population, tmp_path, iterations=2, **first)
    fit(population, tmp_path, iterations=3, **first)
    assert len(population.history) == 3
