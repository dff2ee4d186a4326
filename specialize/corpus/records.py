"""What a corpus is made from: problems and completions; and its fingerprint."""

import dataclasses
import hashlib
import json
import math
from typing import Annotated, Any, NamedTuple

import msgspec

from specialize import typed_json, versions
from specialize.corpus.choices import RECORD_FORMATS
from specialize.corpus.wording import PAPER, Wording
from specialize.errors import InputError
from specialize.renamed import moved_names

# A batch holds `FORMAT_IDS[format]` at every target position; 0 means "none" (padding,
# evaluation).
FORMAT_IDS = {name: index for index, name in enumerate(RECORD_FORMATS, start=1)}

# Probabilities arrive rounded (the paper's to 4 decimals, others as bfloat16). A sum
# may exceed 1 by this much; it is then scaled down to 1.
PROBABILITY_SLACK = 1e-2


class RecordId(NamedTuple):
    """The id of a record, "<problem>/<sample>/<format>".

    The id of a problem may have slashes, such as "test/algebra/4.json"; what follows it
    has none.

    Attributes:
        problem: id of the `Problem`, or of the line of text.
        sample: number of the sample, or "human"; "" in ids that are no record's.
        format: one of `choices.RECORD_FORMATS`; "" in ids that are no record's.

    Example:
        >>> RecordId.read("gsm8k-train-7/3/zero_shot_cot").problem
        'gsm8k-train-7'
    """

    problem: str
    sample: str
    format: str

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def read(cls, text: str) -> "RecordId":
        """The parts of an id; one of another form is a problem's as a whole."""
        parts = text.rsplit("/", 2)
        return cls(*parts) if len(parts) == len(cls._fields) else cls(text, "", "")


Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One question of a benchmark, as its owner published it.

    Attributes:
        id: unique within its file, for example "gsm8k-train-17".
        question: the text, stripped.
        answers: accepted final answers as text: several if the benchmark gives
            several, none if it has no usable answer.
        rationale: the human solution without calculator marks, or None.
        source: "file:line" or "file#record", for messages.
        wording: how prompts and targets are written.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    rationale: str | None = None
    source: str = ""
    wording: Wording = dataclasses.field(default=PAPER, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class TeacherToken:
    """One sampled teacher token and the alternatives that the teacher reported.

    Attributes:
        token: UTF-8 bytes; a byte-level tokenizer may split a character.
        logprob: natural logarithm of its probability.
        top: (bytes, logprob) alternatives, most probable first, each token once,
            including the sampled one.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of its distribution, as where a cut divided it."""
        return not self.top and self.logprob == -math.inf


# The "sample" of a human rationale; it sorts before every sample of a teacher.
HUMAN = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """One text that a teacher generated.

    Attributes:
        problem_id: id of the `Problem` that it answers.
        sample: number of the sample, 0-based, unique within the problem.
        text: the whole text as the teacher returned it.
        tokens: its tokens with alternatives; None if the teacher reports none (human
            rationales), which makes every position one-hot.
        finish_reason: "stop", "length" or what the server sent.
        reasoning: number of characters at the beginning of `text` that are reasoning
            before the answer (`reasoning`).
    """

    problem_id: str
    sample: int
    text: str
    tokens: tuple[TeacherToken, ...] | None = None
    finish_reason: str = "stop"
    reasoning: int = 0

    @property
    def answer(self) -> str:
        """The text without its reasoning, which is what a judge reads."""
        return self.text[self.reasoning :]


# What servers write when the teacher ended its text itself, or at a stop text. Every
# other word ("length", "max_tokens", "content_filter", "abort", "error", ...) means
# that the text was cut or refused.
_ENDED = frozenset(
    "stop stopped eos eos_token eos_found end_turn end_of_text end stop_sequence "
    "stop_token stop_str stop_word stop_words matched_stop complete completed "
    "done finish finished success normal".split()
)


def is_whole(finish_reason: str) -> bool:
    """Whether the teacher ended a text, so that the last answer in it is its answer."""
    return finish_reason.strip().lower() in _ENDED


# Why a target position is soft (index 0) or one-hot (all others).
ORIGINS = (
    "soft",
    "no_distribution",  # none is reported (human rationale, answer-only, cut token)
    "eos",
    "unmatched",  # dtw: several teacher tokens, or another string
    "undetermined",  # bytes: the teacher's tokens do not determine this piece
    "unknown_piece",  # corpora of version 0.1: the vocabulary cannot write it
)

# Fields of a fingerprint that 0.1 did not have.
_NEWER = ("task", "spelling")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Everything that must be equal before two parts of a run may be combined.

    Attributes:
        vocabulary_sha256: digest of the SentencePiece model file.
        vocabulary_rows: rows of the student's embedding (32128 for T5).
        k: number of entries that a teacher row has room for.
        teacher: name of the teacher, for example "human" or "code-davinci-002".
        alignment: "bytes" or "dtw".
        prompt_sha256: digest of the teacher's prompt prefix ("" if there is none).
        sampling: temperature, top_p, seed, n and logprob convention, as JSON values.
        demonstrations: number and seed of in-context demonstrations.
        task: name of the task, and digest of what determines its records; "" in corpora
            of version 0.1.
        spelling: what becomes of text that the vocabulary cannot write, the version of
            the table, and how digits are spelled, as `plain_text.writer.description`
            returns it; empty as in version 0.1, which kept it as <unk>.
        record_version: layout of the records on disk.
    """

    vocabulary_sha256: str
    vocabulary_rows: Positive
    k: Positive
    teacher: str
    alignment: str
    prompt_sha256: str = ""
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    demonstrations: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    task: str = ""
    spelling: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    record_version: int = versions.CORPUS.writes

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest.

        Fields that 0.1 did not have are left out if they are empty, so that its corpora
        keep their digests.
        """
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if v or k not in _NEWER}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> "Fingerprint":
        """Reads the object that `to_json` wrote; `where` names its file in messages.

        Raises:
            InputError: fields are missing or unknown, or the records have another
                version.
        """
        versions.CORPUS.check(value.get("record_version", 1), where)
        known = {field.name for field in dataclasses.fields(cls)}
        required = {
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        }
        if required - value.keys() or value.keys() - known:
            raise InputError(
                f"{where}: fingerprint lacks {sorted(required - value.keys())} and has "
                f"unknown {sorted(value.keys() - known)}. Rebuild the corpus."
            )
        return typed_json.convert(
            value, cls, f"{where}: fingerprint", remedy="Rebuild the corpus."
        )

    def digest(self) -> str:
        """Short hexadecimal digest of all fields."""
        text = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def require(self, where: str, **expected: Any) -> None:
        """Refuses a corpus that does not fit.

        Args:
            where: the file or folder of this fingerprint.
            **expected: fields and the values that they must have.

        Raises:
            InputError: naming every field that differs, with both values.
        """
        differing = [
            f"{name} is {getattr(self, name)!r}, expected {value!r}"
            for name, value in expected.items()
            if getattr(self, name) != value
        ]
        if differing:
            raise InputError(
                f"{where} does not fit this run: {'; '.join(differing)}. Rebuild it "
                "with 'specialize corpus build', or use what it was built with."
            )


_TARGETS = "corpus.alignment.targets"  # they need numpy, which takes long to import
__getattr__ = moved_names(
    __name__, {"AlignedTarget": _TARGETS, "DistillRecord": _TARGETS}
)
