"""Predictions of another model, judged like ours (`evaluate --predictions FILE`).

One object per line of JSON, or per row of any other file of `corpus.tasks.rows`:

    {"suite": "gsm8k", "id": "gsm8k-test-0", "prediction": "... The answer is 18."}
    {"suite": "bbh/navigate", "input": "If you follow ...", "prediction": "No"}

`id` is that of the example, perhaps with another prefix, or the number of its row in
the file, from 0 (`example_ids`); `input` is its question or a prompt that ends with it;
white space does not matter. `prediction` is a text, a list of texts (samples, the same
number for every example), or null, which is no answer. A suite may ask some questions
twice: one line with such an `input` answers both, two lines answer one each. Other
fields are ignored; `evaluate` writes `predictions_version` into the lines that it has
judged. Lines of lm-evaluation-harness are read too (`lm_eval`).

A file may answer a part of the questions; the number of those is then in every table.
All lines that answer no question are one error.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from specialize import typed_json, versions
from specialize.corpus.tasks.known import mistyped
from specialize.corpus.tasks.rows import read_rows
from specialize.errors import InputError
from specialize.evaluation import lm_eval
from specialize.evaluation.example_ids import ExampleIds
from specialize.evaluation.suites.loading import Suite

# The beginning of a prompt's last question, and what may follow it. A question may
# itself begin with "Question:" (web_of_lies), so the last few beginnings are tried.
_QUESTION = re.compile(r"(?:\bQ|\bQuestion|\bProblem|\bInput)\s?:\s")
_TAIL = re.compile(
    r"\s(?:(?:A|Answer|Solution|Output)\s?:|Let's think step by step)(?:(?!\sQ:).)*$",
    re.IGNORECASE | re.DOTALL,
)
_MAX_NESTED = 3
_REMEDY = (
    "Write one object per line with 'suite' (or --suite NAME), 'id' or 'input', and "
    "'prediction'."
)
# Lines and examples that a message names, of each kind.
_SHOWN = 3
# A text of "doc" that is shorter than this does not show which question it is of.
_TELLING = 12


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a file of predictions."""

    prediction: str | None | Annotated[list[str | None], msgspec.Meta(min_length=1)]
    suite: str | None = None
    id: str | int | float | None = None
    input: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One line of a predictions file.

    Attributes:
        suite: Suite as written: "gsm8k", "bbh/navigate" or "bbh".
        id: Id of the example as written, or None.
        input: The question or prompt with single spaces, or None.
        texts: One or several samples; "" for one that is missing.
        where: "file:line".
        quoted: Other texts, one of which may be the question or a part of it.
        row: Row of the example in its file, which one of `quoted` must confirm.
    """

    suite: str
    id: str | None
    input: str | None
    texts: tuple[str, ...]
    where: str
    quoted: tuple[str, ...] = ()
    row: str | None = None


def read_predictions(
    path: str | os.PathLike[str],
    suite: str | None = None,
    known: Sequence[str] = (),
) -> list[Prediction]:
    """Reads the lines of a predictions file.

    Args:
        path: JSON lines, perhaps compressed with gzip, or another file of rows.
        suite: Suite of the lines that name none. None: the one that the file's name
            means, if it is one of lm-evaluation-harness.
        known: Names of suites, for that.

    Raises:
        InputError: The file is unreadable or a line is not JSON; fields are missing or
            have another type, of which the message names all lines; or there is no
            line.
    """
    suite = suite or lm_eval.suite_of(os.fspath(path), known)
    found: list[Prediction] = []
    wrong: list[str] = []
    samples: set[tuple[Any, ...]] = set()
    count = 0
    for where, line in read_rows(path, kind=".jsonl"):
        count += 1
        try:
            read = _prediction(line, where, suite)
        except InputError as error:
            wrong.append(str(error))
            continue
        if lm_eval.is_sample(line):
            # Two filters of one task write the same sample.
            same = (read.suite, read.row, read.id, read.input, read.quoted, read.texts)
            if same in samples:
                continue
            samples.add(same)
        found.append(read)
    if len(wrong) == 1:
        raise InputError(wrong[0])
    if wrong:
        first = "\n".join(f"  {one}" for one in wrong[:_SHOWN])
        raise InputError(
            f"{path}: {len(wrong)} of {count} lines cannot be read, first:\n{first}"
        )
    if not found:
        raise InputError(f"{path} contains no prediction.")
    return found


def suite_names(predictions: Sequence[Prediction]) -> list[str]:
    """The suites of the predictions, in order of appearance."""
    return list(dict.fromkeys(prediction.suite for prediction in predictions))


def match_predictions(
    predictions: Sequence[Prediction], suites: Sequence[Suite]
) -> dict[str, list[tuple[str, ...] | None]]:
    """Brings predictions into the order of the examples that they answer.

    Args:
        predictions: Lines of one or several suites.
        suites: The suites to judge, each at most once.

    Returns:
        For each `Suite.key` the samples of each of its examples, in its order; None for
        an example without a prediction.

    Raises:
        InputError: Some lines are of a suite that is not judged, or have an id or input
            that their suite does not have; some examples have two predictions;
            the numbers of samples differ; or no example has a prediction. One message
            has the number of lines of each kind and the first ones.
    """
    every = [_Answers(suite) for suite in suites]
    faults = _Faults()
    for prediction in predictions:
        candidates = _asked(prediction, every, faults)
        # Ids, questions and known prompts are looked up first; any other prompt is
        # searched for the question that it quotes.
        if candidates and not any(
            answers.take(prediction, faults) for answers in candidates
        ):
            if not any(
                answers.take_quoted(prediction, faults) for answers in candidates
            ):
                faults.note(_unknown(prediction, candidates), _named(prediction))
    for answers in every:
        answers.compare_numbers(faults)
    faults.raise_all(len(predictions))
    found = {answers.suite.key: answers.in_order() for answers in every}
    if not any(texts for ones in found.values() for texts in ones):
        raise InputError(
            f"{predictions[0].where}: no example of {', '.join(found)} has a "
            "prediction; every line is of another split. Choose it with --split."
        )
    return found


def _asked(
    prediction: Prediction, every: Sequence["_Answers"], faults: "_Faults"
) -> list["_Answers"]:
    """The suites that a line may belong to."""
    name, _, prompt = prediction.suite.partition(":")
    exact = [answers for answers in every if answers.suite.key == prediction.suite]
    if prompt and exact:
        return exact
    named = [answers for answers in every if answers.suite.name == name]
    if len(named) > 1:
        prompts = " or ".join(repr(answers.suite.key) for answers in named)
        faults.note(
            f"suite {prediction.suite!r} is judged with several prompts. Write "
            f"{prompts}.",
            prediction.where,
        )
        return []
    family = [answers for answers in every if answers.suite.family == name]
    if not named and not family:
        names = list(dict.fromkeys(answers.suite.name for answers in every))
        faults.note(
            f"predictions of suite {prediction.suite!r}, but {', '.join(names)} is "
            f"judged{mistyped(name, names)} Judge them alone.",
            prediction.where,
        )
    return named or family


def _unknown(prediction: Prediction, candidates: Sequence["_Answers"]) -> str:
    what = "input" if prediction.id is None else "id"
    first = candidates[0].suite.examples[0].id
    return (
        f"suite {prediction.suite!r} has no example with this {what}; its first is "
        f"{first!r}. Is it from another suite or file? Numbers of rows count from 0."
    )


def _named(prediction: Prediction) -> str:
    shown = prediction.id or prediction.input or next(iter(prediction.quoted), "")
    return f"{prediction.where} ({_shortened(shown)!r})"


class _Faults:
    """What is wrong with lines, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def note(self, kind: str, line: str) -> None:
        self._kinds.setdefault(kind, []).append(line)

    def raise_all(self, count: int) -> None:
        """Raises one error with the number of lines of each kind, and the first."""
        if not self._kinds:
            return
        texts: list[str] = []
        for kind, lines in self._kinds.items():
            first = ", ".join(lines[:_SHOWN])
            if len(lines) > 1:
                more = ", ..." if len(lines) > _SHOWN else ""
                first = f"{len(lines):,} of {count:,} lines ({first}{more})"
            texts.append(f"{first}: {kind}")
        raise InputError("\n".join(texts))


