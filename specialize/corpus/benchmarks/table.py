"""The table of benchmarks: its entries hold every fact about each benchmark.

Importing the table is quick, so that command lines can offer the names; a reader is
imported when it reads. Answers stay text as published ("1,080", "5 (ft); 7 (ft)"),
which the judge understands. A gold answer without a number (56 of ASDiv's) gives a
problem without answers: no prediction can be right, and a table can state the ceiling.
"""

import dataclasses
import importlib
import os
from typing import TYPE_CHECKING

from specialize.corpus.benchmarks.published import DIGITS, PUBLISHED
from specialize.digests import file_digest
from specialize.errors import InputError

if TYPE_CHECKING:
    from specialize.corpus.records import Problem

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark as its owners publish it.

    Attributes:
        name: name in options, suites and ids. The reader is `read_<name>` in the
            module `<name>` beside this one.
        test_file: path of the questions in a benchmarks folder. "{task}" is replaced
            by the name of the task if every task has its own file.
        answer_type: the kind of final answer, or None if it depends on the task.
        validation: (a, b): a of b questions of the test file are the validation split.
        licence: the licence as the owners state it.
        train_file: solved problems, from which demonstrations are drawn.
        prompt_file: the owners' prompt of a task.
    """

    name: str
    test_file: str
    answer_type: str | None
    validation: tuple[int, int]
    licence: str
    train_file: str | None = None
    prompt_file: str | None = None

    def read(self, path: str | os.PathLike[str]) -> "list[Problem]":
        """Reads a file of this benchmark's layout.

        Raises:
            InputError: naming the file and the invalid line or record.
        """
        module = importlib.import_module(f"{__package__}.{self.name}")
        return getattr(module, f"read_{self.name}")(path)


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "gsm8k",
            "gsm8k/test.jsonl",
            "number",
            (500, 1319),
            "MIT (openai/grade-school-math)",
            train_file="gsm8k/train.jsonl",
        ),
        Benchmark(
            "multiarith",
            "multiarith/MultiArith.json",
            "number",
            (200, 600),
            "research use (kojima-takeshi188/zero_shot_cot)",
        ),
        Benchmark(
            "asdiv",
            "asdiv/ASDiv.xml",
            "number",
            (500, 2305),
            "CC BY-NC 4.0 (chaochun/nlu-asdiv-dataset)",
        ),
        Benchmark(
            "svamp",
            "svamp/SVAMP.json",
            "number",
            (500, 1000),
            "MIT (arkilpatel/SVAMP)",
        ),
        Benchmark(
            "bbh",
            "bbh/bbh/{task}.json",
            None,
            (1, 5),
            "MIT (suzgunmirac/BIG-Bench-Hard; carries a canary: never train on it)",
            prompt_file="bbh/cot-prompts/{task}.txt",
        ),
    )
}
# The mathematical benchmarks, and those that are out of distribution for a student of
# GSM8K, whose mean accuracy is M-A-S.
MATH = ("gsm8k", "multiarith", "asdiv", "svamp")
MAS = ("multiarith", "asdiv", "svamp")


def read_problems(path: str | os.PathLike[str], dataset: str) -> "list[Problem]":
    """Reads a file of the layout of `dataset`, one of `BENCHMARKS`.

    Raises:
        InputError: an unknown `dataset`, or a file that its reader refuses.
    """
    if dataset not in BENCHMARKS:
        raise InputError(
            f"dataset is {dataset!r}, expected one of {sorted(BENCHMARKS)}."
        )
    return BENCHMARKS[dataset].read(path)


def licence_of(dataset: str, problems: str | os.PathLike[str] | None = None) -> str:
    """The licence of a benchmark, or "unknown" for other data.

    Args:
        dataset: the benchmark whose layout the problems have.
        problems: their file; if it is not one that the owners publish, its licence is
            unknown. None: the owners' file.
    """
    if dataset not in BENCHMARKS:
        return UNKNOWN
    if problems is not None:
        found = file_digest(problems)[:DIGITS]
        if found not in PUBLISHED[dataset].split():
            return f"{UNKNOWN}: not a file of {dataset} as its owners publish it"
    return BENCHMARKS[dataset].licence
