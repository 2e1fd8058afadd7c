"""How a method's final models are measured, under both protocols from one run.

As published (protocol of the authors' code): NumPy's seed is 0, 1,600 indices are drawn from
0 ... 4998 without replacement, and the same indices are used on the training images and on the test
half. Fair: cross-entropy and accuracy on the whole validation half and the whole test half.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from reproduce.data import Split

NUM_EVALUATED = 1600


def fixed_indices(num_images: int = 5000) -> np.ndarray[Any, Any]:
    """Return the 1,600 indices of the published evaluation, the same for every run.

    Args:
        num_images: Size of the test half; fewer indices where it is smaller.
    """
    # The authors seeded NumPy's global generator; a RandomState of one's own draws the same.
    rng = np.random.RandomState(0)
    drawn = rng.choice(num_images - 1, size=min(NUM_EVALUATED, num_images - 1), replace=False)
    return np.asarray(drawn)


def measure(model: keras.Model, split: Split) -> dict[str, float]:
    """Return cross-entropies, without penalties, and accuracies of one model."""
    index = fixed_indices(len(split.x_test))
    train_loss, _ = cross_entropy(model, split.x_train[index], split.y_train[index])
    val_loss, val_accuracy = cross_entropy(model, split.x_val, split.y_val)
    losses, correct = _per_image(model, split.x_test, split.y_test)
    return {
        "published_train_loss": train_loss,
        "published_test_loss": float(losses[index].mean()),
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "test_loss": float(losses.mean()),
        "test_accuracy": float(correct.mean()),
        "penalty": float(sum(keras.ops.convert_to_numpy(loss) for loss in model.losses)),
    }


def cross_entropy(
    model: keras.Model, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy on (samples, ...) images and (samples,) labels."""
    losses, correct = _per_image(model, x, y)
    return float(losses.mean()), float(correct.mean())


def _per_image(model: keras.Model, x: Any, y: Any) -> tuple[Any, Any]:
    logits = model.predict(x, batch_size=250, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return keras.ops.convert_to_numpy(losses), logits.argmax(axis=1) == y
