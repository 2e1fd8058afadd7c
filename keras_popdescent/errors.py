"""Errors of the package: what happened, what was expected, how to mend it, what was received."""

from __future__ import annotations


class PopDescentError(Exception):
    """Base class of every error that this package raises on purpose."""


class ArgumentError(PopDescentError, ValueError):
    """An argument has a value that cannot work."""


class DataError(ArgumentError):
    """The training or validation data cannot be used as given."""


class ObjectiveError(ArgumentError):
    """The objective is not among the quantities that the model reports."""


class ModelError(PopDescentError, TypeError):
    """The build function returned something other than a compiled Keras model."""


class ResultError(PopDescentError, TypeError):
    """Overridden training returned what cannot be a score."""


class TrainingError(PopDescentError, RuntimeError):
    """Overridden training failed too often in a row."""


class BindingError(PopDescentError, RuntimeError):
    """A hyperparameter that is said to be live cannot be read or written in the model."""


class DivergedError(PopDescentError, RuntimeError):
    """Every member of the population was non-finite for several iterations in a row."""


class OutOfMemoryError(PopDescentError, MemoryError):
    """The population does not fit into the device's memory."""


class ProjectError(PopDescentError, RuntimeError):
    """A project directory holds nothing, or nothing usable, for what was asked."""


class DamagedError(ProjectError):
    """A file of a project directory is not what was once written."""


class MissingExtraError(PopDescentError, ImportError):
    """An optional dependency is needed and not installed."""


def describe(what: str, expected: str = "", fix: str = "", **received: object) -> str:
    """Compose an error message: what happened, what was expected, how to mend it, what came.

    Args:
        what: One sentence that says what happened.
        expected: What would have been right.
        fix: What the reader can do.
        **received: The offending values by argument name; long ones are shortened.
    """
    parts = [what, expected, fix]
    if received:
        shown = (f"{name}={_shown(value)}" for name, value in received.items())
        parts.append("Received: " + ", ".join(shown))
    return " ".join(part for part in parts if part)


def _shown(value: object, limit: int = 400) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
