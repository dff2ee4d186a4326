"""Which question a foreign completion answers: by id, or by the question's words."""

import re
from collections.abc import Iterable, Mapping, Sequence

from specialize.corpus.importing.layouts import Clues
from specialize.corpus.records import Problem

# Number of words at the beginning of a question by which prompts are searched.
_WORDS = 6
_WORD = re.compile(r"\w+|[^\w\s]")
# The number of a sample that a request's id often ends in: "q-17/3", "q-17_s3".
_SAMPLE = re.compile(r"[-_/:#.@](?:s|sample|n|k)?[-_]?\d+$", re.IGNORECASE)


class Finder:
    """Finds the question that a completion answers.

    It tries in this order: an id that is a problem's; the question itself, or a prompt
    that contains it, whatever the white space (of several questions the last one: the
    others are demonstrations); an id without a sample's number at its end; and, if no
    question is given, an id without the name of the task.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        task: str,
        requests: Mapping[str, Clues] | None = None,
    ):
        """Indexes the problems.

        Args:
            problems: the questions.
            task: name of the task, with which the ids of problems begin.
            requests: what was asked, by the id of a request.
        """
        self._requests = requests or {}
        self._by_id = {problem.id: problem for problem in problems}
        self._by_end: dict[str, Problem] = {}
        self._by_words: dict[tuple[str, ...], list[tuple[list[str], Problem]]] = {}
        for problem in reversed(problems):
            self._by_end[problem.id.removeprefix(f"{task}-")] = problem
            words = _WORD.findall(problem.question)
            key = tuple(words[:_WORDS])
            self._by_words.setdefault(key, []).append((words, problem))
        self._sizes = sorted({len(key) for key in self._by_words}, reverse=True)

    def find(self, clues: Clues) -> Problem | None:
        """The problem that some clues are about, or None."""
        for request in [self._requests.get(one) for one in clues.ids]:
            if request is not None:
                clues = Clues([*clues.ids, *request.ids], clues.texts + request.texts)
        exact = (self._by_id.get(one) for one in clues.ids)
        asked = map(self._in_prompt, clues.texts)
        found = _first(exact) or _first(asked)
        short = [_SAMPLE.sub("", one) for one in clues.ids]
        found = found or _first(map(self._by_id.get, short))
        if found or any(text.strip() for text in clues.texts):
            return found
        return _first(map(self._by_end.get, (*clues.ids, *short)))

    def _in_prompt(self, prompt: str) -> Problem | None:
        words = _WORD.findall(prompt)
        best: tuple[int, int] = (-1, 0)
        found: Problem | None = None
        for at in range(len(words)):
            for size in self._sizes:
                if at + size > len(words):
                    continue
                for asked, problem in self._by_words.get(
                    tuple(words[at : at + size]), ()
                ):
                    end = at + len(asked)
                    if words[at:end] == asked and (end, len(asked)) >= best:
                        best, found = (end, len(asked)), problem
        return found


def _first(found: Iterable[Problem | None]) -> Problem | None:
    return next((one for one in found if one is not None), None)
