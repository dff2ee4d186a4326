"""Tasks -> suites of prompts with gold answers.

A suite is a task (`corpus.tasks`) or one of its sub-tasks, "bbh/navigate". "bbh" means
every sub-task of it, and a group such as "mas" every task of the group. A file of a
sub-task with another name works too: it declares the type of its answers
(`"answer_type"` beside its records), or this is inferred from the answers.

Questions are asked in the wording of their task. In-context prompts have
demonstrations from a training file before the question, drawn for each question, so
that no single draw decides a score; or the owners' prompt, as for BBH
(`official_prompts`).
"""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from specialize import typed_json
from specialize.corpus.records import Problem
from specialize.corpus.tasks.known import (
    find,
    index,
    known_suites,
    mistyped,
    of_file,
    read_problems,
    shipped,
)
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError
from specialize.evaluation.spec import (
    DEFAULT_DEMONSTRATIONS,
    DEFAULT_PROMPT,
    DEFAULT_SPLIT,
    PROMPTS,
    EvaluationSpec,
)
from specialize.evaluation.suites import hub, splits
from specialize.evaluation.suites.rendering import renderer
from specialize.judging.answers import infer_answer_type
from specialize.judging.choices import ANSWER_TYPES
from specialize.judging.spec import JudgeSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One question of a suite.

    Attributes:
        id: Id, unique within the suite.
        inputs: The encoder text.
        golds: Gold answers; empty if the owners' gold answer has no number.
        answer_type: Kind of final answer (`judging.answers`).
        problem: The problem.
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
        judge: The judge of the task.
        ids: Ids of all examples of the file, in its order.
        asked: Number of examples that were asked, if `examples` are fewer.
    """

    name: str
    prompt: str
    examples: tuple[Example, ...]
    split: str
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    file: str = ""
    judge: JudgeSpec = JudgeSpec()
    ids: tuple[str, ...] = ()
    asked: int | None = None

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

    def only(self, answered: Collection[str]) -> "Suite":
        """The suite with these of its examples; it knows how many were asked."""
        kept = tuple(one for one in self.examples if one.id in answered)
        if len(kept) == len(self.examples):
            return self
        without = {
            one.id: one.problem.question
            for one in self.examples
            if one.id not in answered
        }
        return dataclasses.replace(
            self,
            examples=kept,
            left_out={**self.left_out, **without},
            asked=len(self.examples),
        )

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
    benchmarks_dir: str | os.PathLike[str] | None,
    *,
    prompt: str = DEFAULT_PROMPT,
    split: str = DEFAULT_SPLIT,
    max_examples: int | None = None,
    demonstrations: int = DEFAULT_DEMONSTRATIONS,
    seed: int = 0,
    tasks: Sequence[str | os.PathLike[str]] = (),
) -> Suite:
    """Reads one suite.

    Args:
        name: A task, or "<task>/<sub-task>".
        benchmarks_dir: Folder of the benchmark files, the file of the suite, or
            "hub:<owner>/<dataset>" for a dataset of the Hugging Face hub; None if the
            data of the suite are beside its task file.
        prompt: One of `spec.PROMPTS`.
        split: One of `spec.SPLITS`.
        max_examples: Size of a seeded sample of the questions. None: all.
        demonstrations: Number of demonstrations in in-context prompts.
        seed: Seed of the draw of demonstrations.
        tasks: Task files whose names may be suites.

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
        tasks=tasks,
    )
    if len(found) > 1:
        raise InputError(
            f"{name!r} is {len(found)} suites ({found[0].name}, ...); name one of them."
        )
    return found[0]


