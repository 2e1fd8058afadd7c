"""Many variables read and assigned at once: what members are swapped with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras


def swap_functions(
    variables: Sequence[keras.Variable],
) -> tuple[Callable[[], list[Any]], Callable[[Sequence[Any]], None]]:
    """Return functions that read and assign many variables at once, on the device.

    What was read does not change with the variables.
    """
    if keras.backend.backend() != "tensorflow":

        def read() -> list[Any]:
            return [keras.ops.convert_to_tensor(variable) for variable in variables]

        def write(tensors: Sequence[Any]) -> None:
            for variable, tensor in zip(variables, tensors, strict=True):
                variable.assign(tensor)

        if keras.backend.backend() == "torch":

            def read() -> list[Any]:  # torch tensors are views of their variable, with its gradient
                values = map(keras.ops.convert_to_tensor, variables)
                return [keras.ops.copy(keras.ops.stop_gradient(value)) for value in values]

        return read, write
    import tensorflow as tf

    # Raw operations: a tenth of the time of `Variable.assign`, and nothing to trace. A tensor that
    # was read keeps its value: TensorFlow copies on write while somebody holds it.
    targets = [(variable.value.handle, variable.value.dtype) for variable in variables]

    def read_all() -> list[Any]:
        return [
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in targets
        ]

    def write_all(tensors: Sequence[Any]) -> None:
        for (handle, dtype), tensor in zip(targets, tensors, strict=True):
            value = tf.convert_to_tensor(tensor, dtype)
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    return read_all, write_all
