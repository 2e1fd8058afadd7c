"""Handles within layers: L1 and L2 coefficients, dropout rates, noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_popdescent.hyperparameters import _keras_internals
from keras_popdescent.hyperparameters.handle import AttributeHandle, Handle
from keras_popdescent.hyperparameters.live_scalar import LiveScalar

_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
# class of layer -> the attribute that is its strength; no subclasses: their `call` may be another
_NOISE_LAYERS = {
    keras.layers.Dropout: "rate",
    keras.layers.SpatialDropout1D: "rate",
    keras.layers.SpatialDropout2D: "rate",
    keras.layers.SpatialDropout3D: "rate",
    keras.layers.GaussianNoise: "stddev",
}
_SPATIAL_RANKS = {
    keras.layers.SpatialDropout1D: 1,
    keras.layers.SpatialDropout2D: 2,
    keras.layers.SpatialDropout3D: 3,
}


class RegularizerHandle(AttributeHandle):
    """The coefficient of an L1 or L2 penalty on weights or activities.

    One regularizer object may serve several layers; then it is one handle.
    """

    unbounded = True
    neutral = 0.0
    probe = (0.0, 1.0)


class NoiseHandle(AttributeHandle):
    """The rate of a dropout layer, or the standard deviation of a noise layer."""

    number_on_torch = True

    def _install(self, model: keras.Model, scalar: Any) -> None:
        super()._install(model, scalar)
        layer = self.owner
        # Keras gives a layer built with rate 0 no generator.
        if getattr(layer, "seed_generator", None) is None:
            with _keras_internals.unlocked(layer):
                layer.seed_generator = keras.random.SeedGenerator(layer.seed or 0)
        if isinstance(layer, keras.layers.Dropout):
            if isinstance(scalar, LiveScalar):
                layer.call = _live_dropout(layer, scalar)
            elif "call" in vars(layer):
                del layer.call


def _live_dropout(layer: keras.layers.Dropout, rate: LiveScalar) -> Callable[..., Any]:
    """Return a dropout whose rate may be a tensor.

    TensorFlow's takes no variable (it compares the rate with 0 and 1 in Python), and JAX's promotes
    half precision. The same numbers are drawn in the same order as by Keras's own layer, so that
    the masks are the same.
    """
    on_jax = keras.backend.backend() == "jax"

    def call(inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        keep = 1.0 - rate.tensor()
        draw = keras.random.uniform(
            _noise_shape(layer, inputs),
            dtype=keep.dtype if on_jax else inputs.dtype,
            seed=layer.seed_generator,
        )
        if on_jax:
            kept, scaled = draw < keep, inputs / keras.ops.cast(keep, inputs.dtype)
        else:
            kept = draw >= keras.ops.cast(rate.tensor(), inputs.dtype)
            scaled = inputs * keras.ops.cast(1.0 / keep, inputs.dtype)
        return keras.ops.where(kept, scaled, keras.ops.zeros_like(scaled))

    return call


def _noise_shape(layer: keras.layers.Dropout, inputs: Any) -> tuple[Any, ...]:
    shape = tuple(keras.ops.shape(inputs))
    rank = _SPATIAL_RANKS.get(type(layer))
    if rank is not None:
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        ones = (1,) * rank
        return (*shape[:2], *ones) if first else (shape[0], *ones, shape[-1])
    fixed = layer.noise_shape or (None,) * len(shape)
    return tuple(size if given is None else given for size, given in zip(shape, fixed, strict=True))


def layer_handles(model: keras.Model) -> list[Handle]:
    """Return the handles of all layers, in the order of the layers."""
    layers = [
        (f"{index}:{type(layer).__name__}", layer)
        for index, layer in enumerate(_keras_internals.flatten_layers(model))
    ]
    regularizers = [
        (f"{place}.{name}", value)
        for place, layer in layers
        for name, value in sorted(vars(layer).items())
        if type(value) in _REGULARIZERS
    ]
    # A custom layer may give a regularizer to a weight without keeping it itself.
    regularizers += [
        (f"weights[{index}].regularizer", variable.regularizer)
        for index, variable in enumerate(model.variables)
        if type(getattr(variable, "regularizer", None)) in _REGULARIZERS
    ]
    handles: list[Handle] = []
    seen: set[int] = set()
    for path, regularizer in regularizers:
        if id(regularizer) not in seen:
            seen.add(id(regularizer))
            handles += [
                RegularizerHandle(f"{path}.{norm}", regularizer, norm)
                for norm in ("l1", "l2")
                if hasattr(regularizer, norm)
            ]
    for place, layer in layers:
        attribute = _NOISE_LAYERS.get(type(layer))
        if attribute is not None:
            handles.append(NoiseHandle(f"{place}.{attribute}", layer, attribute))
    return handles
