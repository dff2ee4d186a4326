"""Converts the training data that the paper's authors released to records.

They are pickles, one per format: lists of dicts with `question` (the whole encoder
text), `answer` (the decoder text), `answer_gold`, `answer_label` (1: correct), `type`,
and for chains of thought `per_step_probs`, one `{piece: probability}` per target piece.
They were aligned by dynamic time warping; its one-hot positions are `{piece: 1.0}`.
"""

import dataclasses
import functools
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from specialize.corpus.alignment.aligning import one_hot
from specialize.corpus.alignment.rows import SOFT, UNMATCHED, Rows, assemble
from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.building.parallel import default_processes, ordered_map
from specialize.corpus.building.passes import Part
from specialize.corpus.building.pipeline import write
from specialize.corpus.building.safe_pickle import load
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.plain_text.writer import AS_IT_IS, Writer
from specialize.corpus.records import PROBABILITY_SLACK, Fingerprint, Problem, RecordId
from specialize.corpus.spec import AlignmentSpec, FolderSpec
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.record_order import SpoolWriter
from specialize.corpus.vocabulary import Vocabulary, read_vocabulary
from specialize.errors import InputError
from specialize.progress import track

Path = str | os.PathLike[str]

_FORMATS = {
    "in_context_chain_of_thought": "in_context_cot",
    "in_context_answer_only": "in_context_answer_only",
    "zero_shot_chain_of_thought": "zero_shot_cot",
    "zero_shot_answer_only": "zero_shot_answer_only",
}
_CHUNK = 256

TEACHER = "code-davinci-002"
# The task whose training questions the authors asked.
TASK = "gsm8k"


class _Item(NamedTuple):
    """One entry of a pickle, with the problem and the sample that its record names."""

    problem: str
    sample: str
    where: str
    entry: Mapping[str, Any]


def import_released(
    paths: Sequence[Path],
    alignment: AlignmentSpec,
    folder: FolderSpec,
    *,
    problems: Sequence[Problem] = (),
    licence: str = cards.UNKNOWN,
    teacher: str = TEACHER,
    processes: int | None = None,
) -> Manifest:
    """Writes released pickles as a corpus.

    Args:
        paths: one or more pickles per format.
        alignment: vocabulary (T5's), embedding rows and K. The method is that of the
            release, "dtw".
        folder: the corpus folder.
        problems: GSM8K's training problems, whose ids the records get. A question that
            is not among them, or is spelled differently, gets a generated id.
        licence: of the problems' file, for the card.
        teacher: name of the teacher.
        processes: number of processes; does not change the result.

    Raises:
        InputError: a pickle holds more than plain data, an entry has another layout,
            or no sample is kept. The folder is unchanged.
    """
    if not paths:
        raise InputError("no pickle was named. Name one or more files.")
    shards.check_output(folder.path, replace=folder.replace)
    vocabulary = read_vocabulary(alignment.vocabulary, rows=alignment.rows)
    fingerprint = Fingerprint(
        vocabulary_sha256=vocabulary.sha256,
        vocabulary_rows=vocabulary.rows,
        k=alignment.k,
        teacher=teacher,
        alignment="dtw",
        demonstrations={"count": 4, "seed": None},
    )
    shards.check_fingerprint(fingerprint)
    card = cards.Card(
        teacher=teacher,
        sampling={"temperature": 0.5, "source": "released by the paper's authors"},
        licences={
            TASK: licence,
            "release": "MIT (FranxYao), if the pickles are those of its authors",
        },
        sources=[cards.source(path) for path in paths],
    )
    funnel = Funnel()
    workers = default_processes() if processes is None else processes

    def render(spool: str) -> Iterator[Part]:
        work = ordered_map(
            functools.partial(
                _convert, fingerprint=fingerprint, num_shards=folder.num_shards
            ),
            _chunks(paths, problems, funnel),
            processes=workers,
            prepare=_prepare,
            arguments=(alignment, spool),
        )
        yield from track(work, "import released records")

    return write(render, folder, fingerprint, card, funnel, processes=workers)


def convert(item: "_Item", vocabulary: Vocabulary, k: int) -> DistillRecord | str:
    """Returns one entry as a record, or why it is rejected (one of `funnel.REASONS`).

    Raises:
        InputError: the entry has another layout, or a value is not a probability.
    """
    entry, where = item.entry, item.where
    name = _FORMATS[entry["type"]]
    text = cast(str, entry["answer"]).strip()
    if entry.get("answer_label", 1) != 1:
        return "wrong_answer"
    if name.endswith("_cot"):
        steps = entry.get("per_step_probs")
        if not isinstance(steps, list):
            raise InputError(
                f"{where}: 'per_step_probs' is {type(steps).__name__}, expected a list "
                "of {piece: probability}."
            )
        ids = vocabulary.encode(text)
        steps = cast(list[Any], steps)
        if len(steps) != len(ids):
            # The release used another tokenizer version, or the text was cut.
            return "unaligned"
        masses: list[dict[int, float]] = []
        origins: list[int] = []
        for position, step in enumerate(steps):
            mass = _mass(step, vocabulary, f"{where}, position {position}")
            alone = len(step) == 1 and mass.get(ids[position], 0.0) >= 1.0
            masses.append(mass)
            origins.append(UNMATCHED if alone else SOFT)
        target = assemble(Rows(ids, masses, origins), vocabulary, k)
    else:
        target = one_hot(text, vocabulary, k)
    inputs = cast(str, entry["question"]).rstrip("\n")
    return DistillRecord(
        id=str(RecordId(item.problem, item.sample, name)),
        format=name,
        inputs=inputs,
        targets=text,
        input_ids=np.asarray(vocabulary.encode(inputs), np.int32),
        target=target,
    )


