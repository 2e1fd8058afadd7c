"""TensorBoard for a population: a folder for each member, with its hyperparameters (HParams)."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@contextmanager
def own_summaries(callbacks: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Within the block, the default writer of summaries is one member's callbacks' affair.

    With `update_freq="batch"` or a number, Keras's callback makes its writer the default in
    `on_train_begin` and puts back what was there before in `on_train_end`. Lives of members
    overlap, so that without this one member's summaries would go where another one's belong.

    Args:
        callbacks: Those of the member whose turn it is.
    """
    writing = [callback for callback in callbacks if _writes_batches(callback)]
    if not writing:
        yield
        return
    # TensorFlow's module, which Keras needs for it on every backend.
    summary = writing[0].summary
    # What a callback puts back must be a writer, as it is flushed; this one is never written to.
    with _nowhere(summary).as_default(step=0), summary.record_if(False):
        yield


def _writes_batches(callback: keras.callbacks.Callback) -> bool:
    return isinstance(callback, keras.callbacks.TensorBoard) and callback.update_freq != "epoch"


@functools.cache
def _nowhere(summary: Any) -> Any:
    """Return a writer of nothing; TensorFlow has one, which does not become the default."""

    def nothing(self: Any) -> None:
        """Do nothing."""

    methods = {"init": nothing, "flush": nothing, "close": nothing}
    return type("Nowhere", (summary.SummaryWriter,), methods)()


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
