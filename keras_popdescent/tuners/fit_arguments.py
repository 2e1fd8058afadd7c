"""The arguments of `search`, which are those of `keras.Model.fit`, sorted by who needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_popdescent.arguments import check_whole
from keras_popdescent.errors import ArgumentError, describe

# The order of `keras.Model.fit`.
_POSITIONS = (
    "x",
    "y",
    "batch_size",
    "epochs",
    "verbose",
    "callbacks",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "initial_epoch",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
_DATA = (
    "x",
    "y",
    "batch_size",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
)


@dataclass(frozen=True)
class FitArguments:
    """The arguments of `search`.

    Attributes:
        data: Those that describe the data.
        epochs: How long each slot trains; None where nothing was said.
        verbose: 0 for silence.
        callbacks: Keras callbacks, or functions that return one.
    """

    data: Mapping[str, Any]
    epochs: int | None
    verbose: int | str
    callbacks: Sequence[Any]


def fit_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> FitArguments:
    """Sort the arguments of `search`.

    `validation_freq` has no effect: members are scored in every iteration.

    Raises:
        ArgumentError: For an argument that `fit` does not take.
    """
    unknown = [name for name in kwargs if name not in _POSITIONS]
    if unknown or len(args) > len(_POSITIONS):
        raise ArgumentError(
            describe(
                "`search` got arguments that `keras.Model.fit` does not take.",
                f"It has: {', '.join(_POSITIONS)}; `search` has `heldout_data` too.",
                "What the tuner is to do belongs in its constructor.",
                unknown=unknown or list(args[len(_POSITIONS) :]),
            )
        )
    given = {**dict(zip(_POSITIONS, args, strict=False)), **kwargs}
    epochs = given.get("epochs")
    check_whole("epochs", epochs)
    initial = check_whole("initial_epoch", given.get("initial_epoch"), least=0) or 0
    if epochs is not None:
        if initial >= epochs:
            raise ArgumentError(
                describe(
                    "There is no epoch left to train.",
                    "Expected `initial_epoch` below `epochs`, the number of the last one.",
                    initial_epoch=initial,
                    epochs=epochs,
                )
            )
        epochs = int(epochs) - initial
    callbacks = given.get("callbacks")
    callbacks = [] if callbacks is None else callbacks
    if not isinstance(callbacks, list | tuple):
        callbacks = [callbacks]
    for callback in callbacks:
        if not callable(callback) and not isinstance(callback, keras.callbacks.Callback):
            raise ArgumentError(
                describe(
                    "`callbacks` has something else than callbacks among it.",
                    "Expected Keras callbacks, or functions that return one.",
                    callback=callback,
                )
            )
    verbose = given.get("verbose", "auto")
    return FitArguments(
        data={name: given[name] for name in _DATA if name in given},
        epochs=epochs,
        verbose="auto" if verbose is None else verbose,
        callbacks=list(callbacks),
    )
