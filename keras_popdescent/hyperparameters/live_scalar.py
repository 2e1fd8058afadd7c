"""A variable that stands where Keras expects a Python number.

Keras reads `Dropout.rate`, `L2.l2`, `SGD.momentum` and the like as Python numbers while it traces
the train step, so that they are frozen into the graph (measured on Keras 3.15). A `LiveScalar` in
their place is read inside the graph instead: a new value takes effect without a new trace.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_popdescent.hyperparameters.numbers import read_number, shortest


class LiveScalar:
    """Float-like view of a scalar variable.

    Arithmetic and conversion give the variable's current value as a tensor; like a Python number it
    takes the precision of the other operand (mixed precision). Truth and comparison
    with a number, which Keras uses to leave whole branches out of the graph
    (`if self.momentum != 0`), answer as for a number above zero, so that the branch is there for
    every later value; at 0 the branch computes what leaving it out would.

    Args:
        variable: A scalar float variable that the traced step tracks.
    """

    shape: tuple[int, ...] = ()
    ndim = 0

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable

    @property
    def dtype(self) -> str:
        """The variable's dtype."""
        return str(self.variable.dtype)

    def tensor(self) -> Any:
        """Return the current value as a tensor of the backend."""
        # On TensorFlow `convert_to_tensor` returns a Keras variable as it is.
        return keras.ops.copy(self.variable)

    def _beside(self, other: Any) -> Any:
        """Return the current value in the precision of the other operand."""
        dtype = getattr(other, "dtype", None)
        if dtype is None or not keras.backend.is_float_dtype(dtype):
            return self.tensor()
        return keras.ops.cast(self.tensor(), keras.backend.standardize_dtype(dtype))

    def read(self) -> float:
        """Return the current value as a Python number; not inside a traced step."""
        return shortest(read_number(self.variable))

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        tensor = self.tensor()
        return tensor if dtype is None else keras.ops.cast(tensor, dtype.name)

    def __jax_array__(self) -> Any:
        return self.tensor()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(keras.ops.convert_to_numpy(self.variable), dtype=dtype)

    def __float__(self) -> float:
        return self.read()

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __gt__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return False

    def __add__(self, other: Any) -> Any:
        return self._beside(other) + other

    def __radd__(self, other: Any) -> Any:
        return other + self._beside(other)

    def __sub__(self, other: Any) -> Any:
        return self._beside(other) - other

    def __rsub__(self, other: Any) -> Any:
        return other - self._beside(other)

    def __mul__(self, other: Any) -> Any:
        return self._beside(other) * other

    def __rmul__(self, other: Any) -> Any:
        return other * self._beside(other)

    def __truediv__(self, other: Any) -> Any:
        return self._beside(other) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._beside(other)

    def __pow__(self, other: Any) -> Any:
        return self._beside(other) ** other

    def __rpow__(self, other: Any) -> Any:
        return other ** self._beside(other)

    def __neg__(self) -> Any:
        return -self.tensor()

    def __repr__(self) -> str:
        return f"LiveScalar({self.variable.name})"
