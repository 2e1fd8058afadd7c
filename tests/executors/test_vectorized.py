"""The vectorized executor: the laws of all executors, and the sequential executor's results."""

from __future__ import annotations

import signal
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_popdescent import ESGD, PopDescent, Population, TrainingPlan
from keras_popdescent.data import prepare
from keras_popdescent.errors import ArgumentError
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.population import registry
from keras_popdescent.strategies import Offspring, ScoringPlan
from keras_popdescent.testing import ExecutorConformance, FixedStrategy
from keras_popdescent.testing.executors.setting import FIRST_VALUES, make_data

pytestmark = pytest.mark.backend
needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")


def vectorized(**arguments):
    from keras_popdescent.executors.vectorized import VectorizedExecutor

    return VectorizedExecutor(**arguments)


@needs_jax
class TestLaws(ExecutorConformance):
    tolerance = 1e-5

    def make_executor(self):
        return vectorized()


def scanning(engine=None):
    """Return an executor as on an accelerator: a scan over the batches, donated buffers."""
    from keras_popdescent.executors import vectorized as module

    class Executor(module.VectorizedExecutor):
        def _engine(self, stage):
            if stage.engine is None:
                original = module.jax.default_backend
                module.jax.default_backend = lambda: "gpu"
                try:
                    stage.engine = (engine or module.Engine)(stage.live)
                finally:
                    module.jax.default_backend = original
            return stage.engine

    return Executor()