def load_suites(
    name: str,
    benchmarks_dir: str | os.PathLike[str] | None,
    *,
    prompt: str = DEFAULT_PROMPT,
    split: str = DEFAULT_SPLIT,
    max_examples: int | None = None,
    demonstrations: int = DEFAULT_DEMONSTRATIONS,
    seed: int = 0,
    tasks: Sequence[str | os.PathLike[str]] = (),
) -> list[Suite]:
    """Reads one suite or the suites of a group, in a fixed order.

    The arguments are those of `load_suite`. `name` may also be a task with sub-tasks
    ("bbh": every one) or a group ("math", or "mas": MultiArith, ASDiv, SVAMP).

    Raises:
        InputError: As for `load_suite`, or some sub-tasks are missing.
    """
    if prompt not in PROMPTS:
        raise InputError(f"unknown prompt {prompt!r}{mistyped(prompt, PROMPTS)}")
    own = own_tasks(tasks)
    family = name.partition("/")[0]
    if family in own:
        place = pathlib.Path(own[family].folder or ".")
    elif benchmarks_dir is None:
        raise InputError(
            f"{name!r} is not the name of a task file, and BENCHMARKS_DIR is not set. "
            "Set it with --gin.BENCHMARKS_DIR=\"'PATH'\"."
            f"{mistyped(name, [*own, *index().tasks])}"
        )
    else:
        place = hub.resolve(os.fspath(benchmarks_dir), name)
    suites: list[Suite] = []
    for single in expand(name, place, own):
        task = _task(single, own)
        file = place if place.is_file() else _file(single, place, task, split)
        task = of_file(task, file)
        read = read_problems(file, task)
        answer_type = task.judge.answer_type or _declared_type(file, read)
        render = renderer(single, place, task, prompt, demonstrations, seed)
        whole = task.files.validation is not None
        positions = splits.chosen(
            single,
            [problem.id for problem in read],
            "all" if whole and split != "all" else split,
            max_examples,
            share=task.files.validation_share,
        )
        kept = set(positions)
        suites.append(
            Suite(
                name=single,
                prompt=prompt,
                examples=tuple(
                    Example(
                        id=read[at].id,
                        inputs=render(read[at]),
                        golds=read[at].answers,
                        answer_type=answer_type,
                        problem=read[at],
                    )
                    for at in positions
                ),
                split=split,
                left_out={
                    problem.id: problem.question
                    for at, problem in enumerate(read)
                    if at not in kept
                },
                file=str(file),
                judge=task.judge,
                ids=tuple(problem.id for problem in read),
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
    own = own_tasks(evaluation.tasks)
    found: dict[str, Suite] = {}
    for name in evaluation.suites:
        suite, _, prompt = name.partition(":")
        beside = suite.partition("/")[0] in own
        for one in load_suites(
            suite,
            None if beside else evaluation.benchmarks(),
            prompt=prompt or evaluation.prompt,
            split=evaluation.split,
            max_examples=evaluation.max_examples,
            demonstrations=evaluation.demonstrations,
            tasks=evaluation.tasks,
        ):
            found[one.key] = one
    return found


def own_tasks(tasks: Sequence[str | os.PathLike[str]]) -> dict[str, TaskSpec]:
    """Tasks of one's own by name.

    Raises:
        InputError: A file is malformed, or two tasks have one name.
    """
    found: dict[str, TaskSpec] = {}
    for source in tasks:
        task = find(source)
        taken = [*found, *index().tasks, *index().groups]
        if task.name in taken and source not in index().tasks:
            raise InputError(
                f"{os.fspath(source)}: another task has the name {task.name!r}. Rename "
                "it."
            )
        if task.folder is not None:
            found[task.name] = task
    return found


def expand(
    name: str, place: pathlib.Path, own: Mapping[str, TaskSpec] | None = None
) -> list[str]:
    """The names of the suites of a suite or group.

    Args:
        name: A suite or a group.
        place: The benchmarks folder, the folder of a task, or the file of one suite.
        own: Tasks of one's own.

    Raises:
        InputError: The name is unknown; it is a group, but `place` is a single file; or
            `place` does not exist or has only some of the sub-tasks.
    """
    own = own or {}
    if not place.exists():
        folders = ", ".join(f"{one}/" for one in index().tasks)
        raise InputError(
            f"{place} does not exist. Name the folder with {folders}, or one suite's "
            "file."
        )
    single_file = place.is_file()
    groups = index().groups
    if name in groups and not single_file:
        return list(groups[name])
    family, _, part = name.partition("/")
    known = [*known_suites(list(own)), *groups]
    if family in own or family in index().tasks:
        task = _task(name, own)
        if not task.subtasks and not part:
            return [name]
        if task.subtasks and single_file:
            return [name if part else f"{family}/{place.stem}"]
        if task.subtasks:
            here = _subtasks(task, place)
            if not part:
                return [f"{family}/{found}" for found in here]
            if part in here:
                return [name]
            known += [f"{family}/{one}" for one in here]
    raise InputError(
        f"unknown suite {name!r} (benchmarks: {place}){mistyped(name, known)}"
    )


def _task(name: str, own: Mapping[str, TaskSpec]) -> TaskSpec:
    family = name.partition("/")[0]
    return own[family] if family in own else shipped(family)


def _subtasks(task: TaskSpec, place: pathlib.Path) -> list[str]:
    pattern = _file(f"{task.name}/*", place, task)
    here = sorted(file.stem for file in pattern.parent.glob(pattern.name))
    if not here:
        raise InputError(f"{pattern.parent} has no task file ({pattern.name}).")
    missing = [one for one in task.subtasks if one not in here]
    if missing and len(missing) < len(task.subtasks):
        # An average over some of the tasks would look like that of all.
        raise InputError(
            f"{pattern.parent} lacks {len(missing)} of the tasks of {task.name}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Add the "
            "files, or name the file of one task instead of the folder."
        )
    return here


def _file(
    name: str, place: pathlib.Path, task: TaskSpec, split: str = "test"
) -> pathlib.Path:
    path = task.files.test
    if split == "validation" and task.files.validation:
        path = task.files.validation
    if path is None:
        raise InputError(
            f"the task {task.name} has no test file, so it cannot be evaluated. Set "
            "'test' under [files] in its task file."
        )
    return place / path.format(subtask=name.partition("/")[2])


@dataclasses.dataclass(frozen=True)
class _Declared:
    answer_type: str | None = None


def _declared_type(file: pathlib.Path, read: Sequence[Problem]) -> str:
    declared = None
    if file.suffix == ".json":
        declared = typed_json.read(file, _Declared).answer_type
    if declared is None:
        return infer_answer_type([problem.answers[0] for problem in read])
    if declared not in ANSWER_TYPES:
        raise InputError(
            f"{file}: 'answer_type' is {declared!r}, expected one of "
            f"{', '.join(ANSWER_TYPES)}."
        )
    return declared
