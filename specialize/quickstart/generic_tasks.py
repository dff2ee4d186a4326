"""Small tasks besides word problems: what a specialist may forget.

`REPLAYED` are the tasks that the quickstart mixes into the specialisation, `UNREPLAYED`
those that no training data of the specialist show again, and `DEMONSTRATED`, not shown
again either, those whose rule is only in the demonstrations of a question, so that
nobody can solve them without reading these.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from specialize.quickstart.word_problems import (
    OTHER_PEOPLE,
    OTHER_THINGS,
    PEOPLE,
    THINGS,
)

Task = Callable[[random.Random], tuple[str, str]]

_NAMES = PEOPLE + OTHER_PEOPLE
_WORDS = THINGS + OTHER_THINGS
# Cycles, and what comes before and after in them.
_CYCLES = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": (
        "January February March April May June July August September October November "
        "December"
    ).split(),
}
_OPPOSITES = (
    *(("hot", "cold"), ("big", "small"), ("old", "new"), ("wet", "dry")),
    *(("fast", "slow"), ("open", "shut"), ("up", "down"), ("left", "right")),
    *(("high", "low"), ("hard", "soft"), ("full", "empty"), ("near", "far")),
    *(("loud", "quiet"), ("rich", "poor"), ("dark", "light"), ("good", "bad")),
)
_TYPES = {"truth_values": "boolean", "same_or_not": "yes_no"}
_LABELS = ("red", "blue", "green", "grey")


def _backwards(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_WORDS, 3)
    return f"Say backwards: {' '.join(words)}", " ".join(reversed(words))


def _last(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_NAMES, draw.randint(3, 5))
    return f"Which name is last: {' '.join(words)}", words[-1]


def _truth(draw: random.Random) -> tuple[str, str]:
    left, right = draw.choice((True, False)), draw.choice((True, False))
    joint = draw.choice(("and", "or"))
    value = (left and right) if joint == "and" else (left or right)
    text = f"{left} {joint} {right}"
    if draw.random() < 0.5:
        text, value = f"not ( {text} )", not value
    if draw.random() < 0.5:
        last = draw.choice((True, False))
        text, value = f"( {text} ) and {last}", value and last
    return f"{text} is", str(value)


def _same(draw: random.Random) -> tuple[str, str]:
    words = [draw.choice(THINGS) for _ in range(2)]
    if draw.random() < 0.5:
        words[1] = words[0]
    return f"Are these the same: {words[0]} , {words[1]}", (
        "Yes" if words[0] == words[1] else "No"
    )


def _first(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_WORDS, draw.randint(3, 5))
    return f"Which thing is first: {' '.join(words)}", words[0]


def _odd(draw: random.Random) -> tuple[str, str]:
    words = [draw.choice(_WORDS), *draw.sample(_NAMES, 2)]
    thing = words[0]
    draw.shuffle(words)
    return f"Which word is no name: {' '.join(words)}", thing


def _beside(draw: random.Random) -> tuple[str, str]:
    kind = draw.choice(tuple(_CYCLES))
    cycle = _CYCLES[kind]
    index = draw.randrange(len(cycle))
    where, step = draw.choice((("after", 1), ("before", -1)))
    asked = f"Which {kind} is {where} {cycle[index]}?"
    return asked, cycle[(index + step) % len(cycle)]


def _opposite(draw: random.Random) -> tuple[str, str]:
    pair = list(draw.choice(_OPPOSITES))
    draw.shuffle(pair)
    return f"What is the opposite of {pair[0]}?", pair[1]


def _tagged(draw: random.Random) -> tuple[str, str]:
    label, first = draw.choice(_LABELS), draw.random() < 0.5
    words = draw.sample(_WORDS, 3)
    pairs = [f"{label} {w}" if first else f"{w} {label}" for w in words]
    shown = [f"{w} : {pair} ." for w, pair in zip(words[:-1], pairs, strict=False)]
    return " ".join([*shown, words[-1], ":"]), pairs[-1]


def _repeated(draw: random.Random) -> tuple[str, str]:
    count, names = draw.randint(1, 3), draw.sample(_NAMES, 3)
    shown = [f"{name} : {' '.join([name] * count)} ." for name in names[:-1]]
    return " ".join([*shown, names[-1], ":"]), " ".join([names[-1]] * count)


REPLAYED: dict[str, Task] = {
    "say_backwards": _backwards,
    "last_name": _last,
    "truth_values": _truth,
    "same_or_not": _same,
}
UNREPLAYED: dict[str, Task] = {
    "first_thing": _first,
    "odd_one_out": _odd,
    "day_or_month": _beside,
    "opposites": _opposite,
}
DEMONSTRATED: dict[str, Task] = {
    "tag_as_shown": _tagged,
    "repeat_as_shown": _repeated,
}
ALL: dict[str, Task] = {**REPLAYED, **UNREPLAYED, **DEMONSTRATED}


def examples(task: Task, count: int, *, seed: str) -> list[tuple[str, str]]:
    """Draws at most `count` (input, target) pairs of one task, each question once.

    A task of few questions has fewer.
    """
    draw = random.Random(seed)
    found: dict[str, str] = {}
    for _ in range(50 * count):
        question, answer = task(draw)
        found.setdefault(question, answer)
        if len(found) == count:
            break
    return list(found.items())


def prompt(question: str) -> str:
    """The encoder text of a question."""
    return f"Q: {question}\nA:"


def replayed(count: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Text to text of the replayed tasks, with their answers."""
    draw = random.Random(f"replay-{seed}")
    tasks = list(REPLAYED.values())
    for _ in range(count):
        question, answer = draw.choice(tasks)(draw)
        yield {"inputs": prompt(question), "targets": answer}


def prompts(count: int, words: Sequence[str], *, seed: int) -> Iterator[dict[str, str]]:
    """Prompts without answers: a third of the replayed tasks, the rest random words.

    Random words ask for nothing. What the base student answers to them is no use to
    anybody, but it says what the student computed there before it was specialised.
    """
    draw = random.Random(f"prompts-{seed}")
    tasks = list(REPLAYED.values())
    for _ in range(count):
        if draw.random() < 1 / 3:
            question, _ = draw.choice(tasks)(draw)
        else:
            question = " ".join(draw.choices(words, k=draw.randint(2, 10)))
        yield {"inputs": prompt(question)}


def task_file(name: str, tasks: Iterable[str]) -> str:
    """A task file whose sub-tasks are in the layout of BIG-Bench Hard."""
    types = "\n".join(f'{task} = "{_TYPES.get(task, "text")}"' for task in tasks)
    return f"""\
# Generic tasks of the miniature world; each has a file of its own.
name = "{name}"

[files]
test = "{name}/{{subtask}}.json"

[fields]
records = "examples"
question = "input"
answer = "target"

# The type of the answers of each task.
[subtasks]
{types}
"""
