"""Predictions of another model, judged like ours (`evaluate --predictions FILE`).

One JSON object per line:

    {"suite": "gsm8k", "id": "gsm8k-test-0", "prediction": "... The answer is 18."}
    {"suite": "bbh/navigate", "input": "If you follow ...", "prediction": "No"}

`id` is that of the example; `input` is its question or a prompt that ends with it;
white space does not matter. `prediction` is a text, or a list of texts (samples, the
same number for every example). Every example of a suite must occur once. MultiArith
asks some questions twice: one line with such an `input` answers both, two lines answer
one each. Other fields are ignored; `evaluate` writes `predictions_version` into the
lines that it has judged.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from specialize import typed_json, versions
from specialize.errors import InputError
from specialize.evaluation.suites.loading import Suite, mistyped

# The beginning of a prompt's last question, and what may follow it. A question may
# itself begin with "Question:" (web_of_lies), so the last few beginnings are tried.
_QUESTION = re.compile(r"(?:\bQ|\bQuestion|\bProblem|\bInput)\s?:\s")
_TAIL = re.compile(
    r"\s(?:(?:A|Answer|Solution|Output)\s?:|Let's think step by step)(?:(?!\sQ:).)*$",
    re.IGNORECASE | re.DOTALL,
)
_MAX_NESTED = 3
_REMEDY = "Write one object per line with 'suite', 'id' or 'input', and 'prediction'."


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a file of predictions."""

    suite: str
    prediction: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    id: str | None = None
    input: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One line of a predictions file.

    Attributes:
        suite: Suite as written: "gsm8k", "bbh/navigate" or "bbh".
        id: Id of the example, or None.
        input: The question or prompt with single spaces, or None.
        texts: One or several samples.
        where: "file:line".
    """

    suite: str
    id: str | None
    input: str | None
    texts: tuple[str, ...]
    where: str


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """Reads the lines of a predictions file.

    Raises:
        InputError: With file and line: the file is unreadable, a line is not JSON, a
            field is missing or has another type, or there is no line.
    """
    lines = typed_json.read_lines(path, typed_json.Object, remedy=_REMEDY)
    found = [_prediction(line, where) for where, line in lines]
    if not found:
        raise InputError(f"{path} contains no prediction.")
    return found


def suite_names(predictions: Sequence[Prediction]) -> list[str]:
    """The suites of the predictions, in order of appearance."""
    return list(dict.fromkeys(prediction.suite for prediction in predictions))


def match_predictions(
    predictions: Sequence[Prediction], suites: Sequence[Suite]
) -> dict[str, list[tuple[str, ...]]]:
    """Brings predictions into the order of the examples that they answer.

    Args:
        predictions: Lines of one or several suites.
        suites: The suites to judge, each at most once.

    Returns:
        For each `Suite.key` the samples of each of its examples, in its order.

    Raises:
        InputError: A line is of a suite that is not judged, or has an id or input that
            its suite does not have; an example has two predictions or none; or the
            numbers of samples differ.
    """
    every = [_Answers(suite) for suite in suites]
    for prediction in predictions:
        candidates = _asked(prediction, every)
        # Ids, questions and known prompts are looked up first; any other prompt is
        # searched for the question that it quotes.
        if not any(answers.take(prediction) for answers in candidates):
            if not any(answers.take_quoted(prediction) for answers in candidates):
                raise _unknown(prediction, candidates)
    return {answers.suite.key: answers.in_order() for answers in every}


def _asked(prediction: Prediction, every: Sequence["_Answers"]) -> list["_Answers"]:
    """The suites that a line may belong to."""
    name, _, prompt = prediction.suite.partition(":")
    exact = [answers for answers in every if answers.suite.key == prediction.suite]
    if prompt and exact:
        return exact
    named = [answers for answers in every if answers.suite.name == name]
    if len(named) > 1:
        prompts = " or ".join(repr(answers.suite.key) for answers in named)
        raise InputError(
            f"{prediction.where}: suite {prediction.suite!r} is judged with several "
            f"prompts. Write {prompts}."
        )
    family = [answers for answers in every if answers.suite.family == name]
    if not named and not family:
        names = list(dict.fromkeys(answers.suite.name for answers in every))
        raise InputError(
            f"{prediction.where}: predictions of suite {prediction.suite!r}, but "
            f"{', '.join(names)} is judged{mistyped(name, names)} Judge them alone."
        )
    return named or family


def _unknown(prediction: Prediction, candidates: Sequence["_Answers"]) -> InputError:
    what = f"id {prediction.id!r}" if prediction.id else "input"
    shown = "" if prediction.id else f" {_shortened(prediction.input or '')!r}"
    first = candidates[0].suite.examples[0].id
    return InputError(
        f"{prediction.where}: suite {prediction.suite!r} has no example with this "
        f"{what}{shown}; its first is {first!r}. Is it from another suite or file?"
    )


class _Answers:
    """The predictions for the examples of one suite."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._taken: dict[str, Prediction] = {}
        self._by_input: dict[str, list[str]] = {}
        for example in suite.examples:
            for text in {_spaced(example.problem.question), _spaced(example.inputs)}:
                self._by_input.setdefault(text, []).append(example.id)
        self._ids = {example.id for example in suite.examples}
        self._left_out = {_spaced(question) for question in suite.left_out.values()}

    def take(self, prediction: Prediction) -> bool:
        """Stores a prediction of this suite; False if it is of another."""
        if prediction.id is not None:
            if prediction.id in self.suite.left_out:
                return True  # of a split that is not judged
            if prediction.id not in self._ids:
                return False
            self._keep(prediction.id, prediction)
            return True
        for text in _questions(prediction.input or ""):
            if text in self._left_out:
                return True
            if text in self._by_input:
                self._keep_one(self._by_input[text], prediction)
                return True
        return False

    def take_quoted(self, prediction: Prediction) -> bool:
        """Stores a prediction for the last question that its input quotes."""
        text = prediction.input or ""
        ends = {
            quoted: text.rfind(quoted) + len(quoted)
            for quoted in (*self._by_input, *self._left_out)
            if quoted in text
        }
        if not ends:
            return False
        # Of two that end together, take the longer one.
        quoted = max(ends, key=lambda one: (ends[one], len(one)))
        if quoted in self._by_input:
            self._keep_one(self._by_input[quoted], prediction)
        return True

    def in_order(self) -> list[tuple[str, ...]]:
        """The samples of each example."""
        for ids in self._by_input.values():
            said = [self._taken[id] for id in ids if id in self._taken]
            if len(said) == 1 and said[0].id is None:
                for id in ids:
                    self._taken.setdefault(id, said[0])
        wanted = [example.id for example in self.suite.examples]
        missing = [id for id in wanted if id not in self._taken]
        if missing:
            raise InputError(
                f"suite {self.suite.name!r}: {len(missing)} of {len(wanted)} examples "
                f"have no prediction, first {', '.join(missing[:3])}. Add them, or "
                "judge fewer with --max_examples or another --split."
            )
        first = self._taken[wanted[0]]
        for id in wanted:
            if len(self._taken[id].texts) != len(first.texts):
                raise InputError(
                    f"{self._taken[id].where}: {len(self._taken[id].texts)} samples, "
                    f"but {len(first.texts)} at {first.where}. Give every example the "
                    "same number of samples."
                )
        return [self._taken[id].texts for id in wanted]

    def _keep_one(self, twins: list[str], prediction: Prediction) -> None:
        free = [id for id in twins if id not in self._taken]
        self._keep(free[0] if free else twins[0], prediction)

    def _keep(self, id: str, prediction: Prediction) -> None:
        if id in self._taken:
            raise InputError(
                f"{prediction.where}: example {id!r} was already answered at "
                f"{self._taken[id].where}. Keep one of the two lines."
            )
        self._taken[id] = prediction


def _prediction(record: dict[str, Any], where: str) -> Prediction:
    versions.PREDICTIONS.check(record.get("predictions_version", 1), where)
    line = typed_json.convert(record, _Line, where, remedy=_REMEDY)
    if line.id is None and line.input is None:
        raise InputError(f"{where}: the key 'id' or 'input' is missing. {_REMEDY}")
    texts = line.prediction
    return Prediction(
        suite=line.suite,
        id=line.id,
        input=_spaced(line.input or "") if line.id is None else None,
        texts=(texts,) if isinstance(texts, str) else tuple(texts),
        where=where,
    )


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
