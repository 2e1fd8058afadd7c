"""The progress display's table: from a `Status` to cells that fit a width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from keras_popdescent.callbacks.progress.status import Row, Status
from keras_popdescent.callbacks.progress.text import Symbols, clip, number, value_text
from keras_popdescent.operators.fitness import Direction, cost
from keras_popdescent.strategies.space import Value

# Larger populations are shown by their best and worst members.
_MAX_ROWS = 12
_NUM_BEST, _NUM_WORST = 8, 3
# Characters of a hyperparameter's name, and of its value where that is a string.
_MAX_TEXT = 16
# What a narrow terminal goes without, in this order.
_DISPENSABLE = ("fitness", "steps", "parents", "change")


@dataclass(frozen=True)
class Line:
    """One line of the table: its cells, and the member behind them (None for the ellipsis)."""

    cells: tuple[str, ...]
    row: Row | None


@dataclass(frozen=True)
class Table:
    """The members as strings.

    Attributes:
        headers: Column headers; the first column holds the marks.
        titles: What the columns hold, in full.
        lines: The lines.
        num_hidden: Hyperparameters that did not fit.
    """

    headers: tuple[str, ...]
    titles: tuple[str, ...]
    lines: tuple[Line, ...]
    num_hidden: int


@dataclass(frozen=True)
class _Column:
    header: str
    title: str
    cell: Callable[[Row], str]

    def width(self, rows: Sequence[Row]) -> int:
        """Return the column's width, the space before the next one included."""
        return 1 + max(cell_len(text) for text in [self.header, *map(self.cell, rows)])


def table(status: Status, width: int, symbols: Symbols) -> Table:
    """Return the members' table in at most `width` characters, columns one space apart.

    Mark, slot, member and score are always there; the hyperparameters get what the others leave.

    Args:
        status: What to show.
        width: Characters a line.
        symbols: The signs to mark members with.
    """
    picked = pick_rows(status.rows, status.direction)
    rows = [row for row in picked if row is not None]
    columns = _member_columns(symbols)
    for header in _DISPENSABLE:
        if sum(column.width(rows) for column in columns) > width + 1:
            columns = [column for column in columns if column.header != header]
    room = width + 1 - sum(column.width(rows) for column in columns)
    num_hidden = 0
    for column in _value_columns(status.names, symbols):
        if column.width(rows) > room:
            num_hidden += 1
        else:
            columns.append(column)
            room -= column.width(rows)
    gap = tuple(symbols.ellipsis if column.header == "member" else "" for column in columns)
    return Table(
        tuple(column.header for column in columns),
        tuple(column.title for column in columns),
        tuple(
            Line(gap if row is None else tuple(column.cell(row) for column in columns), row)
            for row in picked
        ),
        num_hidden,
    )


def pick_rows(rows: Sequence[Row], direction: Direction) -> list[Row | None]:
    """Return the rows to show: all by slot; of many the best, None for a gap, and the worst."""
    if len(rows) <= _MAX_ROWS:
        return list(rows)
    ranked = sorted(rows, key=lambda row: cost(row.score, direction))
    return [*ranked[:_NUM_BEST], None, *ranked[-_NUM_WORST:]]


def short_names(names: Sequence[str], symbols: Symbols) -> list[str]:
    """Return hyperparameter names that fit a header and still differ from each other."""
    bare = [name.removeprefix("popdescent/") for name in names]
    bare = bare if len(set(bare)) == len(bare) else list(names)
    keep = _MAX_TEXT - len(symbols.ellipsis)
    head, tail = keep // 2, keep - keep // 2
    # The middle goes: of `encoder_block_1_dropout_rate` both ends say something.
    clipped = [
        name if len(name) <= _MAX_TEXT else name[:head] + symbols.ellipsis + name[-tail:]
        for name in bare
    ]
    return [c if clipped.count(c) == 1 else b for c, b in zip(clipped, bare, strict=True)]


def _value_columns(names: Sequence[str], symbols: Symbols) -> list[_Column]:
    def cell(value: Value | None) -> str:
        return clip(value_text(value), _MAX_TEXT, symbols)

    def column(short: str, name: str) -> _Column:
        return _Column(short, name, lambda row: cell(row.values.get(name)))

    return [column(s, n) for s, n in zip(short_names(names, symbols), names, strict=True)]


def _member_columns(symbols: Symbols) -> list[_Column]:
    def mark(row: Row) -> str:
        return (symbols.best if row.best else "") + (symbols.replaced if row.replaced_by else "")

    def parents(row: Row) -> str:
        return "+".join(map(str, row.parents)) or "new"

    def change(row: Row) -> str:
        return "" if row.change is None else f"{row.change:+.2g}"

    return [
        _Column("", "mark", mark),
        _Column("slot", "slot", lambda row: str(row.slot)),
        _Column("member", "member id", lambda row: str(row.member_id)),
        _Column("parents", "member ids of the parents", parents),
        _Column("score", "the objective", lambda row: number(row.score)),
        _Column("change", "score less the score an iteration ago", change),
        _Column("fitness", "score mapped to (0, 1]", lambda row: number(row.fitness)),
        _Column("steps", "gradient steps of its line", lambda row: f"{row.gradient_steps:,}"),
    ]
