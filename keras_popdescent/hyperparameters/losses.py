"""Handles of the loss: label smoothing, loss weights, and a scale on the whole loss."""

from __future__ import annotations

from typing import Any

import keras

from keras_popdescent.hyperparameters import _keras_internals
from keras_popdescent.hyperparameters.handle import Handle


class LabelSmoothingHandle(Handle):
    """The label smoothing of a built-in cross-entropy."""

    neutral = 0.0

    def __init__(self, path: str, loss: Any) -> None:
        super().__init__(path, float(loss.label_smoothing))
        self.loss = loss

    def _install(self, model: keras.Model, scalar: Any) -> None:
        _keras_internals.loss_arguments(self.loss)["label_smoothing"] = scalar
        self.loss.label_smoothing = scalar


class LossWeightHandle(Handle):
    """The weight of one output's loss; `LiveModel` compares members under its default."""

    unbounded = True
    probe = (0.5, 2.0)

    def __init__(self, key: int | str | None, static: float) -> None:
        super().__init__("loss_weights" if key is None else f"loss_weights[{key}]", static)
        self.key = key
        self.neutral = static

    def _install(self, model: keras.Model, scalar: Any) -> None:
        _keras_internals.set_loss_weight(model, self.key, scalar)


class LossScaleHandle(Handle):
    """A factor on the whole loss, penalties included: the multiplier c of the authors' code."""

    unbounded = True
    neutral = 1.0
    probe = (0.5, 2.0)

    def __init__(self) -> None:
        super().__init__("loss_scale", 1.0)
        self.original: Any = None

    def _install(self, model: keras.Model, scalar: Any) -> None:
        if self.original is None:
            self.original = original = model.compute_loss

            def compute_loss(*args: Any, **kwargs: Any) -> Any:
                loss = original(*args, **kwargs)
                return None if loss is None else scalar * loss

            model.compute_loss = compute_loss
        else:
            model.compute_loss = self.original
            self.original = None


def loss_handles(model: keras.Model) -> list[Handle]:
    """Return the handles of the compiled loss."""
    losses = [loss for loss in keras.tree.flatten(model.loss) if loss is not None]
    handles: list[Handle] = [
        LabelSmoothingHandle(f"loss[{index}].label_smoothing", loss)
        for index, loss in enumerate(losses)
        if isinstance(loss, keras.losses.Loss) and hasattr(loss, "label_smoothing")
    ]
    return handles + _weight_handles(model)


def _weight_handles(model: keras.Model) -> list[Handle]:
    weights = _keras_internals.user_loss_weights(model)
    if isinstance(weights, dict):
        pairs: list[tuple[int | str | None, Any]] = list(weights.items())
    else:
        nested = isinstance(weights, list | tuple)
        pairs = list(enumerate(weights)) if nested else [(None, weights)]
    return [
        LossWeightHandle(key, float(weight))
        for key, weight in pairs
        if isinstance(weight, int | float)
    ]