@needs_jax
class TestAgreement:
    """Both executors, from equal states with equal batches."""

    suite = ExecutorConformance()

    def pair(self, other=vectorized, **changes):
        executors = SequentialExecutor(), other()
        for executor in executors:
            executor.start(self.suite.make_setup(**changes))
        return executors

    def compare(self, first, second, slots=range(3)):
        for slot in slots:
            one, other = first.capture(slot), second.capture(slot)
            assert (one.num_plain, one.optimizer_class) == (other.num_plain, other.optimizer_class)
            pairs = zip(
                (*one.weights, *one.optimizer), (*other.weights, *other.optimizer), strict=True
            )
            for expected, array in pairs:
                assert expected.dtype == array.dtype
                np.testing.assert_allclose(array, expected, rtol=2e-4, atol=2e-5)

    @pytest.mark.parametrize(
        ("other", "kind", "optimizer"),
        [
            (vectorized, "none", "inherit"),
            (vectorized, "scalar", "fresh"),
            (vectorized, "gaussian", "inherit"),
            (scanning, "relative", "inherit"),
        ],
    )
    @pytest.mark.parametrize("ema_momentum", [None, 0.4])
    def test_several_iterations(self, other, kind, optimizer, ema_momentum):
        first, second = self.pair(other, ema_momentum=ema_momentum)
        offspring = [
            Offspring(
                slot, parents, {**FIRST_VALUES[0], "popdescent/learning_rate": 0.03 + slot / 100},
                NoiseSpec(kind, 0.02, 11 * slot), optimizer,
            )
            for slot, parents in ((0, (2,)), (2, (0, 1)))
        ]  # fmt: skip
        for iteration in range(3):
            reports = [executor.advance([0, 1, 2], 5) for executor in (first, second)]
            for one, other in zip(*reports, strict=True):
                assert (one.slot, one.gradient_steps) == (other.slot, other.gradient_steps)
                assert set(one.logs) == set(other.logs)
                for name, value in one.logs.items():
                    assert other.logs[name] == pytest.approx(value, rel=2e-4, abs=1e-5)
                assert other.score == pytest.approx(one.score, rel=2e-4)
            self.compare(first, second)
            if iteration < 2:
                for executor in (first, second):
                    executor.apply(offspring)
                self.compare(first, second)

    def test_convolutions_on_a_gpu(self, monkeypatch):
        """There they are matrix products, of several members; of one they are Keras's own."""
        from keras_popdescent.executors import convolutions

        seen = []
        original = convolutions._product
        monkeypatch.setattr(
            convolutions, "_product", lambda layer: seen.append(layer.name) or original(layer)
        )
        x = np.random.default_rng(0).random((120, 8, 8, 1), dtype="float32")
        losses = {}
        for name, executor in (("one by one", SequentialExecutor()), ("at once", scanning())):
            population = Population.from_model(
                image_classifier, 3, 2, strategy=PopDescent.paper(), executor=executor, seed=2
            )
            population.fit(
                x, (x.mean(axis=(1, 2, 3)) > 0.5).astype("int32"), validation_split=0.25,
                iterations=3, batches_per_iteration=4, batch_size=16, verbose=0,
            )  # fmt: skip
            losses[name] = [member.score for member in population.history.iterations()[-1].members]
            assert bool(seen) == (name == "at once")
        assert losses["at once"] == pytest.approx(losses["one by one"], rel=1e-3)
        del seen[:]
        executor = scanning()
        population = Population.from_model(image_classifier, 1, 1, executor=executor, seed=2)
        population.fit(x, x[:, 0, 0, 0] > 0.5, validation_split=0.25, iterations=2, verbose=0)
        assert not seen

    def test_lengths_of_loops_are_those_of_training_and_of_scoring(self):
        """What scores has another number of batches than what trains, and is one call too."""
        executor = scanning()
        arrays = make_data()
        # Three batches of eight, which are not cut into two and one.
        whole = (arrays["x"][:24], arrays["y"][:24])
        data = prepare(**{**arrays, "validation_data": whole}, batch_size=8)
        executor.start(self.suite.make_setup(data=data))
        executor.advance([0, 1, 2], 2)
        engine, calls = executor._stage(executor._values[0]).engine, []
        for name in ("_train", "_test"):
            original = getattr(engine, name)
            setattr(engine, name, lambda *a, f=original, n=name: calls.append(n) or f(*a))
        executor.advance([0, 1, 2], 2)
        assert calls == ["_train", "_test"]

    def test_activations_of_loops_and_branches(self):
        """A loop's body counts once a turn, as its gradient needs them all; a branch counts."""
        import jax

        from keras_popdescent.executors.engine import _computed_bytes

        def count(function):
            return _computed_bytes(jax.make_jaxpr(function)(np.zeros((3, 4), "float32")).jaxpr)

        def loop(x):
            return jax.lax.scan(lambda s, row: (s + row, None), x[0], x)[0]

        def branch(x):
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ np.ones((4, 100), "float32"),
                                lambda x: np.zeros((3, 100), "float32"), x)  # fmt: skip

        assert count(lambda x: x + 1) == 3 * 4 * 4
        assert 3 * 16 <= count(loop) <= 3 * 16 + 64
        assert count(branch) >= 3 * 100 * 4

    @pytest.mark.parametrize("batches", ["own", "common", "subset"])
    @pytest.mark.parametrize(
        "scoring", [ScoringPlan(), ScoringPlan("common", 12), ScoringPlan("own", 12)]
    )
    def test_plans(self, batches, scoring):
        first, second = self.pair(training=TrainingPlan(batches, passes=2), scoring=scoring)
        scores = [
            [report.score for report in executor.advance([0, 1, 2], 4)]
            for executor in (first, second)
        ]
        np.testing.assert_allclose(scores[1], scores[0], rtol=2e-4)

    def test_some_members(self):
        first, second = self.pair()
        for slots in ([0, 1, 2], [2], [0, 2], [0, 1, 2]):
            for executor in (first, second):
                executor.advance(slots, 3)
        self.compare(first, second)

    def test_chunks(self):
        whole, chunked = vectorized(), vectorized(members_at_once=2)
        for executor in (whole, chunked):
            executor.start(self.suite.make_setup())
            executor.advance([0, 1, 2], 5)
            executor.apply([Offspring(1, (2,), dict(FIRST_VALUES[2]))])
            executor.advance([0, 1, 2], 5)
        self.compare(whole, chunked)

    def test_as_many_as_fit_the_memory(self, monkeypatch):
        from keras_popdescent.executors import vectorized as module

        executor = vectorized()
        executor.start(self.suite.make_setup())
        stage = executor._stage(executor._values[0])
        rows = [np.zeros((5, 8), np.int32), np.zeros((1, 4), np.int32)]
        activations = executor._engine(stage).activation_bytes(executor._training_data(stage), 8)
        # Hidden units of the dense layer, and what is made of them.
        assert activations > 2 * 8 * 8 * 4
        size = 4 * executor.capture(0).num_bytes() + activations
        for limit, expected in ((None, 3), (size / 0.6 * 2.5, 2), (1, 1)):
            monkeypatch.setattr(module, "device_memory", lambda limit=limit: limit)
            assert executor._most_at_once(0, rows) == expected
        executor.advance([0, 1, 2], 2)
        assert not executor._store._loose
        assert executor._store.num_bytes(0) == executor.capture(0).num_bytes()

    def test_activations_grow_with_the_batch_and_the_windows_of_convolutions(self):
        first, second = SequentialExecutor(), scanning()
        sizes = {}
        for name, executor in (("in turn", first), ("gpu", second)):
            population = Population.from_model(image_classifier, 2, 1, executor=executor, seed=2)
            x = np.zeros((40, 8, 8, 1), "float32")
            population.fit(x, x[:, 0, 0, 0], validation_split=0.5, iterations=1, verbose=0)
            stage = executor._stage(executor._values[0])
            engine = vectorized()._engine(stage)
            sizes[name] = [engine.activation_bytes(stage.training, n) for n in (8, 16)]
            assert sizes[name][1] == pytest.approx(2 * sizes[name][0], rel=0.1)
        # Windows of 3 x 3 positions, in parts and together: 6 x 6 x 9 x 1 and 3 x 3 x 9 x 4 floats.
        more = 2 * 4 * 8 * (6 * 6 * 9 + 3 * 3 * 9 * 4)
        assert sizes["gpu"][0] - sizes["in turn"][0] >= 0.9 * more

    @pytest.mark.parametrize("batches", ["own", "common"])
    def test_batch_sizes_of_their_own(self, batches):
        values = [{**values, "batch_size": size} for values, size in zip(
            FIRST_VALUES, (8, 4, 8), strict=True)]  # fmt: skip
        first, second = self.pair(values=values, training=TrainingPlan(batches))
        for executor in (first, second):
            reports = executor.advance([0, 1, 2], 6)
            assert [report.gradient_steps for report in reports] == [6, 6, 6]
        self.compare(first, second)

    def test_a_family_shares_a_step_counter(self):
        first, second = self.pair()
        rule = {"optimizer_state": "fresh_slots"}
        for executor in (first, second):
            executor.advance([0, 1, 2], 3)
            executor.apply([Offspring(1, (2,), dict(FIRST_VALUES[2]), **rule)])
            executor.advance([0, 1, 2], 3)
            executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[1]), **rule)])
            executor.advance([0, 1, 2], 3)
            executor.apply([Offspring(2, (2,), dict(FIRST_VALUES[0]))])
            executor.advance([0, 1, 2], 3)
        self.compare(first, second)
        assert first.snapshot()["counters"] == second.snapshot()["counters"]

    def test_hooks_are_still_told(self):
        from keras_popdescent.testing.executors.hooks import Listening

        diary = Listening(set())
        executor = vectorized()
        executor.start(self.suite.make_setup(hooks=diary))
        executor.advance([0, 1, 2], 3)
        assert len(diary.heard) == 6

    def test_a_diverged_member_disturbs_nobody(self):
        first, second = self.pair()
        for executor in (first, second):
            executor.advance([0, 1, 2], 2)
            child = Offspring(1, (1,), {**FIRST_VALUES[1], "popdescent/learning_rate": 1e30})
            executor.apply([child])
            reports = executor.advance([0, 1, 2], 3)
            assert not np.isfinite(reports[1].score)
            assert np.isfinite([reports[0].score, reports[2].score]).all()
            executor.apply([replace(child, parents=(0,), values=dict(FIRST_VALUES[1]))])
            assert np.isfinite(executor.advance([0, 1, 2], 3)[1].score)
        self.compare(first, second)


