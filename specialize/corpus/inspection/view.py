"""One sample in detail: teacher tokens and student pieces, before and after alignment.

Teacher tokens and student pieces both tile the bytes of a text. Where both have a
boundary at the same byte, one alignment group ends and the next begins; a group holds
the tokens and pieces whose bytes overlap. For every piece the view shows what the
teacher reported (top-k over its own tokens), what the student learns (top-k over
student ids, and the tail), and why.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from specialize import errors
from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.plain_text.machine import Machine
from specialize.corpus.plain_text.tokens import rewrite
from specialize.corpus.records import ORIGINS, Completion, TeacherToken
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

# Neighbouring groups differ in colour; terminals and pages use the same order.
_TERMINAL = ("cyan", "yellow", "green", "magenta", "blue", "red")
_PAGE = ("#cfe8f3", "#fdebc8", "#d3ecd3", "#f0d5ec", "#d8dcf5", "#f8d4d0")

REASONS = {
    "soft": "the teacher's tokens determine it",
    "no_distribution": "one-hot, the teacher reports no probabilities",
    "eos": "one-hot, the end of the target",
    "unmatched": "one-hot, dtw found no single equal teacher token",
    "undetermined": "one-hot, the teacher's tokens do not determine this piece",
    "unknown_piece": "one-hot, the student's vocabulary cannot write it (0.1)",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """An alternative and its probability."""

    text: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Before:
    """A teacher token: what was sampled, and its alternatives."""

    text: str
    probability: float
    top: tuple[Option, ...]


@dataclasses.dataclass(frozen=True)
class After:
    """A student position: its piece, and what the student learns there."""

    position: int
    piece: str
    top: tuple[Option, ...]
    tail: float
    origin: str

    @property
    def why(self) -> str:
        """Why the position is soft or one-hot, in words."""
        return REASONS[self.origin]


@dataclasses.dataclass(frozen=True)
class Group:
    """Teacher tokens and student pieces whose bytes overlap."""

    number: int
    tokens: tuple[Before, ...]
    positions: tuple[After, ...]

    @property
    def colour(self) -> str:
        """Its colour on a page."""
        return _PAGE[self.number % len(_PAGE)]

    @property
    def style(self) -> str:
        """Its style on a terminal."""
        return _TERMINAL[self.number % len(_TERMINAL)]


@dataclasses.dataclass(frozen=True)
class View:
    """Everything that a terminal or a page shows of one sample.

    Attributes:
        title: id of the sample.
        inputs: encoder text, "" if only the alignment is shown.
        targets: the text that is aligned.
        groups: the alignment groups in the order of the text.
    """

    title: str
    inputs: str
    targets: str
    groups: tuple[Group, ...]

    @property
    def soft_share(self) -> float:
        """Share of soft positions, without EOS, 0 to 1."""
        origins = [p.origin for g in self.groups for p in g.positions]
        counted = [origin for origin in origins if origin != "eos"]
        return counted.count("soft") / len(counted) if counted else 0.0


def view(
    title: str,
    text: str,
    target: AlignedTarget,
    vocabulary: Vocabulary,
    *,
    tokens: Sequence[TeacherToken] = (),
    inputs: str = "",
    machine: Machine | None = None,
) -> View:
    """Matches one target with the teacher's tokens.

    Args:
        title: id of the sample.
        text: the target's text, which the tokens spell after `machine` rewrote them.
        target: the aligned target.
        vocabulary: the student's vocabulary.
        tokens: the teacher's tokens; empty if they are unknown.
        inputs: encoder text to show, if any.
        machine: rewrites the tokens as the student writes them.

    Raises:
        InputError: the tokens do not spell the text, or the target has other ids.
    """
    written = _written(tokens, machine)
    if tokens and b"".join(written) != text.encode():
        raise InputError(
            f"{title}: the tokens do not spell the text. Name the completions that the "
            "corpus was built from."
        )
    if target.ids.tolist() != [*vocabulary.encode(text), vocabulary.eos_id]:
        raise InputError(
            f"{title}: its ids are not those of {vocabulary.path} for its text. Name "
            "the vocabulary that the corpus was built with."
        )
    spans = vocabulary.spans(text)
    piece_ends = [span.end for span in spans]
    token_ends = list(itertools.accumulate(map(len, written)))
    cuts = sorted(set(piece_ends) & set(token_ends) if tokens else set(piece_ends))
    members: list[tuple[list[Before], list[After]]] = [([], []) for _ in cuts]
    for token, end in zip(tokens, token_ends, strict=True):
        members[bisect.bisect_left(cuts, end)][0].append(_before(token))
    for position, end in enumerate(piece_ends):
        group = members[bisect.bisect_left(cuts, end)][1]
        group.append(_after(position, target, vocabulary))
    eos = _after(len(target.ids) - 1, target, vocabulary)
    groups = [
        Group(number, tuple(before), tuple(after))
        for number, (before, after) in enumerate([*members, ([], [eos])])
    ]
    return View(title, inputs, text, tuple(groups))


def _written(tokens: Sequence[TeacherToken], machine: Machine | None) -> list[bytes]:
    """What each token writes."""
    written = [token.token for token in tokens]
    found = machine and rewrite(written, [()] * len(written), machine)
    return found.tokens if found else written


def view_record(
    record: DistillRecord,
    vocabulary: Vocabulary,
    completion: Completion | None = None,
    machine: Machine | None = None,
) -> View:
    """The view of a record of a corpus.

    Args:
        record: the record.
        vocabulary: the student's vocabulary.
        completion: the teacher's completion, if it is known.
        machine: rewrites the completion as the student writes it.
    """
    tokens = () if completion is None else completion.tokens or ()
    # The record's text is stripped; the tokens spell the whole text.
    text = record.targets
    if tokens:
        text = b"".join(_written(tokens, machine)).decode()
    return view(
        record.id,
        text,
        record.target,
        vocabulary,
        tokens=tokens,
        inputs=record.inputs,
        machine=machine,
    )


def terminal(shown: View) -> RenderableType:
    """The view as a table for a terminal of 80 columns, groups coloured."""
    tokens, pieces = Text(), Text()
    for group in shown.groups:
        for token in group.tokens:
            tokens.append(token.text, style=f"black on {group.style}")
        for position in group.positions:
            pieces.append(position.piece, style=f"black on {group.style}").append(" ")
    table = Table(header_style="bold", box=None, pad_edge=False)
    for head in ("teacher token", "top-k before", "student piece", "top-k after"):
        table.add_column(head, overflow="fold")  # what is long is shown, too
    table.add_column("tail", justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True)
    origins: dict[str, None] = {}
    for group in shown.groups:
        for row in range(max(len(group.tokens), len(group.positions))):
            cells: list[RenderableType] = [""] * 6
            if row < len(group.tokens):
                token = group.tokens[row]
                cells[0] = Text(token.text, style=group.style)
                cells[1] = Text(_options(token.top))
            if row < len(group.positions):
                position = group.positions[row]
                cells[2] = Text(position.piece, style=f"bold {group.style}")
                cells[3] = Text(_options(position.top))
                cells[4] = f"{position.tail:.4f}"
                cells[5] = position.origin
                origins[position.origin] = None
            table.add_row(*cells)
    lines: list[RenderableType] = [Text(errors.visible(shown.title), style="bold")]
    if shown.inputs:
        lines += [
            Text("inputs", style="bold dim"),
            Text(errors.visible(shown.inputs)),
        ]
    if tokens:
        lines += [Text("teacher tokens", style="bold dim"), tokens]
    lines += [Text("student pieces", style="bold dim"), pieces, table]
    lines += [Text(f"{name}: {REASONS[name]}", style="dim") for name in origins]
    lines.append(Text(f"{100 * shown.soft_share:.1f} % of the positions are soft"))
    return Lines(*lines)


def page(shown: View) -> str:
    """The view as one HTML page that needs no other file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("specialize.corpus.inspection", "."),
        autoescape=True,
    )
    return environment.get_template("inspection.html.j2").render(view=shown)


def visible(text: str) -> str:
    """The text with visible whitespace and control characters."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return errors.visible(shown)


def _before(token: TeacherToken) -> Before:
    return Before(
        _shown(token.token),
        math.exp(token.logprob),
        tuple(Option(_shown(text), math.exp(value)) for text, value in token.top),
    )


def _shown(token: bytes) -> str:
    try:
        return visible(token.decode())
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)


def _after(position: int, target: AlignedTarget, vocabulary: Vocabulary) -> After:
    index = int(target.ids[position])
    top = [
        Option(vocabulary.piece(int(other)), math.exp(float(value)))
        for other, value in zip(
            target.teacher_ids[position], target.teacher_logprobs[position], strict=True
        )
        if value > -math.inf
    ]
    return After(
        position,
        vocabulary.piece(index),
        tuple(top),
        float(target.tail[position]),
        ORIGINS[int(target.origin[position])],
    )


def _options(options: Sequence[Option]) -> str:
    return "\n".join(f"{o.probability:.4f} {o.text}" for o in options)
