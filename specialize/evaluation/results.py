"""The results of an evaluation: one JSON file, the source of tables and the report."""

import dataclasses
import glob
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from specialize import checks, outputs, paths, typed_json, versions
from specialize.errors import InputError
from specialize.evaluation.scoring.judging import SuiteScore
from specialize.evaluation.suites.loading import Suite

# The choice between two abilities, in the folder of a selection.
CHOICE = "choice_pareto.json"
_REMEDY = "Evaluate again to replace it."
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class _Ceiling:
    accuracy: _Share = 1.0


@dataclasses.dataclass(frozen=True)
class _Score:
    """What tables and reports read of a score."""

    n: typed_json.Count
    accuracy: _Share
    low: _Share
    high: _Share
    how: dict[str, typed_json.Count] = dataclasses.field(default_factory=dict)
    ceiling: _Ceiling = _Ceiling()
    selection: typed_json.Object = dataclasses.field(default_factory=dict)
    asked: typed_json.Count | None = None


def number_of(score: Mapping[str, Any]) -> str:
    """The number of examples for tables: "120 of 819" if the others have no score."""
    if "n" not in score:
        return ""
    asked = score.get("asked")
    return f"{score['n']:,}" + (f" of {asked:,}" if asked is not None else "")


@dataclasses.dataclass(frozen=True)
class _Model:
    """What tables and reports read of a model."""

    step: typed_json.Count | None = None
    parameters: Annotated[float, msgspec.Meta(ge=0, le=2**63)] | None = None


@dataclasses.dataclass(frozen=True)
class _Content:
    """The types of the fields of `Results` in a file."""

    model: _Model
    settings: typed_json.Object
    suites: dict[str, _Score]
    averages: dict[str, _Score]
    predictions: dict[str, str]
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Judged:
    """The types of a line of judged predictions."""

    id: str
    correct: bool
    prediction: str | list[str] = ""
    question: str | None = None
    input: str | None = None
    rationale: str | None = None
    golds: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Results:
    """Scores of one set of weights, or of predictions of another model.

    Attributes:
        model: What was evaluated: path, step, number of parameters, digest of the
            weights; or the file of predictions.
        settings: Split, judge (`rule`), decoding, largest number of questions.
        suites: "suite:prompt" -> score (`judging.SuiteScore.to_json`).
        averages: Macro-averages with their own intervals, by name.
        predictions: "suite:prompt" -> file with one line per example, relative to
            `folder`.
        seconds: Duration of the last run of the evaluation.
        folder: Folder of the file, or None before it is written.
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
        """Number of optimizer steps before these weights, if known."""
        step = self.model.get("step")
        return None if step is None else int(step)

    @property
    def num_examples(self) -> int:
        """Number of judged examples of all suites."""
        return sum(int(score["n"]) for score in self.suites.values())

    @property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """Suites, then averages, by "suite:prompt"."""
        return {**self.suites, **self.averages}

    def split(self, key: str) -> str:
        """The split of a suite, or "unknown"."""
        selection = self.scores.get(key, {}).get("selection", {})
        return str(selection.get("split") or self.settings.get("split", "unknown"))

    def metrics(self) -> dict[str, float]:
        """Accuracies as `<suite>/accuracy`, for logs and for selection."""
        found: dict[str, float] = {}
        for key, score in self.scores.items():
            suite, _, prompt = key.partition(":")
            accuracy = float(score["accuracy"])
            # The plain name is the first prompt of the suite, often the only one.
            found.setdefault(f"{suite}/accuracy", accuracy)
            name = f"{suite}/{prompt}" if prompt else suite
            found[f"{name}/accuracy"] = accuracy
        return found

    def beside(
        self,
        path: str | os.PathLike[str],
        suites: Mapping[str, Suite],
        scores: Mapping[str, SuiteScore],
    ) -> "Results":
        """Writes the judged predictions into the file's own folder.

        Args:
            path: File in which the results will be saved.
            suites: "suite:prompt" -> suite.
            scores: Their verdicts.

        Returns:
            The results with the names of the files.
        """
        own = own_folder(path)
        names = {key: f"{own}/{file_stem(key)}.jsonl" for key in suites}
        parent: Any = pathlib.Path(path).parent
        if paths.in_bucket(path):
            parent = paths.parent_of(path)
        for key, suite in suites.items():
            write_judged(paths.joined(parent, names[key]), suite, scores[key])
        wanted = [glob.escape(one) for one in names.values()]
        folder = paths.local(parent, only=wanted)
        return dataclasses.replace(self, predictions=names, folder=folder)

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        value = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "folder"
        }
        return {"format": versions.RESULTS.writes, **value}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file."""
        outputs.write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Reads what `save` wrote.

        Raises:
            InputError: The file is missing, malformed or of another version.
        """
        file = _local(path)
        if not file.exists():
            raise InputError(
                f"{file} does not exist. Make it with 'specialize evaluate --json'."
            )
        value = typed_json.read(file, typed_json.Object, remedy=_REMEDY)
        known = {field.name for field in dataclasses.fields(cls)} - {"folder"}
        if "format" not in value:
            raise InputError(
                f"{file} is not a results file of 'specialize evaluate'. Name another."
            )
        versions.RESULTS.check(value.pop("format"), file)
        if value.keys() != known:
            raise InputError(
                f"{file} lacks {checks.shown(sorted(known - value.keys()))} and has "
                f"unknown {checks.shown(sorted(value.keys() - known))}. Evaluate again "
                "to replace it."
            )
        typed_json.convert(value, _Content, file, remedy=_REMEDY)
        results = cls(**value, folder=file.parent)
        for key in results.predictions:
            results._file_of(key)
        return results

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The predictions of "suite:prompt", one dictionary per example.

        The keys are those of `write_judged`; [] if there is no such file.

        Raises:
            InputError: The file is outside the folder of the results, or malformed.
        """
        file = self._file_of(key)
        if file is None or not os.path.isfile(file):
            return []
        found = list(typed_json.read_lines(file, typed_json.Object, remedy=_REMEDY))
        for where, line in found:
            typed_json.convert(line, _Judged, where, remedy=_REMEDY)
        return [line for _, line in found]

    def _file_of(self, key: str) -> pathlib.Path | None:
        """The file of a suite's predictions; results from elsewhere may name any."""
        name = self.predictions.get(key)
        if name is None or self.folder is None:
            return None
        try:
            file, folder = (self.folder / name).resolve(), self.folder.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"predictions of {key!r} in {self.folder}: {name[:200]!r} is not the "
                f"name of a file ({error}). {_REMEDY}"
            ) from error
        if not file.is_relative_to(folder):
            raise InputError(
                f"The results in {self.folder} name the file {name!r} for the "
                f"predictions of {key!r}, which is outside this folder. Evaluate again "
                "with this --json, or read the results.json beside the predictions."
            )
        return file


