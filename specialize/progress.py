"""Progress of work that takes over a second: a bar, or lines of text in a log."""

import operator
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from specialize.errors import named

T = TypeVar("T")

# Seconds after which a log shows that something is done.
_FIRST_S = 1.0


class _Remarks(Console):
    """Standard error, on which texts are `named`."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (named(one) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)


# Results go to standard output; progress and remarks go to standard error.
console = _Remarks(stderr=True)


def say(text: str) -> None:
    """Prints a line on standard error, without markup and without folding."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def table_console(width: int) -> Console:
    """Standard output for tables.

    Args:
        width: Number of columns if standard output is not a terminal; rich would fold
            at 80 and break names.
    """
    return Console(width=None if sys.stdout.isatty() else width)


def bars(*, transient: bool = False) -> Progress:
    """A rich progress display with the columns of every command."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


def track(
    items: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    log_every_s: float = 30.0,
) -> Iterator[T]:
    """Yields `items` and shows the progress.

    On a terminal this is a bar. In a log it is one line on standard error, first after
    a second, then every `log_every_s` seconds and once at the end:
    `align completions: 12 of 50 in 3.1 s`.

    Args:
        items: The items.
        description: A few words, for example "align completions".
        total: Number of items, if `items` has no length.
        log_every_s: Seconds between two lines of a log.
    """
    if total is None:  # len() of a tf.data dataset of unknown size is a TypeError
        known = operator.length_hint(items, -1)
        total = None if known < 0 else known
    if console.is_terminal:
        with bars() as progress:
            yield from progress.track(items, description=description, total=total)
        return
    start = time.monotonic()
    due = start + min(_FIRST_S, log_every_s)
    done = 0
    for done, item in enumerate(items, start=1):  # noqa: B007 (used after the loop)
        yield item
        now = time.monotonic()
        if now >= due:
            due = now + log_every_s
            _log_line(description, done, total, now - start)
    if time.monotonic() - start > _FIRST_S:
        _log_line(description, done, total, time.monotonic() - start)


def _log_line(description: str, done: int, total: int | None, seconds: float) -> None:
    known = "" if total is None else f" of {total:,}"
    say(f"{description}: {done:,}{known} in {seconds:,.1f} s")
