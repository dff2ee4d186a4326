"""The benchmarks as SeqIO tasks, also for T5X's evaluator.

| name | what |
|---|---|
| `specialize_eval_<suite>_<prompt>` | gsm8k, multiarith, asdiv, svamp |
| `<task>_eval_<prompt>` | a task of your own (`own`) |
| `specialize_eval_bbh_<task>_<prompt>` | one of BIG-Bench Hard's 27 tasks |
| `specialize_eval_mas_<prompt>` | mixture: multiarith, asdiv, svamp |
| `specialize_eval_bbh_<prompt>` | mixture: all 27 |

Prompts are those of `evaluation.spec.PROMPTS`; splits are "all", "validation" and
"test" (`evaluation.suites.splits`). Files are in `locations.benchmarks_folder()`; they
are read when a dataset is requested, not when this module is imported.
"""

import functools
from collections.abc import Iterator
from typing import Any

import gin
import seqio
import tensorflow as tf

from specialize.corpus.tasks.known import index, shipped
from specialize.corpus.tasks.spec import TaskSpec
from specialize.evaluation.spec import DEFAULT_DEMONSTRATIONS, PROMPTS, SPLITS
from specialize.evaluation.suites import loading

from . import locations, metrics

FEATURES = {
    "inputs": seqio.Feature(locations.VOCABULARY, add_eos=True),
    "targets": seqio.Feature(locations.VOCABULARY, add_eos=True),
}
_SIGNATURE = {
    "id": tf.TensorSpec([], tf.string),
    "inputs": tf.TensorSpec([], tf.string),
    "targets": tf.TensorSpec([], tf.string),
    "golds": tf.TensorSpec([None], tf.string),
    "answer_type": tf.TensorSpec([], tf.string),
    "answer_only": tf.TensorSpec([], tf.bool),
    "judge": tf.TensorSpec([], tf.string),
    "mark": tf.TensorSpec([], tf.string),
}


@gin.configurable(module=__name__)  # pyright: ignore[reportCallIssue]
def asking(
    demonstrations: int = DEFAULT_DEMONSTRATIONS,
    seed: int = 0,
    max_examples: int | None = None,
) -> dict[str, Any]:
    """How suites are asked, with the defaults of `specialize evaluate`.

    Args:
        demonstrations: Number of demonstrations in in-context math prompts.
        seed: Seed of their draw.
        max_examples: Size of a seeded sample of each suite. None: all questions.
    """
    return {
        "demonstrations": demonstrations,
        "seed": seed,
        "max_examples": max_examples,
    }


def dataset(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    suite: str,
    prompt: str,
    task: str | None = None,
) -> tf.data.Dataset:
    """One suite as a dataset of texts, in the order of its file.

    Args:
        split: "all", "validation" or "test".
        shuffle_files: Ignored, because there is one file.
        seed: Ignored.
        suite: Name for `loading.load_suite`.
        prompt: One of `spec.PROMPTS`.
        task: The file of a task of your own; None: a shipped task.

    Returns:
        Examples with the fields of `_SIGNATURE`; `targets` says the first gold answer.

    Raises:
        InputError: The benchmarks are not named, missing or malformed.
    """
    del shuffle_files, seed
    loaded = loading.load_suite(
        suite,
        locations.benchmarks_folder() if task is None else None,
        prompt=prompt,
        split=split,
        tasks=() if task is None else (task,),
        **asking(),
    )

    def examples() -> Iterator[dict[str, Any]]:
        for example in loaded.examples:
            gold = example.golds[0] if example.golds else ""
            yield {
                "id": example.id,
                "inputs": example.inputs,
                "targets": example.problem.wording.final(gold),
                "golds": list(example.golds),
                "answer_type": example.answer_type,
                "answer_only": loaded.answer_only,
                "judge": loaded.judge.judge,
                "mark": loaded.judge.mark,
            }

    return tf.data.Dataset.from_generator(examples, output_signature=_SIGNATURE)


def task_name(suite: str, prompt: str) -> str:
    """The SeqIO name of a suite, for example "specialize_eval_bbh_navigate_..."."""
    return f"specialize_eval_{suite.replace('/', '_')}_{prompt}"


def own_name(suite: str, prompt: str) -> str:
    """The SeqIO name of a suite of a task of your own: "cold_eval_zero_shot_cot"."""
    family, _, part = suite.partition("/")
    return "_".join(one for one in (family, "eval", part, prompt) if one)


def register(task: TaskSpec, source: str | None = None) -> None:
    """Registers the suites of a task in every prompt, and a mixture of its sub-tasks.

    Args:
        task: The task.
        source: Its file, if it is one of your own: the names then begin with
            "<task>_eval_", and the data are beside the file.
    """
    named = task_name if source is None else own_name
    for prompt in PROMPTS:
        suites = [task.name]
        if task.subtasks:
            suites = [f"{task.name}/{part}" for part in sorted(task.subtasks)]
        names = [named(suite, prompt) for suite in suites]
        for name, suite in zip(names, suites, strict=True):
            _register(name, suite, prompt, source)
        if task.subtasks:
            _mix(named(task.name, prompt), names)


def _register(name: str, suite: str, prompt: str, source: str | None) -> None:
    data: Any = seqio.FunctionDataSource(
        functools.partial(dataset, suite=suite, prompt=prompt, task=source),
        splits=SPLITS,
        caching_permitted=False,
    )
    seqio.TaskRegistry.add(
        name,
        source=data,
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=metrics.target_or_prediction,
        metric_fns=[metrics.accuracy],
        output_features=FEATURES,
    )


def _mix(name: str, members: list[str]) -> None:
    seqio.MixtureRegistry.add(name, members, default_rate=1.0)


for _name in index().tasks:
    register(shipped(_name))
for _prompt in PROMPTS:
    for _group, _members in index().groups.items():
        _mix(task_name(_group, _prompt), [task_name(one, _prompt) for one in _members])
