"""Numbers of samples: which ones are taken, as ranges."""

import bisect


class Numbers:
    """A set of whole numbers from 0 that holds ranges, as samples are counted."""

    def __init__(self) -> None:
        # The ranges from _begins[i] to before _ends[i]; none touches the next.
        self._begins: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self._begins, number) - 1
        return at >= 0 and number < self._ends[at]

    def add(self, number: int) -> None:
        """Adds a number; nothing happens if it is in the set."""
        if number in self:
            return
        at = bisect.bisect_right(self._begins, number)
        after_one = at > 0 and self._ends[at - 1] == number
        before_one = at < len(self._begins) and self._begins[at] == number + 1
        if after_one and before_one:
            self._ends[at - 1] = self._ends.pop(at)
            del self._begins[at]
        elif after_one:
            self._ends[at - 1] = number + 1
        elif before_one:
            self._begins[at] = number
        else:
            self._begins.insert(at, number)
            self._ends.insert(at, number + 1)

    def first_free(self) -> int:
        """The smallest number that is not in the set."""
        return self._ends[0] if self._begins and self._begins[0] == 0 else 0

    def __len__(self) -> int:
        """Number of ranges, which is what is held in memory."""
        return len(self._begins)
