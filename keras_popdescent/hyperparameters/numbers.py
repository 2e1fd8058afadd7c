"""A scalar variable read and written by the host, as at each birth: in little time."""

from __future__ import annotations

import keras


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
