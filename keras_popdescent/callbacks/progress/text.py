"""The progress display's words: from a `Status` to strings."""

from __future__ import annotations

from dataclasses import dataclass

from keras_popdescent.callbacks.progress.status import Status
from keras_popdescent.strategies.space import Value


@dataclass(frozen=True)
class Symbols:
    """The signs that not every encoding has.

    Attributes:
        best: Marks the best member.
        replaced: Marks a member that was just replaced.
        ellipsis: For what is left out.
        done: A piece of the bar that is done.
        left: A piece of the bar that is left.
    """

    best: str
    replaced: str
    ellipsis: str
    done: str
    left: str


UNICODE = Symbols("★", "✗", "…", "━", "─")
ASCII = Symbols("*", "x", "...", "#", "-")


def symbols_for(encoding: str | None) -> Symbols:
    """Return the signs that an encoding has."""
    try:
        "".join(vars(UNICODE).values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """Return a text in one line, without control characters and what the encoding lacks."""
    text = "".join(c if c.isprintable() else " " for c in text)
    try:
        return text.encode(encoding or "ascii", "replace").decode(encoding or "ascii")
    except LookupError:
        return text.encode("ascii", "replace").decode("ascii")


def clip(text: str, width: int, symbols: Symbols) -> str:
    """Return a text cut to `width` characters."""
    if len(text) <= width:
        return text
    return text[: max(width - len(symbols.ellipsis), 0)] + symbols.ellipsis


def number(value: float | None, digits: int = 4) -> str:
    """Return a score in so many significant digits, trailing zeros kept."""
    return "" if value is None else f"{value:#.{digits}g}".rstrip(".")


def value_text(value: Value | None) -> str:
    """Return a hyperparameter's value: a float in at most 4 significant digits, others whole."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a duration in two units: "4.2 s", "37 s", "1 min 05 s", "2 h 03 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def bar(status: Status, symbols: Symbols, width: int = 20) -> str:
    """Return a bar of the iterations done."""
    done = width * status.iteration // max(status.num_iterations, 1)
    return symbols.done * min(done, width) + symbols.left * max(width - done, 0)


def times(status: Status) -> str:
    """Return the time used and the time left."""
    left = status.seconds_left
    used = duration(status.seconds)
    return f"{used}, about {duration(left)} left" if left else f"{used} so far"


def progress(status: Status) -> str:
    """Return how far the search is."""
    closing = status.iteration >= status.num_iterations and status.steps_left > 0
    text = f"iteration {status.iteration:,} of {status.num_iterations:,}"
    return f"{text}, closing training" if closing else text


def steps(status: Status) -> str:
    """Return the population's gradient steps."""
    return f"{status.gradient_steps:,} gradient steps, about {status.steps_left:,} left"


def best(status: Status) -> str:
    """Return the best score ever and whose it is."""
    if status.best is None:
        return f"no {status.objective} yet"
    member_id, score = status.best
    return f"best {status.objective} {number(score)} (member {member_id})"


def counts(status: Status) -> list[str]:
    """Return how many members were replaced; how many diverged and stopped, where any did."""
    found = [f"{status.num_replaced:,} replaced"]
    found += [f"{status.num_diverged:,} diverged"] if status.num_diverged else []
    return found + ([f"{status.num_stopped:,} stopped"] if status.num_stopped else [])


def legend(status: Status, symbols: Symbols, num_hidden: int = 0) -> str:
    """Return what is not shown, what the marks mean, and where the newborn came from."""
    parts = [f"+{num_hidden} more values"] if num_hidden else []
    parts.append(f"{symbols.best} best")
    born = [
        f"{'+'.join(map(str, row.replaced_by))} (slot {row.slot})"
        for row in status.rows
        if row.replaced_by
    ]
    if born:
        parts.append(f"{symbols.replaced} replaced by a child of {', '.join(born)}")
    return "   ".join(parts)


def opening(status: Status) -> str:
    """Return a line for the beginning of a search."""
    size = len(status.rows)
    iterations = status.num_iterations - status.first_iteration
    return (
        f"population of {size:,}: {iterations:,} {_plural('iteration', iterations)} of "
        f"{status.batches_per_iteration:,} {_plural('batch', status.batches_per_iteration)}, "
        f"objective {status.objective} ({status.direction})"
    )


def plain_line(status: Status) -> str:
    """Return an iteration in one line."""
    parts = [
        f"iteration {status.iteration:,}/{status.num_iterations:,}",
        f"{status.gradient_steps:,} steps",
        times(status),
        best(status).partition(" (")[0],
        *counts(status),
    ]
    return " | ".join(parts)


def summary(status: Status) -> str:
    """Return the last line: how the search ended, what it took, and what came of it."""
    done = status.iteration - status.first_iteration
    word = _plural("iteration", done or status.iteration)
    if status.state != "finished":
        what = f"{status.state} after {status.iteration:,} of {status.num_iterations:,} iterations"
    elif not done:
        what = f"nothing was left to do after {status.iteration:,} {word}"
    elif status.first_iteration:
        what = f"finished iterations {status.first_iteration + 1:,} to {status.iteration:,}"
    else:
        what = f"finished {done:,} {word}"
    taken = status.gradient_steps - status.first_steps
    found = best(status) if status.best else f"no finite {status.objective}"
    cost = f"{taken:,} gradient steps in {duration(status.seconds)}"
    return "; ".join([f"{what}, {cost}", found, *counts(status)])


def _plural(word: str, count: int) -> str:
    if count == 1:
        return word
    return f"{word}es" if word.endswith("ch") else f"{word}s"
