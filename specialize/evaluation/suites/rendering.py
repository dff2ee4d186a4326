"""The prompts of a suite: its questions in the wording of the task.

In-context prompts have demonstrations of a training file before the question, drawn for
each question, so that no single draw decides a score; or the owners' prompt.
"""

import pathlib
from collections.abc import Callable

from specialize.corpus import prompts
from specialize.corpus.records import Problem
from specialize.corpus.tasks.known import read_problems, shipped
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError
from specialize.evaluation.spec import PROMPTS
from specialize.evaluation.suites import official_prompts


def renderer(
    name: str,
    place: pathlib.Path,
    task: TaskSpec,
    prompt: str,
    demonstrations: int,
    seed: int,
) -> Callable[[Problem], str]:
    """The function that turns the questions of a suite into encoder texts."""
    format = PROMPTS[prompt]
    wording = task.wording
    if prompt.startswith("zero_shot_"):
        return lambda problem: wording.input(format, problem.question)
    part = name.partition("/")[2]
    folder = place
    if place.is_file():
        # The folder that this file would be in, which may have the other files.
        depth = len(pathlib.PurePath(str(task.files.test)).parts)
        folder = place.parents[depth - 1]
    if task.files.prompt:
        official = official_prompts.read_prompt(
            folder / task.files.prompt.format(subtask=part)
        )
        answer_only = prompt.endswith("_answer_only")
        return lambda problem: official.render(
            problem.question, answer_only=answer_only
        )
    solved = task if task.demonstrations is None else shipped(task.demonstrations)
    if solved.files.train is None:
        raise InputError(
            f"the task {task.name} has no training file, from which demonstrations are "
            "drawn. Set 'train' under [files] in its task file, or ask zero-shot."
        )
    pool = read_problems(folder / solved.files.train.format(subtask=part), solved)

    def render(problem: Problem) -> str:
        drawn = prompts.draw_demonstrations(pool, problem, demonstrations, seed=seed)
        return prompts.render_inputs(format, problem.question, drawn, wording=wording)

    return render
