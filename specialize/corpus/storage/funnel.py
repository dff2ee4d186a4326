"""Counts of samples that were read and kept, and the reasons for rejection."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from specialize import typed_json
from specialize.errors import InputError
from specialize.typed_json import Count

STAGES = ("read", "verified", "aligned", "kept")

# The reasons for rejecting a sample, in words. The keys are stored in manifests.
REASONS = {
    "tokens_do_not_spell_the_text": "its tokens do not spell its text",
    "unexpected_beginning": "does not begin with the end of its prompt",
    "unfinished": "does not end as a finished answer does",
    "cut_off": "cut off or refused by the server",
    "empty": "no text",
    "no_gold": "its question has no gold answer",
    "no_answer": "states no answer",
    "wrong_answer": "wrong answer",
    "near_duplicate": "nearly the same as an earlier sample of its question",
    "over_budget": "more samples of its question than asked for",
    "unaligned": "could not be aligned with the student's tokens",
    "input_too_long": "encoder text too long",
    "target_too_long": "decoder text too long",
    "not_wanted": "only answer-only formats asked for, and not its question's first",
}


@dataclasses.dataclass
class Funnel:
    """Counts of samples; human rationales are samples too.

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

    def reject(self, reason: str, count: int = 1) -> None:
        """Counts samples that were rejected for `reason`, one of `REASONS`."""
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not one of {sorted(REASONS)}")
        self.rejected[reason] = self.rejected.get(reason, 0) + count

    def drop(self, format: str, reason: str, count: int = 1) -> None:
        """Counts records of one format that were left out for `reason`."""
        reasons = self.dropped.setdefault(format, {})
        reasons[reason] = reasons.get(reason, 0) + count

    def merge(self, other: "Funnel") -> None:
        """Adds the counts over other samples."""
        for name in (*STAGES, "questions", "solved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.rejected.items():
            self.reject(reason, count)
        for name, reasons in other.dropped.items():
            for reason, count in reasons.items():
                self.drop(name, reason, count)

    def follow(self, earlier: "Funnel") -> None:
        """Adds the rejections of the earlier stages that these samples passed."""
        self.read += earlier.read - earlier.kept
        self.verified += earlier.verified - earlier.kept
        for reason, count in earlier.rejected.items():
            self.reject(reason, count)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest, reasons in a fixed order."""
        value = dataclasses.asdict(self)
        value["rejected"] = {
            reason: self.rejected[reason]
            for reason in REASONS
            if reason in self.rejected
        }
        value["dropped"] = {
            name: dict(sorted(self.dropped[name].items()))
            for name in sorted(self.dropped)
        }
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: object) -> "Funnel":
        """Reads what `to_json` wrote; `where` names its file in messages.

        Raises:
            InputError: it is not the funnel of a file of ours.
        """
        # A copy: counts are added to the funnel, and `value` may be a manifest's.
        funnel = typed_json.convert(dict(value), cls, f"{where}: funnel")
        reasons = funnel.rejected.keys() | {
            reason for part in funnel.dropped.values() for reason in part
        }
        if reasons - REASONS.keys():
            raise InputError(
                f"{where}: the funnel has unknown reasons "
                f"{sorted(reasons - REASONS.keys())}. Make the file again."
            )
        return funnel

    def table(self, records: Mapping[str, int] | None = None) -> Table:
        """The funnel as a table, with the records written per format below it."""
        table = Table(title="Funnel", title_justify="left", show_header=True)
        table.add_column("samples")
        table.add_column("count", justify="right")
        table.add_column("of read", justify="right")
        for stage in STAGES:
            self._row(table, stage, getattr(self, stage))
            gone = _REJECTED_BEFORE.get(stage, ())
            for reason in (r for r in gone if r in self.rejected):
                self._row(table, f"  - {REASONS[reason]}", self.rejected[reason])
        table.add_section()
        table.add_row("questions with a sample", f"{self.questions:,}", "")
        table.add_row("questions with a right one", f"{self.solved:,}", "")
        if records:
            table.add_section()
            for name, count in records.items():
                table.add_row(f"records {name}", f"{count:,}", "")
                for reason, gone in self.dropped.get(name, {}).items():
                    table.add_row(f"  - {REASONS[reason]}", f"{gone:,}", "")
        return table

    def _row(self, table: Table, label: str, count: int) -> None:
        share = f"{100 * count / self.read:.1f} %" if self.read else ""
        table.add_row(label, f"{count:,}", share)


# The reasons for rejection between a stage and the next, for the table.
_VERIFY = (
    "tokens_do_not_spell_the_text",
    "unexpected_beginning",
    "unfinished",
    "cut_off",
    "empty",
    "no_gold",
    "no_answer",
    "wrong_answer",
)
_REJECTED_BEFORE = {
    "read": _VERIFY,
    "verified": ("near_duplicate", "over_budget", "not_wanted", "unaligned"),
    "aligned": ("input_too_long", "target_too_long"),
}
