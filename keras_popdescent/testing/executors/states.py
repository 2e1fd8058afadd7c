"""Laws on states: trying out, capturing, visiting, exporting, going on."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from keras_popdescent.data import prepare
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.population.blueprint import ModelBlueprint
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import ScoringPlan, TrainingPlan
from keras_popdescent.testing.executors.comparing import (
    as_array,
    as_arrays,
    assert_close,
    assert_same,
    assert_storable,
    optimizer_slots,
    own_weights,
    scores_of,
)
from keras_popdescent.testing.executors.setting import (
    BATCH_SIZE,
    FIRST_VALUES,
    RATE,
    STEPS,
    ExecutorSetting,
    build_model,
    make_data,
)


class States(ExecutorSetting):
    """Laws on states: trying out, capturing, visiting, exporting, going on."""

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
            assert_same(executor.capture(slot), before[slot])
        executor.apply([replace(child, slot=2)])
        exported = executor.export(values, executor.capture(2))
        x, y = make_data()["validation_data"]
        error = float(np.mean((exported.predict(x, verbose=0) - y) ** 2))
        assert abs(score - error) <= 1e-5 * error
        assert score != parents_score
        # Whoever was in the model before goes on as if nothing had been.
        executor.restore(executor.snapshot())
        assert np.isfinite(scores_of(executor.advance([0, 1, 2], STEPS))).all()

    def test_trying_children_out_changes_nothing(self) -> None:
        """Training goes on as it would have."""
        first = self.started()
        first.advance([0, 1, 2], STEPS)
        first.try_out([Offspring(1, (0, 2), dict(FIRST_VALUES[2]))])
        expected = scores_of(first.advance([0, 1, 2], STEPS))
        second = self.started()
        second.advance([0, 1, 2], STEPS)
        assert scores_of(second.advance([0, 1, 2], STEPS)) == expected

    def test_an_iteration_can_begin_with_a_fresh_optimizer(self) -> None:
        """Slots and step counter are as just built, the member's values are its own."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        plan = TrainingPlan(fresh_optimizer=True)
        [report] = executor.advance([1], STEPS, plan=plan)
        model = executor.export(dict(FIRST_VALUES[1]), executor.capture(1))
        assert report.gradient_steps == STEPS
        assert int(as_array(model.optimizer.iterations)) == STEPS
        np.testing.assert_allclose(as_array(model.optimizer.learning_rate), 0.02)

    def test_a_rate_factor_multiplies_the_learning_rates(self) -> None:
        """Members train as under that many times their rate, and keep the rate itself."""
        halved = [{**values, RATE: float(values[RATE]) / 2.0} for values in FIRST_VALUES]
        first, second = self.started(), self.start(values=halved)
        for executor, factor in ((first, 0.5), (second, 1.0)):
            executor.advance([0, 1, 2], STEPS, rate_factor=factor)
        for slot, values in enumerate(FIRST_VALUES):
            own, other = first.capture(slot), second.capture(slot)
            assert_close(own_weights(own), own_weights(other), self.tolerance)
            model = first.export(values, own)
            rate = float(values[RATE])
            np.testing.assert_allclose(as_array(model.optimizer.learning_rate), rate)

    def test_states_know_nothing_of_a_rate_factor(self) -> None:
        """Also where the learning rate is not among the hyperparameters: it is inherited plain."""
        executor = self.start(blueprint=ModelBlueprint(build_model, ()), values=[{}, {}])
        executor.advance([0, 1], 1, rate_factor=0.5)
        executor.apply([Offspring(1, (0,), {})])
        for slot in (0, 1):
            scalars = [
                float(array) for array in optimizer_slots(executor.capture(slot)) if not array.ndim
            ]
            assert any(abs(scalar - 0.01) < 1e-8 for scalar in scalars)

    def test_a_captured_state_does_not_change(self) -> None:
        """Neither when its member trains on, nor when it is replaced."""
        executor = self.started()
        executor.advance([0, 1], STEPS)
        state = executor.capture(0)
        held = as_arrays((*state.weights, *state.optimizer))
        executor.advance([0, 1], STEPS)
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[0]))])
        executor.advance([0, 1], STEPS)
        assert_close(as_arrays((*state.weights, *state.optimizer)), held, 0.0)

    def test_visit_shows_the_member_and_keeps_what_is_changed(self) -> None:
        """User callbacks look at models, and may change them."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        before = [own_weights(executor.capture(slot)) for slot in range(3)]

        def change(model: keras.Model) -> None:
            kernel = model.trainable_variables[0]
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), before[1][0])
            kernel.assign(np.zeros(kernel.shape))

        executor.visit(1, change)
        assert not np.any(own_weights(executor.capture(1))[0])
        for slot in (0, 2):
            assert_close(own_weights(executor.capture(slot)), before[slot], 0.0)

    def test_a_visitor_may_use_the_model(self) -> None:
        """On JAX, Keras's own functions destroy the arrays that they begin with."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        executor.apply([Offspring(0, (1,), dict(FIRST_VALUES[1]))])
        states = [executor.capture(slot) for slot in range(3)]
        held = [as_arrays((*state.weights, *state.optimizer)) for state in states]
        data = make_data()
        executor.visit(0, lambda model: model.evaluate(data["x"], data["y"], verbose=0))
        for state, arrays in zip(states, held, strict=True):
            assert_close(as_arrays((*state.weights, *state.optimizer)), arrays, 0.0)
        executor.advance([0, 1, 2], STEPS)

    def test_an_exported_model_is_plain_and_independent(self) -> None:
        """The member's weights, optimizer state and values; the member does not train with it."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        state = executor.capture(1)
        model = executor.export(FIRST_VALUES[1], state)
        assert_close(list(model.get_weights()), own_weights(state), 0.0)
        assert_close([as_array(v) for v in model.optimizer.variables], optimizer_slots(state), 1e-7)
        assert len(model.variables) == len(build_model().variables)
        assert abs(float(as_array(model.optimizer.learning_rate)) - 0.02) < 1e-7
        np.testing.assert_allclose(model.layers[0].kernel_regularizer.l2, 0.01)
        np.testing.assert_allclose(model.layers[2].rate, 0.5)
        data = make_data()
        model.fit(data["x"], data["y"], batch_size=BATCH_SIZE, verbose=0)
        assert_same(executor.capture(1), state)

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
        assert_storable(snapshot)
        second.restore(snapshot)
        for executor in (first, second):
            executor.advance([0, 1, 2], STEPS - 1)
            executor.apply([Offspring(0, (2,), dict(FIRST_VALUES[2]))])
        last = [executor.advance([0, 1, 2], STEPS - 1) for executor in (first, second)]
        assert scores_of(last[0]) == scores_of(last[1])
        for slot in range(3):
            assert_same(first.capture(slot), second.capture(slot))

    def test_a_snapshot_can_be_gone_back_to(self) -> None:
        """In the same executor, after it went on."""
        executor = self.started()
        executor.advance([0, 1, 2], STEPS)
        snapshot = executor.snapshot()
        scores = []
        for _ in range(2):
            executor.restore(snapshot)
            executor.apply([Offspring(0, (2,), dict(FIRST_VALUES[2]))])
            scores.append(scores_of(executor.advance([0, 1, 2], STEPS)))
        assert scores[0] == scores[1]

    def test_it_goes_on_with_other_data(self) -> None:
        """The members stay; scores are those on the new validation data."""
        executor = self.start()
        executor.advance([0, 1, 2], STEPS)
        state = executor.capture(1)
        data = make_data(seed=5)
        executor.feed(prepare(**data, batch_size=BATCH_SIZE))
        assert_same(executor.capture(1), state)
        (report,) = executor.advance([1], STEPS)
        x, y = data["validation_data"]
        predicted = executor.export(FIRST_VALUES[1], executor.capture(1)).predict(x, verbose=0)
        np.testing.assert_allclose(report.score, np.mean(np.square(predicted - y)), rtol=1e-4)