def _local(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file of results, or its local copy with the predictions that it names."""
    if not paths.read_from_bucket(path, "The results file"):
        return pathlib.Path(path)
    folder, name = paths.parent_of(path), paths.name_of(path)
    found = typed_json.read(paths.local(path), _Named, remedy=_REMEDY)
    wanted = [glob.escape(one) for one in (name, *found.predictions.values())]
    return paths.local(folder, only=wanted) / name


@dataclasses.dataclass(frozen=True)
class _Named:
    predictions: dict[str, str] = dataclasses.field(default_factory=dict)


def scores_in(path: str | os.PathLike[str]) -> dict[str, Mapping[str, Any]]:
    """The scores of a results file, or of the test in a choice of `select`.

    Raises:
        InputError: The file is neither, or malformed.
    """
    file = paths.local(path)
    content = typed_json.read(file, typed_json.Object, remedy=_REMEDY)
    if not isinstance(test := content.get("test"), dict):
        return Results.load(path).scores
    typed_json.convert(test, _Content, file, remedy=_REMEDY)
    return {**test["suites"], **test["averages"]}


def own_folder(path: str | os.PathLike[str]) -> str:
    """The name of the folder beside a results file that has its predictions."""
    file = pathlib.PurePosixPath(paths.name_of(path))
    return file.stem if file.suffix else f"{file.name}.predictions"


def file_stem(key: str) -> str:
    """The name of a file, without its ending, for "suite/task:prompt"."""
    return key.replace("/", ".").replace(":", ".")


def write_judged(path: str | os.PathLike[str], suite: Suite, score: SuiteScore) -> None:
    """Writes JSON lines with the prediction and the verdict of each example."""
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
