"""Optional dependencies: imported where used, with an error that names the extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from keras_popdescent.errors import MissingExtraError, describe


def optional_import(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra of this package brings it.

    Args:
        module: Name of the module, for example `"matplotlib.pyplot"`.
        extra: The extra of `keras-popdescent` that installs it.
        purpose: What needs it, as a phrase that follows "is needed for".

    Raises:
        MissingExtraError: If the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            describe(
                f"`{module}` is needed for {purpose} and is not installed.",
                fix=f'Install it with `pip install "keras-popdescent[{extra}]"`.',
            )
        ) from error
