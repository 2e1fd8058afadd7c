"""Convolutions as products of matrices give what Keras's own give."""

from __future__ import annotations

import keras
import numpy as np
import pytest

layers = keras.layers
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only"),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 9, 10, 4)).astype("float32")
VOLUMES = RNG.normal(size=(2, 5, 6, 7, 2)).astype("float32")
AS_PRODUCTS = [
    (layers.Conv2D(5, 3), IMAGES),
    (layers.Conv2D(5, 3, strides=2), IMAGES),
    (layers.Conv2D(5, (2, 3), padding="same", activation="relu"), IMAGES),
    (layers.Conv2D(5, 3, strides=(2, 3), padding="same", use_bias=False), IMAGES),
    (layers.Conv2D(5, 3, dilation_rate=2), IMAGES),
    (layers.Conv2D(5, 3, dilation_rate=(1, 3), padding="same"), IMAGES),
    (layers.Conv2D(5, 1), IMAGES),
    (layers.Conv2D(5, 5), IMAGES),
    (layers.Conv3D(3, (2, 2, 3), strides=(1, 2, 1)), VOLUMES),
    (layers.Conv3D(3, 3, padding="same"), VOLUMES),
]


def with_one_of_its_own():
    """A layer whose operation was set on the object."""
    layer = layers.Conv2D(4, 3)
    layer.convolution_op = lambda inputs, kernel: keras.ops.conv(inputs, kernel) * 2.0
    return layer


class Own(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return 2.0 * super().convolution_op(inputs, kernel)


AS_THEY_WERE = [
    layers.Conv2D(4, 3, groups=2),
    layers.Conv2D(4, 3, data_format="channels_first"),
    layers.Conv2D(4, 6),
    layers.DepthwiseConv2D(3),
    Own(4, 3),
    with_one_of_its_own(),
]


def as_products(model):
    from keras_popdescent.executors.convolutions import as_products

    return as_products(model)


@pytest.mark.parametrize(("layer", "inputs"), AS_PRODUCTS)
def test_outputs_and_gradients_are_keras_s_own(layer, inputs):
    import jax

    model = keras.Sequential([keras.Input(inputs.shape[1:]), layers.Activation("tanh"), layer])
    weights = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    def loss(weights, inputs):
        outputs, _ = model.stateless_call(weights, others, inputs)
        return (outputs**2).sum(), outputs

    compute = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, expected), gradients = compute(weights, inputs)
    with as_products(model):
        assert "conv_general_dilated" not in str(jax.make_jaxpr(compute)(weights, inputs))
        (_, outputs), others_too = compute(weights, inputs)
    assert outputs.shape == expected.shape and outputs.dtype == expected.dtype
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(*map(jax.tree_util.tree_leaves, (gradients, others_too)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)


def test_mixed_precision_stays_mixed():
    layer = layers.Conv2D(5, 3, dtype="mixed_float16")
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), layer])
    expected = model(IMAGES)
    with as_products(model):
        outputs = model(IMAGES)
        assert "convolution_op" in vars(layer)
    assert outputs.dtype == expected.dtype == "float16"
    np.testing.assert_allclose(outputs, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("layer", AS_THEY_WERE)
def test_others_stay_as_they_are(layer):
    model = keras.Sequential([layer])
    held = vars(layer).get("convolution_op")
    with as_products(model):
        assert vars(layer).get("convolution_op") is held
    assert vars(layer).get("convolution_op") is held


def test_one_within_another_is_the_same():
    layer = layers.Conv2D(4, 3)
    model = keras.Sequential([layer])
    with as_products(model):
        with as_products(model):
            assert "convolution_op" in vars(layer)
        assert "convolution_op" in vars(layer)
    assert "convolution_op" not in vars(layer)


def test_layers_within_layers_and_all_is_put_back():
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.Conv2D(2, 3)])
    model = keras.Sequential([keras.Input((9, 10, 4)), layers.TimeDistributed(layers.Dense(4))])
    model.add(inner)
    expected = model.predict(IMAGES, verbose=0)
    with pytest.raises(KeyError), as_products(model):
        assert all("convolution_op" in vars(layer) for layer in inner.layers)
        np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
        raise KeyError
    assert not any("convolution_op" in vars(layer) for layer in inner.layers)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), expected)


def test_inputs_smaller_than_the_window_are_refused_as_by_keras():
    model = keras.Sequential([layers.Conv2D(2, 3)])
    model.build((None, 9, 9, 1))
    with as_products(model), pytest.raises(ValueError, match="empty"):
        model(np.zeros((1, 2, 9, 1), "float32"))
