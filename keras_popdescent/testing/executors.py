"""A suite that every executor passes: it trains as `fit` does, and copies what it is told to copy.

For an executor of one's own:

    class TestMyExecutor(ExecutorConformance):
        def make_executor(self):
            return MyExecutor()

The models are small: a dense network with an L2 penalty, batch normalization and dropout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import keras
import numpy as np

from keras_popdescent.data import prepare
from keras_popdescent.errors import DataError, ObjectiveError
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.objective import objective_of
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import ScoringPlan, TrainingPlan
from keras_popdescent.strategies.space import Values

RATE, L2, DROPOUT = "popdescent/learning_rate", "popdescent/l2", "4:Dropout.rate"
NUM_SAMPLES, BATCH_SIZE, STEPS = 44, 8, 6  # an epoch is five batches of 8 and one of 4
MOMENTUM = 0.5  # of the averages of weights: after two iterations, their mean
FIRST_VALUES: tuple[Values, ...] = (
    {RATE: 0.01, L2: 0.001, DROPOUT: 0.25},
    {RATE: 0.02, L2: 0.01, DROPOUT: 0.5},
    {RATE: 0.005, L2: 0.1, DROPOUT: 0.125},
)
Arrays = list[np.ndarray[Any, Any]]


def build_model() -> keras.Model:
    """Return the suite's model, compiled."""
    layers = keras.layers
    penalty = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="tanh", kernel_regularizer=penalty),
            layers.BatchNormalization(),
            layers.Dropout(0.25, seed=3),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def make_data(seed: int = 0) -> dict[str, Any]:
    """Return arrays for training and validation, as `fit` takes them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_SAMPLES + 20, 5)).astype("float32")
    y = np.stack([x.sum(axis=1), x[:, 0] * x[:, 1]], axis=1)
    border = NUM_SAMPLES
    return {"x": x[:border], "y": y[:border], "validation_data": (x[border:], y[border:])}


class ExecutorConformance:
    """Laws that every executor keeps; override `make_executor`.

    Attributes:
        tolerance: Largest difference, relative or absolute, between weights that count as equal
            where an executor computes what plain Keras computes.
    """

    tolerance: float = 1e-6

    def make_executor(self) -> Executor:
        """Return a new executor, not started."""
        raise NotImplementedError("Override `make_executor`.")

    def make_setup(self, shuffle: bool = True, **changes: Any) -> Setup:
        """Return what to start with: three members, each with values of its own.

        Args:
            shuffle: Whether each epoch has an order of its own.
            **changes: Other attributes of the setup.
        """
        mutate = ("learning_rate", "l2", DROPOUT)
        setup = Setup(
            blueprint=ModelBlueprint(build_model, mutate),
            values=FIRST_VALUES,
            data=prepare(**make_data(), batch_size=BATCH_SIZE, shuffle=shuffle),
            objective=objective_of("val_loss"),
            training=TrainingPlan(),
            scoring=ScoringPlan(),
            seed=np.random.SeedSequence(0),
        )
        return replace(setup, **changes)

    def start(self, **changes: Any) -> Executor:
        """Return an executor that was started with such a setup."""
        executor = self.make_executor()
        executor.start(self.make_setup(**changes))
        return executor

    def started(self, shuffle: bool = True, ema_momentum: float | None = None) -> Executor:
        """Return an executor that the tests share, for time, as it was when it was started."""
        key = (type(self), shuffle, ema_momentum)
        if key not in _SHARED:
            executor = self.start(shuffle=shuffle, ema_momentum=ema_momentum)
            _SHARED[key] = (executor, executor.snapshot())
        executor, snapshot = _SHARED[key]
        executor.restore(snapshot)
        return executor

    # --- The first members ---------------------------------------------------------------------

    def test_every_first_member_has_weights_of_its_own(self) -> None:
        """Population Descent starts from independent initial weights."""
        executor = self.started()
        kernels = [_own(executor.capture(slot))[0] for slot in range(3)]
        for slot in range(3):
            assert np.any(kernels[slot] != kernels[slot - 1])

    def test_another_seed_is_another_population(self) -> None:
        """Here, of one member."""
        other = self.start(seed=np.random.SeedSequence(1), values=FIRST_VALUES[:1])
        assert np.any(_own(other.capture(0))[0] != _own(self.started().capture(0))[0])

    def test_first_members_can_share_their_weights(self) -> None:
        """A model that was trained before is where all of them start."""
        given = [array + 1.0 for array in build_model().get_weights()]
        executor = self.start(initial_weights=given)
        for slot in range(3):
            _assert_close(_own(executor.capture(slot)), given, 0.0)

    def test_one_seed_one_population(self) -> None:
        """Equal seeds, equal results, bit for bit."""
        first, second = self.started(), self.start()
        reports = [executor.advance([0, 1, 2], STEPS) for executor in (first, second)]
        assert _scores(reports[0]) == _scores(reports[1])
        for slot in range(3):
            _assert_same(first.capture(slot), second.capture(slot))

    def test_an_objective_that_is_not_reported_is_refused_before_training(self) -> None:
        """The message lists what is reported."""
        for name in ("val_accuracy", "mse"):
            error = _raised(ObjectiveError, lambda n=name: self.start(objective=objective_of(n)))
            assert name in error and "val_loss" in error and "mae" in error

    def test_data_that_the_model_does_not_take_is_refused_before_training(self) -> None:
        """Here, inputs with a feature less."""
        data = make_data()
        narrow = prepare(data["x"][:, :4], data["y"], validation_data=(data["x"][:, :4], data["y"]))
        _raised(DataError, lambda: self.start(data=narrow))

    # --- Training ------------------------------------------------------------------------------

    def test_one_member_trains_as_plain_keras_does(self) -> None:
        """Steps of `train_on_batch` on the same batches, over the end of an epoch."""
        executor = self.started(shuffle=False)
        model = self._plain(executor.capture(1), FIRST_VALUES[1])
        for _ in range(2):
            executor.advance([1], STEPS - 1)
        data = make_data()
        for step in range(2 * (STEPS - 1)):
            begin = step % STEPS * BATCH_SIZE
            rows = slice(begin, min(begin + BATCH_SIZE, NUM_SAMPLES))
            model.train_on_batch(data["x"][rows], data["y"][rows])
        _assert_close(_own(executor.capture(1)), model.get_weights(), self.tolerance)

    def _plain(self, state: MemberState, values: Values) -> keras.Model:
        """Return a plain model with a member's weights, seed and values."""
        model = ModelBlueprint(build_model, ("learning_rate", "l2", DROPOUT)).build(values)
        model.set_weights(_own(state))
        model.layers[2].seed_generator.state.assign(_seeds(state))
        return model

    def test_members_do_not_disturb_each_other(self) -> None:
        """Alone, together, in any order: a member's results are its own."""
        together = self.started().advance([0, 1, 2], STEPS)
        executor = self.started()
        alone = [executor.advance([slot], STEPS)[0] for slot in (2, 0, 1)]
        by_slot = {report.slot: report for report in alone}
        for report in together:
            _assert_close_numbers(by_slot[report.slot].logs, report.logs, self.tolerance)

    def test_those_that_are_not_named_stay_as_they_are(self) -> None:
        """Bit for bit."""
        executor = self.started()
        before = executor.capture(1)
        executor.advance([0, 2], STEPS)
        _assert_same(executor.capture(1), before)

    def test_reports_are_in_the_order_of_the_slots(self) -> None:
        """One for each slot, with its gradient steps, its score and what the model reports."""
        executor = self.started()
        reports = executor.advance([2, 0], STEPS)
        assert [report.slot for report in reports] == [2, 0]
        for report in reports:
            assert report.gradient_steps == STEPS
            assert set(report.logs) == {"loss", "mae", "val_loss", "val_mae"}
            assert report.score == report.logs["val_loss"]
            assert report.seconds >= 0.0

    def test_without_scoring_there_is_no_score(self) -> None:
        """Training alone reports the training quantities."""
        (report,) = self.started().advance([0], STEPS, score=False)
        assert np.isnan(report.score)
        assert set(report.logs) == {"loss", "mae"}

    def test_scoring_changes_nothing(self) -> None:
        """Members that were scored go on as those that were not."""
        states = []
        for score in (True, False):
            executor = self.started()
            executor.advance([0, 1], 2, score=score)
            executor.advance([0, 1], 2, score=True)
            states.append(executor.capture(0))
        _assert_same(*states)

    def test_members_are_compared_by_their_fit_alone(self) -> None:
        """The validation loss has no penalty in it, else a small L2 would win by itself."""
        executor = self.started()
        x, y = make_data()["validation_data"]
        for report in executor.advance([0, 1, 2], STEPS):
            values = FIRST_VALUES[report.slot]
            model = executor.export(values, executor.capture(report.slot))
            error = np.mean(np.square(model.predict(x, verbose=0) - y))
            np.testing.assert_allclose(report.score, error, rtol=1e-4)
            np.testing.assert_allclose(report.logs["val_loss"], error, rtol=1e-4)

    def test_common_batches_are_common(self) -> None:
        """Members with equal values, weights and seeds of dropout would be equal."""
        values = [{**FIRST_VALUES[0], DROPOUT: 0.0}] * 2
        weights = build_model().get_weights()
        common = TrainingPlan("common")
        executor = self.start(values=values, initial_weights=weights, training=common)
        executor.advance([0, 1], STEPS)
        first, second = (_own(executor.capture(slot)) for slot in (0, 1))
        _assert_close(first, second, self.tolerance)

    def test_own_batches_are_each_members_own(self) -> None:
        """Two copies of one member, without dropout, go different ways."""
        executor = self.started()
        values: Values = {**FIRST_VALUES[0], DROPOUT: 0.0}
        executor.apply([Offspring(slot, (0,), values) for slot in (0, 1)])
        executor.advance([0, 1], STEPS)
        assert np.any(_own(executor.capture(0))[0] != _own(executor.capture(1))[0])

    def test_a_batch_size_can_be_asked_for(self) -> None:
        """An epoch in one batch is one step on all samples, in whatever order."""
        executor = self.started()
        values: Values = {**FIRST_VALUES[0], DROPOUT: 0.0}
        executor.apply([Offspring(0, (0,), values)])
        model = self._plain(executor.capture(0), values)
        executor.advance([0], 1, batch_size=NUM_SAMPLES)
        data = make_data()
        model.train_on_batch(data["x"], data["y"])
        _assert_close(_own(executor.capture(0)), model.get_weights(), 10.0 * self.tolerance)

    def test_a_diverged_member_has_no_finite_score_and_disturbs_nobody(self) -> None:
        """Its score is NaN or infinite; the others go on as without it."""
        executor = self.started()
        executor.apply([Offspring(1, (1,), {**FIRST_VALUES[1], RATE: 1e30})])
        reports = executor.advance([0, 1, 2], STEPS)
        assert not np.isfinite(reports[1].score)
        expected = self.started().advance([0, 1, 2], STEPS)
        for slot in (0, 2):
            _assert_close_numbers(reports[slot].logs, expected[slot].logs, self.tolerance)

    # --- Births --------------------------------------------------------------------------------

    def test_a_child_has_its_parents_weights(self) -> None:
        """Without noise, weights and optimizer slots are the parent's; others are untouched."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [executor.capture(slot) for slot in range(3)]
        executor.apply([Offspring(2, (0,), dict(FIRST_VALUES[2]))])
        _assert_close(_own(executor.capture(2)), _own(before[0]), 0.0)
        _assert_close(_slots(executor.capture(2)), _slots(before[0]), 0.0)
        for slot in (0, 1):
            _assert_same(executor.capture(slot), before[slot])

    def test_parents_are_read_before_anything_is_written(self) -> None:
        """Two members take each other's place."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [_own(executor.capture(slot)) for slot in range(3)]
        executor.apply(
            [Offspring(0, (1,), dict(FIRST_VALUES[1])), Offspring(1, (0,), dict(FIRST_VALUES[0]))]
        )
        _assert_close(_own(executor.capture(0)), before[1], 0.0)
        _assert_close(_own(executor.capture(1)), before[0], 0.0)

    def test_a_child_trains_with_its_own_values(self) -> None:
        """Not with those of its parent, whose learning rate is in the copied optimizer state."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        still: Values = {RATE: 0.0, L2: 0.5, DROPOUT: 0.5}
        executor.apply([Offspring(2, (0,), still)])
        before = _own(executor.capture(2))
        executor.advance([2], STEPS)
        after = _own(executor.capture(2))
        trainable = [0, 1, 2, 3, 6, 7]  # 4 and 5 are the moving mean and variance
        _assert_close([after[i] for i in trainable], [before[i] for i in trainable], 0.0)
        assert np.any(after[4] != before[4])

    def test_a_child_differs_from_its_parent_in_dropout(self) -> None:
        """On the same batches, with the same values and weights."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]))])
        parent, child = (_seeds(executor.capture(slot)) for slot in (0, 1))
        assert np.any(parent != child)
        executor.apply([Offspring(2, (0,), dict(FIRST_VALUES[0]))])
        assert np.any(_seeds(executor.capture(2)) != child)

    def test_a_child_goes_on_as_plain_keras_would(self) -> None:
        """From the parent's weights and slots, with the child's values and seed."""
        executor = self.started(shuffle=False)
        executor.advance([0, 1, 2], STEPS)  # an epoch
        values: Values = {RATE: 0.04, L2: 0.03, DROPOUT: 0.375}
        executor.apply([Offspring(1, (2,), values)])
        state = executor.capture(1)
        model = self._plain(state, values)
        model.optimizer.build(model.trainable_variables)
        for variable, array in zip(model.optimizer.variables, _slots(state), strict=True):
            if variable.name != "learning_rate":
                variable.assign(array)
        executor.advance([1], 2)
        data = make_data()
        for begin in (0, BATCH_SIZE):
            rows = slice(begin, begin + BATCH_SIZE)
            model.train_on_batch(data["x"][rows], data["y"][rows])
        _assert_close(_own(executor.capture(1)), model.get_weights(), self.tolerance)

    def test_the_optimizer_of_a_child(self) -> None:
        """`"fresh"`: as just built; `"restart"`, `"fresh_slots"`: under the parent's counter."""
        executor = self.started()
        executor.advance([0], STEPS)
        rules = {"inherit": STEPS, "fresh": 0, "restart": STEPS, "fresh_slots": STEPS}
        for rule, steps in rules.items():
            executor.apply(
                [Offspring(1, (0,), dict(FIRST_VALUES[0]), optimizer_state=rule)]  # type: ignore[arg-type]
            )
            slots = _slots(executor.capture(1))
            assert int(slots[0]) == steps
            moments = [array for array in slots if array.ndim]
            assert any(np.any(moment) for moment in moments) == (rule == "inherit")

    def test_parent_and_child_can_share_a_step_counter(self) -> None:
        """The authors' code: it advances with each step of either (protocol.md, section 5)."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]), optimizer_state="fresh_slots")])
        executor.advance([0, 1, 2], 2)
        assert [int(_slots(executor.capture(slot))[0]) for slot in range(3)] == [
            STEPS + 2,
            STEPS + 4,
            2,
        ]
        executor.advance([0, 1, 2], 1)
        assert [int(_slots(executor.capture(slot))[0]) for slot in range(3)] == [
            STEPS + 5,
            STEPS + 6,
            3,
        ]

    def test_a_state_can_be_revived(self) -> None:
        """As a child of the member that it was captured from, whatever has become of that one."""
        executor = self.started()
        if not executor.focuses:
            raise SkipTest("This executor revives nobody: `focuses` is False.")
        executor.advance([0, 1, 2], STEPS)
        state, values = executor.capture(0), dict(FIRST_VALUES[0])
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[1]))])
        executor.advance([0, 1, 2], STEPS)
        others = [executor.capture(slot) for slot in (0, 2)]
        executor.revive(Offspring(1, (), values, optimizer_state="restart"), state)
        revived = executor.capture(1)
        _assert_close(_own(revived), _own(state), 0.0)
        assert int(_slots(revived)[0]) == STEPS
        assert not any(np.any(array) for array in _slots(revived) if array.ndim)
        for slot, before in zip((0, 2), others, strict=True):
            _assert_same(executor.capture(slot), before)
        [report] = executor.advance([1], 5 * STEPS)
        assert report.gradient_steps == 5 * STEPS
        assert np.isfinite(report.score)
        before_that = _own(state)
        assert any(
            np.any(a != b) for a, b in zip(_own(executor.capture(1)), before_that, strict=True)
        )
        # All of them can train at once again.
        assert np.isfinite(_scores(executor.advance([0, 1, 2], STEPS))).all()

    def test_weight_noise(self) -> None:
        """`"scalar"`: one number for all trainable weights; nothing else moves."""
        executor = self.started()
        executor.advance([0], STEPS)
        parent = _own(executor.capture(0))
        noise = NoiseSpec("scalar", 0.5, seed=3)
        executor.apply([Offspring(1, (0,), dict(FIRST_VALUES[0]), weight_noise=noise)])
        child = _own(executor.capture(1))
        shift = float(child[0][0, 0] - parent[0][0, 0])
        assert abs(shift) > 1e-3
        for index, (one, other) in enumerate(zip(child, parent, strict=True)):
            expected = other if index in (4, 5) else other + shift
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)

    def test_several_parents_are_averaged(self) -> None:
        """Their trainable weights; everything else is the first one's."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        first, second = (_own(executor.capture(slot)) for slot in (0, 1))
        executor.apply([Offspring(2, (0, 1), dict(FIRST_VALUES[0]))])
        child = _own(executor.capture(2))
        for index, array in enumerate(child):
            mean = (first[index] + second[index]) / 2.0
            expected = first[index] if index in (4, 5) else mean
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)

    # --- States --------------------------------------------------------------------------------

    def test_a_child_can_be_tried_out(self) -> None:
        """It scores what an exported model of that child scores, and no member changes."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [executor.capture(slot) for slot in range(3)]
        noise = NoiseSpec("gaussian", 0.1, 7)
        values = dict(FIRST_VALUES[1])
        child = Offspring(0, (1, 2), values, weight_noise=noise, optimizer_state="fresh")
        [score, parents_score] = executor.try_out([child, replace(child, parents=(1,))])
        for slot in range(3):
            _assert_same(executor.capture(slot), before[slot])
        executor.apply([replace(child, slot=2)])
        exported = executor.export(values, executor.capture(2))
        x, y = make_data()["validation_data"]
        error = float(np.mean((exported.predict(x, verbose=0) - y) ** 2))
        assert abs(score - error) <= 1e-5 * error
        assert score != parents_score
        # Whoever was in the model before goes on as if nothing had been.
        executor.restore(executor.snapshot())
        assert np.isfinite(_scores(executor.advance([0, 1, 2], STEPS))).all()

    def test_trying_children_out_changes_nothing(self) -> None:
        """Training goes on as it would have."""
        first = self.started()
        first.advance([0, 1, 2], STEPS)
        first.try_out([Offspring(1, (0, 2), dict(FIRST_VALUES[2]))])
        expected = _scores(first.advance([0, 1, 2], STEPS))
        second = self.started()
        second.advance([0, 1, 2], STEPS)
        assert _scores(second.advance([0, 1, 2], STEPS)) == expected

    def test_an_iteration_can_begin_with_a_fresh_optimizer(self) -> None:
        """Slots and step counter are as just built, the member's values are its own."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        plan = TrainingPlan(fresh_optimizer=True)
        [report] = executor.advance([1], STEPS, plan=plan)
        model = executor.export(dict(FIRST_VALUES[1]), executor.capture(1))
        assert report.gradient_steps == STEPS
        assert int(_array(model.optimizer.iterations)) == STEPS
        np.testing.assert_allclose(_array(model.optimizer.learning_rate), 0.02)

    def test_a_rate_factor_multiplies_the_learning_rates(self) -> None:
        """Members train as under that many times their rate, and keep the rate itself."""
        halved = [{**values, RATE: float(values[RATE]) / 2.0} for values in FIRST_VALUES]
        first, second = self.started(), self.start(values=halved)
        for executor, factor in ((first, 0.5), (second, 1.0)):
            executor.advance([0, 1, 2], STEPS, rate_factor=factor)
        for slot, values in enumerate(FIRST_VALUES):
            own, other = first.capture(slot), second.capture(slot)
            _assert_close(_own(own), _own(other), self.tolerance)
            model = first.export(values, own)
            rate = float(values[RATE])
            np.testing.assert_allclose(_array(model.optimizer.learning_rate), rate)

    def test_states_know_nothing_of_a_rate_factor(self) -> None:
        """Also where the learning rate is not among the hyperparameters: it is inherited plain."""
        executor = self.start(blueprint=ModelBlueprint(build_model, ()), values=[{}, {}])
        executor.advance([0, 1], 1, rate_factor=0.5)
        executor.apply([Offspring(1, (0,), {})])
        for slot in (0, 1):
            scalars = [float(array) for array in _slots(executor.capture(slot)) if not array.ndim]
            assert any(abs(scalar - 0.01) < 1e-8 for scalar in scalars)

    def test_a_captured_state_does_not_change(self) -> None:
        """Neither when its member trains on, nor when it is replaced."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        state = executor.capture(0)
        held = _arrays((*state.weights, *state.optimizer))
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[0]))])
        executor.advance([0, 1], STEPS)
        _assert_close(_arrays((*state.weights, *state.optimizer)), held, 0.0)

    def test_visit_shows_the_member_and_keeps_what_is_changed(self) -> None:
        """User callbacks look at models, and may change them."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [_own(executor.capture(slot)) for slot in range(3)]

        def change(model: keras.Model) -> None:
            kernel = model.trainable_variables[0]
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), before[1][0])
            kernel.assign(np.zeros(kernel.shape))

        executor.visit(1, change)
        assert not np.any(_own(executor.capture(1))[0])
        for slot in (0, 2):
            _assert_close(_own(executor.capture(slot)), before[slot], 0.0)

    def test_a_visitor_may_use_the_model(self) -> None:
        """On JAX, Keras's own functions destroy the arrays that they begin with."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[1]))])
        states = [executor.capture(slot) for slot in range(3)]
        held = [_arrays((*state.weights, *state.optimizer)) for state in states]
        data = make_data()
        executor.visit(0, lambda model: model.evaluate(data["x"], data["y"], verbose=0))
        for state, arrays in zip(states, held, strict=True):
            _assert_close(_arrays((*state.weights, *state.optimizer)), arrays, 0.0)
        executor.advance([0, 1, 2], STEPS)

    def test_an_exported_model_is_plain_and_independent(self) -> None:
        """The member's weights, optimizer state and values; the member does not train with it."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        state = executor.capture(1)
        model = executor.export(FIRST_VALUES[1], state)
        _assert_close(list(model.get_weights()), _own(state), 0.0)
        _assert_close([_array(v) for v in model.optimizer.variables], _slots(state), 1e-7)
        assert len(model.variables) == len(build_model().variables)
        assert abs(float(_array(model.optimizer.learning_rate)) - 0.02) < 1e-7
        np.testing.assert_allclose(model.layers[0].kernel_regularizer.l2, 0.01)
        np.testing.assert_allclose(model.layers[2].rate, 0.5)
        data = make_data()
        model.fit(data["x"], data["y"], batch_size=BATCH_SIZE, verbose=0)
        _assert_same(executor.capture(1), state)

    def test_a_snapshot_goes_on_in_another_executor(self) -> None:
        """Bit for bit: births, shared counters, data, samples; arrays and JSON all through."""
        plans = {"scoring": ScoringPlan("own", 7)}
        first, second = self.start(**plans), self.start(**plans)
        first.advance([0, 1, 2], STEPS - 1)
        first.apply(
            [
                Offspring(2, (0,), dict(FIRST_VALUES[1]), optimizer_state="fresh_slots"),
                Offspring(1, (1,), dict(FIRST_VALUES[0]), NoiseSpec("gaussian", 0.1, 3)),
            ]
        )
        snapshot = first.snapshot()
        _assert_storable(snapshot)
        second.restore(snapshot)
        for executor in (first, second):
            executor.advance([0, 1, 2], STEPS - 1)
            executor.apply([Offspring(0, (2,), dict(FIRST_VALUES[2]))])
        last = [executor.advance([0, 1, 2], STEPS - 1) for executor in (first, second)]
        assert _scores(last[0]) == _scores(last[1])
        for slot in range(3):
            _assert_same(first.capture(slot), second.capture(slot))

    def test_a_snapshot_can_be_gone_back_to(self) -> None:
        """In the same executor, after it went on."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        snapshot = executor.snapshot()
        scores = []
        for _ in range(2):
            executor.restore(snapshot)
            executor.apply([Offspring(0, (2,), dict(FIRST_VALUES[2]))])
            scores.append(_scores(executor.advance([0, 1, 2], STEPS)))
        assert scores[0] == scores[1]

    def test_it_goes_on_with_other_data(self) -> None:
        """The members stay; scores are those on the new validation data."""
        executor = self.start()
        executor.advance([0, 1, 2], STEPS)
        state = executor.capture(1)
        data = make_data(seed=5)
        executor.feed(prepare(**data, batch_size=BATCH_SIZE))
        _assert_same(executor.capture(1), state)
        (report,) = executor.advance([1], STEPS)
        x, y = data["validation_data"]
        predicted = executor.export(FIRST_VALUES[1], executor.capture(1)).predict(x, verbose=0)
        np.testing.assert_allclose(report.score, np.mean(np.square(predicted - y)), rtol=1e-4)

    # --- Averages of weights -------------------------------------------------------------------
    # An executor whose `averages` is False is never asked for them, and passes.

    def test_members_are_scored_and_exported_with_the_averages_of_their_weights(self) -> None:
        """The average moves once an iteration that is scored; training never sees it."""
        executor, plain = self.started(ema_momentum=MOMENTUM), self.started()
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        path = []
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS - 1)
            plain.advance([0, 1, 2], STEPS - 1)
            path.append([_own(plain.capture(slot)) for slot in range(3)])
        for each in (executor, plain):
            # Not scored, so not averaged.
            each.advance([0, 1, 2], 1, score=False)
        x, y = make_data()["validation_data"]
        reports = executor.advance([0, 1, 2], STEPS)
        plain.advance([0, 1, 2], STEPS)
        for slot, report in enumerate(reports):
            state, last = executor.capture(slot), _own(plain.capture(slot))
            _assert_close(_own(state), last, 10.0 * self.tolerance)
            model = executor.export(FIRST_VALUES[slot], state)
            mean = [(a + b) / 2.0 for a, b in zip(path[0][slot], path[1][slot], strict=True)]
            expected = [(a + b) / 2.0 for a, b in zip(mean, last, strict=True)]
            _assert_close(model.get_weights(), expected, 10.0 * self.tolerance)
            error = np.mean(np.square(model.predict(x, verbose=0) - y))
            np.testing.assert_allclose(report.score, error, rtol=1e-4)

    def test_averages_can_begin_anew(self) -> None:
        """Until they are moved, and right after the next move, the weights count as they are."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        executor.advance([0, 1], STEPS)
        executor.begin_averages([1])
        for steps in (0, STEPS):
            if steps:
                executor.advance([0, 1], steps)
            state = executor.capture(1)
            model = executor.export(FIRST_VALUES[1], state)
            _assert_close(model.get_weights(), _own(state), self.tolerance)
        other = executor.capture(0)
        averaged = executor.export(FIRST_VALUES[0], other).get_weights()
        assert np.any(averaged[0] != _own(other)[0])

    def test_the_averages_of_a_child_go_on_from_its_parents(self) -> None:
        """Whatever its optimizer does; of several parents', the mean, where weights are trained."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS)
        first, second = (self._averages(executor, slot) for slot in (0, 1))
        values = dict(FIRST_VALUES[0])
        executor.apply([Offspring(2, (0,), values, optimizer_state="fresh")])
        _assert_close(self._averages(executor, 2), first, self.tolerance)
        executor.apply([Offspring(2, (0, 1), values)])
        for index, array in enumerate(self._averages(executor, 2)):
            mean = (first[index] + second[index]) / 2.0
            expected = first[index] if index in (4, 5) else mean
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)

    def test_averages_are_a_part_of_the_state(self) -> None:
        """A snapshot has them, and so has what is revived."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1, 2], STEPS)
        state, averages = executor.capture(0), self._averages(executor, 0)
        snapshot = executor.snapshot()
        executor.advance([0, 1, 2], STEPS)
        if executor.focuses:
            executor.revive(Offspring(1, (), dict(FIRST_VALUES[0])), state)
            _assert_close(self._averages(executor, 1), averages, self.tolerance)
        executor.restore(snapshot)
        _assert_close(self._averages(executor, 0), averages, self.tolerance)

    def test_a_visitor_that_changes_weights_begins_their_average_anew(self) -> None:
        """One that only looks does not."""
        executor = self.started(ema_momentum=MOMENTUM)
        if not executor.averages:
            raise SkipTest("This executor averages no weights: `averages` is False.")
        for _ in range(2):
            executor.advance([0, 1], STEPS)
        before = self._averages(executor, 0)
        executor.visit(0, lambda model: None)
        _assert_close(self._averages(executor, 0), before, self.tolerance)
        zeros = np.zeros(before[0].shape)
        executor.visit(1, lambda model: model.trainable_variables[0].assign(zeros))
        _assert_close(self._averages(executor, 1), _own(executor.capture(1)), self.tolerance)

    def _averages(self, executor: Executor, slot: int) -> Arrays:
        """Return what a member's exported model has for weights."""
        return list(executor.export(FIRST_VALUES[0], executor.capture(slot)).get_weights())

    # --- Hooks ---------------------------------------------------------------------------------

    def test_hooks_are_told_about_each_member(self) -> None:
        """Begin and end, and each batch for those that need it."""
        hooks = _Listening({1})
        executor = self.start(hooks=hooks)
        executor.advance([0, 1], 3)
        assert hooks.heard == [
            *("begin 0", "end 0 3"),
            *("begin 1", "batch 1", "done 1", "batch 1", "done 1", "batch 1", "done 1", "end 1 3"),
        ]

    def test_a_hook_can_end_a_members_training(self) -> None:
        """Before the next batch; the others train on."""
        hooks = _Listening({0}, stop_after=2)
        executor = self.start(hooks=hooks)
        reports = executor.advance([0, 1], 5)
        assert [report.gradient_steps for report in reports] == [2, 5]
        assert int(_slots(executor.capture(0))[0]) == 2

    def test_batch_hooks_change_nothing(self) -> None:
        """Steps one by one are the steps of one call."""
        heard = self.start(hooks=_Listening({0, 1, 2})).advance([0, 1, 2], STEPS)
        for one, other in zip(heard, self.started().advance([0, 1, 2], STEPS), strict=True):
            _assert_close_numbers(one.logs, other.logs, self.tolerance)


