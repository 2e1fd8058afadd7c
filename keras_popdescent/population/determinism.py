"""`deterministic=True`: what a backend needs for the same bits twice, on a GPU too."""

from __future__ import annotations

import os
import warnings

import keras

from keras_popdescent.errors import ArgumentError, describe

# Either of these in XLA_FLAGS; XLA reads them once, when it starts.
_XLA_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_exclude_nondeterministic_ops=true")


def make_deterministic() -> None:
    """Let the backend use only operations that give the same result twice.

    TensorFlow: calls `tf.config.experimental.enable_op_determinism()`. That holds for the whole
    process from then on, and TensorFlow offers no way back. It makes some operations slower, reads
    `tf.data` pipelines one element at a time, and lets TensorFlow refuse random operations without
    a seed (`tf.random.normal` in code of the user's own; Keras's layers have seeds) and the few
    operations that have no deterministic form.

    JAX: nothing is set, since XLA reads its flags when it starts. On a GPU without such a flag
    there is a warning that says what to set.

    Raises:
        ArgumentError: On another backend.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        given = os.environ.get("XLA_FLAGS", "").lower()
        if keras.distribution.list_devices("gpu") and not any(f in given for f in _XLA_FLAGS):
            warnings.warn(
                "`deterministic=True` cannot be set in a JAX that runs already. Start Python with "
                f"XLA_FLAGS={_XLA_FLAGS[0]} in the environment.",
                stacklevel=3,
            )
    else:
        raise ArgumentError(
            describe(
                "`deterministic=True` is known for TensorFlow and JAX only.",
                fix="Leave it out, and set what the backend needs yourself.",
                backend=backend,
            )
        )
