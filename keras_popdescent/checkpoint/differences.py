"""What differs between a search on disk and the one that is asked for."""

from __future__ import annotations

from typing import Any

# A message lists so many differences, and cuts values to so many characters.
_MAX_LISTED = 8
_MAX_TEXT = 80
_MISSING = object()


def differences(saved: Any, given: Any, where: str = "") -> list[str]:
    """Return a line for each difference between two JSON-able structures.

    Args:
        saved: What was.
        given: What is.
        where: Name of the whole, in front of each line.

    Returns:
        Lines such as `"space.units.highest: was 64, is 128"`, in the order of the structure.
    """
    if isinstance(saved, dict) and isinstance(given, dict):
        pairs = [
            (str(key), saved.get(key, _MISSING), given.get(key, _MISSING))
            for key in dict.fromkeys([*saved, *given])
        ]
    elif isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        pairs = [(str(i), s, g) for i, (s, g) in enumerate(zip(saved, given, strict=True))]
    elif saved == given or (saved != saved and given != given):
        return []
    else:
        return [f"{where}: was {_text(saved)}, is {_text(given)}"]
    lines: list[str] = []
    for key, before, now in pairs:
        lines += differences(before, now, f"{where}.{key}" if where else key)
    return lines


def listing(lines: list[str]) -> str:
    """Return the first differences in one line, and how many there are besides."""
    shown = "; ".join(lines[:_MAX_LISTED])
    more = len(lines) - _MAX_LISTED
    return f"{shown}; and {more} more" if more > 0 else shown


def _text(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
