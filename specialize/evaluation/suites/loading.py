"""Benchmark files -> suites of prompts with gold answers.

A suite is a benchmark of `corpus.benchmarks.table`, which has the files, readers and
answer types, or one task of BBH, "bbh/<task>". "bbh" means every task file, "math" the
other four benchmarks, "mas" MultiArith, ASDiv and SVAMP. A file of BBH's layout with
another name works too: the file declares its answer type (`"answer_type"` beside
`"examples"`), or it is inferred from the targets.

Math questions are asked in the prompt formats of the corpus. In-context formats have
demonstrations from gsm8k/train.jsonl before the question, drawn for each question, so
that no single draw decides a score. BBH is asked zero-shot in the same formats, and
in-context with the owners' prompts (`bbh_prompts`).
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specialize import typed_json
from specialize.corpus import prompts
from specialize.corpus.benchmarks import bbh
from specialize.corpus.benchmarks.table import BENCHMARKS, MAS, MATH
from specialize.corpus.records import Problem
from specialize.errors import InputError, nearest, suggestion
from specialize.evaluation.spec import (
    DEFAULT_DEMONSTRATIONS,
    DEFAULT_PROMPT,
    DEFAULT_SPLIT,
    PROMPTS,
    EvaluationSpec,
)
from specialize.evaluation.suites import bbh_prompts, hub, splits
from specialize.judging.answers import infer_answer_type
from specialize.judging.choices import ANSWER_TYPES

GROUPS = {"mas": MAS, "math": MATH}


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One question of a suite.

    Attributes:
        id: Id, unique within the suite.
        inputs: The encoder text.
        golds: Gold answers; empty if the owners' gold answer has no number.
        answer_type: Kind of final answer (`judging.answers`).
        problem: The problem of the benchmark.
    """

    id: str
    inputs: str
    golds: tuple[str, ...]
    answer_type: str
    problem: Problem


@dataclasses.dataclass(frozen=True)
class Suite:
    """Questions of one file in one prompt format.

    Attributes:
        name: "gsm8k", "bbh/navigate", ...
        prompt: One of `spec.PROMPTS`.
        examples: The chosen examples, in the order of the file.
        split: One of `spec.SPLITS`.
        left_out: Id -> question of the other examples of the file.
        file: The file.
    """

    name: str
    prompt: str
    examples: tuple[Example, ...]
    split: str
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    file: str = ""

    @property
    def family(self) -> str:
        """The name without a task: "bbh" for "bbh/navigate"."""
        return self.name.partition("/")[0]

    @property
    def key(self) -> str:
        """Name and prompt, as in tables and files."""
        return f"{self.name}:{self.prompt}"

    @property
    def answer_only(self) -> bool:
        """Whether the prompt asks for the answer without a rationale."""
        return self.prompt.endswith("_answer_only")

    def selection(self) -> dict[str, Any]:
        """Which examples these are, as JSON values for the results."""
        return {
            "split": self.split,
            "seed": splits.SEED,
            "n": len(self.examples),
            "of": len(self.examples) + len(self.left_out),
            "digest": splits.digest(example.id for example in self.examples),
        }


def load_suite(
    name: str,
    benchmarks_dir: str | os.PathLike[str],
    *,
    prompt: str = DEFAULT_PROMPT,
    split: str = DEFAULT_SPLIT,
    max_examples: int | None = None,
    demonstrations: int = DEFAULT_DEMONSTRATIONS,
    seed: int = 0,
) -> Suite:
    """Reads one suite.

    Args:
        name: "gsm8k", "multiarith", "asdiv", "svamp" or "bbh/<task>".
        benchmarks_dir: Folder of the benchmark files, the file of the suite, or
            "hub:<owner>/<dataset>" for a dataset of the Hugging Face hub.
        prompt: One of `spec.PROMPTS`.
        split: One of `spec.SPLITS`.
        max_examples: Size of a seeded sample of the questions. None: all.
        demonstrations: Number of demonstrations in in-context math prompts.
        seed: Seed of the draw of demonstrations.

    Raises:
        InputError: The name, prompt or split is unknown; a file is missing or
            malformed; or there are too few problems for demonstrations.
    """
    found = load_suites(
        name,
        benchmarks_dir,
        prompt=prompt,
        split=split,
        max_examples=max_examples,
        demonstrations=demonstrations,
        seed=seed,
    )
    if len(found) > 1:
        raise InputError(
            f"{name!r} is {len(found)} suites ({found[0].name}, ...); name one of them."
        )
    return found[0]


