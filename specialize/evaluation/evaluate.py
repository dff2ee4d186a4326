"""Decode suites, judge them, one table: what a checkpoint can do.

Each suite's predictions go to a file as they are decoded, so a killed evaluation goes
on where it stopped and repeats no finished batch.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from specialize import config, outputs
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.evaluation import tables
from specialize.evaluation.results import RESULTS_FILE, Results, file_stem, write_judged
from specialize.evaluation.scoring import judging
from specialize.evaluation.scoring.averages import averages
from specialize.evaluation.suites import splits
from specialize.evaluation.suites.loading import Suite, load_suites
from specialize.inference.engine import Engine
from specialize.inference.resumable import decode_to_file
from specialize.inference.weights import load_student, weights_digest


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are drawn from the student.

    Attributes:
        method: "greedy", "sample" or "beam".
        temperature: of sampling.
        top_p: nucleus of sampling.
        num_samples: texts a prompt when sampling; several give self-consistency
            (majority) and pass@k.
        num_beams: beams of "beam".
        seed: of sampling.
        batch_size: prompts a batch, over all devices.
        input_length: at most this many input tokens.
        output_length: at most this many output tokens (256 in the paper).
    """

    method: str = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    num_samples: int = 1
    num_beams: int = 4
    seed: int = 0
    batch_size: int = 32
    input_length: int = 2048
    output_length: int = 256

    def sampling(self) -> dict[str, Any]:
        """The arguments of `Engine.generate`."""
        names = "method temperature top_p num_samples num_beams seed".split()
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain values, for results and for what predictions depend on."""
        return dataclasses.asdict(self)


class Evaluation:
    """Which suites are asked, how, and by which rule they are judged.

    Args:
        suites: names as `load_suite` takes them; "name:prompt" asks one suite with
            another prompt than the others.
        benchmarks_dir: folder laid out as their owners' files are.
        vocabulary_path: the student's SentencePiece model.
        prompt: the prompt of suites that name none.
        split: one of `splits.SPLITS`.
        max_examples: of each suite (of each task, for BBH); None is all.
        rule: "exact", or "reference" to reproduce the paper's own judge.
        demonstrations: of few-shot math prompts.
        decoding: how texts are drawn.

    Raises:
        InputError: no suite is named.
    """

    def __init__(
        self,
        *,
        suites: Sequence[str],
        benchmarks_dir: str | os.PathLike[str],
        vocabulary_path: str | os.PathLike[str],
        prompt: str = "zero_shot_cot",
        split: str = splits.DEFAULT,
        max_examples: int | None = None,
        rule: str = "exact",
        demonstrations: int = 4,
        decoding: Decoding = Decoding(),
    ):
        if not suites:
            raise InputError(
                "no suite to evaluate: set SUITES, for example ('gsm8k', 'bbh')."
            )
        self.names = tuple(suites)
        self.benchmarks_dir = benchmarks_dir
        self.vocabulary_path = vocabulary_path
        self.prompt = prompt
        self.split = split
        self.max_examples = max_examples
        self.rule = rule
        self.demonstrations = demonstrations
        self.decoding = decoding

    def load(self) -> dict[str, Suite]:
        """Reads every suite.

        Returns:
            "suite:prompt" -> suite; a group ("bbh", "mas") gives several.

        Raises:
            InputError: an unknown name, or a file that is missing or malformed.
        """
        found: dict[str, Suite] = {}
        for name in self.names:
            suite, _, prompt = name.partition(":")
            for one in load_suites(
                suite,
                self.benchmarks_dir,
                prompt=prompt or self.prompt,
                split=self.split,
                max_examples=self.max_examples,
                demonstrations=self.demonstrations,
            ):
                found[one.key] = one
        return found

    def run(
        self,
        module: Any,
        params: Any,
        mesh: jax.sharding.Mesh,
        *,
        out: str | os.PathLike[str] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> Results:
        """Decodes and judges every suite with these weights.

        Args:
            module: the network.
            params: its weights, on the mesh.
            mesh: where to decode.
            out: folder for predictions and results, so that a rerun goes on; None
                keeps nothing on disk.
            model: what is evaluated, to stand in the results.

        Returns:
            Scores and where the predictions are.

        Raises:
            InputError: as `load`, or the batch does not divide over the mesh.
        """
        if out is None:
            with tempfile.TemporaryDirectory() as folder:
                found = self.run(module, params, mesh, out=folder, model=model)
                return dataclasses.replace(found, predictions={}, folder=None)
        began = time.monotonic()
        folder = pathlib.Path(out)
        loaded = self.load()
        vocabulary = Vocabulary(self.vocabulary_path)
        engine = Engine(
            module,
            params,
            vocabulary,
            mesh,
            batch_size=self.decoding.batch_size,
            input_length=self.decoding.input_length,
            output_length=self.decoding.output_length,
        )
        weights = weights_digest(params)
        scores: dict[str, judging.SuiteScore] = {}
        files: dict[str, str] = {}
        for key, suite in loaded.items():
            prompts = [example.inputs for example in suite.examples]
            settings = {
                "suite": key,
                "prompts": digest(prompts),
                "weights": weights,
                "vocabulary": vocabulary.sha256,
                **self.decoding.to_json(),
            }
            # Other weights or settings are other predictions: they get another file,
            # and whoever comes back to the old ones finds them as they were.
            stem = file_stem(key)
            raw = folder / "decoded" / f"{stem}.{digest(settings)[:12]}.jsonl"
            decoded = decode_to_file(
                engine,
                prompts,
                raw,
                settings,
                sampling=self.decoding.sampling(),
                description=key,
            )
            scores[key] = judging.judge_suite(
                suite,
                [line["texts"] for line in decoded],
                rule=self.rule,
                vocabulary=vocabulary,
            )
            files[key] = f"{stem}.jsonl"
            if jax.process_index() == 0:
                write_judged(folder / files[key], suite, scores[key])
        results = Results(
            {
                **(model or {}),
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                "weights_digest": weights,
            },
            {
                "split": self.split,
                "rule": self.rule,
                "max_examples": self.max_examples,
                "demonstrations": self.demonstrations,
                "vocabulary_sha256": vocabulary.sha256,
                **self.decoding.to_json(),
            },
            {key: score.to_json(examples=False) for key, score in scores.items()},
            averages(list(scores.values())),
            files,
            round(time.monotonic() - began, 1),
            folder,
        )
        if jax.process_index() == 0:
            results.save(folder / RESULTS_FILE)
        return results


def evaluate(
    *,
    model: Any,
    checkpoint: str,
    suites: Sequence[str],
    benchmarks_dir: str | os.PathLike[str] | None = None,
    vocabulary_path: str | os.PathLike[str] | None = None,
    prompt: str = "zero_shot_cot",
    split: str = splits.DEFAULT,
    max_examples: int | None = None,
    rule: str = "exact",
    demonstrations: int = 4,
    method: str = "greedy",
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_samples: int = 1,
    num_beams: int = 4,
    batch_size: int = 32,
    input_length: int = 2048,
    output_length: int = 256,
    seed: int = 0,
    mesh: Mapping[str, int] | str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Results:
    """Evaluates a checkpoint and prints one table (`specialize evaluate`).

    Args:
        model: the student.
        checkpoint: weights in any layout that `checkpoints.load_params` reads; of a
            run's folder, its newest checkpoint.
        suites: as `Evaluation`.
        benchmarks_dir: as `Evaluation`; None asks SPECIALIZE_BENCHMARKS_DIR.
        vocabulary_path: as `Evaluation`; None asks SPECIALIZE_VOCABULARY.
        prompt: as `Evaluation`.
        split: as `Evaluation`.
        max_examples: as `Evaluation`.
        rule: as `Evaluation`.
        demonstrations: as `Evaluation`.
        method: as `Decoding`, like the arguments up to `seed`.
        temperature: of sampling.
        top_p: of sampling.
        num_samples: of sampling.
        num_beams: of beam search.
        batch_size: prompts a batch.
        input_length: greatest prompt, in tokens.
        output_length: greatest answer, in tokens.
        seed: of sampling.
        mesh: as `sharding.read_mesh` takes it.
        output_dir: for predictions and results, so that a rerun goes on.
        json_path: the results' copy.
        base: results of the base model, for differences and paired tests.

    Returns:
        The results.

    Raises:
        InputError: a name, path, checkpoint or combination that does not work.
    """
    evaluation = Evaluation(
        suites=suites,
        benchmarks_dir=config.place(benchmarks_dir, "BENCHMARKS_DIR", "BENCHMARKS_DIR"),
        vocabulary_path=config.place(vocabulary_path, "VOCABULARY_PATH", "VOCABULARY"),
        prompt=prompt,
        split=split,
        max_examples=max_examples,
        rule=rule,
        demonstrations=demonstrations,
        decoding=Decoding(
            method,
            temperature,
            top_p,
            num_samples,
            num_beams,
            seed,
            batch_size,
            input_length,
            output_length,
        ),
    )
    # Refuse a bad suite, or another base, before the weights are read.
    evaluation.load()
    Vocabulary(evaluation.vocabulary_path)
    before = None if base is None else Results.load(base)
    if output_dir is not None:
        outputs.claim(output_dir, "evaluation")
    student = load_student(model, checkpoint, mesh)
    results = evaluation.run(
        model.module,
        student.params,
        student.mesh,
        out=output_dir,
        model={"checkpoint": str(checkpoint), "step": student.step},
    )
    if jax.process_index() == 0:
        tables.show(results, before)
        if json_path is not None:
            relative = os.path.relpath(
                output_dir or ".", pathlib.Path(json_path).parent
            )
            dataclasses.replace(
                results,
                predictions={
                    key: os.path.join(relative, name)
                    for key, name in results.predictions.items()
                },
            ).save(json_path)
    return results


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """Decoding from a run file's flat values.

    Raises:
        InputError: a value that decoding does not know.
    """
    known = {field.name for field in dataclasses.fields(Decoding)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise InputError(f"decoding knows no {', '.join(unknown)}: {sorted(known)}.")
    return Decoding(**settings)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
