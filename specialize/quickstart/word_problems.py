"""Word problems of two or three steps about things that people get and lose."""

import dataclasses
import random
from collections.abc import Sequence

# Entities of the training problems, and others for the out-of-distribution suite.
PEOPLE = ("Ann", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack")
THINGS = ("apples", "books", "coins", "dolls", "eggs", "flags", "gems", "hats")
OTHER_PEOPLE = ("Kate", "Liam", "Mona", "Nico", "Olga", "Paul")
OTHER_THINGS = ("pens", "roses", "shells", "tiles", "urns", "vases")

# Numbers of the problems. A student of 1M parameters learns the sums last, and these
# bounds say how many there are: about 2 x 6 x 30.
_START = (2, 12)
CHANGE = (1, 6)
LARGEST = _START[1] + 3 * CHANGE[1]

_GAINS = (
    "{name} buys {n} more.",
    "{name} finds {n} more.",
    "{friend} gives {name} {n} more.",
    "{name} wins {n} more.",
)
_LOSSES = (
    "{name} loses {n}.",
    "{name} sells {n}.",
    "{name} gives {n} to {friend}.",
    "{name} breaks {n}.",
)


@dataclasses.dataclass(frozen=True, slots=True)
class MiniatureProblem:
    """A word problem with its numbers.

    Attributes:
        id: unique within its file.
        question: the text.
        name: the person who owns the things.
        start: number of things at first.
        changes: signed changes of that number, in order.
    """

    id: str
    question: str
    name: str
    start: int
    changes: tuple[int, ...]

    @property
    def answer(self) -> int:
        """The number of things in the end."""
        return self.start + sum(self.changes)

    def rationale(self) -> str:
        """A human solution in GSM8K's notation, calculator marks included."""
        lines: list[str] = []
        value = self.start
        for change in self.changes:
            sign = "+" if change > 0 else "-"
            result = value + change
            equation = f"{value}{sign}{abs(change)}"
            lines.append(
                f"There are {value} {sign} {abs(change)} = "
                f"<<{equation}={result}>>{result}."
            )
            value = result
        return "\n".join(lines) + f"\n#### {value}"


def problems(
    count: int,
    *,
    seed: int,
    prefix: str,
    people: Sequence[str] = PEOPLE,
    things: Sequence[str] = THINGS,
    exclude: Sequence[MiniatureProblem] = (),
) -> list[MiniatureProblem]:
    """Draws distinct problems of two or three steps.

    Args:
        count: number of problems.
        seed: random seed; the same seed draws the same problems.
        prefix: prefix of their ids.
        people: names to use.
        things: objects to use.
        exclude: problems whose questions must not occur.

    Returns:
        `count` problems with different questions.
    """
    draw = random.Random(f"{prefix}-{seed}")
    taken = {problem.question for problem in exclude}
    found: list[MiniatureProblem] = []
    while len(found) < count:
        name, friend = draw.sample(list(people), 2)
        thing = draw.choice(list(things))
        start = value = draw.randint(*_START)
        sentences = [f"{name} has {start} {thing}."]
        changes: list[int] = []
        for _ in range(draw.choice((2, 2, 3))):
            size = draw.randint(*CHANGE)
            gain = draw.random() < 0.5 or size > value
            template = draw.choice(_GAINS if gain else _LOSSES)
            sentences.append(template.format(name=name, friend=friend, n=size))
            changes.append(size if gain else -size)
            value += changes[-1]
        sentences.append(f"How many {thing} does {name} have?")
        question = " ".join(sentences)
        if question not in taken:
            taken.add(question)
            found.append(
                MiniatureProblem(
                    f"{prefix}-{len(found)}", question, name, start, tuple(changes)
                )
            )
    return found
