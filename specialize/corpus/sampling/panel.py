"""What a sampling run shows: a live panel, or JSON lines where there is no terminal."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncGenerator

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from specialize.corpus.sampling.sampler import Tally
from specialize.progress import console as default_console


def snapshot(tally: Tally) -> dict[str, object]:
    """The numbers of a run as JSON values, rounded for people.

    Rates are per minute; `eta_s` is None until a sample has come.
    """
    requests, tokens = tally.per_minute()
    return {
        "done": tally.done,
        "cached": tally.cached,
        "failed": tally.failed,
        "planned": tally.planned,
        "in_flight": tally.in_flight,
        "requests_per_minute": round(requests, 1),
        "tokens_per_minute": round(tokens),
        "spent": round(tally.spent, 4),
        "projected": round(tally.projected, 4),
        "acceptance": round(tally.acceptance, 4),
        "questions": tally.questions,
        "questions_without_right_answer": tally.unsolved,
        "retries": dict(sorted(tally.retries.items())),
        "seconds": round(time.monotonic() - tally.began, 1),
        "eta_s": _eta(tally),
    }


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
        f"of {tally.planned:,}  ({tally.in_flight} requests under way)",
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
    if tally.retries:
        reasons = "  ".join(
            f"{name} {n:,}" for name, n in sorted(tally.retries.items())
        )
        grid.add_row("retried", reasons)
        grid.add_row("", f"[dim]{tally.last_fault[:100]}[/dim]")
    eta = _eta(tally)
    title = "sampling" if eta is None else f"sampling, {_clock(eta)} left"
    return Panel(grid, title=title, title_align="left", expand=False)


@contextlib.asynccontextmanager
async def watch(
    tally: Tally, *, log_every_s: float = 30.0, console: Console = default_console
) -> AsyncGenerator[None]:
    """Shows `tally` while the block runs, and once at its end.

    Args:
        tally: changes while the run goes on.
        log_every_s: seconds between JSON lines off a terminal.
        console: where the panel goes; JSON lines go to standard error.
    """
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    async def refresh() -> None:
        while True:
            if live is not None:
                live.update(render(tally), refresh=True)
                await asyncio.sleep(0.25)
            else:
                await asyncio.sleep(log_every_s)
                _log(tally)

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
                _log(tally)


def _log(tally: Tally) -> None:
    line = {"progress": "sample", **snapshot(tally)}
    print(json.dumps(line), file=sys.stderr, flush=True)


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
    """Says how many samples a finished run still lacks.

    Returns:
        The command's exit code: 1 if there are any.
    """
    missing = tally.planned - tally.cached - tally.done
    if missing <= 0:
        return 0
    default_console.print(
        f"{missing} samples are missing ({tally.failed} given up). Run the same "
        "command again to ask for them."
    )
    return 1
