"""A scalar variable read and written by the host, as at each birth: in little time."""

from __future__ import annotations

import keras
import numpy as np


def read_number(variable: keras.Variable) -> float:
    """Return the value of a scalar variable."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        held = variable.value
        return float(tf.raw_ops.ReadVariableOp(resource=held.handle, dtype=held.dtype))
    return float(keras.ops.convert_to_numpy(variable))


def write_number(variable: keras.Variable, value: float) -> None:
    """Set a scalar variable."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A fifth of the time of `Variable.assign`.
        held = variable.value
        number = tf.constant(value, held.dtype)
        tf.raw_ops.AssignVariableOp(resource=held.handle, value=number)
    else:
        variable.assign(value)


def shortest(number: float) -> float:
    """Return the shortest number that is the same in float32: 0.001, not 0.0010000000475."""
    return float(str(np.float32(number)))
