"""Counts of samples that were read and kept, and the reasons for rejection."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from specialize import typed_json
from specialize.corpus.plain_text.counting import BY_NAME, SpellingCounts, shown
from specialize.errors import InputError
from specialize.typed_json import Count

STAGES = ("read", "verified", "aligned", "kept")

# The reasons for rejecting a sample, in words. The keys are stored in manifests.
REASONS = {
    "tokens_do_not_spell_the_text": "its tokens do not spell its text",
    "unexpected_beginning": "does not begin with the end of its prompt",
    "unfinished": "does not end as a finished answer does",
    "cut_off": "cut off or refused by the server",
    "only_reasoning": "reasoning without an answer",
    "reasoning": "holds reasoning, which is to be refused",
    "empty": "no text",
    "no_gold": "its question has no gold answer",
    "no_answer": "states no answer",
    "wrong_answer": "wrong answer",
    "unwritable": "has characters that the student cannot write",
    "not_right_as_spelt": "not right as the student would spell it",
    "near_duplicate": "nearly the same as an earlier sample of its question",
    "over_budget": "more samples of its question than asked for",
    "unaligned": "could not be aligned with the student's tokens",
    "input_too_long": "encoder text too long",
    "target_too_long": "decoder text too long",
    "not_wanted": "only answer-only formats asked for, and not its question's first",
}


@dataclasses.dataclass
class Counts:
    """Counts of the samples of one source.

    Attributes:
        read: samples found in the input.
        verified: of those, samples with the right answer.
        aligned: of those, samples whose text could be aligned.
        kept: of those, samples with at least one record.
        rejected: number of samples by reason. read = kept + all rejected.
        dropped: number of records left out, by format and reason; their samples may
            have other records.
        questions: questions with at least one sample.
        solved: of those, questions with a correct sample.
        reasoned: samples whose reasoning was set apart from the answer.
        spelling: what the student cannot write of the right samples.
    """

    read: Count = 0
    verified: Count = 0
    aligned: Count = 0
    kept: Count = 0
    rejected: dict[str, Count] = dataclasses.field(default_factory=dict[str, int])
    dropped: dict[str, dict[str, Count]] = dataclasses.field(
        default_factory=dict[str, dict[str, int]]
    )
    questions: Count = 0
    solved: Count = 0
    reasoned: Count = 0
    spelling: SpellingCounts = dataclasses.field(default_factory=SpellingCounts)

    @property
    def right(self) -> int:
        """Samples with the right answer as the teacher wrote it.

        The verified ones are also right as the student would spell them.
        """
        return self.verified + sum(self.rejected.get(name, 0) for name in _SPELLING)

    def reject(self, reason: str, count: int = 1) -> None:
        """Counts samples that were rejected for `reason`, one of `REASONS`."""
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not one of {sorted(REASONS)}")
        self.rejected[reason] = self.rejected.get(reason, 0) + count

    def drop(self, format: str, reason: str, count: int = 1) -> None:
        """Counts records of one format that were left out for `reason`."""
        reasons = self.dropped.setdefault(format, {})
        reasons[reason] = reasons.get(reason, 0) + count

    def add(self, other: "Counts") -> None:
        """Adds the counts over other samples of this source."""
        for name in (*STAGES, "questions", "solved", "reasoned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.spelling.add(other.spelling)
        for reason, count in other.rejected.items():
            self.reject(reason, count)
        for name, reasons in other.dropped.items():
            for reason, count in reasons.items():
                self.drop(name, reason, count)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest, reasons in a fixed order."""
        value = {name: getattr(self, name) for name in (*STAGES, "questions", "solved")}
        rejected = {r: self.rejected[r] for r in REASONS if r in self.rejected}
        dropped = {n: dict(sorted(self.dropped[n].items())) for n in self.dropped}
        value |= {"reasoned": self.reasoned} if self.reasoned else {}
        spelling = self.spelling.to_json()
        return (
            value
            | {"rejected": rejected, "dropped": dict(sorted(dropped.items()))}
            | ({"spelling": spelling} if spelling else {})
        )


