"""Checks of arguments where they enter: what cannot work is refused before anything is built."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_popdescent.errors import ArgumentError, describe


def check_whole(name: str, number: Any, least: int = 1, *, none: bool = True) -> Any:
    """Return a number as an int; refuse one that is too small or not whole.

    Args:
        name: The argument's name.
        number: What was given.
        least: The smallest number that is right.
        none: Whether None passes, as None.

    Raises:
        ArgumentError: Naming the argument.
    """
    if number is None and none:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
        raise _refused(name, "a whole number", number)
    if not math.isfinite(number) or int(number) != number or int(number) < least:
        raise _refused(name, f"a whole number of at least {least}", number)
    return int(number)


def check_number(
    name: str,
    number: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    none: bool = True,
) -> None:
    """Refuse what is no finite number within bounds.

    Args:
        name: The argument's name.
        number: What was given.
        low: The smallest number that is right.
        high: The largest.
        above: Whether `low` itself is too small.
        none: Whether None passes.

    Raises:
        ArgumentError: Naming the argument and the bounds.
    """
    if number is None and none:
        return
    known = isinstance(number, int | float | np.integer | np.floating)
    if known and not isinstance(number, bool) and math.isfinite(number):
        if (low < number if above else low <= number) and number <= high:
            return
    expected = "a finite number"
    if low > -math.inf:
        expected += f" {'above' if above else 'of at least'} {low:g}"
    if high < math.inf:
        expected += f", at most {high:g}"
    raise _refused(name, expected, number)


def check_time(name: str, seconds: Any) -> None:
    """Refuse what is no duration in seconds above 0; infinity and None pass.

    Raises:
        ArgumentError: Naming the argument.
    """
    if not (isinstance(seconds, float | np.floating) and seconds == math.inf):
        check_number(name, seconds, 0.0, above=True)


def check_one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse what is not among some words.

    Raises:
        ArgumentError: Listing the words.
    """
    if not isinstance(value, str) or value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise _refused(name, f"one of {words}", value)


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ArgumentError: Naming the argument.
    """
    if not isinstance(value, bool | np.bool_):
        raise _refused(name, "True or False", value)


def make_whole(
    record: Any, names: Sequence[str], least: int = 1, nullable: Sequence[str] = ()
) -> None:
    """Check whole numbers of a frozen record, and let each be an int.

    Args:
        record: The record.
        names: Its fields.
        least: The smallest number that is right.
        nullable: Those of the fields that may be None.

    Raises:
        ArgumentError: Naming the field.
    """
    for name in names:
        number = check_whole(name, getattr(record, name), least, none=name in nullable)
        object.__setattr__(record, name, number)


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Refuse what is of another type; None passes.

    Args:
        name: The argument's name.
        value: What was given.
        kind: The type, or several.
        expected: What would have been right, in words.

    Raises:
        ArgumentError: Naming the argument.
    """
    if value is not None and not isinstance(value, kind):
        hint = "Did you mean to call it?" if isinstance(value, type) else ""
        raise _refused(name, expected, value, hint)


def check_path(name: str, path: Any) -> None:
    """Refuse what is no path of a folder; None passes.

    Raises:
        ArgumentError: Naming the argument.
    """
    check_type(name, path, (str, os.PathLike), "a path")
    if path is not None and ("\0" in os.fspath(path) or not os.fspath(path)):
        raise _refused(name, "a path", path)


def check_seed(seed: Any) -> None:
    """Refuse what cannot seed a search; None passes.

    Raises:
        ArgumentError: Naming what came.
    """
    check_whole("seed", seed, least=0)
    if isinstance(seed, float | np.floating):
        raise _refused("seed", "a whole number", seed)


def _refused(name: str, expected: str, value: Any, fix: str = "") -> ArgumentError:
    # "low` of `rate" names an argument within another.
    received = {name.partition("`")[0]: value}
    return ArgumentError(describe(f"`{name}` must be {expected}.", fix=fix, **received))
