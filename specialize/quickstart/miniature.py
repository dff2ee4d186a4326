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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from specialize import outputs
from specialize.corpus.completions import completion_to_json
from specialize.corpus.records import Completion
from specialize.progress import track
from specialize.quickstart import generic_tasks
from specialize.quickstart.exact_teacher import ExactTeacher
from specialize.quickstart.generic_tasks import Task
from specialize.quickstart.word_problems import (
    CHANGE,
    LARGEST,
    OTHER_PEOPLE,
    OTHER_THINGS,
    MiniatureProblem,
    problems,
)

# Names of version 0.1.
GENERIC_TASKS = generic_tasks.ALL
generic_examples = generic_tasks.examples

# A digit with the punctuation mark after it.
_NUMBER_END = re.compile(r"(\d)([.,?:])")


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


def write(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train: int = 2000,
    num_test: int = 200,
    num_samples: int = 4,
    num_pretraining: int = 40000,
    num_replayed: int = 4000,
    num_prompts: int = 6000,
) -> pathlib.Path:
    """Writes the world into a new folder, laid out as the real benchmarks are.

    `gsm8k/train.jsonl` and `test.jsonl`, `multiarith/MultiArith.json` (the
    out-of-distribution suite), `bbh/bbh/<task>.json` (generic ability that is never
    replayed), `replayed.toml` and `demonstrated.toml` with their folders (the other
    generic tasks), `pretraining.jsonl` (text to text, for the base student),
    `plain.jsonl` (the same texts cut anywhere, for a student that learns no task),
    `replay.jsonl` (text to text of the replayed tasks), `prompts.jsonl` (prompts
    without answers), `completions.jsonl` (the teacher's samples with top-k) and
    `text.txt` (for the vocabulary).

    Args:
        out: a new or empty folder, or an earlier world, which is replaced.
        seed: random seed; determines every file.
        num_train: number of problems that the teacher solves.
        num_test: number of problems per math suite.
        num_samples: number of the teacher's samples per problem.
        num_pretraining: number of examples for the base student's pre-training.
        num_replayed: number of examples of the replayed tasks.
        num_prompts: number of prompts without answers.

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
        _write_suite(folder / "bbh" / "bbh", generic_tasks.UNREPLAYED, num_test, seed)
        for name, tasks in (
            ("replayed", generic_tasks.REPLAYED),
            ("demonstrated", generic_tasks.DEMONSTRATED),
        ):
            _write_suite(folder / name, tasks, num_test, seed)
            text = generic_tasks.task_file(name, tasks)
            outputs.write_text(folder / f"{name}.toml", text)
        pretraining = list(_pretraining(num_pretraining, seed=seed))
        _write_lines(folder / "pretraining.jsonl", pretraining)
        _write_lines(folder / "plain.jsonl", _continuations(pretraining, seed=seed))
        replay = generic_tasks.replayed(num_replayed, seed=seed)
        _write_lines(folder / "replay.jsonl", replay)
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
        text = (folder / "text.txt").read_text(encoding="utf-8")
        words = sorted({word for word in text.split() if word.isalpha()})
        prompts = generic_tasks.prompts(num_prompts, words, seed=seed)
        _write_lines(folder / "prompts.jsonl", prompts)
    return pathlib.Path(out)


def _write_suite(
    folder: pathlib.Path, tasks: Mapping[str, Task], num_test: int, seed: int
) -> None:
    for name, task in tasks.items():
        pairs = generic_tasks.examples(task, num_test // 2, seed=f"test-{name}-{seed}")
        found = [{"input": text, "target": target} for text, target in pairs]
        outputs.write_json(folder / f"{name}.json", {"examples": found})


def _pretraining(count: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Generic tasks, sums and reading: what the base student learns first."""
    draw = random.Random(f"pretraining-{seed}")
    # A task that must find its rule in the prompt takes more examples than others.
    tasks = [*generic_tasks.ALL.values(), *generic_tasks.DEMONSTRATED.values()]
    tasks += [_sum, _sum, _sum, _first, _first, _change, _change, _change]
    for _ in range(count):
        text, target = draw.choice(tasks)(draw)
        yield {"inputs": generic_tasks.prompt(text), "targets": target}


def _continuations(
    examples: Iterable[Mapping[str, str]], *, seed: int
) -> Iterator[dict[str, str]]:
    """The same texts, cut anywhere: for a student that learns no task.

    The prefix of a text is the input and the rest the target, as in the adaptation of
    T5 to language modelling (Lester et al., arXiv 2104.08691).
    """
    draw = random.Random(f"plain-{seed}")
    for example in examples:
        words = f"{example['inputs']} {example['targets']}".split(" ")
        cut = draw.randrange(1, len(words))
        yield {"inputs": " ".join(words[:cut]), "targets": " ".join(words[cut:])}


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
