"""Ids of examples as other programs write them.

The id of an example is "<task>-<file>-<row>" or "<task>-<id of the row>". Another
program may write 17, "17", "test-17", "gsm8k/test/17" or "my_run-gsm8k-test-17".
"""

import re
from collections.abc import Iterable, Sequence

# What may come before a number without saying that it is of another file.
_WORDS = "id q question example sample item problem row doc index test validation"


class ExampleIds:
    """Finds the examples that ids mean.

    Args:
        task: Name of the task.
        ids: Ids of all examples of its file, in order.
        names: Other words that may be before an id, such as the name of a sub-task.
    """

    def __init__(
        self, task: str, ids: Sequence[str], names: Sequence[str] = ()
    ) -> None:
        self._exact = set(ids)
        self._whole = _unambiguous((_plain(one), one) for one in ids)
        short = ((_plain(one.removeprefix(f"{task}-")), one) for one in ids)
        self._short = _unambiguous(short)
        self._rows = {str(row): one for row, one in enumerate(ids)}
        files = {one.removeprefix(f"{task}-").rpartition("-")[0] for one in ids}
        words = [task, *names, *files, *_WORDS.split()]
        self._words = {part for word in words for part in _plain(word).split("-")}

    def find(self, given: str) -> str | None:
        """The id of the example that another program's id means, or None.

        An id of the example comes first, without what is before it; then that without
        the name of the task; then the number of its row in the file, from 0.
        """
        if given in self._exact:
            return given
        if re.fullmatch(r"\s*-\d+\s*", given):
            return None
        parts = _plain(given).split("-")
        for at in range(len(parts)):
            if found := self._whole.get("-".join(parts[at:])):
                return found
        for at in range(len(parts)):
            if not self._words.issuperset(parts[:at]):
                return None
            rest = "-".join(parts[at:])
            if found := self._short.get(rest) or self._rows.get(rest):
                return found
        return None


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for key, one in pairs:
        found.setdefault(key, set()).add(one)
    return {key: next(iter(ones)) for key, ones in found.items() if len(ones) == 1}


def _plain(text: str) -> str:
    """Lower case, with one hyphen for other signs and no zeros before a number."""
    parts = re.sub(r"[\W_]+", "-", text.lower()).strip("-").split("-")
    return "-".join(
        part.lstrip("0") or "0" if part.isdecimal() else part for part in parts
    )
