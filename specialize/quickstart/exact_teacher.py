"""A teacher that knows the true probability of each of its tokens.

It is a small stochastic grammar. Its next-token distribution follows from the grammar
by marginalisation, so the probabilities that it reports are exact. It has its own
tokenizer, which differs from the student's, and sometimes makes arithmetic errors, so
that verification has something to reject.
"""

import math
import random
import re
from collections.abc import Iterator

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

        def choose(options: dict[str, float]) -> str:
            strings = list(options)
            chosen = draw.choices(strings, [options[text] for text in strings])[0]
            tokens.extend(_marginalise(options, chosen))
            return chosen

        choose(
            {
                text.format(name=problem.name, n=problem.start) + "\n": weight
                for text, weight in zip(_STARTS, _START_WEIGHTS, strict=True)
            }
        )
        value = problem.start
        for change in problem.changes:
            sign = "+" if change > 0 else "-"
            choose(
                {
                    f"{opener} {value}": weight
                    for opener, weight in zip(_OPENERS, _OPENER_WEIGHTS, strict=True)
                }
            )
            choose({f" {sign} {abs(change)} =": 1.0})
            results = {
                value + change + slip: weight
                for slip, weight in _SLIPS.items()
                if value + change + slip >= 0
            }
            total = sum(results.values())
            stated = choose({f" {n}.\n": w / total for n, w in results.items()})
            value = int(stated.strip().rstrip("."))
        choose({f"The answer is {value}": 1.0})
        text = b"".join(token.token for token in tokens).decode()
        return Completion(problem.id, sample, text, tuple(tokens))


def _marginalise(options: dict[str, float], chosen: str) -> Iterator[TeacherToken]:
    """The true distribution of each token of `chosen`, given those before it."""
    alive = {tuple(tokenize(text)): weight for text, weight in options.items()}
    for position, token in enumerate(tokenize(chosen)):
        mass: dict[str, float] = {}
        for tokens, weight in alive.items():
            mass[tokens[position]] = mass.get(tokens[position], 0.0) + weight
        total = sum(mass.values())
        top = sorted(mass.items(), key=lambda pair: (-pair[1], pair[0]))
        yield TeacherToken(
            token.encode(),
            math.log(mass[token] / total),
            tuple((text.encode(), math.log(weight / total)) for text, weight in top),
        )
        alive = {
            tokens: weight
            for tokens, weight in alive.items()
            if tokens[position] == token
        }
