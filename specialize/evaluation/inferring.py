"""Decodes a file of prompts into a file of texts (`specialize infer`)."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from specialize import config, outputs, paths, typed_json
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError
from specialize.evaluation.evaluate import digest
from specialize.inference.engine import Engine
from specialize.inference.resumable import decode_to_file
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import load_student, weights_digest
from specialize.progress import console


@dataclasses.dataclass(frozen=True)
class _Prompt:
    input: str


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
            `<out>.decoded.jsonl` until the end, and a rerun resumes from it; of an
            `out` in a bucket in the cache of this machine.
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
    vocabulary = read_vocabulary(
        config.place(vocabulary_path, "VOCABULARY_PATH", "VOCABULARY"),
        network=model.module.config,
    )
    student = load_student(model, checkpoint, mesh)
    engine = Engine(model.module, student.params, vocabulary, student.mesh, decoding)
    prompts = [line["input"] for line in asked]
    settings = {
        "prompts": digest(prompts),
        "weights": weights_digest(student.params),
        "vocabulary": vocabulary.sha256,
        **decoding.to_json(),
    }
    progress = _unfinished(out)
    decoded = decode_to_file(engine, prompts, progress, settings)
    if jax.process_index() == 0:
        lines: list[str] = []
        for line, found in zip(asked, decoded, strict=True):
            texts = found["texts"]
            answer = {**line, "prediction": texts[0] if len(texts) == 1 else texts}
            lines.append(json.dumps(answer, ensure_ascii=False) + "\n")
        outputs.write_text(out, "".join(lines))
        progress.unlink()
        cut = sum(found["truncated"] > 0 for found in decoded)
        if cut:
            console.print(
                f"{cut} prompts were longer than {decoding.input_length} tokens and "
                "lost their beginning; raise INPUT_LENGTH."
            )
    return len(asked)


def _unfinished(out: str | os.PathLike[str]) -> pathlib.Path:
    """The file of finished batches; on this machine also if `out` is in a bucket."""
    if not paths.in_bucket(out):
        return pathlib.Path(f"{os.fspath(out)}.decoded.jsonl")
    name = hashlib.sha256(os.fspath(out).encode()).hexdigest()[:32]
    return paths.folder() / "decoded" / f"{name}.jsonl"


def read_prompts(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads prompts from JSON lines (`.jsonl`, `.json`) or plain text.

    Returns:
        Dictionaries with "id", "input" and the other fields of their lines.

    Raises:
        InputError: With file and line: the file is unreadable, a line is not JSON or
            has no "input", an id occurs twice, or there is no prompt.
    """
    file = pathlib.Path(path)
    found: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for where, line in _lines(file):
        number = int(where.rpartition(":")[2])
        identity = str(line.get("id", number - 1))
        if identity in seen:
            raise InputError(
                f"{where}: id {identity!r} is at line {seen[identity]} too. Give every "
                "prompt another id."
            )
        seen[identity] = str(number)
        found.append({**line, "id": identity})
    if not found:
        raise InputError(f"{file} contains no prompt. Add one, or name another file.")
    return found


def _lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", object with "input")."""
    remedy = 'Write one object per line with a text in "input".'
    if file.suffix in (".jsonl", ".json"):
        for where, line in typed_json.read_lines(
            file, typed_json.Object, remedy=remedy
        ):
            typed_json.convert(line, _Prompt, where, remedy=remedy)
            yield where, line
        return
    try:
        text = typed_json.read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}). Save it as "
            "UTF-8."
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", {"input": line}
