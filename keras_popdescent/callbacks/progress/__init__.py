"""The progress display of a search: what `verbose` shows.

`status.py` says what there is to show, `tracker.py` follows the search, `text.py` and `table.py`
put it into words, `terminal.py`, `notebook.py` and `renderers.py` (plain lines) draw it.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.file_proxy import FileProxy

from keras_popdescent.callbacks.progress.notebook import NotebookRenderer
from keras_popdescent.callbacks.progress.renderers import PlainRenderer, Renderer
from keras_popdescent.callbacks.progress.terminal import TerminalRenderer
from keras_popdescent.callbacks.progress.tracker import Tracker
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.history import IterationRecord
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.registry import DISPLAYS

__all__ = ["Progress", "choose_renderer", "make_progress"]


class Progress(Observer):
    """Shows a search while it runs; it never raises into the search.

    Use it through `verbose`, or pass one among the `observers` to add notes of your own. A display
    that fails (a closed output, say) ends with one warning, and the search goes on.

    Args:
        notes: Sentences to show besides the loop's own `notes`.
        choose: Returns the renderer, when a search begins. Defaults to the one that suits
            `sys.stdout`.

    Example:
        >>> from keras_popdescent.callbacks.progress import make_progress
        >>> make_progress(0) is None
        True
    """

    def __init__(
        self, notes: Sequence[str] = (), choose: Callable[[], Renderer] | None = None
    ) -> None:
        self._notes = tuple(notes)
        self._choose = choose_renderer if choose is None else choose
        self._tracker: Tracker | None = None
        self._renderer: Renderer | None = None
        self._first_iteration = 0
        self._failed = False

    def search_begin(self, loop: Loop) -> None:
        self._attempt(self._begin, loop)

    def iteration_end(self, record: IterationRecord) -> None:
        self._attempt(self._update, record)

    def search_end(self, loop: Loop) -> None:
        self._attempt(self._end)

    def _begin(self, loop: Loop) -> None:
        if self._renderer is not None:
            self._renderer.abandon()
        self._first_iteration = loop.iteration
        self._tracker = Tracker(loop, self._notes)
        self._renderer = self._choose()
        self._renderer.begin(self._tracker.status())

    def _update(self, record: IterationRecord) -> None:
        if self._tracker is None or self._renderer is None:
            return
        self._tracker.update(record)
        iteration = record.iteration - self._first_iteration
        if not record.closing and self._renderer.due(iteration):
            self._renderer.update(self._tracker.status())

    def _end(self) -> None:
        if self._tracker is None or self._renderer is None:
            return
        self._renderer.end(self._tracker.final_status())
        self._tracker = self._renderer = None

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            action(*arguments)
        except Exception as error:
            self._failed = True
            if self._renderer is not None:
                self._renderer.abandon()
            # Warnings may be errors, and stderr closed too.
            with contextlib.suppress(Exception):
                reason = f"{type(error).__name__}: {error}"
                warnings.warn(f"The progress display failed and is off. {reason}", stacklevel=3)


def make_progress(verbose: int | str = "auto", *, notes: Sequence[str] = ()) -> Progress | None:
    """Return the progress display for `verbose`.

    In a terminal it is a table that stays in place, in a notebook an HTML table, and elsewhere (a
    pipe, a log file) at most some twenty-five lines a search.

    Args:
        verbose: 0 for none; `"auto"`, 1 or 2 for the display that suits the output.
        notes: Sentences to show, besides those of the loop.

    Returns:
        The observer to give to a search, None for 0.

    Raises:
        ArgumentError: For any other `verbose`.
    """
    if not isinstance(verbose, str | int | float) or verbose not in ("auto", 0, 1, 2):
        raise ArgumentError(
            describe("There is no such progress display.", "Expected 'auto', 0, 1 or 2.",
                     verbose=verbose)
        )  # fmt: skip
    return Progress(notes) if verbose else None


def choose_renderer() -> Renderer:
    """Return the renderer that suits where we run: a notebook, a terminal, or anything else."""
    if _in_notebook():
        return NotebookRenderer()
    # isatty besides rich's own view, which FORCE_COLOR turns true for a pipe. Inside somebody
    # else's live display (rich has replaced stdout then) a second one would fight it.
    isatty = getattr(sys.stdout, "isatty", None)
    if isatty is not None and isatty() and not isinstance(sys.stdout, FileProxy):
        console = Console(highlight=False)
        if console.is_terminal and not console.is_dumb_terminal:
            return TerminalRenderer(console)
    return PlainRenderer()


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs us; IPython is not imported to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and hasattr(get_ipython(), "kernel")


DISPLAYS["progress"] = make_progress
