"""What an import kept and lost: counts, tables, and examples before and after."""

import collections
import dataclasses

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.records import Completion, Problem
from specialize.corpus.storage.funnel import (
    REASONS,
    SPELLING_ROWS,
    by_character,
    size,
)
from specialize.errors import visible

EXAMPLES = 3
_LONGEST = 400

# Why a completion of a file is not written, in words.
LOSSES = {
    "no_match": "answers none of the questions",
    "unknown_layout": "has no known layout (see --text_field)",
    "malformed": "not as its layout says",
    "error": "the server returned an error",
    "no_text": "refused by the teacher",
    "only_reasoning": REASONS["only_reasoning"],
    "no_logprobs": "no log-probabilities (see --without_logprobs)",
    "bad_logprobs": "invalid log-probabilities",
    "tokens_differ": REASONS["tokens_do_not_spell_the_text"],
    "tokens_do_not_spell_the_text": REASONS["tokens_do_not_spell_the_text"],
    "unexpected_beginning": REASONS["unexpected_beginning"],
    "unfinished": REASONS["unfinished"],
}


@dataclasses.dataclass(frozen=True)
class Example:
    """One completion before and after.

    Attributes:
        where: "file:line".
        problem: the question.
        before: as the file has it.
        after: as it is written, or None if it is not.
        verdict: what the judge says of it, or None.
    """

    where: str
    problem: Problem
    before: Completion
    after: Completion
    verdict: str | None


@dataclasses.dataclass
class Report:
    """The counts of an import.

    Attributes:
        written: completions in the output.
        layouts: number of objects of each layout.
        lost: number of completions that are not written, by reason.
        found: the first places and details of each reason.
        judged: number of written completions by the judge's reason; "" is right.
        reasoned: written completions whose reasoning was set apart.
        one_hot: written completions without log-probabilities.
        divided: written completions with a token whose distribution is unknown, such as
            one that a cut divides; its rows are one-hot.
        spelling: what the student cannot write of the right completions, if its
            vocabulary is known.
        examples: the first completions.
        models: names of teachers in the files.
    """

    written: int = 0
    layouts: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter[str]
    )
    lost: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter[str]
    )
    found: dict[str, list[str]] = dataclasses.field(
        default_factory=dict[str, list[str]]
    )
    judged: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter[str]
    )
    reasoned: int = 0
    one_hot: int = 0
    divided: int = 0
    spelling: SpellingCounts = dataclasses.field(default_factory=SpellingCounts)
    examples: list[Example] = dataclasses.field(default_factory=list[Example])
    models: set[str] = dataclasses.field(default_factory=set[str])

    @property
    def read(self) -> int:
        """Number of completions found."""
        return self.written + self.lost.total()

    def lose(self, reason: str, detail: str) -> None:
        """Counts a completion that is not written."""
        self.lost[reason] += 1
        found = self.found.setdefault(reason, [])
        if len(found) < EXAMPLES:
            found.append(detail)

    def losses(self) -> str:
        """The reasons with counts and first places, in one text."""
        return "; ".join(
            f"{count:,} {LOSSES[reason]} ({_first(self.found[reason])})"
            for reason, count in self.lost.most_common()
        )

    def tables(self) -> RenderableType:
        """The report for a terminal."""
        table = Table(title="Import", title_justify="left")
        table.add_column("completions")
        table.add_column("count", justify="right")
        table.add_column("of read", justify="right")

        def row(label: str, count: int) -> None:
            share = f"{100 * count / self.read:.1f} %" if self.read else ""
            table.add_row(label, f"{count:,}", share)

        layouts = ", ".join(f"{n} {c:,}" for n, c in sorted(self.layouts.items()))
        row(f"read ({layouts or 'no layout'})", self.read)
        for reason, count in self.lost.most_common():
            row(f"  - {LOSSES[reason]}", count)
        row("written", self.written)
        for label, count in (
            ("reasoning set apart", self.reasoned),
            ("without log-probabilities: one-hot", self.one_hot),
            ("with a token without distribution", self.divided),
        ):
            if count:
                row(f"  {label}", count)
        table.add_section()
        row("right, as 'verify' judges", self.judged[""])
        for reason, count in self.judged.most_common():
            if reason:
                row(f"  - {REASONS[reason]}", count)
        table.add_section()
        for label, name in SPELLING_ROWS.items():
            if count := size(self.spelling, name):
                table.add_row(label, f"{count:,}")
        table.caption, table.caption_justify = by_character(self.spelling), "left"
        return Group(table, *self._places())

    def shown(self) -> RenderableType:
        """The first examples, before and after."""
        parts: list[Text] = []
        for one in self.examples:
            verdict = "right" if one.verdict is None else REASONS[one.verdict]
            sample = f"{one.problem.id}/{one.after.sample}"
            parts.append(Text(f"\n{one.where} -> {sample}: {verdict}", style="bold"))
            parts.append(Text(f"before: {_shown(_raw(one.before))}"))
            parts.append(Text(f"after:  {_shown(one.after.text)}"))
            tokens = one.after.tokens
            rows = "one-hot rows" if tokens is None else f"{len(tokens):,} tokens"
            parts.append(Text(f"        {rows}, ended {one.after.finish_reason!r}"))
        return Group(*parts)

    def _places(self) -> list[Text]:
        return [
            Text(f"{LOSSES[reason]}: {count:,}, first {_first(self.found[reason])}")
            for reason, count in self.lost.most_common()
        ]


def _raw(completion: Completion) -> str:
    """A text as it was, with a bar where a server sent its reasoning apart."""
    border = completion.reasoning
    if not border:
        return completion.text
    return f"{completion.text[:border]} | {completion.text[border:]}"


def _first(details: list[str]) -> str:
    return " / ".join(_shown(one, 200) for one in details)


def _shown(text: str, longest: int = _LONGEST) -> str:
    flat = visible(text).replace("\n", "\\n")
    half = longest // 2
    return flat if len(flat) <= longest else f"{flat[:half]} ... {flat[-half:]}"
