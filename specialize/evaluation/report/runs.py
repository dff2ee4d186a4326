"""Reads the folder of a run for the report.

Every part is optional: the report names each missing part and the command that makes
it.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from specialize import outputs, run_folder, versions
from specialize.errors import InputError
from specialize.evaluation.results import Results


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run.

    Attributes:
        path: The folder.
        name: Its last part.
        training: Lines of the training metrics, by step.
        evaluations: Results of decoded suites, by step (the final ones last).
        corpus: Manifest of the corpus that it was trained on, or None.
        values: Effective configuration, name -> value.
        missing: Missing parts, with the remedy.
    """

    path: pathlib.Path
    name: str
    training: list[dict[str, Any]]
    evaluations: list[Results]
    corpus: dict[str, Any] | None
    values: dict[str, Any]
    missing: tuple[str, ...]

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
    folder = pathlib.Path(path)
    if folder.is_file():
        return Run(folder, folder.stem, [], [Results.load(folder)], None, {}, ())
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
        if run_folder.CHECKPOINTS not in found.parts
    ]
    evaluations.sort(key=lambda one: (one.step or 0, one.num_examples))
    if not evaluations:
        missing.append("decoded suites: run 'specialize evaluate' on it")
    values = _values(folder / run_folder.CONFIG)
    corpus = _corpus(values.get("CORPUS_DIR"))
    if corpus is None:
        missing.append("the corpus' manifest (CORPUS_DIR of its configuration)")
    if not (lines or evaluations or values):
        raise InputError(
            f"{folder} has no metrics, no evaluation and no configuration: it is not a "
            "run. Name the MODEL_DIR of 'specialize train'."
        )
    return Run(
        folder,
        folder.resolve().name,
        [line for line in lines if "train" in line],
        evaluations,
        corpus,
        values,
        tuple(missing),
    )


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(text, start=1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(text):  # a kill cut off this line
                break
            raise InputError(
                f"{path}, line {number} is not JSON ({error}). Remove the line."
            ) from error
    return found


def _values(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        versions.CONFIGURATION.check(content.get("version", 1), path)
        return {row["name"]: row["value"] for row in content["values"]}
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a saved configuration ({error!r}). Remove it; the report "
            "does not need it."
        ) from error


def _corpus(folder: Any) -> dict[str, Any] | None:
    manifest = pathlib.Path(str(folder)) / versions.CORPUS.file
    if not folder or not manifest.is_file():
        return None
    content = json.loads(manifest.read_text(encoding="utf-8"))
    versions.CORPUS.check(content.get("version"), manifest)
    return content
