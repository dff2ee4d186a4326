"""A generated world: word problems, an exact stochastic teacher, generic tasks.

The world is written in the file formats of the real one (GSM8K's JSON lines,
MultiArith's and BIG-Bench Hard's JSON, an export of completions with their top-k), so
that everything after it is the code that real data go through.

The teacher is exact: it is a small stochastic grammar whose next-token distribution
follows from the grammar by marginalisation, so the probabilities it reports are the
true ones. It has its own tokenizer, which differs from the student's, and it errs in
arithmetic now and then, so that verification has something to reject.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from specialize import outputs
from specialize.corpus.records import Completion, TeacherToken
from specialize.progress import track

TEACHER_NAME = "miniature-grammar-1"

# Entities of the training problems, and others for the out-of-distribution suite.
_PEOPLE = ("Ann", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack")
_THINGS = ("apples", "books", "coins", "dolls", "eggs", "flags", "gems", "hats")
_OTHER_PEOPLE = ("Kate", "Liam", "Mona", "Nico", "Olga", "Paul")
_OTHER_THINGS = ("pens", "roses", "shells", "tiles", "urns", "vases")

# Numbers of the problems. What a student of 1M parameters learns last are the sums, and
# these bounds say how many there are: about 2 x 6 x 30.
_START = (2, 12)
_CHANGE = (1, 6)
_LARGEST = _START[1] + 3 * _CHANGE[1]

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
_OPENERS = ("Then", "Next", "Now", "So", "After that", "Thus", "Hence", "Therefore")
_OPENER_WEIGHTS = (0.34, 0.22, 0.16, 0.1, 0.08, 0.05, 0.03, 0.02)
_STARTS = ("{name} starts with {n}.", "At first there are {n}.", "We begin with {n}.")
_START_WEIGHTS = (0.5, 0.3, 0.2)
# How far the teacher is off, and how often. Sums to 1.
_SLIPS = {0: 0.94, 1: 0.02, -1: 0.02, 10: 0.012, 2: 0.008}

# The teacher's own tokens: at most four letters, single digits, a space joined to what
# follows. SentencePiece cuts the same text elsewhere.
_NUMBER_END = re.compile(r"(\d)([.,?:])")
_TOKEN = re.compile(r" ?[A-Za-z]{1,4}| ?\d| ?[^\sA-Za-z\d]|\s")


@dataclasses.dataclass(frozen=True, slots=True)
class MiniatureProblem:
    """A word problem with the numbers behind it.

    Attributes:
        id: unique within its file.
        question: the text.
        name: who owns the things.
        start: how many there are at first.
        changes: signed changes, in order.
    """

    id: str
    question: str
    name: str
    start: int
    changes: tuple[int, ...]

    @property
    def answer(self) -> int:
        """How many there are in the end."""
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
    people: Sequence[str] = _PEOPLE,
    things: Sequence[str] = _THINGS,
    exclude: Sequence[MiniatureProblem] = (),
) -> list[MiniatureProblem]:
    """Draws distinct problems of two or three steps.

    Args:
        count: how many.
        seed: the same seed draws the same problems.
        prefix: of their ids.
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
            size = draw.randint(*_CHANGE)
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


def tokenize(text: str) -> list[str]:
    """Cuts `text` into the teacher's tokens; their concatenation is `text`."""
    return _TOKEN.findall(text)