def build(activation="relu"):
    layers = [
        keras.Input((8,)),
        keras.layers.Dense(16, activation=activation),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def image_classifier():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Conv2D(4, 3, strides=2, padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8)).astype("float32")
    return x, (x @ rng.normal(size=(8, 3))).argmax(axis=1)


@needs_jax
@pytest.mark.parametrize(
    "strategy", [PopDescent(), PopDescent.reference(num_samples=100), ESGD(noise_scale=0.1)]
)
def test_a_whole_search_agrees(strategy):
    x, y = data()
    histories = []
    for executor in ("sequential", "vectorized"):
        population = Population.from_model(
            build, size=5, strategy=strategy, executor=executor, seed=1
        )
        histories.append(
            population.fit(x, y, validation_split=0.25, iterations=4, batches_per_iteration=6,
                           batch_size=32, verbose=0)
        )  # fmt: skip
        model = population.best_model()
        loss = model.evaluate(x[300:], y[300:], verbose=0)[0]
        assert loss == pytest.approx(population.best_score(), rel=1e-4)
    first, second = histories
    for one, other in zip(first.records, second.records, strict=True):
        assert [birth.parents for birth in one.births] == [birth.parents for birth in other.births]
        for member, twin in zip(one.members, other.members, strict=True):
            assert twin.score == pytest.approx(member.score, rel=1e-3)


