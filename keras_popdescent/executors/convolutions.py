"""Convolutions of many members, each with kernels of its own, as products of matrices (JAX).

`vmap` makes of a convolution with a kernel for each member one convolution of as many groups, for
which a GPU has slow routines. As a product of a matrix of windows with the kernel it is a batch of
matrix products, for which it has fast ones: with five members of the paper's networks a step took
0.59 (CIFAR-10) and 0.41 times as long (Fashion-MNIST; one H200, TF32 as by default).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras

from keras_popdescent.hyperparameters._keras_internals import flatten_layers

# Windows of more positions would take too much memory: each is copied for itself.
_LARGEST_WINDOW = 27
# The layers whose `convolution_op` is known.
_KINDS = (keras.layers.Conv2D, keras.layers.Conv3D)
Convolution = Callable[[Any, Any], Any]


@contextmanager
def as_products(model: keras.Model) -> Iterator[None]:
    """Within the block, the model's 2D and 3D convolutions are products of matrices.

    Grouped convolutions, such with windows of more than 27 positions, channels first, and layers
    with a `convolution_op` of their own stay as they are.
    """
    with ExitStack() as stack:
        for layer in flatten_layers(model):
            if _applies(layer):
                layer.convolution_op = _product(layer)
                stack.callback(delattr, layer, "convolution_op")
        yield


def _applies(layer: keras.Layer) -> bool:
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    return (
        kind is not None
        and type(layer).convolution_op is kind.convolution_op
        and "convolution_op" not in vars(layer)
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and math.prod(layer.kernel_size) <= _LARGEST_WINDOW
    )


def _product(layer: Any) -> Convolution:
    """Return a layer's convolution: (samples, ..., channels), (window ..., channels, filters)."""
    window, strides, dilation = layer.kernel_size, layer.strides, layer.dilation_rate
    reach = [d * (size - 1) + 1 for size, d in zip(window, dilation, strict=True)]
    padding = layer.padding.upper()

    def convolution(inputs: Any, kernel: Any) -> Any:
        kernel = keras.ops.convert_to_tensor(kernel)
        inputs = keras.ops.convert_to_tensor(inputs, dtype=kernel.dtype)
        pads = jax.lax.padtype_to_pads(inputs.shape[1:-1], reach, strides, padding)
        inputs = jnp.pad(inputs, [(0, 0), *pads, (0, 0)])
        sizes = [
            (length - far) // stride + 1
            for length, far, stride in zip(inputs.shape[1:-1], reach, strides, strict=True)
        ]
        if min(sizes) < 1:
            raise ValueError(
                f"The output of the convolution {layer.name} is empty: inputs of shape "
                f"{inputs.shape[1:-1]}, window {window}."
            )

        def part(offsets: tuple[int, ...]) -> jax.Array:
            begin = [o * d for o, d in zip(offsets, dilation, strict=True)]
            end = [
                b + (size - 1) * stride + 1
                for b, size, stride in zip(begin, sizes, strides, strict=True)
            ]
            return jax.lax.slice(
                inputs,
                (0, *begin, 0),
                (inputs.shape[0], *end, inputs.shape[-1]),
                (1, *strides, 1),
            )

        # The order of the kernel's axes: window, then channels.
        parts = [part(offsets) for offsets in itertools.product(*map(range, window))]
        windows = jnp.concatenate(parts, axis=-1)
        filters = kernel.shape[-1]
        flat = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, filters)
        return flat.reshape(inputs.shape[0], *sizes, filters)

    return convolution
