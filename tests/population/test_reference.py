"""`PopDescent.reference()` against a plain re-statement of what the authors' code does.

The re-statement is NumPy alone, in double precision, step by step, with an Adam whose step counter
parent and child share (in the code both have one legacy Adam object). Batches, multipliers, parents
and the seeds of the noise are taken from the search; all that is computed is computed anew.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from keras_popdescent import ClosingPlan, PopDescent, Population
from keras_popdescent.data.arrays import ArrayBatches
from keras_popdescent.executors.scoring import ValidationSampler

pytestmark = pytest.mark.backend

SIZE, ELITES, ITERATIONS, BATCHES, BATCH_SIZE = 4, 2, 6, 5, 16
CLOSING = ClosingPlan(rounds=2, batches=3, batch_size=8)
L2 = 0.01


def build():
    penalty = keras.regularizers.L2(L2)
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(12, activation="tanh", kernel_regularizer=penalty),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss)
    return model


class Adam:
    """Adam as the authors used it: one step counter, slots for each model."""

    def __init__(self):
        self.steps = 0

    def step(self, network, gradients):
        self.steps += 1
        t = self.steps
        rate = 0.001 * np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
        for i, gradient in enumerate(gradients):
            network.m[i] = 0.9 * network.m[i] + 0.1 * gradient
            network.v[i] = 0.999 * network.v[i] + 0.001 * gradient**2
            network.weights[i] -= rate * network.m[i] / (np.sqrt(network.v[i]) + 1e-7)


class Network:
    """The same network in NumPy, in double precision."""

    def __init__(self, weights, optimizer):
        self.weights = [np.array(weight, dtype=np.float64) for weight in weights]
        self.m = [np.zeros_like(weight) for weight in self.weights]
        self.v = [np.zeros_like(weight) for weight in self.weights]
        self.optimizer = optimizer

    def cross_entropy(self, x, y):
        kernel, bias, last, offset = self.weights
        self.hidden = np.tanh(x @ kernel + bias)
        logits = self.hidden @ last + offset
        logits = logits - logits.max(axis=1, keepdims=True)
        self.rates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(self.rates[np.arange(len(y)), y]).mean()

    def train(self, x, y, c, r):
        """Take one step on c * (cross-entropy + r * L2 term)."""
        self.cross_entropy(x, y)
        kernel, _, last, _ = self.weights
        error = self.rates.copy()
        error[np.arange(len(y)), y] -= 1.0
        error /= len(y)
        inner = (error @ last.T) * (1.0 - self.hidden**2)
        gradients = [
            x.T @ inner + 2.0 * L2 * r * kernel,
            inner.sum(axis=0),
            self.hidden.T @ error,
            error.sum(axis=0),
        ]
        self.optimizer.step(self, [c * gradient for gradient in gradients])


def test_the_search_is_what_the_authors_code_does(monkeypatch):
    taken, scored = [], []
    original_take, original_indices = ArrayBatches.take, ValidationSampler.indices

    def take(self, *arguments):
        taken.append(original_take(self, *arguments))
        return taken[-1]

    def indices(self, slot):
        scored.append(np.concatenate([np.ravel(b) for b in original_indices(self, slot)]))
        return [scored[-1][np.newaxis]]

    monkeypatch.setattr(ArrayBatches, "take", take)
    monkeypatch.setattr(ValidationSampler, "indices", indices)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    x_val, y_val = x[200:], y[200:]
    strategy = PopDescent.reference(passes=2, num_samples=40, fine_tuning=CLOSING)
    population = Population.from_model(build, SIZE, ELITES, strategy=strategy, seed=3)
    # The weights that the members start with.
    started = []
    original_start = population.executor.start

    def start(setup):
        original_start(setup)
        started.extend(
            population.executor.export(values, population.executor.capture(slot)).get_weights()
            for slot, values in enumerate(setup.values)
        )

    monkeypatch.setattr(population.executor, "start", start)
    history = population.fit(
        x[:200], y[:200], validation_data=(x_val, y_val), iterations=ITERATIONS,
        batches_per_iteration=BATCHES, batch_size=BATCH_SIZE, verbose=0,
    )  # fmt: skip

    # Binding checks before the search score too: the search's own draws are the last ones.
    feeds = iter(taken[-(ITERATIONS + CLOSING.rounds) :])
    samples = iter(scored[-(ITERATIONS + 1) * SIZE :])
    networks = [Network(weights, Adam()) for weights in started]
    values = [dict(birth.values) for birth in history.records[0].births]

    def train(passes):
        for network, blocks, own in zip(networks, next(feeds), values, strict=True):
            rows = [row for block in blocks for row in block]
            assert all(
                np.array_equal(rows[i], rows[i - len(rows) // passes]) for i in range(len(rows))
            )
            for row in rows:
                network.train(
                    x[row], y[row], own["popdescent/loss_scale"], own["popdescent/l2_scale"]
                )

    def scores():
        drawn = itertools.islice(samples, SIZE)
        pairs = zip(networks, drawn, strict=True)
        return [network.cross_entropy(x_val[i], y_val[i]) for network, i in pairs]

    for record in history.iterations()[:ITERATIONS]:
        train(passes=2)
        losses = scores()
        np.testing.assert_allclose([m.score for m in record.members], losses, rtol=2e-4)
        before, before_values = list(networks), list(values)
        assert len(record.births) == (SIZE - ELITES if record.iteration < ITERATIONS else 0)
        order = np.argsort(losses)[::-1]
        assert {birth.slot for birth in record.births} <= set(order[: SIZE - ELITES])
        slots = {member.member_id: member.slot for member in record.members}
        for birth in record.births:
            parent = slots[birth.parents[0]]
            strength = 1.0 - 2.0 / (2.0 + losses[parent])
            assert birth.strength == pytest.approx(strength, rel=1e-3)
            assert birth.weight_noise["sd"] == pytest.approx(0.01 * strength, rel=1e-3)
            noise = np.random.default_rng(birth.weight_noise["seed"])
            shift = noise.normal(0.0, birth.weight_noise["sd"])
            shifted = [weight + shift for weight in before[parent].weights]
            networks[birth.slot] = Network(shifted, before[parent].optimizer)
            values[birth.slot] = dict(birth.values)
            assert values[birth.slot] != before_values[parent]
    for _ in range(CLOSING.rounds):
        train(passes=1)
    final = scores()
    np.testing.assert_allclose([m.score for m in history.records[-1].members], final, rtol=5e-4)
    by_score = [networks[slot] for slot in np.argsort(final)]
    for network, model in zip(by_score, population.models(), strict=True):
        for expected, weight in zip(network.weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, expected, atol=2e-5)
    # Somebody shared a counter: a family's counter is ahead of its own steps.
    assert len({id(network.optimizer) for network in networks}) < SIZE
