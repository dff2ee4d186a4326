"""A generated world: word problems, an exact stochastic teacher, generic tasks.

The world has the file formats of real data (GSM8K's JSON lines, MultiArith's and
BIG-Bench Hard's JSON, an export of completions with their top-k), so that the same code
reads both.
"""

import io
import json
import os
import pathlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from specialize import outputs
from specialize.corpus.completions import completion_to_json
from specialize.corpus.records import Completion
from specialize.progress import track
from specialize.quickstart.exact_teacher import ExactTeacher
from specialize.quickstart.word_problems import (
    CHANGE,
    LARGEST,
    OTHER_PEOPLE,
    OTHER_THINGS,
    PEOPLE,
    THINGS,
    MiniatureProblem,
    problems,
)

# A digit with the punctuation mark after it.
_NUMBER_END = re.compile(r"(\d)([.,?:])")


def _reverse(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(THINGS + OTHER_THINGS, 3)
    return f"Say backwards: {' '.join(words)}", " ".join(reversed(words))


def _last(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(PEOPLE + OTHER_PEOPLE, draw.randint(3, 5))
    return f"Which name is last: {' '.join(words)}", words[-1]


def _truth(draw: random.Random) -> tuple[str, str]:
    left, right = draw.choice((True, False)), draw.choice((True, False))
    joint = draw.choice(("and", "or"))
    value = (left and right) if joint == "and" else (left or right)
    if draw.random() < 0.5:
        return f"not ( {left} {joint} {right} ) is", str(not value)
    return f"{left} {joint} {right} is", str(value)


def _same(draw: random.Random) -> tuple[str, str]:
    words = [draw.choice(THINGS) for _ in range(2)]
    if draw.random() < 0.5:
        words[1] = words[0]
    return f"Are these the same: {words[0]} , {words[1]}", (
        "Yes" if words[0] == words[1] else "No"
    )


def _sum(draw: random.Random) -> tuple[str, str]:
    left, size = draw.randint(0, LARGEST), draw.randint(*CHANGE)
    if draw.random() < 0.5 and size <= left:
        return f"{left} - {size} =", str(left - size)
    return f"{left} + {size} =", str(left + size)


def _story(draw: random.Random) -> tuple[str, MiniatureProblem]:
    problem = problems(1, seed=draw.randrange(2**32), prefix="reading")[0]
    return problem.question.rpartition(" How many ")[0], problem


def _first(draw: random.Random) -> tuple[str, str]:
    story, problem = _story(draw)
    return f"{story} What was there at first?", str(problem.start)


def _change(draw: random.Random) -> tuple[str, str]:
    story, problem = _story(draw)
    number = draw.randrange(len(problem.changes))
    change = problem.changes[number]
    which = ("first", "second", "third")[number]
    return f"{story} What was the {which} change?", (
        f"{'+' if change > 0 else '-'} {abs(change)}"
    )


# Abilities of the base student that specialisation does not train.
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
        out: a new or empty folder, or an earlier world, which is replaced.
        seed: random seed; determines every file.
        num_train: number of problems that the teacher solves.
        num_test: number of problems per math suite.
        num_samples: number of the teacher's samples per problem.
        num_pretraining: number of examples for the base student's pre-training.

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
        people=OTHER_PEOPLE,
        things=OTHER_THINGS,
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
                _completion_line(teacher.sample(problem, index, seed=seed))
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
    """Generic tasks, sums and reading: what the base student learns first."""
    draw = random.Random(f"pretraining-{seed}")
    tasks = [*GENERIC_TASKS.values(), _sum, _sum, _first, _change, _change]
    for _ in range(count):
        text, target = draw.choice(tasks)(draw)
        yield {"inputs": f"Q: {text}\nA:", "targets": target}


def _completion_line(completion: Completion) -> dict[str, Any]:
    record = completion_to_json(completion)
    return record | {"top_logprobs": [dict(top[:5]) for top in record["top_logprobs"]]}


def _write_lines(path: pathlib.Path, items: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def train_vocabulary(
    text: str | os.PathLike[str], out: str | os.PathLike[str], *, size: int = 512
) -> pathlib.Path:
    """Trains a SentencePiece vocabulary with T5's special ids.

    A number and the full stop after it stay separate, as in T5's own vocabulary.

    Args:
        text: file with one sentence per line.
        out: the model file to write.
        size: the most pieces; fewer if the text has fewer.

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
