"""The one module here that imports matplotlib at its top; it is imported to draw a new figure."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from keras_popdescent.plots.style import styled


class NotebookFigure(Figure):
    """A figure that notebooks show although pyplot does not know it.

    Args:
        width: Width in inches.
        height: Height in inches.
        dpi: Dots an inch.
    """

    def __init__(self, width: float, height: float, dpi: int) -> None:
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        super().__init__(figsize=(width, height), dpi=dpi, layout=layout)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png")
        return buffer.getvalue()
