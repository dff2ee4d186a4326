"""Specifications of a corpus: its sources, acceptance, alignment, records and folder.

`verify`, `align`, `write` and `build` take the same ones. The module is light, so that
command lines read their defaults here.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specialize import checks
from specialize.corpus.choices import (
    ALIGNMENTS,
    DIGITS,
    FORMATS,
    REASONING,
    UNWRITABLE,
)
from specialize.corpus.tasks.known import (
    find,
    index,
    licence_of,
    of_file,
    read_problems,
)
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

if TYPE_CHECKING:
    from specialize.corpus.records import Problem

Path = str | os.PathLike[str]

MAX_SHARDS = 1000


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files that samples come from.

    Attributes:
        problems: file of the questions, as the owner of the benchmark publishes it.
        completions: files of the teacher's completions: exports or notebook dumps. The
            later stages read what the stage before them wrote.
        task: how the problems are read: the name of a shipped task, a task file, its
            content, or a `TaskSpec`.
        teacher: name of the teacher; None takes it from the cards of `completions`.
        rationales: whether human rationales are samples too. They get one-hot rows.
        reasoning: what is done with what a teacher thinks before its answer, one of
            `REASONING`; None takes it from the cards, or else drops the reasoning.

    Raises:
        InputError: an unknown task or policy, or one file where a list of files is
            expected.
    """

    problems: Path
    completions: Sequence[Path] = ()
    task: TaskSpec | Path | Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: index().default
    )
    teacher: str | None = None
    rationales: bool = True
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.reasoning is not None:
            checks.one_of("reasoning", self.reasoning, REASONING)
        object.__setattr__(self, "task", find(self.task))
        if isinstance(self.completions, str | os.PathLike):
            raise InputError(
                f"completions is {os.fspath(self.completions)!r}, expected a list of "
                "files. Put the file in a list."
            )

    @property
    def spec(self) -> TaskSpec:
        """The task, with the type of the answers of the file of problems."""
        return of_file(find(self.task), self.problems)

    @property
    def judge(self) -> JudgeSpec:
        """The judge of the task."""
        return self.spec.judge

    def read(self) -> "list[Problem]":
        """Reads the problems.

        Raises:
            InputError: the file is malformed.
        """
        return read_problems(self.problems, self.spec)

    @property
    def label(self) -> str:
        """Name of the task and digest of its settings, for fingerprints."""
        return f"{self.spec.name}-{self.spec.digest}"

    def licences(self) -> dict[str, str]:
        """The licence of the problems, by the name of the task."""
        return {self.spec.name: licence_of(self.spec, self.problems)}


@dataclasses.dataclass(frozen=True)
class AcceptanceSpec:
    """Which samples are kept.

    Attributes:
        judge: the judge of final answers; None takes that of the task.
        near_duplicates: similarity in (0, 1]; a sample that is at least this similar
            to an earlier one of its question is rejected. None keeps all.
        max_samples: number of right samples to keep per question; None keeps all.

    Raises:
        InputError: a value outside its range.
    """

    judge: JudgeSpec | None = None
    near_duplicates: float | None = None
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if self.near_duplicates is not None:
            checks.real("near_duplicates", self.near_duplicates, above=0.0, most=1.0)
        checks.whole("max_samples", self.max_samples, optional=True)

    def judge_of(self, sources: Sources) -> JudgeSpec:
        """The judge of the samples of some files."""
        return self.judge or sources.judge

    @property
    def compares_samples(self) -> bool:
        """Whether a right sample may be rejected because of others of its question."""
        return self.near_duplicates is not None or self.max_samples is not None


@dataclasses.dataclass(frozen=True)
class AlignmentSpec:
    """How a teacher's tokens become rows over the student's pieces.

    Attributes:
        vocabulary: path of the student's SentencePiece model.
        rows: number of embedding rows of the student; None is the size of the
            vocabulary rounded up to a multiple of 128 (32128 for T5).
        k: number of entries that a teacher row has room for.
        method: one of `ALIGNMENTS`.
        unwritable: what becomes of text that the vocabulary cannot write, one of
            `UNWRITABLE`: rewritten as plain text (docs/explanation/plain_text.md), the
            sample dropped, or kept as <unk>.
        digits: "single" spells the numbers of targets with pieces of one digit;
            "whole" as the vocabulary does.

    Raises:
        InputError: an unknown method or choice, or a value outside its range.
    """

    vocabulary: Path
    rows: int | None = None
    k: int = 5
    method: str = "bytes"
    unwritable: str = "rewrite"
    digits: str = "whole"

    def __post_init__(self) -> None:
        checks.whole("rows", self.rows, optional=True)
        checks.whole("k", self.k)
        checks.one_of("alignment", self.method, ALIGNMENTS)
        checks.one_of("unwritable", self.unwritable, UNWRITABLE)
        checks.one_of("digits", self.digits, DIGITS)


@dataclasses.dataclass(frozen=True)
class RecordsSpec:
    """Which records are written of an accepted sample.

    Attributes:
        formats: prompt formats, some of `FORMATS`.
        demonstrations: number of demonstrations in an in-context prompt.
        demonstrations_from: file of the task to draw them from; None draws from the
            problems.
        seed: random seed of the draw.
        max_input_tokens: records with longer inputs are left out; None keeps all.
        max_target_tokens: records with longer targets (EOS included) are left out.

    Raises:
        InputError: an unknown format, or a value outside its range.
    """

    formats: Sequence[str] = FORMATS
    demonstrations: int = 4
    demonstrations_from: Path | None = None
    seed: int = 0
    max_input_tokens: int | None = None
    max_target_tokens: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown or not self.formats:
            raise InputError(f"formats {unknown} are not among {list(FORMATS)}.")
        checks.whole("demonstrations", self.demonstrations)
        for name in ("max_input_tokens", "max_target_tokens"):
            checks.whole(name, getattr(self, name), optional=True)

    @property
    def cot_formats(self) -> tuple[str, ...]:
        """The formats that every right sample gets, in the order of `FORMATS`."""
        return tuple(f for f in FORMATS if f in self.formats and f.endswith("_cot"))

    @property
    def answer_formats(self) -> tuple[str, ...]:
        """The formats that a question gets once, in the order of `FORMATS`."""
        return tuple(f for f in FORMATS if f in self.formats and not f.endswith("_cot"))


@dataclasses.dataclass(frozen=True)
class FolderSpec:
    """The folder that a corpus is written to.

    Attributes:
        path: new, empty, or an earlier corpus if `replace`.
        num_shards: number of files per format.
        replace: whether an earlier corpus may be replaced.

    Raises:
        InputError: more shards than `MAX_SHARDS`, or none.
    """

    path: Path
    num_shards: int = 4
    replace: bool = False

    def __post_init__(self) -> None:
        checks.whole("num_shards", self.num_shards)
        if self.num_shards > MAX_SHARDS:
            raise InputError(
                f"num_shards is {self.num_shards}, expected 1 to {MAX_SHARDS}."
            )