@dataclasses.dataclass
class Funnel(Counts):
    """Counts of a teacher's samples, and apart from them those of human rationales.

    Attributes:
        human: the same counts of human rationales; None if there are none. A corpus of
            version 0.1 counts them with the teacher's samples.
    """

    human: Counts | None = None

    def of(self, *, human: bool) -> Counts:
        """The counts of human rationales, or of the teacher's samples."""
        if not human:
            return self
        self.human = self.human or Counts()
        return self.human

    def total(self) -> Counts:
        """The counts of both."""
        total = Counts()
        for part in (self, self.human or Counts()):
            total.add(part)
        return total

    def merge(self, other: "Funnel") -> None:
        """Adds the counts over other samples."""
        self.add(other)
        if other.human is not None:
            self.of(human=True).add(other.human)

    def follow(self, earlier: "Funnel") -> None:
        """Adds what the earlier stages rejected before they passed these samples."""
        self.read += earlier.read - earlier.kept
        self.verified += earlier.verified - earlier.kept
        self.reasoned += earlier.reasoned
        self.questions = max(self.questions, earlier.questions)
        self.solved = max(self.solved, earlier.solved)
        for reason, count in earlier.rejected.items():
            self.reject(reason, count)
        self.spelling.add(earlier.spelling)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest; `human` only if there are rationales."""
        human = {} if self.human is None else {"human": self.human.to_json()}
        return super().to_json() | human

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: object) -> "Funnel":
        """Reads what `to_json` wrote; `where` names its file in messages.

        Raises:
            InputError: it is not the funnel of a file of ours.
        """
        # A copy: counts are added to the funnel, and `value` may be a manifest's.
        funnel = typed_json.convert(dict(value), cls, f"{where}: funnel")
        total = funnel.total()
        reasons = {
            *total.rejected,
            *(r for part in total.dropped.values() for r in part),
        }
        if reasons - REASONS.keys():
            raise InputError(
                f"{where}: the funnel has unknown reasons "
                f"{sorted(reasons - REASONS.keys())}. Make the file again."
            )
        return funnel

    def table(
        self, records: Mapping[str, int] | None = None, *, judged: bool = True
    ) -> Table:
        """The funnel as a table, with the records written per format below it.

        Args:
            records: number of records by format. None: they are not shown.
            judged: whether the answers were compared with right ones.
        """
        parts = [self] if self.human is None else [self, self.human]
        table = Table(title="Funnel", title_justify="left", show_header=True)
        table.add_column("samples")
        table.add_column("count" if self.human is None else "teacher", justify="right")
        table.add_column("of read", justify="right")
        if self.human is not None:
            table.add_column("human", justify="right")

        def row(label: str, counts: Sequence[int], *, of: int = 0) -> None:
            first, *others = (f"{count:,}" for count in counts)
            share = f"{100 * counts[0] / of:.1f} %" if of else ""
            table.add_row(label, first, share, *others)

        total = self.total()
        compared = total.spelling.to_json() or total.right > total.verified
        for stage in ("read", "right", *STAGES[1:]):
            if stage == "right" and not compared:
                continue  # a text was not compared with its spelling
            if judged or stage != "verified":
                row(stage, [getattr(part, stage) for part in parts], of=self.read)
            if stage == "read" and any(part.reasoned for part in parts):
                reasoned = [part.reasoned for part in parts]
                row("  with reasoning apart", reasoned, of=self.read)
            for reason in _REJECTED_BEFORE.get(stage, ()):
                counts = [part.rejected.get(reason, 0) for part in parts]
                if any(counts):
                    row(f"  - {REASONS[reason]}", counts, of=self.read)
        table.add_section()
        spellings = [part.spelling for part in parts]
        for label, name in SPELLING_ROWS.items():
            counts = [size(spelling, name) for spelling in spellings]
            if any(counts):
                of = self.spelling.number_pieces if "soft" in name else 0
                row(label, counts, of=of)
        table.caption = by_character(total.spelling)
        table.caption_justify = "left"
        table.add_section()
        row("questions with a sample", [part.questions for part in parts])
        one = "a right one" if judged else "a whole answer"
        row(f"questions with {one}", [part.solved for part in parts])
        table.add_section()
        both = "" if self.human is None else " of both"
        for name, count in (records or {}).items():
            row(f"records {name}{both}", [count])
            dropped = [part.dropped.get(name, {}) for part in parts]
            for reason in dict.fromkeys(reason for one in dropped for reason in one):
                counts = [one.get(reason, 0) for one in dropped]
                row(f"  - {REASONS[reason]}", counts)
        return table


# What the student's vocabulary cannot write of the right samples.
SPELLING_ROWS = {
    "with unwritable characters": "samples",
    "  characters": "characters",
    "rewritten as plain text": "rewritten_samples",
    "with <unk> for the student": "lost_samples",
    "  characters made <unk>": "lost",
    "with newlines made spaces": "newline_samples",
    "  newlines": "newlines",
    "number pieces": "number_pieces",
    "  with a soft row, of them": "soft_number_pieces",
}


def size(spelling: SpellingCounts, name: str) -> int:
    """The count of one of `SPELLING_ROWS`."""
    if name in BY_NAME:
        return sum(spelling.by_name(name).values())
    return getattr(spelling, name)


def by_character(spelling: SpellingCounts) -> Text | None:
    """Which characters cannot be written, in lines below a table."""
    lines = [
        f"{label}: {shown(counts)}"
        for label, counts in (
            ("cannot be written", spelling.characters),
            ("rewritten", spelling.rewritten),
            ("<unk>", spelling.lost),
        )
        if counts
    ]
    # No markup: the signs are the teacher's.
    return Text("\n".join(lines)) if lines else None


# The reasons for rejection between a stage and the next, for the table.
_VERIFY = (
    "tokens_do_not_spell_the_text",
    "unexpected_beginning",
    "unfinished",
    "cut_off",
    "only_reasoning",
    "reasoning",
    "empty",
    "no_gold",
    "no_answer",
    "wrong_answer",
)
_SPELLING = ("unwritable", "not_right_as_spelt")
_REJECTED_BEFORE = {
    "read": _VERIFY,
    "right": _SPELLING,
    "verified": ("near_duplicate", "over_budget", "not_wanted", "unaligned"),
    "aligned": ("input_too_long", "target_too_long"),
}
