"""A T5 checkpoint answers prompts that have no answers: texts with exact top-k rows.

The checkpoint has the student's vocabulary, so its ids and probabilities are stored as
they are, EOS included, and nothing is aligned or judged. With the student's own initial
weights as the checkpoint, training on these texts beside a corpus holds the student to
what it knew (`specialize_tasks.mixing`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.choices import TEXT
from specialize.corpus.records import Fingerprint, RecordId
from specialize.corpus.spec import FolderSpec
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.cards import Card
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.vocabulary import Vocabulary
from specialize.inference.prompts import read_prompts
from specialize.inference.resumable import decode_to_file, unfinished
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import (
    decoding_settings,
    load_engine,
    prompts_digest,
)


def label(
    model: Any,
    checkpoint: str,
    decoding: DecodingSpec,
    *,
    prompts_path: str | os.PathLike[str],
    folder: FolderSpec,
    top_logprobs: int = 5,
    name: str | None = None,
    vocabulary_path: str | os.PathLike[str] | None = None,
    mesh: Any = None,
) -> Manifest | None:
    """Writes a corpus of the checkpoint's answers to prompts.

    Args:
        model: the checkpoint's network in a `Student`.
        checkpoint: weights in any layout that `checkpoints.load_params` reads.
        decoding: how the answers are written: "greedy" or "sample".
        prompts_path: the prompts, as `read_prompts` reads them; answers in the file
            are not read.
        folder: the corpus folder. Finished batches are kept in `<folder>.decoded.jsonl`
            until it is complete, and a rerun resumes from it.
        top_logprobs: K of the teacher rows, which corpora that are mixed must share.
        name: name of the teacher, for cards. None: the checkpoint's path.
        vocabulary_path: SentencePiece model of the checkpoint, or "byt5". None: the
            environment variable SPECIALIZE_VOCABULARY.
        mesh: the device mesh, in any form that `specialize.mesh` reads.

    Returns:
        The manifest, on process 0.

    Raises:
        InputError: the prompts, the checkpoint or a setting is invalid, or no answer
            ended within the output length.
    """
    decoding.check_distributions()
    shards.check_output(folder.path, replace=folder.replace)
    asked = read_prompts(prompts_path)
    engine, vocabulary = load_engine(
        model, checkpoint, decoding, vocabulary_path=vocabulary_path, mesh=mesh
    )
    engine.check_alternatives("--k", top_logprobs)
    prompts = [line["input"] for line in asked]
    settings = decoding_settings(engine, vocabulary)
    settings["prompts"] = prompts_digest(prompts)
    settings["top_logprobs"] = top_logprobs
    with unfinished(folder.path) as (progress, publish):
        decoded = decode_to_file(
            *(engine, prompts, progress, settings),
            alternatives=top_logprobs,
            publish=publish,
        )
        if jax.process_index() != 0:
            return None
        teacher = name or checkpoint
        fingerprint = Fingerprint(
            vocabulary_sha256=vocabulary.sha256,
            vocabulary_rows=vocabulary.rows,
            k=top_logprobs,
            teacher=teacher,
            alignment="bytes",
            prompt_sha256=settings["prompts"],
            sampling={**decoding.to_json(), "weights": settings["weights"]},
        )
        funnel = Funnel()
        card = Card(teacher, sources=[cards.source(prompts_path)])
        written = shards.write_shards(
            _records(asked, decoded, vocabulary, fingerprint, funnel),
            folder.path,
            fingerprint,
            num_shards=folder.num_shards,
            card=card.to_json(),
            funnel=funnel.to_json,
            replace=folder.replace,
        )
        progress.unlink()
    return written


def _records(
    asked: Sequence[Mapping[str, Any]],
    decoded: Sequence[Mapping[str, Any]],
    vocabulary: Vocabulary,
    fingerprint: Fingerprint,
    funnel: Funnel,
) -> Iterator[DistillRecord]:
    for line, found in zip(asked, decoded, strict=True):
        funnel.questions += 1
        solved = False
        for sample, steps in enumerate(found["steps"]):
            funnel.read += 1
            ids = np.asarray(steps["ids"], np.int32)
            reason = None
            if found["truncated"]:
                reason = "input_too_long"
            elif not len(ids) or ids[-1] != vocabulary.eos_id:
                reason = "cut_off"
            elif ids.max() >= vocabulary.rows:
                reason = "unaligned"
            if reason is not None:
                funnel.reject(reason)
                continue
            for stage in ("verified", "aligned", "kept"):
                setattr(funnel, stage, getattr(funnel, stage) + 1)
            solved = True
            yield DistillRecord(
                id=str(RecordId(str(line["id"]), str(sample), TEXT)),
                format=TEXT,
                inputs=line["input"],
                targets=found["texts"][sample],
                input_ids=np.asarray(vocabulary.encode(line["input"]), np.int32),
                target=_target(ids, steps, fingerprint),
            )
        funnel.solved += solved


def _target(
    ids: np.ndarray, steps: Mapping[str, Any], fingerprint: Fingerprint
) -> AlignedTarget:
    top = np.asarray(steps["top_ids"], np.int32).reshape(len(ids), fingerprint.k)
    logprobs = np.asarray(steps["top_logprobs"], np.float32).reshape(top.shape)
    # Rows of the embedding without a piece cannot be stored; their mass is the tail's.
    real = top < fingerprint.vocabulary_rows
    logprobs = np.minimum(np.where(real, logprobs, -np.inf), 0.0).astype(np.float32)
    # Rounding may make the sum of all ids a little more than 1.
    total = np.exp(logprobs.astype(np.float64)).sum(axis=1)
    over = np.log(np.maximum(total, 1.0))[:, None]
    logprobs = (logprobs - over).astype(np.float32)
    tail = np.maximum(1.0 - np.exp(logprobs.astype(np.float64)).sum(axis=1), 0.0)
    return AlignedTarget(
        ids=ids,
        teacher_ids=np.where(real, top, 0),
        teacher_logprobs=logprobs,
        tail=tail.astype(np.float32),
        origin=np.zeros(len(ids), np.int32),
    )
