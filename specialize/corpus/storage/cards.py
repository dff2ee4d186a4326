"""The origin of a corpus: teacher, prompt, sampling, licences, input files.

An export of completions has a card beside it, `<file>.card.json`, which says how which
teacher was sampled. `build` takes the teacher of the corpus from the cards of its
inputs, and refuses inputs that contradict each other.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from specialize import checks, outputs, typed_json, versions
from specialize.corpus.choices import REASONING
from specialize.corpus.lines import refuse_stream
from specialize.corpus.spec import Sources
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.tasks.known import UNKNOWN
from specialize.digests import dataset_files, file_digest
from specialize.errors import InputError

Path = str | os.PathLike[str]

# A card's file name is that of its data file with this suffix.
SUFFIX = ".card.json"

HUMAN = "human"


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known about the origin of completions or of a corpus.

    Attributes:
        teacher: name of the teacher; several are joined by "+".
        prompt_sha256: digest of the teacher's prompt prefix, "" if unknown.
        sampling: settings such as temperature, seed and the convention of the
            log-probabilities; JSON values.
        licences: licence of each data set, by name.
        sources: the input files: name, bytes, sha256.
        task: the task of the problems, as `Sources.label`.
        funnel: the funnel so far, between two stages.
        alignment: method, K, vocabulary and spelling, after `align`.
        judge: the judge, after `verify`.
        spelling: vocabulary and spelling, if `verify` judged the texts as the student
            spells them.
        imported: what `import` read, wrote and lost.
    """

    teacher: str
    prompt_sha256: str = ""
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    licences: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    sources: list[dict[str, Any]] = dataclasses.field(
        default_factory=list[dict[str, Any]]
    )
    task: str = ""
    funnel: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    alignment: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    imported: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    judge: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    spelling: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Plain values, without empty fields."""
        value = dataclasses.asdict(self)
        return {name: part for name, part in value.items() if part or name == "teacher"}


def card_path(completions: Path) -> pathlib.Path:
    """The path of an export's card."""
    file = pathlib.Path(completions)
    return file.with_name(file.name + SUFFIX)


def check_name(completions: Path) -> None:
    """Refuses, before any work, a file whose card would have too long a name.

    Raises:
        InputError: the name of the card has more than 255 bytes.
    """
    size = len(os.fsencode(card_path(completions).name))
    if size > outputs.LONGEST_NAME:
        raise InputError(
            f"{completions} is too long a name: its card, the same with {SUFFIX}, has "
            f"{size} bytes, expected at most {outputs.LONGEST_NAME}. Choose a shorter "
            "name."
        )


def write_card(completions: Path, card: Card) -> None:
    """Writes the card beside an export, unless that went to a FIFO or device."""
    if outputs.is_stream(completions):
        return
    value = {"version": versions.CARD.writes, **card.to_json()}
    outputs.write_json(f"{os.fspath(completions)}{SUFFIX}", value)


def read_card(completions: Path) -> Card | None:
    """Reads the card beside an export, if there is one.

    Raises:
        InputError: it is not a card, or it has another version.
    """
    path = card_path(completions)
    if not os.path.lexists(path):
        return None
    remedy = (
        "Export the completions again, or remove it and name the teacher with "
        "--teacher."
    )
    data = typed_json.read_bytes(path, remedy=remedy)
    version = typed_json.decode(data, _Version, path, remedy=remedy).version
    versions.CARD.check(version, path)
    card = typed_json.decode(data, Card, path, remedy=remedy)
    typed_json.decode(data, _Parts, path, remedy=remedy)
    if card.funnel:
        Funnel.from_json(card.funnel, path)
    return card


@dataclasses.dataclass(frozen=True)
class _Version:
    version: Any = 1


@dataclasses.dataclass(frozen=True)
class _Source:
    file: str
    bytes: typed_json.Count
    sha256: str


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The fields of a card whose own fields are known."""

    sources: list[_Source] = dataclasses.field(default_factory=list[_Source])


def corpus_card(
    sources: Sources,
    *,
    problems: bool = True,
    rationales: bool = False,
    more_sources: Iterable[Path] = (),
) -> Card:
    """The card of a file or corpus that is made from `sources`.

    Args:
        sources: problems, completions and teacher.
        problems: whether problems become part of it.
        rationales: whether human rationales become part of it.
        more_sources: other input files to list.

    Raises:
        InputError: a file is missing or a pipe, or the cards of the inputs contradict
            each other.
    """
    for path in sources.completions:
        refuse_stream(path)
    found = [(path, read_card(path)) for path in sources.completions]
    known = [(path, card) for path, card in found if card is not None]
    for field in ("prompt_sha256", "sampling"):
        values = [(path, getattr(card, field)) for path, card in known]
        for path, value in values[1:]:
            if value != values[0][1]:
                raise InputError(
                    f"{path} and {values[0][0]} differ in {field}: {value!r} and "
                    f"{values[0][1]!r}. Build one corpus from each and mix them in "
                    "training."
                )
    names = [HUMAN] if rationales else []
    if sources.completions:
        asked = sorted({card.teacher for _, card in known})
        names += [sources.teacher] if sources.teacher else (asked or [UNKNOWN])
    first = known[0][1] if known else Card(UNKNOWN)
    sampling = first.sampling
    policy = reasoning_of(sources)
    if policy != REASONING[0] or "reasoning" in sampling:
        sampling = {**sampling, "reasoning": policy}
    files = [*((sources.problems,) if problems else ()), *sources.completions]
    return Card(
        teacher="+".join(names),
        prompt_sha256=first.prompt_sha256,
        sampling=sampling,
        licences=first.licences | sources.licences(),
        task=sources.label,
        sources=[source(path) for path in (*files, *more_sources)],
    )


def reasoning_of(sources: Sources) -> str:
    """What is done with reasoning: as asked for, as the cards say, or dropped.

    Raises:
        InputError: another treatment is asked for than that of completions which
            were made without their reasoning, or a card states an unknown one.
    """
    stated = [
        (path, policy)
        for path in sources.completions
        if (policy := stated_reasoning(path)) is not None
    ]
    for path, policy in stated:
        if sources.reasoning not in (None, policy) and policy != "keep":
            raise InputError(
                f"reasoning is {sources.reasoning!r}, but {path} was made with "
                f"{policy!r}, which left no reasoning in it. Make that file again, or "
                "leave --reasoning out."
            )
    return sources.reasoning or (stated[0][1] if stated else REASONING[0])


def stated_reasoning(completions: Path) -> str | None:
    """What was done with reasoning, as the card beside an export states it.

    Raises:
        InputError: it is not one of `REASONING`.
    """
    card = read_card(completions)
    if card is None or "reasoning" not in card.sampling:
        return None
    policy: str = card.sampling["reasoning"]
    checks.one_of(f"{card_path(completions)}: reasoning", policy, REASONING)
    return policy


def source(path: Path) -> dict[str, Any]:
    """Name, size and digest of an input file or folder of `datasets`.

    Raises:
        InputError: the file cannot be read.
    """
    file = pathlib.Path(path)
    try:
        digest = file_digest(file)
    except (OSError, ValueError) as error:
        raise typed_json.unreadable(file, error, remedy="Check the path.") from error
    size = sum(one.stat().st_size for one in dataset_files(file) or [file])
    return {"file": file.name, "bytes": size, "sha256": digest}
