"""The user's Keras callbacks, one set a member, from its birth to its replacement.

One `on_train_begin` in a member's life, continuous epochs (a child goes on counting where its
parent was), and no `deepcopy` of what cannot be copied: pass a function that returns a callback.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from keras_popdescent.callbacks.tensorboard import own_summaries
from keras_popdescent.checkpoint import takes
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.population.budget import Budget
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.member import Member
from keras_popdescent.population.observer import Observer

_BATCH_HOOKS = (
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_batch_begin",
    "on_batch_end",
)
# Lists and dicts that go deeper hold themselves, mostly.
_MAX_DEPTH = 32
# Python refuses to write a longer integer in digits.
_MAX_BITS = 4096


class _Life:
    """The callbacks of one member."""

    def __init__(self, member: Member, callbacks: list[keras.callbacks.Callback]) -> None:
        self.member = member
        self.callbacks = callbacks
        self.steps = member.gradient_steps
        self.begun = False
        # The epoch that is under way; None from one's end to the first batch of the next.
        self.epoch: int | None = None
        self.batch = 0
        self.logs: dict[str, float] = {}
        # What the callbacks were made with, and what a resumed search gives back to them.
        self.made = [
            {name: digest(value) for name, value in plain_attributes(callback).items()}
            for callback in callbacks
        ]
        self.saved: dict[str, Any] | None = None

    def get_state(self) -> dict[str, Any]:
        """Return where the life is and what its callbacks have come to, as far as it is plain."""
        changed = []
        for callback, made in zip(self.callbacks, self.made, strict=True):
            now = plain_attributes(callback)
            new = {name: value for name, value in now.items() if made.get(name) != digest(value)}
            changed.append([type(callback).__name__, new])
        return {
            "begun": self.begun,
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
            "logs": self.logs,
            "changed": changed,
        }

    def go_on(self) -> None:
        """Give the callbacks back what they had come to; training has begun for them just now."""
        if self.saved is None:
            return
        self.epoch, self.batch = self.saved["epoch"], int(self.saved["batch"])
        self.logs = dict(self.saved["logs"])
        # By class and order: there may be more callbacks now, or fewer.
        waiting = list(self.callbacks)
        for kind, changed in self.saved["changed"]:
            for callback in [c for c in waiting if type(c).__name__ == kind][:1]:
                waiting.remove(callback)
                for name, value in changed.items():
                    setattr(callback, name, value)
        self.saved = None


class MemberCallbacks(Observer):
    """Drives Keras callbacks through the lives of members; fulfils `Hooks`.

    An epoch of a member ends in the iteration in which its line has made as many gradient steps as
    an epoch has batches. Batch hooks are called where a callback has one; then steps run one by
    one.

    Args:
        callbacks: Callbacks (copied for each member) or functions that return one.
        steps_per_epoch: Batches an epoch; None where nobody knows: then an iteration is an epoch.
        budget: How long the search runs.

    Raises:
        ArgumentError: In the search, if a callback cannot be used for members.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback | Callable[[], keras.callbacks.Callback]],
        steps_per_epoch: int | None,
        budget: Budget,
    ) -> None:
        self._given = list(callbacks)
        self._steps_per_epoch = steps_per_epoch or budget.batches_per_iteration
        total = budget.iterations * budget.batches_per_iteration
        self._params = {
            "verbose": 0,
            "epochs": -(-total // self._steps_per_epoch),
            "steps": self._steps_per_epoch,
        }
        self._lives: dict[int, _Life] = {}
        self._loop: Loop | None = None
        self._by_batch = False
        # What is in force while a member has its turn.
        self._turn = ExitStack()
        self._resumed: dict[str, Any] = {}

    def search_begin(self, loop: Loop) -> None:
        self._loop = loop

    def births(self, members: Sequence[Member]) -> None:
        for member in members:
            made = [fresh_callback(given, member) for given in self._given]
            for callback in made:
                _refuse_exchange(callback)
            self._by_batch = self._by_batch or any(map(_has_batch_hook, made))
            life = _Life(member, made)
            saved = self._resumed.pop(str(member.member_id), None)
            # Earlier versions saved no `begun`, and began the next epoch at once.
            if saved is not None and saved.get("begun", saved["epoch"] is not None):
                life.saved, life.steps = saved, int(saved["steps"])
            self._lives[member.slot] = life

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed search needs to know about the callbacks of living members.

        Of a callback these are the numbers, strings, arrays, and lists and dicts of them, among the
        attributes that have changed since it was made.
        """
        return {str(life.member.member_id): life.get_state() for life in self._lives.values()}

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Take back what `get_state` returned, before the members are announced."""
        self._resumed = dict(state or {})

    def deaths(self, members: Sequence[Member]) -> None:
        for member in members:
            self._end(member.slot)

    def search_end(self, loop: Loop) -> None:
        self._turn.close()
        for slot in list(self._lives):
            self._end(slot)

    def needs_batches(self, slot: int) -> bool:
        """Whether every batch is announced."""
        return self._by_batch

    def should_stop(self, slot: int) -> bool:
        """Whether a callback has set `model.stop_training`."""
        return self._lives[slot].member.stopped

    def train_begin(self, slot: int, model: keras.Model) -> None:
        """Begin a life, or go on with it."""
        life = self._lives[slot]
        # A turn that was cut off has had no end.
        self._turn.close()
        self._turn.enter_context(own_summaries(life.callbacks))
        model.stop_training = False
        if not life.begun:
            life.begun = True
            for callback in life.callbacks:
                callback.set_params(dict(self._params))
                callback.set_model(model)
                callback.on_train_begin({})
            life.go_on()
        if life.epoch is None:
            self._begin_epoch(life)

    def batch_begin(self, slot: int, model: keras.Model) -> None:
        """Announce a batch."""
        for callback in self._lives[slot].callbacks:
            callback.on_train_batch_begin(self._lives[slot].batch, {})

    def batch_end(self, slot: int, model: keras.Model, logs: Mapping[str, float]) -> None:
        """Announce the end of a batch."""
        life = self._lives[slot]
        for callback in life.callbacks:
            callback.on_train_batch_end(life.batch, dict(logs))
        life.batch += 1
        life.member.stopped = life.member.stopped or bool(model.stop_training)

    def train_end(
        self, slot: int, model: keras.Model, num_steps: int, logs: Mapping[str, float]
    ) -> None:
        """Count the steps; end the epoch that they complete. Of several, the first is told."""
        life = self._lives[slot]
        life.logs = dict(logs)
        life.steps += num_steps
        if life.epoch is not None and life.steps >= (life.epoch + 1) * self._steps_per_epoch:
            for callback in life.callbacks:
                callback.on_epoch_end(life.epoch, dict(logs))
            # The next one begins with its first batch, if the member trains on.
            life.epoch = None
            life.member.stopped = life.member.stopped or bool(model.stop_training)
        self._turn.close()

    def _begin_epoch(self, life: _Life) -> None:
        life.epoch = life.steps // self._steps_per_epoch
        life.batch = 0
        for callback in life.callbacks:
            callback.on_epoch_begin(life.epoch, {})

    def _end(self, slot: int) -> None:
        life = self._lives.pop(slot)
        if not life.begun or self._loop is None:
            return

        def finish(model: keras.Model) -> None:
            # Nobody has scored what a callback makes of the weights now (`EarlyStopping` restores
            # some), and the member may be about to be copied.
            scored = [keras.ops.copy(variable) for variable in model.weights]
            with own_summaries(life.callbacks):
                for callback in life.callbacks:
                    callback.on_train_end(dict(life.logs))
            for variable, value in zip(model.weights, scored, strict=True):
                variable.assign(value)

        self._loop.executor.visit(slot, finish)


def fresh_callback(given: Any, member: Member | None = None) -> keras.callbacks.Callback:
    """Return a member's own callback: a copy of a given one, or what a given function returns.

    Args:
        given: A callback, or a function without arguments or with one: the member.
        member: The member, which a function may want to know.

    Raises:
        ArgumentError: If the callback cannot be copied, a function returns none, or it would put
            weights of other members into this one's model (`BackupAndRestore`).
    """
    if not isinstance(given, keras.callbacks.Callback):
        return _made(given, member)
    _refuse_backup(given)
    try:
        return copy.deepcopy(given)
    except Exception as error:
        raise ArgumentError(
            describe(
                "A callback cannot be copied, and every member needs one of its own.",
                fix="Pass a function that returns the callback instead of the callback.",
                callback=type(given).__name__,
                reason=str(error)[:200],
            )
        ) from error


def _refuse_backup(callback: keras.callbacks.Callback) -> None:
    """Refuse a callback that begins with what the last member left in its folder."""
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise ArgumentError(
            describe(
                "`BackupAndRestore` would begin each member with the weights of another one.",
                fix="Leave it out: a search keeps snapshots of its own, and goes on by itself.",
                callback=type(callback).__name__,
            )
        )


def _refuse_exchange(callback: keras.callbacks.Callback) -> None:
    """Refuse a callback that exchanges weights and averages from one epoch to the next.

    Where the user's own code calls `fit`, Keras puts that in order at the end of each call.
    """
    if isinstance(callback, keras.callbacks.SwapEMAWeights) and callback.swap_on_epoch:
        raise ArgumentError(
            describe(
                "`SwapEMAWeights(swap_on_epoch=True)` would leave the averages and the weights of "
                "a member exchanged when it is kept and exported.",
                fix="Leave it out: where an optimizer averages weights (`use_ema`), members are "
                "scored and exported with the averages.",
                callback=type(callback).__name__,
            )
        )


def _made(given: Any, member: Member | None) -> keras.callbacks.Callback:
    """Call a function, or a class, that returns a callback."""
    if not callable(given):
        raise _no_callback(given)
    made = given(member) if _wants_member(given) else given()
    if not isinstance(made, keras.callbacks.Callback):
        raise _no_callback(made)
    _refuse_backup(made)
    return made


def _wants_member(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in positional for p in parameters)


def _no_callback(given: Any) -> ArgumentError:
    return ArgumentError(
        describe(
            "`callbacks` contains something that is not a callback.",
            "Expected Keras callbacks, or functions that return one.",
            received=given,
        )
    )


def plain_attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes of a callback that can be saved and given back."""
    # Keras sets these itself.
    own = ("params", "_model", "model", "validation_data")
    found = {name: value for name, value in vars(callback).items() if name not in own}
    return {name: value for name, value in found.items() if _is_plain(value)}


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value can be packed, and is its like when it is read again."""
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf" and takes(value.dtype)
    if type(value) is list:
        return all(_is_plain(item, depth + 1) for item in value)
    if type(value) is dict:
        return all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, int):
        return value.bit_length() <= _MAX_BITS
    return value is None or isinstance(value, float | str)


def digest(value: Any) -> str:
    """Return a checksum of a plain value, the same for equal ones."""
    if isinstance(value, np.ndarray):
        content: Any = (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest())
    elif isinstance(value, list):
        content = list(map(digest, value))
    elif isinstance(value, dict):
        content = {key: digest(item) for key, item in value.items()}
    else:
        content = value
    return hashlib.sha256(f"{type(value).__name__} {content!r}".encode()).hexdigest()


def _has_batch_hook(given: keras.callbacks.Callback) -> bool:
    """Whether a callback has something to do at a batch."""
    idle = [getattr(keras.callbacks.Callback, name) for name in _BATCH_HOOKS]
    if getattr(given, "save_freq", None) == "epoch":
        # Keras's own hook does nothing then.
        idle.append(keras.callbacks.ModelCheckpoint.on_train_batch_end)
    # A `LambdaCallback` has functions in the place of some methods.
    hooks = [getattr(given, name) for name in _BATCH_HOOKS]
    return any(getattr(hook, "__func__", hook) not in idle for hook in hooks)