@needs_jax
@pytest.mark.parametrize("rule", ["restart", "inherit"])
def test_averages_of_weights_agree(rule):
    def averaging():
        model = build()
        optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model

    x, y = data()
    scores = []
    for executor in (SequentialExecutor(), scanning()):
        strategy = PopDescent(focus=None, optimizer_state=rule)
        population = Population.from_model(
            averaging, 3, 1, strategy=strategy, executor=executor, seed=0
        )
        history = population.fit(
            x, y, validation_split=0.25, iterations=3, batches_per_iteration=4, verbose=0
        )
        scores.append([[member.score for member in r.members] for r in history.iterations()])
        loss = population.best_model().evaluate(x[300:], y[300:], verbose=0)[0]
        assert loss == pytest.approx(population.best_score(), rel=1e-4)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3)


@needs_jax
def test_an_interrupt_waits_until_the_iteration_is_recorded():
    """The stacks are given to the calls that train them: there is no way back."""
    from keras_popdescent.executors.vectorized import Engine

    class Interrupted(Engine):
        calls = 0

        def _blocks(self, *arguments):
            for block in super()._blocks(*arguments):
                yield block
                # One block is trained on and two are scored in each iteration.
                Interrupted.calls += 1
                if Interrupted.calls == 4:
                    signal.raise_signal(signal.SIGINT)

    executor = scanning(Interrupted)
    strategy = FixedStrategy(keep_best=False)
    population = Population.from_model(build, 3, strategy=strategy, executor=executor, seed=0)
    x, y = data()
    population.fit(x, y, validation_split=0.25, iterations=4, batches_per_iteration=3, verbose=0)
    assert population.interrupted and len(population.history.iterations()) == 2
    model = population.best_model()
    loss = model.evaluate(x[300:], y[300:], verbose=0)[0]
    assert loss == pytest.approx(population.best_score(), rel=1e-4)
    assert int(model.optimizer.iterations) == 6


@needs_jax
def test_a_tuner_with_members_of_other_structure(tmp_path):
    from keras_popdescent import PopDescentTuner

    def hypermodel(hp):
        model = build(hp.Choice("activation", ["relu", "tanh"]))
        model.optimizer.learning_rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
        return model

    x, y = data()
    tuner = PopDescentTuner(
        hypermodel, population_size=4, seed=0, executor="vectorized", directory=tmp_path
    )
    tuner.search(x, y, validation_split=0.25, epochs=6, batch_size=32, verbose=0)
    assert np.isfinite(tuner.oracle.get_best_trials(1)[0].score)


@needs_jax
def test_it_refuses_fewer_than_one_member():
    with pytest.raises(ArgumentError, match="members_at_once=0"):
        vectorized(members_at_once=0)


@needs_jax
def test_auto_chooses_it_on_an_accelerator(monkeypatch):
    from keras_popdescent.executors import vectorized as module

    assert "sequential" in registry.make_executor("auto")[1]
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    executor, note = registry.make_executor("auto")
    assert isinstance(executor, module.VectorizedExecutor) and "gpu" in note


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="other backends")
def test_on_other_backends_it_says_what_it_needs():
    with pytest.raises(ArgumentError, match="KERAS_BACKEND"):
        registry.make_executor("vectorized")