def query_of(inputs: str) -> str:
    """The question of an encoder text, after its demonstrations."""
    last = inputs.rstrip().rpartition("\n\n")[2]
    last = last.removeprefix("Q: ")
    for ending in ("\nLet's think step by step", "\nA:", " A:"):
        last = last.removesuffix(ending)
    return " ".join(last.split())


def _chunks(
    paths: Sequence[Path], problems: Sequence[Problem], funnel: Funnel
) -> Iterator[list[_Item]]:
    known = {" ".join(problem.question.split()): problem.id for problem in problems}
    made: dict[str, str] = {}
    samples: dict[tuple[str, str], int] = {}
    right: set[str] = set()
    for path in paths:
        value = load(path)
        if not isinstance(value, list):
            raise InputError(
                f"{path} holds a {type(value).__name__}, expected a list of dicts."
            )
        chunk: list[_Item] = []
        for index, entry in enumerate(cast(list[Any], value)):
            where = f"{path}#{index}"
            _check(entry, where)
            query = query_of(entry["question"])
            identity = known.get(query) or made.setdefault(
                query, f"released-{len(made)}"
            )
            key = (identity, entry["type"])
            sample = samples[key] = samples.get(key, -1) + 1
            chunk.append(_Item(identity, str(sample), where, entry))
            funnel.read += 1
            if entry.get("answer_label", 1) == 1:
                right.add(identity)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
    funnel.questions = len({identity for identity, _ in samples})
    funnel.solved = len(right)


def _check(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(
            f"{where}: holds a {type(entry).__name__}, expected a dict of the release."
        )
    for name in ("question", "answer", "type"):
        text = cast(dict[str, Any], entry).get(name)
        if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
            raise InputError(
                f"{where}: {name!r} holds half of a surrogate pair, which is no "
                "character. Correct or remove the entry."
            )
        if not isinstance(text, str):
            raise InputError(
                f"{where}: {name!r} is missing or not text; the entry has the keys "
                f"{reprlib.repr(list(cast(dict[Any, Any], entry)))}."
            )
    kind = cast(dict[str, str], entry)["type"]
    if kind not in _FORMATS:
        raise InputError(
            f"{where}: 'type' is {kind[:60]!r}, expected one of {sorted(_FORMATS)}."
        )


def _mass(step: Any, vocabulary: Vocabulary, where: str) -> dict[int, float]:
    """Probabilities by student id; the tail takes pieces that the student lacks."""
    if not isinstance(step, dict) or not step:
        name = ("an empty " if not step else "") + type(cast(object, step)).__name__
        raise InputError(f"{where}: expected {{piece: probability}}, found {name}.")
    mass: dict[int, float] = {}
    total = 0.0
    for piece, value in cast(dict[Any, Any], step).items():
        if (
            not isinstance(piece, str)
            or isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= 1 + PROBABILITY_SLACK
        ):
            raise InputError(
                f"{where}: {reprlib.repr(piece)} has probability "
                f"{reprlib.repr(value)}, expected 0 to 1."
            )
        total += value
        index = vocabulary.id_of(piece)
        if index is not None and value > 0:
            mass[index] = mass.get(index, 0.0) + value
    if total > 1 + PROBABILITY_SLACK:
        raise InputError(f"{where}: the probabilities sum to {total:.4f}, above 1.")
    return mass


def _prepare(alignment: AlignmentSpec, spool: str) -> tuple[Writer, SpoolWriter]:
    # The texts stay as they were aligned.
    return writer_of(dataclasses.replace(alignment, **AS_IT_IS)), SpoolWriter(spool)


def _convert(
    prepared: tuple[Writer, SpoolWriter],
    items: list[_Item],
    *,
    fingerprint: Fingerprint,
    num_shards: int,
) -> Part:
    writer, spool = prepared
    spelling = SpellingCounts()
    records: list[DistillRecord] = []
    rejected: list[str] = []
    for item in items:
        done = convert(item, writer.vocabulary, fingerprint.k)
        if isinstance(done, str):
            rejected.append(done)
        else:
            records.append(done)
            if done.format.endswith("_cot"):
                spelling.add(writer.counts(done.targets))
    spooled = spool.append(records, fingerprint, num_shards)
    verified = len(items) - rejected.count("wrong_answer")
    return Part(
        spooled,
        len(records),
        len(records),
        rejected,
        [],
        verified,
        spelling=spelling,
    )
