"""Lines of lm-evaluation-harness (`samples_<task>_<time>.jsonl`) as predictions.

A line has the whole output of the model in "resps", the prompt in "arguments", the row
of the data in "doc", and what a filter made of the output in "filtered_resps". The
output is judged, not what a filter left. A task with two filters has two lines per
question. Of a multiple-choice question, "resps" has the log-likelihood of each option;
the prediction is the option with the highest.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from specialize.errors import InputError

_NAME = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT.*)?\.jsonl?(?:\.gz)?")


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one line says.

    Attributes:
        row: "doc_id", the row of the question in its data.
        prompt: The prompt, or None.
        texts: Texts of "doc", one of which is probably the question.
        outputs: The samples; None for an output that is missing.
    """

    row: int | str | None
    prompt: str | None
    texts: tuple[str, ...]
    outputs: tuple[str | None, ...]


def is_sample(record: Mapping[str, Any]) -> bool:
    """Whether a line is of this harness."""
    return "resps" in record and "prediction" not in record


def sample(record: Mapping[str, Any], where: str) -> Sample:
    """Reads a line.

    Raises:
        InputError: "resps" has another form.
    """
    asked = _arguments(record.get("arguments"))
    doc = record.get("doc")
    texts = _texts(doc) if isinstance(doc, Mapping) else ()
    if isinstance(doc, str):
        texts = (doc,)
    outputs = _outputs(record["resps"], asked)
    if not outputs:
        raise InputError(
            f"{where}: 'resps' is {str(record['resps'])[:80]!r}, expected a list with "
            "the outputs of the model. Run lm_eval with --log_samples."
        )
    row = record.get("doc_id")
    return Sample(
        row if isinstance(row, int | str) else None,
        asked[0][0] if asked else None,
        texts,
        outputs,
    )


def suite_of(path: str, known: Sequence[str]) -> str | None:
    """The suite that the name of a file means: "samples_gsm8k_cot_...": "gsm8k".

    Args:
        path: The file.
        known: Names of suites.
    """
    found = _NAME.fullmatch(pathlib.PurePath(path).name)
    if found is None:
        return None
    name = f"_{_plain(found[1])}_"
    fitting = [one for one in known if f"_{_plain(one)}_" in name]
    parts = [
        one
        for one in known
        if "/" in one
        and all(f"_{_plain(part)}_" in name for part in one.split("/", maxsplit=1))
    ]
    return max(fitting + parts, key=len, default=None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _arguments(value: Any) -> list[list[Any]]:
    """[[prompt, continuation or settings], ...] in the old layout and the new one."""
    if isinstance(value, Mapping):
        value = [
            list(one.values()) if isinstance(one, Mapping) else one
            for one in value.values()
        ]
    if not isinstance(value, list):
        return []
    return [
        list(one)
        for one in value
        if isinstance(one, list) and one and isinstance(one[0], str)
    ]


def _outputs(value: Any, asked: list[list[Any]]) -> tuple[str | None, ...]:
    if not isinstance(value, list) or not value:
        return ()
    scores = [_score(one) for one in value]
    if all(score is not None for score in scores):
        if len(asked) != len(scores) or not all(
            len(one) > 1 and isinstance(one[1], str) for one in asked
        ):
            return ()
        best = max(range(len(scores)), key=lambda at: scores[at] or 0.0)
        return (asked[best][1].strip(),)
    found = value[0] if len(value) == 1 and isinstance(value[0], list) else value
    if all(one is None or isinstance(one, str) for one in found):
        return tuple(found)
    return ()


def _score(value: Any) -> float | None:
    """The log-likelihood in [[score, whether it is the greedy text]], or None."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, list) or len(value) != 2:
        return None
    if str(value[1]).lower() not in ("true", "false"):
        return None
    try:
        return float(value[0])
    except (TypeError, ValueError):
        return None


def _texts(doc: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(one for one in doc.values() if isinstance(one, str) and one.strip())
