"""The progress display in a terminal: one table that stays in place."""

from __future__ import annotations

import contextlib
import sys
import weakref

from rich import table as rich_table
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from keras_popdescent.callbacks.progress import text
from keras_popdescent.callbacks.progress.renderers import PictureRenderer, cell_style
from keras_popdescent.callbacks.progress.status import Status
from keras_popdescent.callbacks.progress.table import table


class TerminalRenderer(PictureRenderer):
    """Keeps one table in place.

    Args:
        console: Where to draw; defaults to a console on `sys.stdout`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(highlight=False) if console is None else console
        # No refreshing thread: it would raise outside our reach once the output is closed. What is
        # printed meanwhile appears above the table; stderr that goes elsewhere is left alone.
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            redirect_stderr=bool(getattr(sys.stderr, "isatty", bool)()),
        )
        # A search that never ends properly must not leave the terminal without a cursor.
        self._finalizer = weakref.finalize(self, _stop, self._live)

    def begin(self, status: Status) -> None:
        for note in status.notes:
            self.console.print(Text(text.printable(note, self.console.encoding)))
        self._live.start()
        self.update(status)

    def end(self, status: Status) -> None:
        self._draw(status)
        self._live.stop()
        self._finalizer.detach()

    def abandon(self) -> None:
        self._finalizer()

    def _draw(self, status: Status) -> None:
        self._live.update(frame(status, self.console), refresh=True)


def _stop(live: Live) -> None:
    with contextlib.suppress(Exception):
        live.stop()


def frame(status: Status, console: Console) -> Group:
    """Return the terminal's picture: head lines, the table, a legend."""
    encoding, width = console.encoding, console.width
    symbols = text.symbols_for(encoding)

    def line(content: str, style: str = "") -> Text:
        return Text(text.printable(content, encoding), style=style)

    cells = table(status, width, symbols)
    grid = rich_table.Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for header in cells.headers:
        grid.add_column(line(header), justify="right", no_wrap=True)
    for shown in cells.lines:
        styles = [cell_style(shown.row, header, status) for header in cells.headers]
        texts = [line(cell, style) for cell, style in zip(shown.cells, styles, strict=True)]
        grid.add_row(*texts)
    legend = text.clip(text.legend(status, symbols, cells.num_hidden), width, symbols)
    if status.state != "running":
        return Group(grid, line(legend, "dim"), line(text.summary(status), "bold"))
    head = f"{text.progress(status)} {text.bar(status, symbols)} {text.times(status)}"
    found = ", ".join([text.best(status), *text.counts(status)])
    return Group(
        line(head), line(text.steps(status)), line(found, "bold"), grid, line(legend, "dim")
    )
