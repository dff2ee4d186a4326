"""A teacher that knows the true probability of each of its tokens.

It is a small stochastic grammar. Its next-token distribution follows from the grammar
by marginalisation, so the probabilities that it reports are exact. It has its own
tokenizer, which differs from the student's, and sometimes makes arithmetic errors, so
that verification has something to reject.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence

from specialize.corpus.records import Completion, TeacherToken
from specialize.quickstart.word_problems import MiniatureProblem

TEACHER_NAME = "miniature-grammar-1"

_OPENERS = ("Then", "Next", "Now", "So", "After that", "Thus", "Hence", "Therefore")
_OPENER_WEIGHTS = (0.34, 0.22, 0.16, 0.1, 0.08, 0.05, 0.03, 0.02)
_STARTS = ("{name} starts with {n}.", "At first there are {n}.", "We begin with {n}.")
_START_WEIGHTS = (0.5, 0.3, 0.2)
# The teacher's errors in a sum, with their probabilities, which sum to 1.
_SLIPS = {0: 0.94, 1: 0.02, -1: 0.02, 10: 0.012, 2: 0.008}

# The teacher's tokens: at most four letters, single digits, a space joined to what
# follows it. SentencePiece cuts the same text differently.
_TOKEN = re.compile(r" ?[A-Za-z]{1,4}| ?\d| ?[^\sA-Za-z\d]|\s")


def tokenize(text: str) -> list[str]:
    """Cuts `text` into the teacher's tokens; their concatenation is `text`."""
    return _TOKEN.findall(text)


class ExactTeacher:
    """A stochastic grammar that knows the true probability of each of its tokens.

    A solution is a sequence of choices. Each choice is a set of strings with
    probabilities; no string's tokens are a prefix of another's. So the probability of
    the next token is its share of the strings that agree with the tokens so far.
    """

    name = TEACHER_NAME

    def sample(
        self, problem: MiniatureProblem, sample: int, *, seed: int
    ) -> Completion:
        """Draws one solution.

        Args:
            problem: the problem to solve.
            sample: number of the sample.
            seed: seed of the world; with problem and sample it determines the text.

        Returns:
            The text and its tokens, each with all alternatives that the grammar allows.
        """
        draw = random.Random(f"{seed}-{problem.id}-{sample}")
        tokens: list[TeacherToken] = []
        value = problem.start
        for number in range(len(problem.changes) + 2):
            line = ""
            for options in line_choices(problem, number, value):
                strings = list(options)
                chosen = draw.choices(strings, [options[text] for text in strings])[0]
                tokens.extend(_marginalise(options, chosen))
                line += chosen
            value = value_after(line, value)
        text = b"".join(token.token for token in tokens).decode()
        return Completion(problem.id, sample, text, tuple(tokens))

    def score(self, problem: MiniatureProblem, text: str) -> tuple[TeacherToken, ...]:
        """How likely each token of a text is that somebody else wrote.

        A line that the grammar cannot write has unknown tokens from there on; the next
        one begins with the number that was stated last, as the teacher would go on.
        """
        tokens: list[TeacherToken] = []
        value = problem.start
        for number, line in enumerate(text.splitlines(keepends=True)):
            known = number < len(problem.changes) + 2
            choices = line_choices(problem, number, value) if known else []
            tokens.extend(_followed(choices, tokenize(line)))
            value = value_after(line, value)
        return tuple(tokens)


def line_choices(
    problem: MiniatureProblem, number: int, value: int
) -> list[dict[str, float]]:
    """The choices of a line: options with probabilities, one after the other.

    Args:
        problem: the problem.
        number: number of the line: 0 for the first, then one per change, then the
            answer.
        value: the value before the line.
    """
    if number == 0:
        starts = zip(_STARTS, _START_WEIGHTS, strict=True)
        return [
            {
                text.format(name=problem.name, n=problem.start) + "\n": weight
                for text, weight in starts
            }
        ]
    if number > len(problem.changes):
        return [{f"The answer is {value}": 1.0}]
    change = problem.changes[number - 1]
    sign = "+" if change > 0 else "-"
    openers = zip(_OPENERS, _OPENER_WEIGHTS, strict=True)
    results = {
        value + change + slip: weight
        for slip, weight in _SLIPS.items()
        if value + change + slip >= 0
    }
    total = sum(results.values())
    return [
        {f"{opener} {value}": weight for opener, weight in openers},
        {f" {sign} {abs(change)} =": 1.0},
        {f" {n}.\n": w / total for n, w in results.items()},
    ]


def value_after(line: str, value: int) -> int:
    """The number that a line states last, or the value before it."""
    numbers = re.findall(r"\d+", line)
    return int(numbers[-1]) if numbers else value


def _followed(
    choices: list[dict[str, float]], tokens: Sequence[str]
) -> Iterator[TeacherToken]:
    """The distribution of each token, up to the first that no option has."""
    left = list(tokens)
    for options in choices:
        alive = {tuple(tokenize(text)): weight for text, weight in options.items()}
        position = 0
        while left and all(len(one) > position for one in alive):
            token = left.pop(0)
            found, alive = _next(alive, position, token)
            yield found
            if not alive:
                break
            position += 1
        if not alive:
            break
    for token in left:
        yield TeacherToken(token.encode(), -math.inf, ())


def _next(
    alive: dict[tuple[str, ...], float], position: int, token: str
) -> tuple[TeacherToken, dict[tuple[str, ...], float]]:
    """A token with its true distribution, and the options that it leaves."""
    mass: dict[str, float] = {}
    for tokens, weight in alive.items():
        mass[tokens[position]] = mass.get(tokens[position], 0.0) + weight
    total = sum(mass.values())
    top = sorted(mass.items(), key=lambda pair: (-pair[1], pair[0]))
    found = TeacherToken(
        token.encode(),
        math.log(mass[token] / total) if token in mass else -math.inf,
        tuple((text.encode(), math.log(weight / total)) for text, weight in top),
    )
    return found, {t: w for t, w in alive.items() if t[position] == token}


def _marginalise(options: dict[str, float], chosen: str) -> Iterator[TeacherToken]:
    """The true distribution of each token of `chosen`, given those before it."""
    alive = {tuple(tokenize(text)): weight for text, weight in options.items()}
    for position, token in enumerate(tokenize(chosen)):
        found, alive = _next(alive, position, token)
        yield found