class _Listening:
    """Hooks that write down what they hear."""

    def __init__(self, by_batch: set[int], stop_after: int | None = None) -> None:
        self.heard: list[str] = []
        self._by_batch = by_batch
        self._stop_after = stop_after

    def needs_batches(self, slot: int) -> bool:
        return slot in self._by_batch

    def train_begin(self, slot: int, model: keras.Model) -> None:
        self.heard.append(f"begin {slot}")

    def batch_begin(self, slot: int, model: keras.Model) -> None:
        self.heard.append(f"batch {slot}")

    def batch_end(self, slot: int, model: keras.Model, logs: Mapping[str, float]) -> None:
        assert set(logs) == {"loss", "mae"}
        self.heard.append(f"done {slot}")

    def train_end(
        self, slot: int, model: keras.Model, num_steps: int, logs: Mapping[str, float]
    ) -> None:
        assert "val_loss" in logs
        self.heard.append(f"end {slot} {num_steps}")

    def should_stop(self, slot: int) -> bool:
        return self._stop_after is not None and self.heard.count(f"done {slot}") >= self._stop_after


# (suite, whether the data is shuffled, momentum) -> an executor, and its state at the start
_SHARED: dict[
    tuple[type[ExecutorConformance], bool, float | None], tuple[Executor, dict[str, Any]]
] = {}


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    return np.array(keras.ops.convert_to_numpy(tensor))


