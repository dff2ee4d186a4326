"""The benchmarks as SeqIO tasks, also for T5X's evaluator.

| name | what |
|---|---|
| `specialize_eval_<suite>_<prompt>` | gsm8k, multiarith, asdiv, svamp |
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

from specialize.corpus.benchmarks import bbh
from specialize.corpus.benchmarks.table import MATH
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
    split: str, shuffle_files: bool, seed: int | None = None, *, suite: str, prompt: str
) -> tf.data.Dataset:
    """One suite as a dataset of texts, in the order of its file.

    Args:
        split: "all", "validation" or "test".
        shuffle_files: Ignored, because there is one file.
        seed: Ignored.
        suite: Name for `loading.load_suite`.
        prompt: One of `spec.PROMPTS`.

    Returns:
        Examples with the fields of `_SIGNATURE`; `targets` is the first gold answer.

    Raises:
        InputError: The benchmarks are not named, missing or malformed.
    """
    del shuffle_files, seed
    loaded = loading.load_suite(
        suite, locations.benchmarks_folder(), prompt=prompt, split=split, **asking()
    )

    def examples() -> Iterator[dict[str, Any]]:
        for example in loaded.examples:
            gold = example.golds[0] if example.golds else ""
            yield {
                "id": example.id,
                "inputs": example.inputs,
                "targets": f"The answer is {gold}",
                "golds": list(example.golds),
                "answer_type": example.answer_type,
                "answer_only": loaded.answer_only,
            }

    return tf.data.Dataset.from_generator(examples, output_signature=_SIGNATURE)


def task_name(suite: str, prompt: str) -> str:
    """The SeqIO name of a suite, for example "specialize_eval_bbh_navigate_..."."""
    return f"specialize_eval_{suite.replace('/', '_')}_{prompt}"


def _register(suite: str, prompt: str) -> str:
    name = task_name(suite, prompt)
    source: Any = seqio.FunctionDataSource(
        functools.partial(dataset, suite=suite, prompt=prompt),
        splits=SPLITS,
        caching_permitted=False,
    )
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=metrics.target_or_prediction,
        metric_fns=[metrics.accuracy],
        output_features=FEATURES,
    )
    return name


for _prompt in PROMPTS:
    _math = {suite: _register(suite, _prompt) for suite in MATH}
    _bbh = [_register(f"bbh/{task}", _prompt) for task in bbh.TASKS]
    for _group, _members in loading.GROUPS.items():
        seqio.MixtureRegistry.add(
            task_name(_group, _prompt),
            [_math[suite] for suite in _members],
            default_rate=1.0,
        )
    seqio.MixtureRegistry.add(task_name("bbh", _prompt), _bbh, default_rate=1.0)
