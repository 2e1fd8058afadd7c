"""The progress display in a notebook: one HTML table, without widgets."""

from __future__ import annotations

import html
import importlib
from typing import Any

from keras_popdescent.callbacks.progress import text
from keras_popdescent.callbacks.progress.renderers import PictureRenderer, cell_style
from keras_popdescent.callbacks.progress.status import Status
from keras_popdescent.callbacks.progress.table import table

# Characters a line; a narrower page scrolls.
_WIDTH = 160
_CELL = "text-align:right;padding:1px 6px"
# style of a terminal's cell -> the same in HTML, legible on light and dark pages
_CSS = {
    "": "",
    "bold": "font-weight:bold",
    "dim": "opacity:0.6",
    "green": "color:#2a9d4a",
    "red": "color:#d64545",
}


class NotebookRenderer(PictureRenderer):
    """Keeps one HTML table in a notebook's cell, without widgets, so that it stays when saved."""

    def __init__(self) -> None:
        self._handle: Any = None

    def begin(self, status: Status) -> None:
        self.update(status)

    def end(self, status: Status) -> None:
        self._draw(status)

    def _draw(self, status: Status) -> None:
        running = status.state == "running"
        plain = text.plain_line(status) if running else text.summary(status)
        bundle = {"text/html": page(status), "text/plain": text.printable(plain)}
        if self._handle is None:
            # By name: IPython, where it is installed, has types that leave this function untyped.
            ipython: Any = importlib.import_module("IPython.display")
            self._handle = ipython.display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def page(status: Status) -> str:
    """Return the notebook's picture as HTML; every name and value is escaped."""
    cells = table(status, _WIDTH, text.UNICODE)
    headers = "".join(
        f'<th title="{_escape(title)}" style="{_CELL}">{_escape(header)}</th>'
        for header, title in zip(cells.headers, cells.titles, strict=True)
    )
    rows = []
    for shown in cells.lines:
        styles = [_CSS[cell_style(shown.row, header, status)] for header in cells.headers]
        data = "".join(
            f'<td style="{_CELL};{style}">{_escape(cell)}</td>'
            for cell, style in zip(shown.cells, styles, strict=True)
        )
        rows.append(f"<tr>{data}</tr>")
    if status.state == "running":
        found = ", ".join([text.best(status), *text.counts(status)])
        bar = f'<progress value="{status.iteration}" max="{status.num_iterations}"></progress>'
        first = f"{_escape(text.progress(status))} {bar} {_escape(text.times(status))}"
        head = f"{first}<br>{_escape(text.steps(status))}<br><b>{_escape(found)}</b>"
    else:
        head = f"<b>{_escape(text.summary(status))}</b>"
    notes = "".join(f"{_escape(note)}<br>" for note in status.notes)
    legend = _escape(text.legend(status, text.UNICODE, cells.num_hidden))
    return (
        f'<div style="overflow-x:auto">{notes}{head}'
        f'<table style="font-variant-numeric:tabular-nums"><thead><tr>{headers}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><small>{legend}</small></div>"
    )


def _escape(content: str) -> str:
    return html.escape(text.printable(content))