def load_suites(
    name: str,
    benchmarks_dir: str | os.PathLike[str],
    *,
    prompt: str = DEFAULT_PROMPT,
    split: str = DEFAULT_SPLIT,
    max_examples: int | None = None,
    demonstrations: int = DEFAULT_DEMONSTRATIONS,
    seed: int = 0,
) -> list[Suite]:
    """Reads one suite or the suites of a group, in a fixed order.

    The arguments are those of `load_suite`. `name` may also be "bbh" (every task),
    "math" or "mas" (MultiArith, ASDiv, SVAMP).

    Raises:
        InputError: As for `load_suite`, or some of BBH's 27 tasks are missing.
    """
    if prompt not in PROMPTS:
        raise InputError(f"unknown prompt {prompt!r}{mistyped(prompt, PROMPTS)}")
    place = hub.resolve(os.fspath(benchmarks_dir), name)
    suites: list[Suite] = []
    for single in expand(name, place):
        family, _, task = single.partition("/")
        file = place if place.is_file() else _file(single, place)
        benchmark = BENCHMARKS[family]
        read = benchmark.read(file)
        answer_type = benchmark.answer_type or _bbh_type(task, file, read)
        render = _renderer(single, place, prompt, demonstrations, seed)
        positions = splits.chosen(
            family, [problem.id for problem in read], split, max_examples
        )
        kept = set(positions)
        suites.append(
            Suite(
                name=single,
                prompt=prompt,
                examples=tuple(
                    Example(
                        id=read[index].id,
                        inputs=render(read[index]),
                        golds=read[index].answers,
                        answer_type=answer_type,
                        problem=read[index],
                    )
                    for index in positions
                ),
                split=split,
                left_out={
                    problem.id: problem.question
                    for index, problem in enumerate(read)
                    if index not in kept
                },
                file=str(file),
            )
        )
    return suites


def suites_of(evaluation: EvaluationSpec) -> dict[str, Suite]:
    """Reads every suite of an evaluation: "suite:prompt" -> suite.

    Raises:
        InputError: No suite is named, or as for `load_suites`.
    """
    if not evaluation.suites:
        raise InputError(
            "no suite to evaluate: set SUITES, for example ('gsm8k', 'bbh')."
        )
    found: dict[str, Suite] = {}
    for name in evaluation.suites:
        suite, _, prompt = name.partition(":")
        for one in load_suites(
            suite,
            evaluation.benchmarks(),
            prompt=prompt or evaluation.prompt,
            split=evaluation.split,
            max_examples=evaluation.max_examples,
            demonstrations=evaluation.demonstrations,
        ):
            found[one.key] = one
    return found


