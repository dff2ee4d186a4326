"""What a model is asked, and how its answers are judged, with every default.

The module is light, so that gin, the lint and `--help` read it quickly.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from specialize import checks, config, paths
from specialize.corpus.tasks import known as known_tasks
from specialize.errors import InputError
from specialize.inference.spec import DecodingSpec
from specialize.judging.spec import JudgeSpec

# The prompt of a suite -> the prompt format of the corpus. "few_shot" is the word for
# "in_context" in recipes, task names and results files.
PROMPTS = {
    "zero_shot_cot": "zero_shot_cot",
    "few_shot_cot": "in_context_cot",
    "zero_shot_answer_only": "zero_shot_answer_only",
    "few_shot_answer_only": "in_context_answer_only",
}
SPLITS = ("all", "validation", "test")

# Defaults of gin, of calls, of SeqIO tasks and for predictions of another model.
# "test" is our part of the owners' test file.
DEFAULT_PROMPT = "zero_shot_cot"
DEFAULT_SPLIT = "test"
DEFAULT_DEMONSTRATIONS = 4


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """Which suites are asked, in which prompt format, and which judge scores them.

    Attributes:
        suites: Names of suites or groups, such as ("gsm8k", "bbh"); () for none.
            "gsm8k:few_shot_cot" asks one suite in another prompt format than `prompt`.
        benchmarks_dir: Folder of the benchmark files, in the layout of their owners.
            None: the environment variable SPECIALIZE_BENCHMARKS_DIR.
        vocabulary_path: SentencePiece model of the student. None: the environment
            variable SPECIALIZE_VOCABULARY.
        prompt: Prompt format of suites without their own, one of `PROMPTS`.
        split: Questions to ask, one of `SPLITS`.
        max_examples: Largest number of questions per suite. None: all.
        demonstrations: Number of demonstrations in in-context prompts of the math
            suites.
        judge: The judge of the predictions; a task may have its own.
        decoding: How predictions are generated.
        tasks: Task files, whose names are suites beside the shipped ones.

    Raises:
        InputError: A field has another type or is outside its range.

    Example:
        >>> specialize.EvaluationSpec(["gsm8k"], max_examples=100).split
        'test'
    """

    suites: Sequence[str] = ()
    benchmarks_dir: str | os.PathLike[str] | None = None
    vocabulary_path: str | os.PathLike[str] | None = None
    prompt: str = DEFAULT_PROMPT
    split: str = DEFAULT_SPLIT
    max_examples: int | None = None
    demonstrations: int = DEFAULT_DEMONSTRATIONS
    judge: JudgeSpec = JudgeSpec()
    decoding: DecodingSpec = DecodingSpec()
    tasks: Sequence[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.suites, (tuple, list)) or not all(
            isinstance(name, str) for name in self.suites
        ):
            raise InputError(
                f"suites is {checks.shown(self.suites)}, expected a tuple of names, "
                "such as ('gsm8k', 'bbh'). Write a single suite as ('gsm8k',)."
            )
        object.__setattr__(self, "suites", tuple(self.suites))
        checks.task_files("tasks", self.tasks)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        self._check_suites()
        checks.path("benchmarks_dir", self.benchmarks_dir)
        checks.path("vocabulary_path", self.vocabulary_path)
        checks.one_of("prompt", self.prompt, PROMPTS)
        checks.one_of("split", self.split, SPLITS)
        checks.whole("max_examples", self.max_examples, optional=True)
        checks.whole("demonstrations", self.demonstrations)

    def metrics(self) -> list[str] | None:
        """The names of the accuracies of the suites and of their averages.

        They are those of `Results.metrics`. None if a task file cannot be read now.
        """
        own = self._own_tasks()
        if own is None:
            return None
        index = known_tasks.index()
        asked: dict[tuple[str, str], None] = {}  # suites and averages, with prompts
        for written in self.suites:
            name, _, prompt = written.partition(":")
            prompt = prompt or self.prompt
            for one in index.groups.get(name, (name,)):
                task = own.get(one)
                if task is None and one in index.tasks:
                    task = known_tasks.shipped(one)
                asked[one, prompt] = None
                for subtask in () if task is None else task.subtasks:
                    asked[f"{one}/{subtask}", prompt] = None
                if "/" in one:  # several are averaged
                    asked[one.partition("/")[0], prompt] = None
        for group in index.averages:
            for prompt in dict.fromkeys(prompt for _, prompt in asked):
                if all((one, prompt) in asked for one in index.groups[group]):
                    asked[group, prompt] = None
        names = [name for name, _ in asked] + [f"{n}/{prompt}" for n, prompt in asked]
        return [f"{name}/accuracy" for name in dict.fromkeys(names)]

    def _own_tasks(self) -> dict[str, Any] | None:
        """The tasks of `tasks` by name; None if one cannot be read now."""
        try:
            if any(map(paths.in_bucket, self.tasks)):
                return None  # nothing is fetched to check a name
            found = map(known_tasks.find, self.tasks)
            return {task.name: task for task in found}
        except (InputError, OSError):
            return None  # not made yet; else its reader says what is wrong

    def _check_suites(self) -> None:
        own = self._own_tasks()
        if own is None:
            return
        known = [*known_tasks.index().tasks, *known_tasks.index().groups, *own]
        for written in self.suites:
            name, colon, prompt = written.partition(":")
            family = name.partition("/")[0]
            if family not in known:
                names = [*known_tasks.known_suites([*own]), *known]
                raise InputError(
                    f"suites: unknown suite {name!r}{known_tasks.mistyped(name, names)}"
                )
            if colon:
                checks.one_of(f"suites: the prompt of {written!r}", prompt, PROMPTS)

    def benchmarks(self) -> Any:
        """The folder of the benchmarks.

        Raises:
            InputError: Neither the field nor the environment names it.
        """
        return config.place(self.benchmarks_dir, "BENCHMARKS_DIR", "BENCHMARKS_DIR")

    def vocabulary(self) -> Any:
        """The path of the vocabulary.

        Raises:
            InputError: Neither the field nor the environment names it.
        """
        return config.place(self.vocabulary_path, "VOCABULARY_PATH", "VOCABULARY")
