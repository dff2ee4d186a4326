"""Reads the folder of a run for the report.

Every part is optional: the report names each missing part and the command that makes
it.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from specialize import outputs, paths, run_folder, typed_json, versions
from specialize.config import neutral
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.errors import InputError
from specialize.evaluation.results import CHOICE, Results


@dataclasses.dataclass(frozen=True)
class Measured:
    """A line of the metrics. None is a value that was not finite."""

    step: typed_json.Count
    train: dict[str, float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """Number of samples after each stage of a build."""

    read: typed_json.Count | None = None
    verified: typed_json.Count | None = None
    aligned: typed_json.Count | None = None
    kept: typed_json.Count | None = None
    reasoned: typed_json.Count = 0
    rejected: dict[str, typed_json.Count] = dataclasses.field(default_factory=dict)
    spelling: SpellingCounts = dataclasses.field(default_factory=SpellingCounts)


@dataclasses.dataclass(frozen=True)
class Funnel(Counts):
    """The counts of a teacher's samples, and apart those of human rationales."""

    human: Counts | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """What the manifest says about the records of one format."""

    records: typed_json.Count | None = None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What the page shows of a corpus' manifest."""

    funnel: Funnel = dataclasses.field(default_factory=Funnel)
    formats: dict[str, Format] = dataclasses.field(default_factory=dict)
    fingerprint: typed_json.Object = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Saved:
    values: list[run_folder.Saved]


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_CANDIDATES = ("pareto", "pareto_test")


@dataclasses.dataclass(frozen=True)
class WeighedScore:
    """An accuracy of a candidate with its interval."""

    accuracy: _Share
    low: _Share
    high: _Share
    n: typed_json.Count


@dataclasses.dataclass(frozen=True)
class WeighedCandidate:
    """A candidate of a choice between two abilities."""

    name: str
    target: WeighedScore
    retain: WeighedScore
    lost: float
    front: bool


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What `specialize select --by pareto` chose, and from what."""

    rule: str
    target: str
    retain: str
    chosen: str
    candidates: list[WeighedCandidate]


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run.

    Attributes:
        path: The folder.
        name: Its last part.
        training: Lines of the training metrics, by step.
        evaluations: Results of decoded suites, by step (the final ones last).
        corpora: Manifests of the corpora that it was trained on, by folder.
        values: Effective configuration, name -> value.
        missing: Missing parts, with the remedy.
        weighed: The choice between two abilities, if one was made.
    """

    path: pathlib.Path
    name: str
    training: list[Measured]
    evaluations: list[Results]
    corpora: Mapping[str, Corpus]
    values: dict[str, Any]
    missing: tuple[str, ...]
    weighed: Weighed | None = None

    @property
    def last(self) -> Results | None:
        """The last of the evaluations with the most examples."""
        if not self.evaluations:
            return None
        return max(self.evaluations, key=lambda one: (one.num_examples, one.step or 0))


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run.

    Args:
        path: Folder of `train`, folder with the results of `evaluate`, or results file.

    Raises:
        InputError: There is nothing of ours, or a file is malformed.
    """
    folder = _local(path)
    if folder.is_file():
        return Run(folder, folder.stem, [], [Results.load(folder)], {}, {}, ())
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist. Name a run's folder (MODEL_DIR) or a results "
            "file of 'specialize evaluate --json'."
        )
    outputs.kind_of(folder)  # rejects a folder of another version
    missing: list[str] = []
    lines = _lines(folder / run_folder.METRICS)
    if not lines:
        missing.append(f"training metrics ({run_folder.METRICS}): no curves")
    evaluations = [
        Results.load(found)
        for found in sorted(folder.rglob(run_folder.RESULTS))
        # Candidates of a choice are not all of this run; `Run.weighed` has them.
        if not {run_folder.CHECKPOINTS, *_CANDIDATES} & set(found.parts)
    ]
    evaluations.sort(key=lambda one: (one.step or 0, one.num_examples))
    if not evaluations:
        missing.append("decoded suites: run 'specialize evaluate' on it")
    values = _values(folder / run_folder.CONFIG)
    folders = _corpus_folders(values)
    corpora = {str(one): found for one in folders if (found := _corpus(one))}
    if not corpora:
        missing.append(
            "the corpus' manifest (CORPUS_DIR or MIXTURE_OR_TASK_NAME of its "
            "configuration)"
        )
    if not (lines or evaluations or values):
        raise InputError(
            f"{folder} has no metrics, no evaluation and no configuration: it is not a "
            "run. Name the MODEL_DIR of 'specialize train'."
        )
    return Run(
        folder,
        folder.resolve().name,
        [line for line in lines if line.train],
        evaluations,
        corpora,
        values,
        tuple(missing),
        _weighed(folder / "selection" / CHOICE),
    )


def _local(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path, or of a run in a bucket a copy without its checkpoints."""
    if not paths.read_from_bucket(path, "The run"):
        return pathlib.Path(path)
    if os.fspath(path).endswith(".json"):
        found = Results.load(path)
        return pathlib.Path(str(found.folder)) / paths.name_of(path)
    large = (run_folder.CHECKPOINTS, run_folder.EXAMPLES, run_folder.TENSORBOARD)
    unread = (*large, run_folder.PROFILE)
    return paths.local(path, but=[f"{name}/*" for name in unread])


def _lines(path: pathlib.Path) -> list[Measured]:
    if not path.is_file():
        return []
    remedy = "Remove the line; the other lines are still shown."
    found = typed_json.read_lines(
        path, Measured, remedy=remedy, cut=True, infinities=True
    )
    return [line for _, line in found]


def _weighed(path: pathlib.Path) -> Weighed | None:
    if not path.is_file():
        return None
    return typed_json.read(path, Weighed, remedy="Select again to replace it.")


def _values(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    remedy = "Remove it; the report does not need it."
    content = typed_json.read(path, typed_json.Object, remedy=remedy)
    if "values" not in content:  # that of a Hugging Face folder, for example
        raise InputError(
            f"{path.parent} is not a run: its {path.name} is not one of 'specialize "
            "train'. Name the MODEL_DIR of 'specialize train'."
        )
    versions.CONFIGURATION.check(content.get("version", 1), path)
    saved = typed_json.convert(content, _Saved, path, remedy=remedy)
    return {row.name: row.value for row in saved.values}


def _corpus_folders(values: Mapping[str, Any]) -> list[Any]:
    """The folders of corpora in a configuration."""
    mixture = values.get("MIXTURE_OR_TASK_NAME")
    named = [values.get("CORPUS_DIR")]
    if isinstance(mixture, Mapping):
        named += [values.get("BASE_ANSWERS_DIR")]
        named += [neutral.part_of_mixture(path)[0] for path in mixture]
    return list(dict.fromkeys(one for one in named if one))


def _corpus(folder: Any) -> Corpus | None:
    if paths.in_bucket(folder):
        url = paths.joined(folder, versions.CORPUS.file)
        if not paths.exists(url):
            return None
        manifest = paths.local(url)
    else:
        manifest = pathlib.Path(str(folder)) / versions.CORPUS.file
    if not folder or not os.path.isfile(manifest):  # also of any odd name
        return None
    remedy = "Build the corpus again."
    content = typed_json.read(manifest, typed_json.Object, remedy=remedy)
    versions.CORPUS.check(content.get("version"), manifest)
    return typed_json.convert(content, Corpus, manifest, remedy=remedy)
