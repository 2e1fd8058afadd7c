"""How a method's final models are measured, under both protocols from one run.

As published (protocol of the authors' code): NumPy's seed is 0, 1,600 indices are drawn from
0 ... 4998 without replacement, and the same indices are used on the training images and on the test
half; for ESGD on the validation half instead of the test half. The model of the lowest test loss
counts. Fair: cross-entropy and accuracy on the whole test half, of the model of the lowest
cross-entropy on the whole validation half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from reproduce.data import Split

NUM_EVALUATED = 1600
Measured = dict[str, float]


def cross_entropy_metric() -> keras.metrics.Metric:
    """Return cross-entropy without penalties and loss scales, as a metric `cross_entropy`."""
    return keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy")


@keras.saving.register_keras_serializable(package="reproduce")
class LastBatchCrossEntropy(keras.metrics.Metric):
    """Cross-entropy of the last batch, before its update: the authors' training fitness."""

    def __init__(self, name: str = "last_cross_entropy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.value = self.add_variable(shape=(), initializer="zeros", name="value")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Forget the batches before."""
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        self.value.assign(keras.ops.mean(losses))

    def result(self) -> Any:
        """Return the last batch's mean."""
        return keras.ops.convert_to_tensor(self.value)


def fixed_indices(num_images: int = 5000) -> np.ndarray[Any, Any]:
    """Return the 1,600 indices of the published evaluation, the same for every run.

    Args:
        num_images: Size of the test half; fewer indices where it is smaller.
    """
    # The authors seeded NumPy's global generator; a RandomState of one's own draws the same.
    rng = np.random.RandomState(0)
    drawn = rng.choice(num_images - 1, size=min(NUM_EVALUATED, num_images - 1), replace=False)
    return np.asarray(drawn)


def measure(model: keras.Model, split: Split) -> Measured:
    """Return cross-entropies, without penalties, and accuracies of one model."""
    index = fixed_indices(len(split.x_test))
    train_loss, _ = cross_entropy(model, split.x_train[index], split.y_train[index])
    val_losses, val_correct = _per_image(model, split.x_val, split.y_val)
    losses, correct = _per_image(model, split.x_test, split.y_test)
    return {
        "published_train_loss": train_loss,
        "published_test_loss": float(losses[index].mean()),
        "published_val_loss": float(val_losses[index].mean()),
        "val_loss": float(val_losses.mean()),
        "val_accuracy": float(val_correct.mean()),
        "test_loss": float(losses.mean()),
        "test_accuracy": float(correct.mean()),
        "penalty": float(sum(keras.ops.convert_to_numpy(loss) for loss in model.losses)),
    }


def lowest(losses: Iterable[float]) -> float:
    """Return the lowest finite loss; NaN where all models have diverged."""
    return min(filter(math.isfinite, losses), default=math.nan)


def _best(models: Sequence[Measured], loss: str) -> Measured:
    """Return the model of the lowest finite loss; where all have diverged, the first."""
    return min(models, key=lambda model: _or_infinite(model[loss]))


def _or_infinite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def best_on_test(models: Sequence[Measured]) -> Measured:
    """Return what was published of Population Descent: both losses of the best model on test."""
    best = _best(models, "published_test_loss")
    return {"test_loss": best["published_test_loss"], "train_loss": best["published_train_loss"]}


def minima(models: Sequence[Measured], test: str = "published_test_loss") -> Measured:
    """Return what was published of the baselines: the lowest of each loss, penalty included.

    Args:
        models: The measured models.
        test: The images that count as test.
    """
    return {
        "test_loss": lowest(model[test] + model["penalty"] for model in models),
        "train_loss": lowest(model["published_train_loss"] + model["penalty"] for model in models),
    }


def fair(models: Sequence[Measured]) -> Measured:
    """Return the whole test half's numbers of the model of the lowest validation loss."""
    best = _best(models, "val_loss")
    return {key: best[key] for key in ("val_loss", "test_loss", "test_accuracy")}


def cross_entropy(
    model: keras.Model, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy on (samples, ...) images and (samples,) labels."""
    losses, correct = _per_image(model, x, y)
    return float(losses.mean()), float(correct.mean())


def _per_image(model: keras.Model, x: Any, y: Any) -> tuple[Any, Any]:
    # 200 divides 1,600 and 5,000, so that one shape is traced.
    logits = model.predict(x, batch_size=200, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return keras.ops.convert_to_numpy(losses), logits.argmax(axis=1) == y
