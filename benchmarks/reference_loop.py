"""The authors' way of training, stated anew: eager steps, and a clone of the model for each child.

As plain as TensorFlow code is written: a `GradientTape` for every batch, batches sliced from NumPy
arrays, `keras.models.clone_model` at each mutation, and the legacy Adam, whose step counter parent
and child share; its update is TensorFlow's own fused operation, as there. What an iteration does is
what `PopDescent.reference()` does (docs/presets.md).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

LEARNING_RATE = 0.001
NOISE = 0.01
# Standard deviation of a multiplier's mutation at strength 1, in octaves.
OCTAVES = 15.0


class LegacyAdam:
    """Adam with one step counter for all models that it trains, and slots for each variable."""

    def __init__(self) -> None:
        self.steps = 0

    def apply(self, gradients: list[tf.Tensor], member: Individual) -> None:
        """Take one step."""
        self.steps += 1
        for gradient, variable, m, v in zip(
            gradients, member.variables, member.m, member.v, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=0.9**self.steps,
                beta2_power=0.999**self.steps,
                lr=LEARNING_RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )


class Individual:
    """A model with its optimizer and its two multipliers.

    Args:
        model: The network.
        optimizer: Its own, or its parent's.
        loss_scale: Multiplies the whole loss.
        l2_scale: Multiplies the first penalty.
    """

    def __init__(
        self, model: keras.Model, optimizer: LegacyAdam, loss_scale: float, l2_scale: float
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.l2_scale = l2_scale
        self.variables = [variable.value for variable in model.trainable_variables]
        self.m = [tf.Variable(tf.zeros_like(variable)) for variable in self.variables]
        self.v = [tf.Variable(tf.zeros_like(variable)) for variable in self.variables]

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Train on one batch."""
        with tf.GradientTape() as tape:
            loss = cross_entropy(self.model, x, y)
            if self.model.losses:
                loss += self.l2_scale * self.model.losses[0]
            loss *= self.loss_scale
        self.optimizer.apply(tape.gradient(loss, self.variables), self)

    def child(self, strength: float, rng: np.random.Generator) -> Individual:
        """Return a mutated clone: one number is added to all weights, multipliers move."""
        clone = keras.models.clone_model(self.model)
        shift = rng.normal(0.0, NOISE * strength)
        clone.set_weights([weight + shift for weight in self.model.get_weights()])
        loss_factor, l2_factor = 2.0 ** rng.normal(0.0, OCTAVES * strength, size=2)
        return Individual(
            clone, self.optimizer, self.loss_scale * loss_factor, self.l2_scale * l2_factor
        )


def cross_entropy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tf.Tensor:
    """Return the mean cross-entropy of a model that ends in logits."""
    logits = model(x)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))


class ReferenceLoop:
    """A population that is trained so.

    Args:
        build: Returns the network.
        training: Samples and labels.
        validation: Samples and labels.
        size: Number of members.
        elites: Members that are not replaced.
        batches: Gradient steps of each member in an iteration.
        batch_size: Samples a batch.
        scored: Validation samples that score a member.
        seed: Seed of all that is drawn here.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        training: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        *,
        size: int = 5,
        elites: int = 3,
        batches: int = 128,
        batch_size: int = 64,
        scored: int = 640,
        seed: int = 0,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._training, self._validation = training, validation
        self._elites, self._batches, self._scored = elites, batches, scored
        self._batch_size = batch_size
        self.members = [
            Individual(
                build(),
                LegacyAdam(),
                10.0 ** self._rng.normal(-4.0, 2.0),
                10.0 ** self._rng.normal(0.0, 2.0),
            )
            for _ in range(size)
        ]

    def iteration(self) -> list[float]:
        """Train all members, score them, and replace the weakest; return the losses."""
        for member in self.members:
            self._train(member)
        losses = np.array([self._score(member) for member in self.members])
        self._replace(2.0 / (2.0 + losses))
        return [float(loss) for loss in losses]

    def _train(self, member: Individual) -> None:
        x, y = self._training
        size = self._batch_size
        rows = self._rng.choice(len(x), self._batches * size, replace=False)
        x, y = x[rows], y[rows]
        for first in range(0, len(x), size):
            member.step(x[first : first + size], y[first : first + size])

    def _score(self, member: Individual) -> float:
        x, y = self._validation
        rows = self._rng.choice(len(x), self._scored, replace=False)
        return float(cross_entropy(member.model, x[rows], y[rows]))

    def _replace(self, fitness: np.ndarray) -> None:
        order = np.argsort(fitness)
        count = len(self.members) - self._elites
        parents = self._rng.choice(len(self.members), count, p=fitness / fitness.sum())
        children = [
            self.members[parent].child(1.0 - fitness[parent], self._rng) for parent in parents
        ]
        for slot, child in zip(order[:count], children, strict=True):
            self.members[slot] = child
