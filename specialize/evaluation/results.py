"""What an evaluation found, as one JSON file that tables and the report are made of."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from specialize import outputs, versions
from specialize.errors import InputError
from specialize.evaluation.scoring.judging import SuiteScore
from specialize.evaluation.suites.loading import Suite


@dataclasses.dataclass(frozen=True)
class Results:
    """Scores of one set of weights, or of predictions made elsewhere.

    Attributes:
        model: what was evaluated: path, step, number of parameters, digest of the
            weights; or the predictions' file.
        settings: split, rule, decoding, number of examples asked for.
        suites: "suite:prompt" -> score with accuracy, n, low, high and how answers
            were found (`judges.SuiteScore.to_json`).
        averages: macro-averages with their own intervals, by name.
        predictions: "suite:prompt" -> file with a line an example, relative to
            `folder`.
        seconds: spent decoding, this time.
        folder: where the file stands, or None before it is written.
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    suites: Mapping[str, Mapping[str, Any]]
    averages: Mapping[str, Mapping[str, Any]]
    predictions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    seconds: float = 0.0
    folder: pathlib.Path | None = None

    @property
    def step(self) -> int | None:
        """Optimizer steps the weights had seen, where known."""
        step = self.model.get("step")
        return None if step is None else int(step)

    @property
    def num_examples(self) -> int:
        """Examples judged in all."""
        return sum(int(score["n"]) for score in self.suites.values())

    @property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """Suites, then averages, by "suite:prompt"."""
        return {**self.suites, **self.averages}

    def split(self, key: str) -> str:
        """The split that a suite was asked, or "unknown" where nothing says it."""
        selection = self.scores.get(key, {}).get("selection", {})
        return str(selection.get("split") or self.settings.get("split", "unknown"))

    def metrics(self) -> dict[str, float]:
        """Accuracies as `<suite>/accuracy`, for logs and for selection."""
        found: dict[str, float] = {}
        for key, score in self.scores.items():
            suite, _, prompt = key.partition(":")
            # The plain name is the suite's first prompt: what most runs ask for.
            found.setdefault(f"{suite}/accuracy", float(score["accuracy"]))
            found[f"{suite}/{prompt}/accuracy" if prompt else f"{suite}/accuracy"] = (
                float(score["accuracy"])
            )
        return found

    def beside(
        self,
        path: str | os.PathLike[str],
        suites: Mapping[str, Suite],
        scores: Mapping[str, SuiteScore],
    ) -> "Results":
        """Writes the judged predictions into `<path without ending>/`.

        Args:
            path: where the results themselves will be saved.
            suites: "suite:prompt" -> suite.
            scores: their verdicts.

        Returns:
            The results, pointing to the files.
        """
        file = pathlib.Path(path)
        names: dict[str, str] = {}
        for key, suite in suites.items():
            names[key] = f"{file.stem}/{file_stem(key)}.jsonl"
            write_judged(file.parent / names[key], suite, scores[key])
        return dataclasses.replace(self, predictions=names, folder=file.parent)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        value = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "folder"
        }
        return {"format": versions.RESULTS.writes, **value}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all."""
        outputs.write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, malformed or of another format.
        """
        file = pathlib.Path(path)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{file} does not exist. Make it with 'specialize evaluate --json'."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file} is not JSON ({error}). Evaluate again to replace it."
            ) from error
        known = {field.name for field in dataclasses.fields(cls)} - {"folder"}
        if not isinstance(value, dict) or "format" not in value:
            raise InputError(
                f"{file} is not a results file of 'specialize evaluate'. Name another."
            )
        versions.RESULTS.check(value.pop("format"), file)
        if value.keys() != known:
            raise InputError(
                f"{file} lacks {sorted(known - value.keys())} and has unknown "
                f"{sorted(value.keys() - known)}. Evaluate again to replace it."
            )
        return cls(**value, folder=file.parent)

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The predictions of one suite, a dictionary an example.

        Args:
            key: "suite:prompt".

        Returns:
            id, input, prediction, correct, value, how and golds of each example; empty
            where the file is not there.
        """
        name = self.predictions.get(key)
        if name is None or self.folder is None:
            return []
        file = self.folder / name
        if not file.is_file():
            return []
        with open(file, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def file_stem(key: str) -> str:
    """A file's name for "suite/task:prompt"."""
    return key.replace("/", ".").replace(":", ".")


def write_judged(path: pathlib.Path, suite: Suite, score: SuiteScore) -> None:
    """Writes what was predicted and what the judge said, a line an example.

    Args:
        path: the JSON lines file.
        suite: what was asked.
        score: its verdicts, in the same order.
    """
    lines: list[str] = []
    for example, judged in zip(suite.examples, score.judged, strict=True):
        texts = judged.predictions
        line = {
            "suite": suite.name,
            "id": example.id,
            "prediction": texts[0] if len(texts) == 1 else list(texts),
            "correct": judged.verdict.correct,
            "value": judged.verdict.value,
            "how": judged.verdict.how,
            "golds": list(example.golds),
            "question": example.problem.question,
            "rationale": example.problem.rationale,
            "predictions_version": versions.PREDICTIONS.writes,
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    outputs.write_text(path, "".join(lines))
