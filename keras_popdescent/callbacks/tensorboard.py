"""TensorBoard for a population: a folder for each member, with its hyperparameters (HParams)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_popdescent._imports import optional_import
from keras_popdescent.errors import MissingExtraError
from keras_popdescent.population.member import Member

MemberCallback = Callable[[Member], keras.callbacks.Callback]


def with_member_folders(
    given: Sequence[Any], name_of: Callable[[Member], str]
) -> list[keras.callbacks.Callback | Callable[..., keras.callbacks.Callback]]:
    """Return callbacks in which TensorBoard writes a folder of its own for each member.

    The folder is `log_dir/name`. Beside the member's metrics it holds its hyperparameters, so that
    TensorBoard's HParams page has a row for each member (on TensorFlow's backend, as KerasTuner).
    `tensorboard` is imported only where such a callback was given.

    Args:
        given: Callbacks, or functions that return one.
        name_of: Returns a member's name, its trial id for example.
    """
    found: list[Any] = []
    for callback in given:
        if not isinstance(callback, keras.callbacks.TensorBoard):
            found.append(callback)
            continue
        found.append(_folder(callback, name_of))
        if keras.backend.backend() == "tensorflow" and _hparams() is not None:
            found.append(_values(callback, name_of))
    return found


def _folder(given: keras.callbacks.TensorBoard, name_of: Callable[[Member], str]) -> MemberCallback:
    def make(member: Member) -> keras.callbacks.Callback:
        own = copy.deepcopy(given)
        own.log_dir = os.path.join(str(given.log_dir), name_of(member))
        return own

    return make


def _values(given: keras.callbacks.TensorBoard, name_of: Callable[[Member], str]) -> MemberCallback:
    def make(member: Member) -> keras.callbacks.Callback:
        name = name_of(member)
        folder = os.path.join(str(given.log_dir), name)
        return hparams_callback(folder, member.values, name)

    return make


def hparams_callback(
    folder: str, values: Mapping[str, Any], trial_id: str
) -> keras.callbacks.Callback:
    """Return the callback that writes hyperparameters for TensorBoard's HParams page.

    Raises:
        MissingExtraError: If `tensorboard` is not installed.
    """
    api: Any = optional_import(
        "tensorboard.plugins.hparams.api", "tensorboard", "hyperparameters in TensorBoard"
    )
    callback: keras.callbacks.Callback = api.KerasCallback(
        writer=folder, hparams=dict(values), trial_id=trial_id
    )
    return callback


def _hparams() -> Any:
    try:
        return optional_import("tensorboard.plugins.hparams.api", "tensorboard", "HParams")
    except MissingExtraError:
        return None
