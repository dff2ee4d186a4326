"""Decodes suites with a checkpoint, judges them and prints one table.

Predictions are written as they are decoded, so that a killed evaluation resumes after
its last finished batch.
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from specialize import outputs, paths, processes, run_folder
from specialize.corpus.vocabulary import read_vocabulary
from specialize.digests import value_digest as digest
from specialize.evaluation import tables
from specialize.evaluation.results import Results, file_stem, own_folder, write_judged
from specialize.evaluation.scoring import judging
from specialize.evaluation.scoring.averages import averages
from specialize.evaluation.spec import EvaluationSpec
from specialize.evaluation.suites.loading import Suite, suites_of
from specialize.inference.engine import Engine
from specialize.inference.resumable import decode_to_file, names_network
from specialize.inference.weights import (
    decoding_settings,
    load_student,
    prompts_digest,
)
from specialize.progress import say


def evaluate_weights(
    evaluation: EvaluationSpec,
    module: Any,
    params: Any,
    mesh: jax.sharding.Mesh,
    *,
    out: str | os.PathLike[str] | None = None,
    model: Mapping[str, Any] | None = None,
    publish: Callable[[], None] = lambda: None,
) -> Results:
    """Decodes and judges every suite with weights that are on the devices.

    Args:
        evaluation: What is asked, and how.
        module: The network.
        params: Its weights, on the mesh.
        mesh: The device mesh.
        out: Folder for predictions and results, so that a rerun resumes. None: nothing
            is kept on disk.
        model: A description of the weights, for the results.
        publish: Called after each prediction, to upload what has changed in `out`.

    Raises:
        InputError: As for `suites_of`; the batch does not divide over the mesh; or
            another process has other suites, weights or settings.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            found = evaluate_weights(
                evaluation, module, params, mesh, out=folder, model=model
            )
            return dataclasses.replace(found, predictions={}, folder=None)
    began = time.monotonic()
    folder = pathlib.Path(out)
    loaded = suites_of(evaluation)
    _check_same_everywhere(loaded)
    vocabulary = read_vocabulary(evaluation.vocabulary(), network=module.config)
    decoding = evaluation.decoding
    engine = Engine(module, params, vocabulary, mesh, decoding)
    common = decoding_settings(engine, vocabulary)
    _say_what_is_not_reused(folder / "decoded")
    scores: dict[str, judging.SuiteScore] = {}
    files: dict[str, str] = {}
    for key, suite in loaded.items():
        prompts = [example.inputs for example in suite.examples]
        settings = {
            "suite": key,
            "prompts": prompts_digest(prompts),
            **common,
        }
        # Another network, other weights or settings give other predictions, so they
        # get another file, and a return to the old ones finds theirs unchanged.
        stem = file_stem(key)
        raw = folder / "decoded" / f"{stem}.{digest(settings)[:12]}.jsonl"
        decoded = decode_to_file(
            engine, prompts, raw, settings, description=key, publish=publish
        )
        scores[key] = judging.judge_suite(
            suite,
            [line["texts"] for line in decoded],
            judge=evaluation.judge,
            vocabulary=vocabulary,
        )
        files[key] = f"{stem}.jsonl"
        if jax.process_index() == 0:
            write_judged(folder / files[key], suite, scores[key])
    results = Results(
        {
            **(model or {}),
            "parameters": sum(x.size for x in jax.tree.leaves(params)),
            "weights_digest": common["weights"],
        },
        {
            "split": evaluation.split,
            "rule": evaluation.judge.judge,
            "max_examples": evaluation.max_examples,
            "demonstrations": evaluation.demonstrations,
            "vocabulary_sha256": vocabulary.sha256,
            **decoding.to_json(),
        },
        {key: found.to_json() for key, found in scores.items()},
        averages(list(scores.values())),
        files,
        round(time.monotonic() - began, 1),
        folder,
    )
    if jax.process_index() == 0:
        results.save(folder / run_folder.RESULTS)
    return results


