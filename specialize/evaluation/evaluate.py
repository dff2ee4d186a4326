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

import gin
import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from specialize import outputs
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.evaluation import judges
from specialize.evaluation.results import RESULTS_FILE, Results
from specialize.evaluation.suites import Suite, load_suite
from specialize.inference.engine import Engine
from specialize.inference.resumable import decode_to_file
from specialize.progress import console


@gin.configurable
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


@gin.configurable
class Evaluation:
    """Which suites are asked, how, and by which rule they are judged.

    Args:
        suites: names as `load_suite` takes them; "name:prompt" asks one suite with
            another prompt than the others.
        benchmarks_dir: folder laid out as their owners' files are.
        vocabulary_path: the student's SentencePiece model.
        prompt: the prompt of suites that name none.
        split: "all", or the paper's "validation" or "test".
        max_examples: of each suite (of each task, for BBH); None is all.
        rule: "exact", or "reference" to reproduce the paper's own judge.
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
        split: str = "all",
        max_examples: int | None = None,
        rule: str = "exact",
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
        self.decoding = decoding

    def load(self) -> dict[str, Suite]:
        """Reads every suite.

        Returns:
            "suite:prompt" -> suite.

        Raises:
            InputError: an unknown name, or a file that is missing or malformed.
        """
        found: dict[str, Suite] = {}
        for name in self.names:
            suite, _, prompt = name.partition(":")
            prompt = prompt or self.prompt
            found[f"{suite}:{prompt}"] = load_suite(
                suite,
                self.benchmarks_dir,
                prompt=prompt,
                split=self.split,
                max_examples=self.max_examples,
            )
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
        digest = weights_digest(params)
        scores: dict[str, judges.SuiteScore] = {}
        files: dict[str, str] = {}
        for key, suite in loaded.items():
            prompts = [example.inputs for example in suite.examples]
            settings = {
                "suite": key,
                "prompts": _digest(prompts),
                "weights": digest,
                "vocabulary": vocabulary.sha256,
                **dataclasses.asdict(self.decoding),
            }
            # Other weights or settings are other predictions: they get another file,
            # and whoever comes back to the old ones finds them as they were.
            stem = key.replace("/", ".").replace(":", ".")
            raw = folder / "decoded" / f"{stem}.{_digest(settings)[:12]}.jsonl"
            decoded = decode_to_file(
                engine,
                prompts,
                raw,
                settings,
                sampling=self.decoding.sampling(),
                description=key,
            )
            texts = {
                example.id: line["texts"]
                for example, line in zip(suite.examples, decoded, strict=True)
            }
            scores[key] = judges.score(suite, texts, rule=self.rule)
            files[key] = f"{stem}.jsonl"
            if jax.process_index() == 0:
                _write_judged(folder / files[key], suite, scores[key], decoded)
        results = Results(
            {
                **(model or {}),
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                "weights_digest": digest,
            },
            {
                "split": self.split,
                "rule": self.rule,
                "max_examples": self.max_examples,
                "vocabulary_sha256": vocabulary.sha256,
                **dataclasses.asdict(self.decoding),
            },
            {key: score.to_json() for key, score in scores.items()},
            judges.averages(scores),
            files,
            round(time.monotonic() - began, 1),
            folder,
        )
        if jax.process_index() == 0:
            results.save(folder / RESULTS_FILE)
        return results
