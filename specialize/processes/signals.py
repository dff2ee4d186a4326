"""Signals that arrive twice, although somebody sent them once.

`timeout` and schedulers signal a process and then its group, to which it belongs. A
second signal has a meaning of its own here ("do not wait any longer"), so a double is
told from one that a person sends because nothing seems to happen.
"""

import time

# Seconds in which the same signal is a double of the one before.
DOUBLE = 1.0


class Arrivals:
    """The signals that a process has received."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def is_new(self, number: int) -> bool:
        """Notes a signal; False if it is a double of the one before."""
        now = time.monotonic()
        before = self._last.get(number)
        if before is not None and now - before < DOUBLE:
            return False
        self._last[number] = now
        return True
