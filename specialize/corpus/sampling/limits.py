"""How fast a teacher may be asked: requests and tokens per minute, and pauses."""

import asyncio
import time

from aiolimiter import AsyncLimiter


class Limits:
    """Limits of all workers of one run; every attempt passes through `wait`.

    Each limit is a leaky bucket (aiolimiter) that fills in one second, so a minute has
    at most the allowance of a minute and one second. The real cost of a response is
    known only afterwards: its difference to the estimate is added to the next request.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None
    ):
        """Sets the limits; None is unlimited."""
        self._requests = _bucket(requests_per_minute)
        self._tokens = _bucket(tokens_per_minute)
        self._debt = 0.0
        self._resume_at = 0.0

    async def wait(self, tokens: float) -> None:
        """Waits until a request of about `tokens` tokens may be sent."""
        while (pause := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        if self._requests is not None:
            await self._requests.acquire(1)
        if self._tokens is not None:
            due, self._debt = max(0.0, tokens + self._debt), 0.0
            while due > 0:
                part = min(due, self._tokens.max_rate)
                await self._tokens.acquire(part)
                due -= part

    def settle(self, estimated: float, real: int | None) -> None:
        """Reports what a request really cost, in tokens."""
        if real is not None:
            self._debt += real - estimated

    def pause(self, seconds: float) -> None:
        """Delays all requests, as the server asked (Retry-After)."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)


def _bucket(per_minute: float | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    per_second = per_minute / 60
    if per_second >= 1:
        return AsyncLimiter(per_second, 1.0)
    return AsyncLimiter(1.0, 1.0 / per_second)