def evaluate(
    model: Any,
    checkpoint: str,
    evaluation: EvaluationSpec,
    *,
    mesh: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Results:
    """Evaluates a checkpoint and prints one table (`specialize evaluate`).

    Args:
        model: The student.
        checkpoint: Weights in any layout that `specialize.load` reads; of a run's
            folder, its newest checkpoint.
        evaluation: What is asked, how texts are decoded, and who judges them.
        mesh: The device mesh, in any spelling of `specialize.mesh`.
        output_dir: Folder for predictions and results, so that a rerun resumes.
        json_path: File for a copy of the results.
        base: Results of the base model, for differences and paired tests.

    Raises:
        InputError: A name, path, checkpoint or combination is invalid.

    Example:
        >>> student = specialize.load("runs/student")
        >>> asked = specialize.EvaluationSpec(
        ...     ["gsm8k"], "world", "vocabulary.model", max_examples=2,
        ...     decoding=specialize.DecodingSpec(batch_size=8, output_length=8),
        ... )
        >>> results = specialize.evaluate(  # doctest: +ELLIPSIS
        ...     student.model, "runs/student", asked
        ... )
        runs/student...
        >>> results.num_examples
        2
    """
    # Reject an invalid suite or base before the weights are read.
    suites_of(evaluation)
    read_vocabulary(evaluation.vocabulary(), network=model.module.config)
    before = None if base is None else Results.load(base)
    with contextlib.ExitStack() as exits:
        working = None
        if output_dir is not None:
            leader = jax.process_index() == 0
            working = exits.enter_context(
                outputs.working_folder(output_dir, "evaluation", leader=leader)
            )
        student = load_student(model, checkpoint, mesh)
        results = evaluate_weights(
            evaluation,
            model.module,
            student.params,
            student.mesh,
            out=working and working.path,
            model={"checkpoint": str(checkpoint), "step": student.step},
            publish=working.publish if working else lambda: None,
        )
        if jax.process_index() == 0:
            tables.show(results, before)
            if json_path is not None:
                if working is not None:
                    working.publish(now=True)  # what the copy names is there before it
                _beside(results, json_path, output_dir).save(json_path)
    return results


def _check_same_everywhere(suites: Mapping[str, Suite]) -> None:
    """Checks that every process asks the same, and would judge it alike."""
    processes.agree(
        {
            key: digest([[x.id, x.inputs, x.golds] for x in suite.examples])
            for key, suite in suites.items()
        },
        what="suites",
        remedy="Give every process the same benchmark files and options.",
    )


def _say_what_is_not_reused(folder: pathlib.Path) -> None:
    """Says that there are texts of which nobody knows which network decoded them."""
    if jax.process_index() != 0 or not folder.is_dir():
        return
    old = [file for file in folder.glob("*.jsonl") if not names_network(file)]
    if old:
        say(
            f"{folder} has texts of an earlier version (number of files: {len(old)}), "
            "which did not record the network that decoded them. They are not used; "
            f"what is asked is decoded again. Remove {old[0].name} and the like to "
            "hear no more of it."
        )


def _beside(
    results: Results,
    path: str | os.PathLike[str],
    kept: str | os.PathLike[str] | None,
) -> Results:
    """The results as `path` keeps them: its predictions are beneath its folder.

    Those that are elsewhere are copied to a folder of its own beside it, apart from
    those of other results.

    Args:
        results: Results whose predictions are in `results.folder`.
        path: The file of the copy.
        kept: Where that folder stays: itself, or what it is uploaded to.
    """
    if results.folder is None or not results.predictions or kept is None:
        return results
    if outputs.is_stream(path):
        return dataclasses.replace(results, predictions={})  # nothing is beside it
    names = results.predictions
    start = _beneath(kept, path)
    if start is not None:
        names = {key: (start / name).as_posix() for key, name in names.items()}
    else:
        copies = {key: f"{own_folder(path)}/{name}" for key, name in names.items()}
        bucket = paths.in_bucket(path)
        here = paths.parent_of(path) if bucket else pathlib.Path(path).parent
        for key, name in copies.items():
            text = (results.folder / names[key]).read_text(encoding="utf-8")
            outputs.write_text(paths.joined(here, name), text)
        names = copies
    return dataclasses.replace(results, predictions=names)


def _beneath(
    folder: str | os.PathLike[str], file: str | os.PathLike[str]
) -> pathlib.PurePath | None:
    """The folder relative to that of the file, or None if it is not in it."""
    if paths.in_bucket(folder) != paths.in_bucket(file):
        return None
    if paths.in_bucket(folder):
        inside = pathlib.PurePosixPath(os.fspath(folder))
        here = pathlib.PurePosixPath(paths.parent_of(file))
    else:
        inside = pathlib.Path(folder).resolve()
        here = pathlib.Path(file).parent.resolve()
    return inside.relative_to(here) if inside.is_relative_to(here) else None