def expand(name: str, place: pathlib.Path) -> list[str]:
    """The names of the suites of a suite or group.

    Args:
        name: A suite or a group.
        place: The benchmarks folder, or the file of one suite.

    Raises:
        InputError: The name is unknown; it is a group, but `place` is a single file; or
            `place` does not exist or has only some of BBH's tasks.
    """
    if not place.exists():
        raise InputError(
            f"{place} does not exist. Name the folder with gsm8k/, multiarith/, "
            "asdiv/, svamp/ and bbh/, or one suite's file."
        )
    single_file = place.is_file()
    if name in MATH:
        return [name]
    if name in GROUPS and not single_file:
        return list(GROUPS[name])
    if name == "bbh" or name.startswith("bbh/"):
        if single_file:
            return [name if "/" in name else f"bbh/{place.stem}"]
        here = _bbh_tasks(place)
        task = name.partition("/")[2]
        if task and task in here:
            return [name]
        if not task:
            return [f"bbh/{found}" for found in here]
    known = [*MATH, *GROUPS, "bbh", *(f"bbh/{task}" for task in bbh.TASKS)]
    if not single_file and _file("bbh/", place).parent.is_dir():
        known += [f"bbh/{task}" for task in _bbh_tasks(place)]
    remedy = mistyped(name, known)
    raise InputError(f"unknown suite {name!r} (benchmarks: {place}){remedy}")


def mistyped(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The end of a message about a mistyped name."""
    names = list(dict.fromkeys(known))
    close = nearest(name, names, count=3, cutoff=0.5)
    if not close:
        # "navigate" for "bbh/navigate".
        close = [one for one in names if one.rpartition("/")[2] == name.lower()]
    if close:
        return f".{suggestion(close)}"
    short = [one for one in names if "/" not in one]
    return f". Known: {', '.join(short)}."


def _bbh_tasks(place: pathlib.Path) -> list[str]:
    folder = _file("bbh/", place).parent
    here = sorted(file.stem for file in folder.glob("*.json"))
    if not here:
        raise InputError(f"{folder} has no task file (*.json) of BIG-Bench Hard.")
    missing = [task for task in bbh.TASKS if task not in here]
    if missing and len(missing) < len(bbh.TASKS):
        # An average over some of the tasks would look like that of BBH.
        raise InputError(
            f"{folder} lacks {len(missing)} of BIG-Bench Hard's tasks: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Add the "
            "files, or name the file of one task instead of the folder."
        )
    return here


def _file(name: str, place: pathlib.Path) -> pathlib.Path:
    family, _, task = name.partition("/")
    return place / BENCHMARKS[family].test_file.format(task=task)


@dataclasses.dataclass(frozen=True)
class _Declared:
    answer_type: str | None = None


def _bbh_type(task: str, file: pathlib.Path, read: Sequence[Problem]) -> str:
    if task in bbh.ANSWER_TYPES:
        return bbh.ANSWER_TYPES[task]
    declared = typed_json.read(file, _Declared).answer_type
    if declared is None:
        return infer_answer_type([problem.answers[0] for problem in read])
    if declared not in ANSWER_TYPES:
        raise InputError(
            f"{file}: 'answer_type' is {declared!r}, expected one of "
            f"{', '.join(ANSWER_TYPES)}."
        )
    return declared


def _renderer(
    name: str, place: pathlib.Path, prompt: str, demonstrations: int, seed: int
) -> Callable[[Problem], str]:
    """The function that turns the questions of a suite into encoder texts."""
    format = PROMPTS[prompt]
    if prompt.startswith("zero_shot_"):
        return lambda problem: prompts.render_inputs(format, problem.question)
    folder = _root(name, place) if place.is_file() else place
    family, _, task = name.partition("/")
    if prompt_file := BENCHMARKS[family].prompt_file:
        official = bbh_prompts.read_prompt(folder / prompt_file.format(task=task))
        answer_only = prompt.endswith("_answer_only")
        return lambda problem: official.render(
            problem.question, answer_only=answer_only
        )
    solved = BENCHMARKS["gsm8k"]
    pool = solved.read(folder / str(solved.train_file))

    def render(problem: Problem) -> str:
        drawn = prompts.draw_demonstrations(pool, problem, demonstrations, seed=seed)
        return prompts.render_inputs(format, problem.question, drawn)

    return render


def _root(name: str, file: pathlib.Path) -> pathlib.Path:
    """The benchmarks folder of a single file, which may have the prompts."""
    return file.parent.parent.parent if name.startswith("bbh/") else file.parent.parent
