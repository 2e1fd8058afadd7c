"""Markdown tables, for every report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]
