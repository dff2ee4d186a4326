"""Progress of a sampling run: a live panel, or log lines off a terminal."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from specialize.corpus.plain_text.counting import shown
from specialize.corpus.sampling.tally import Tally
from specialize.progress import console as default_console
from specialize.progress import say


def line(tally: Tally) -> str:
    """The numbers of a run as one log line.

    `sample: 12 done, 3 cached, 0 failed of 100, 4 requests in flight; 31 requests/min,
    5,120 tokens/min; 0.12 spent, 1.30 projected; 85.0 % accepted, 2 of 12 questions
    with none correct; retried: timeout 3; 0:00:25, 0:02:41 left`
    """
    requests, tokens = tally.per_minute()
    eta = _eta(tally)
    parts = [
        f"sample: {tally.done:,} done, {tally.cached:,} cached, {tally.failed:,} "
        f"failed of {tally.planned:,}, {tally.in_flight} requests in flight",
        f"{requests:,.0f} requests/min, {tokens:,.0f} tokens/min",
        f"{tally.spent:,.2f} spent, {tally.projected:,.2f} projected",
        f"{100 * tally.acceptance:.1f} % accepted, {tally.unsolved:,} of "
        f"{tally.questions:,} questions with none correct",
        *([_cut(tally)] if tally.cut else []),
        *([_ONE_HOT] if tally.one_hot else []),
        *_spelling(tally),
        *([f"retried: {_retries(tally, ', ')}"] if tally.retries else []),
        _clock(time.monotonic() - tally.began)
        + ("" if eta is None else f", {_clock(eta)} left"),
    ]
    return "; ".join(parts)


def render(tally: Tally) -> Panel:
    """The live panel."""
    requests, tokens = tally.per_minute()
    have = tally.cached + tally.done
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    bar = ProgressBar(total=max(1, tally.planned), completed=have, width=40)
    grid.add_row("samples", bar)
    grid.add_row(
        "",
        f"{tally.done:,} done  {tally.cached:,} cached  {tally.failed:,} failed  "
        f"of {tally.planned:,}  ({tally.in_flight} requests in flight)",
    )
    grid.add_row("rate", f"{requests:,.0f} requests/min  {tokens:,.0f} tokens/min")
    grid.add_row(
        "money",
        f"{tally.spent:,.2f} spent  {tally.projected:,.2f} projected  "
        f"({tally.prompt_tokens:,} + {tally.completion_tokens:,} tokens)",
    )
    grid.add_row(
        "accepted",
        f"{100 * tally.acceptance:.1f} %  {tally.unsolved:,} of {tally.questions:,} "
        "questions with none correct",
    )
    if tally.cut:
        grid.add_row("cut", _cut(tally))
    if tally.one_hot:
        grid.add_row("rows", _ONE_HOT)
    for text in _spelling(tally):
        grid.add_row("student", Text(text))
    if tally.retries:
        grid.add_row("retried", _retries(tally, "  "))
        # No markup: the words are the server's.
        grid.add_row("", Text(tally.last_fault[:100], style="dim"))
    eta = _eta(tally)
    title = "sampling" if eta is None else f"sampling, {_clock(eta)} left"
    return Panel(grid, title=title, title_align="left", expand=False)


@contextlib.asynccontextmanager
async def watch(
    tally: Tally, *, log_every_s: float = 30.0, console: Console = default_console
) -> AsyncGenerator[None]:
    """Shows `tally` while the block runs, and once at its end.

    Args:
        tally: the numbers, which change during the run.
        log_every_s: seconds between log lines off a terminal.
        console: the panel's console; log lines go to standard error.
    """
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    async def refresh() -> None:
        while True:
            if live is not None:
                live.update(render(tally), refresh=True)
                await asyncio.sleep(0.25)
            else:
                await asyncio.sleep(log_every_s)
                say(line(tally))

    with live or contextlib.nullcontext():
        task = asyncio.create_task(refresh())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if live is not None:
                live.update(render(tally), refresh=True)
            else:
                say(line(tally))


_ONE_HOT = "no log-probabilities are asked for: every row is one-hot"


def _cut(tally: Tally) -> str:
    return f"{tally.cut:,} cut off or refused by the server, so not right"


def _spelling(tally: Tally) -> Iterator[str]:
    """What the student cannot write of the right samples of this run."""
    spelling = tally.spelling
    if tally.misspelt:
        yield f"{tally.misspelt:,} right ones are not right as the student spells them"
    if spelling.characters:
        found = shown(spelling.characters)
        yield f"{spelling.samples:,} with unwritable characters: {found}"
    if spelling.lost:
        yield f"{spelling.lost_samples:,} with <unk> for: {shown(spelling.lost)}"
    if spelling.newlines:
        yield f"{spelling.newlines:,} newlines made spaces"


def _retries(tally: Tally, separator: str) -> str:
    reasons = sorted(tally.retries.items())
    return separator.join(f"{name} {number:,}" for name, number in reasons)


def _eta(tally: Tally) -> float | None:
    if not tally.done:
        return None
    rate = tally.done / (time.monotonic() - tally.began)
    left = tally.planned - tally.cached - tally.done - tally.failed
    return round(max(0, left) / rate, 1)


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


def say_what_is_missing(tally: Tally) -> int:
    """Prints how many samples a finished run still lacks.

    Returns:
        The command's exit status: 1 if there are any.
    """
    missing = tally.planned - tally.cached - tally.done
    if missing <= 0:
        return 0
    some = "1 sample is" if missing == 1 else f"{missing:,} samples are"
    reason = tally.last_fault.rstrip(".")
    last = f" The last error was: {reason}." if tally.failed else ""
    say(
        f"{some} missing ({tally.failed:,} given up).{last} Run the same command again "
        "to ask for what is missing."
    )
    return 1