def _arrays(tensors: Sequence[Any]) -> Arrays:
    return [_array(tensor) for tensor in tensors]


def _own(state: MemberState) -> Arrays:
    """Return the weights that a plain model has too."""
    return _arrays(state.weights[: state.num_plain[0]])


def _slots(state: MemberState) -> Arrays:
    """Return the optimizer's variables that a plain model has too; the first is its counter."""
    return _arrays(state.optimizer[: state.num_plain[1]])


def _seeds(state: MemberState) -> np.ndarray[Any, Any]:
    """Return the state of the dropout layer's generator."""
    (seeds,) = (a for a in _arrays(state.weights[state.num_plain[0] :]) if a.shape == (2,))
    return seeds


def _assert_close(first: Arrays, second: Arrays, tolerance: float) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def _assert_same(first: MemberState, second: MemberState) -> None:
    _assert_close(_arrays(first.weights), _arrays(second.weights), 0.0)
    _assert_close(_arrays(first.optimizer), _arrays(second.optimizer), 0.0)


def _assert_close_numbers(
    first: Mapping[str, float], second: Mapping[str, float], tolerance: float
) -> None:
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=10.0 * tolerance, atol=tolerance)


def _scores(reports: Sequence[Report]) -> list[float]:
    return [report.score for report in reports]


def _raised(kind: type[Exception], action: Any) -> str:
    """Return the message of the error that an action must raise."""
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"No {kind.__name__} was raised.")


def _assert_storable(part: Any) -> None:
    """Nested dicts and lists whose leaves are arrays, or come back from JSON as they are."""
    if isinstance(part, dict):
        for name, value in part.items():
            assert isinstance(name, str), f"{name!r} is no JSON key"
            _assert_storable(value)
    elif isinstance(part, list | tuple):
        for value in part:
            _assert_storable(value)
    elif not isinstance(part, np.ndarray):
        assert json.loads(json.dumps(part)) == part