class _Answers:
    """The predictions for the examples of one suite."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._taken: dict[str, Prediction] = {}
        self._by_input: dict[str, list[str]] = {}
        self._questions: dict[str, str] = {
            id: _spaced(question) for id, question in suite.left_out.items()
        }
        for example in suite.examples:
            self._questions[example.id] = _spaced(example.problem.question)
            for text in {self._questions[example.id], _spaced(example.inputs)}:
                self._by_input.setdefault(text, []).append(example.id)
        self._ids = {example.id for example in suite.examples}
        ids = suite.ids or [*self._ids, *suite.left_out]
        self._every_id = ExampleIds(suite.family, ids, suite.name.split("/"))
        self._left_out = {self._questions[id] for id in suite.left_out}

    def take(self, prediction: Prediction, faults: _Faults) -> bool:
        """Stores a prediction of this suite; False if it is of another."""
        if prediction.id is not None:
            id = self._every_id.find(prediction.id)
            if id is None:
                return False
            if id in self._ids:
                self._keep(id, prediction, faults)
            return True  # or it is of a split that is not judged
        for text in (*prediction.quoted, *_questions(prediction.input or "")):
            if text in self._by_input:
                self._keep_one(text, prediction, faults)
                return True
            if text in self._left_out:
                return True
        return False

    def take_quoted(self, prediction: Prediction, faults: _Faults) -> bool:
        """Stores a prediction for the last question that its input quotes."""
        text = prediction.input or ""
        ends = {
            quoted: text.rfind(quoted) + len(quoted)
            for quoted in (*self._by_input, *self._left_out)
            if quoted in text
        }
        if not ends:
            return self._take_row(prediction, faults)
        # Of two that end together, take the longer one.
        quoted = max(ends, key=lambda one: (ends[one], len(one)))
        if quoted in self._by_input:
            self._keep_one(quoted, prediction, faults)
        return True

    def compare_numbers(self, faults: _Faults) -> None:
        """Notes the predictions with another number of samples than the first."""
        kept = list(self._taken.values())
        for other in kept:
            if len(other.texts) != len(kept[0].texts):
                faults.note(
                    f"{len(other.texts)} samples, but {len(kept[0].texts)} at "
                    f"{kept[0].where}. Give every example the same number of samples.",
                    other.where,
                )

    def in_order(self) -> list[tuple[str, ...] | None]:
        """The samples of each example; None if it has no prediction."""
        for ids in self._by_input.values():
            said = [self._taken[id] for id in ids if id in self._taken]
            if len(said) == 1 and said[0].id is None:
                for id in ids:
                    self._taken.setdefault(id, said[0])
        found = [self._taken.get(example.id) for example in self.suite.examples]
        return [None if one is None else one.texts for one in found]

    def _take_row(self, prediction: Prediction, faults: _Faults) -> bool:
        """Stores a prediction for a row whose question has a text of the line."""
        id = prediction.row and self._every_id.find(prediction.row)
        if not id:
            return False
        question = self._questions[id]
        if prediction.input is not None or prediction.quoted:
            telling = [one for one in prediction.quoted if len(one) >= _TELLING]
            if not any(one in question for one in telling):
                return False
        if id in self._ids:
            self._keep(id, prediction, faults)
        return True

    def _keep_one(self, text: str, prediction: Prediction, faults: _Faults) -> None:
        twins = self._by_input[text]
        free = [id for id in twins if id not in self._taken]
        # Without a free one, it may be of a twin that is not judged.
        if free or text not in self._left_out:
            self._keep(free[0] if free else twins[0], prediction, faults)

    def _keep(self, id: str, prediction: Prediction, faults: _Faults) -> None:
        if id in self._taken:
            faults.note(
                "an example was already answered. Keep one of the two lines.",
                f"{prediction.where} (example {id!r}, already answered at "
                f"{self._taken[id].where})",
            )
            return
        self._taken[id] = prediction


def _prediction(record: dict[str, Any], where: str, suite: str | None) -> Prediction:
    versions.PREDICTIONS.check(record.get("predictions_version", 1), where)
    if lm_eval.is_sample(record):
        return _sample(record, where, suite)
    line = typed_json.convert(record, _Line, where, remedy=_REMEDY)
    if line.id is None and line.input is None:
        raise InputError(f"{where}: the key 'id' or 'input' is missing. {_REMEDY}")
    given = line.prediction
    return Prediction(
        suite=_suite(line.suite or suite, where),
        id=None if line.id is None else _id(line.id, where),
        input=_spaced(line.input or "") if line.id is None else None,
        texts=tuple(
            one or "" for one in (given if isinstance(given, list) else [given])
        ),
        where=where,
    )


def _sample(record: dict[str, Any], where: str, suite: str | None) -> Prediction:
    found = lm_eval.sample(record, where)
    named = record.get("suite")
    return Prediction(
        suite=_suite(named if isinstance(named, str) else suite, where),
        id=None,
        input=None if found.prompt is None else _spaced(found.prompt),
        texts=tuple(one or "" for one in found.outputs),
        where=where,
        quoted=tuple(map(_spaced, found.texts)),
        row=None if found.row is None else str(found.row),
    )


def _suite(name: str | None, where: str) -> str:
    if not name:
        raise InputError(f"{where}: the key 'suite' is missing. {_REMEDY}")
    return name


def _id(given: str | float, where: str) -> str:
    if isinstance(given, float):
        if not math.isfinite(given) or not given.is_integer():
            raise InputError(f"{where}: id is {given}, expected a text or an integer.")
        given = int(given)
    return str(given)


def _questions(input: str) -> Iterator[str]:
    """Yields the input itself, then the ends of a prompt that may be its question.

    "... Q: {question} A: Let's think step by step." yields the question as well.
    """
    yield input
    ends = [match.end() for match in _QUESTION.finditer(input)]
    for end in reversed(ends[-_MAX_NESTED:]):
        yield _TAIL.sub("", input[end:]).strip()


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
