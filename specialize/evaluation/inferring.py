"""Decodes a file of prompts into a file of texts (`specialize infer`)."""

import json
import os
from typing import Any

import jax

from specialize import outputs, paths
from specialize.inference.prompts import read_prompts
from specialize.inference.resumable import decode_to_file, unfinished
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import (
    decoding_settings,
    load_engine,
    prompts_digest,
)
from specialize.progress import console


def infer(
    model: Any,
    checkpoint: str,
    decoding: DecodingSpec,
    *,
    prompts_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    vocabulary_path: str | os.PathLike[str] | None = None,
    mesh: Any = None,
) -> int:
    """Decodes every prompt of a file.

    Args:
        model: The student.
        checkpoint: Weights in any layout that `specialize.load` reads.
        decoding: How texts are generated.
        prompts_path: JSON lines with "input" and optionally "id"; or plain text, one
            prompt per line.
        out: JSON lines with id, input and prediction (a list if several samples were
            requested), in the order of the prompts. Finished batches are kept in
            `<out>.decoded.jsonl` until the end, and a rerun resumes from it, if `out`
            is in a bucket on any machine.
        vocabulary_path: SentencePiece model of the student, or "byt5". None: the
            environment variable SPECIALIZE_VOCABULARY.
        mesh: The device mesh, in any spelling of `specialize.mesh`.

    Returns:
        The number of prompts.

    Raises:
        InputError: The prompts cannot be read, or the checkpoint does not fit.
    """
    if paths.scheme_of(out):
        paths.checked(out, "--out")
    asked = read_prompts(prompts_path)
    engine, vocabulary = load_engine(
        model, checkpoint, decoding, vocabulary_path=vocabulary_path, mesh=mesh
    )
    prompts = [line["input"] for line in asked]
    settings = decoding_settings(engine, vocabulary)
    settings["prompts"] = prompts_digest(prompts)
    with unfinished(out) as (progress, publish):
        decoded = decode_to_file(engine, prompts, progress, settings, publish=publish)
        if jax.process_index() == 0:
            lines: list[str] = []
            for line, found in zip(asked, decoded, strict=True):
                texts = found["texts"]
                answer = {**line, "prediction": texts[0] if len(texts) == 1 else texts}
                lines.append(json.dumps(answer, ensure_ascii=False) + "\n")
            outputs.write_text(out, "".join(lines))
            progress.unlink()
    if jax.process_index() == 0:
        cut = sum(found["truncated"] > 0 for found in decoded)
        if cut:
            console.print(
                f"{cut} prompts were longer than {decoding.input_length} tokens and "
                "lost their beginning; raise INPUT_LENGTH."
            )
    return len(asked)