class ExactTeacher:
    """A stochastic grammar that knows the true probability of each of its tokens.

    A solution is a sequence of choices. Each choice is a set of strings with
    probabilities, no string's tokens a prefix of another's, so the probability of the
    next token is the share of the strings that continue with it among those that
    agree with the tokens so far.
    """

    name = TEACHER_NAME

    def sample(
        self, problem: MiniatureProblem, sample: int, *, seed: int
    ) -> Completion:
        """Draws one solution.

        Args:
            problem: the problem to solve.
            sample: number of the sample.
            seed: of the world; together with problem and sample it fixes the text.

        Returns:
            The text and its tokens, each with every alternative the grammar allows.
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


def _reverse(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_THINGS + _OTHER_THINGS, 3)
    return f"Say backwards: {' '.join(words)}", " ".join(reversed(words))


def _last(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_PEOPLE + _OTHER_PEOPLE, draw.randint(3, 5))
    return f"Which name is last: {' '.join(words)}", words[-1]


def _truth(draw: random.Random) -> tuple[str, str]:
    left, right = draw.choice((True, False)), draw.choice((True, False))
    joint = draw.choice(("and", "or"))
    value = (left and right) if joint == "and" else (left or right)
    if draw.random() < 0.5:
        return f"not ( {left} {joint} {right} ) is", str(not value)
    return f"{left} {joint} {right} is", str(value)


def _same(draw: random.Random) -> tuple[str, str]:
    words = [draw.choice(_THINGS) for _ in range(2)]
    if draw.random() < 0.5:
        words[1] = words[0]
    return f"Are these the same: {words[0]} , {words[1]}", (
        "Yes" if words[0] == words[1] else "No"
    )


def _sum(draw: random.Random) -> tuple[str, str]:
    left, size = draw.randint(0, _LARGEST), draw.randint(*_CHANGE)
    if draw.random() < 0.5 and size <= left:
        return f"{left} - {size} =", str(left - size)
    return f"{left} + {size} =", str(left + size)


def _first(draw: random.Random) -> tuple[str, str]:
    problem = problems(1, seed=draw.randrange(2**32), prefix="reading")[0]
    story, _, _ = problem.question.rpartition(" How many ")
    return f"{story} What was there at first?", str(problem.start)


def _change(draw: random.Random) -> tuple[str, str]:
    problem = problems(1, seed=draw.randrange(2**32), prefix="reading")[0]
    story, _, _ = problem.question.rpartition(" How many ")
    number = draw.randrange(len(problem.changes))
    change = problem.changes[number]
    which = ("first", "second", "third")[number]
    return f"{story} What was the {which} change?", (
        f"{'+' if change > 0 else '-'} {abs(change)}"
    )


# Generic abilities of the base student, which specialisation does not train.
GENERIC_TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "say_backwards": _reverse,
    "last_name": _last,
    "truth_values": _truth,
    "same_or_not": _same,
}


def generic_examples(
    task: Callable[[random.Random], tuple[str, str]], count: int, *, seed: str
) -> list[tuple[str, str]]:
    """Draws `count` (input, target) pairs of one generic task."""
    draw = random.Random(seed)
    return [task(draw) for _ in range(count)]


def write(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train: int = 2000,
    num_test: int = 200,
    num_samples: int = 4,
    num_pretraining: int = 24000,
) -> pathlib.Path:
    """Writes the world into a new folder, laid out as the real benchmarks are.

    `gsm8k/train.jsonl` and `test.jsonl`, `multiarith/MultiArith.json` (the
    out-of-distribution suite), `bbh/bbh/<task>.json` (generic ability),
    `pretraining.jsonl` (text to text, for the base student), `completions.jsonl` (the
    teacher's samples with top-k) and `text.txt` (for the vocabulary).

    Args:
        out: a new or empty folder.
        seed: fixes every file.
        num_train: problems the teacher solves.
        num_test: problems of each math suite.
        num_samples: the teacher's samples a problem.
        num_pretraining: examples of the base student's pre-training.

    Returns:
        The folder.

    Raises:
        InputError: `out` holds something else.
    """
    test = problems(num_test, seed=seed, prefix="gsm8k-test")
    train = problems(num_train, seed=seed, prefix="gsm8k-train", exclude=test)
    other = problems(
        num_test,
        seed=seed,
        prefix="multiarith",
        people=_OTHER_PEOPLE,
        things=_OTHER_THINGS,
    )
    with outputs.staged_directory(out, "miniature", replace=True) as folder:
        for split, items in (("train", train), ("test", test)):
            _write_lines(
                folder / "gsm8k" / f"{split}.jsonl",
                ({"question": p.question, "answer": p.rationale()} for p in items),
            )
        outputs.write_json(
            folder / "multiarith" / "MultiArith.json",
            [
                {
                    "iIndex": index,
                    "lEquations": [],
                    "lAlignments": [],
                    "lSolutions": [float(problem.answer)],
                    "sQuestion": problem.question,
                }
                for index, problem in enumerate(other)
            ],
        )
        for name, task in GENERIC_TASKS.items():
            outputs.write_json(
                folder / "bbh" / "bbh" / f"{name}.json",
                {
                    "examples": [
                        {"input": text, "target": target}
                        for text, target in generic_examples(
                            task, num_test // 2, seed=f"test-{name}-{seed}"
                        )
                    ]
                },
            )
        pretraining = list(_pretraining(num_pretraining, seed=seed))
        _write_lines(folder / "pretraining.jsonl", pretraining)
        teacher = ExactTeacher()
        _write_lines(
            folder / "completions.jsonl",
            (
                _completion_line(problem, teacher.sample(problem, index, seed=seed))
                for problem in track(train, "miniature: the teacher solves")
                for index in range(num_samples)
            ),
        )
        with open(folder / "text.txt", "w", encoding="utf-8") as file:
            for problem in train:
                file.write(problem.question + "\n" + problem.rationale() + "\n")
                file.write(teacher.sample(problem, 0, seed=seed).text + "\n")
            for problem in other:
                file.write(problem.question + "\n")
            for example in pretraining:
                file.write(example["inputs"] + " " + example["targets"] + "\n")
    return pathlib.Path(out)


def _pretraining(count: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Generic tasks, sums and reading: what a base model knows before it reasons."""
    draw = random.Random(f"pretraining-{seed}")
    tasks = [*GENERIC_TASKS.values(), _sum, _sum, _first, _change, _change]
    for _ in range(count):
        text, target = draw.choice(tasks)(draw)
        yield {"inputs": f"Q: {text}\nA:", "targets": target}


def _completion_line(problem: MiniatureProblem, completion: Completion) -> Any:
    tokens = completion.tokens or ()
    return {
        "problem_id": problem.id,
        "sample": completion.sample,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": [token.token.decode() for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {text.decode(): logprob for text, logprob in token.top[:5]}
            for token in tokens
        ],
    }


def _write_lines(path: pathlib.Path, items: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def train_vocabulary(
    text: str | os.PathLike[str], out: str | os.PathLike[str], *, size: int = 512
) -> pathlib.Path:
    """Trains a SentencePiece vocabulary with T5's special ids.

    A number and the full stop behind it stay apart, as in T5's own vocabulary.

    Args:
        text: one sentence a line.
        out: the model file to write.
        size: at most this many pieces (fewer where the text has no more).

    Returns:
        `out`.
    """
    import sentencepiece

    model = io.BytesIO()
    with open(text, encoding="utf-8") as sentences:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(_NUMBER_END.sub(r"\1 \2", line) for line in sentences),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            model_type="bpe",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
            num_threads=1,
        )
    with outputs.staged_file(out) as staged:
        staged.write_bytes(model.getvalue())
    return pathlib.Path(out)
