"""The tokenizer files beside the weights: copied, and asked which ids they use."""

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from specialize import typed_json
from specialize.checkpoints.formats import enclosure
from specialize.corpus.vocabulary import Vocabulary
from specialize.digests import BYTE_NAMES
from specialize.errors import InputError

VOCABULARY = "spiece.model"
# Names under which a folder may hold its SentencePiece model.
VOCABULARIES = (VOCABULARY, "sentencepiece.model")
TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
ALL = (VOCABULARY, TOKENIZER, CONFIG, "special_tokens_map.json", ADDED)
_FETCH = "Fetch it again, or remove it."
# Every T5 has these tokens, whether or not its files name them.
_COMMON = re.compile("▁?<(pad|s|/s|unk|extra_id_[0-9]+)>")


@dataclasses.dataclass(frozen=True)
class _Token:
    content: str
    id: typed_json.Count = 0


@dataclasses.dataclass(frozen=True)
class _Model:
    vocab: dict[str, typed_json.Count] | list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class _Tokenizer:
    model: _Model
    added_tokens: list[_Token] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Class:
    tokenizer_class: str = ""


@dataclasses.dataclass(frozen=True)
class _Config:
    added_tokens_decoder: dict[typed_json.Count, _Token] = dataclasses.field(
        default_factory=dict
    )


def copy(source: pathlib.Path | None, target: pathlib.Path) -> list[str]:
    """Copies the tokenizer files of `source`, if any; returns their names.

    Raises:
        InputError: one of them is damaged, or a link to a file elsewhere.
    """
    if source is None:
        return []
    found = [name for name in ALL if (source / name).exists()]
    for _ in _tokens(source):
        pass
    for name in found:
        enclosure.check_link(source, source / name)
        if name.endswith(".json"):
            typed_json.read(source / name, typed_json.Object, remedy=_FETCH)
        shutil.copyfile(source / name, target / name)
    return found


def vocabulary_of(folder: pathlib.Path) -> Vocabulary | None:
    """The SentencePiece model of a folder, or None.

    Raises:
        InputError: it is damaged, or a link to a file elsewhere.
    """
    if not (folder / VOCABULARY).exists():
        return None
    enclosure.check_link(folder, folder / VOCABULARY)
    return Vocabulary(folder / VOCABULARY)


def named_vocabulary(folder: pathlib.Path) -> pathlib.Path | None:
    """What names the vocabulary of a folder: its SentencePiece model, or "byt5".

    Raises:
        InputError: tokenizer_config.json is damaged, or a link to a file elsewhere.
    """
    for name in VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    if (folder / CONFIG).is_file():
        enclosure.check_link(folder, folder / CONFIG)
        found = typed_json.read(folder / CONFIG, _Class, remedy=_FETCH)
        if found.tokenizer_class.startswith("ByT5Tokenizer"):
            return pathlib.Path(BYTE_NAMES[0])
    return None


def names_all(folder: pathlib.Path) -> bool:
    """Whether a folder has a vocabulary, and not only names of some tokens.

    Raises:
        InputError: as `named_vocabulary`.
    """
    return (folder / TOKENIZER).exists() or named_vocabulary(folder) is not None


def check_rows(folder: pathlib.Path | None, rows: int) -> None:
    """Refuses an embedding with too few rows for the tokens of a folder.

    Raises:
        InputError: a token would lose its row, or a file is damaged.
    """
    lost = without_rows(folder, rows)
    if folder is not None and lost:
        raise InputError(
            f"{rows} rows are too few: {len(lost)} tokens of {folder / lost[0][2]} "
            f"would lose their rows, among them {shown(lost)}. Keep at least "
            f"{lost[-1][0] + 1} rows."
        )


def without_rows(folder: pathlib.Path | None, rows: int) -> list[tuple[int, str, str]]:
    """(id, token, file) of the tokens of a folder that are beyond so many rows.

    Raises:
        InputError: a file is damaged.
    """
    found = () if folder is None else _tokens(folder)
    return sorted({one for one in found if one[0] >= rows})


def other_tokens(
    first: pathlib.Path, second: pathlib.Path
) -> list[tuple[int, str, pathlib.Path]]:
    """(id, token, file) of the tokens that only one of two folders has.

    There are none if a folder does not name all of its tokens: nothing can be compared.
    T5's sentinels are no difference, as older folders do not name them.

    Raises:
        InputError: a file is damaged.
    """
    if not (names_all(first) and names_all(second)):
        return []
    both: list[dict[int, dict[str, pathlib.Path]]] = []
    for folder in (first, second):
        own: dict[int, dict[str, pathlib.Path]] = {}
        for index, token, name in _tokens(folder):
            spelled = "" if _COMMON.fullmatch(token) else token
            own.setdefault(index, {}).setdefault(spelled, folder / name)
        both.append(own)
    found: list[tuple[int, str, pathlib.Path]] = []
    for own, other in (both, both[::-1]):
        for index, tokens in own.items():
            # An id that a folder does not name may be one of those that every T5 has.
            if not tokens.keys() & other.get(index, {"": None}).keys():
                found += [(index, name, tokens[name]) for name in tokens if name]
    return sorted(found)


def shown(tokens: Sequence[tuple[int, str, object]]) -> str:
    """The first tokens of a list with their ids, for messages."""
    return ", ".join(f"{token!r:.40} ({index})" for index, token, _ in tokens[:3])


def _tokens(folder: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """(id, token, file) of every token that a file of the folder names."""

    def read(name: str, kind: Any) -> Any:
        enclosure.check_link(folder, folder / name)
        return typed_json.read(folder / name, kind, remedy=_FETCH)

    found = [name for name in ALL if (folder / name).exists()]
    if ADDED in found:
        for token, index in read(ADDED, dict[str, typed_json.Count]).items():
            yield index, token, ADDED
    if CONFIG in found:
        for index, token in read(CONFIG, _Config).added_tokens_decoder.items():
            yield index, token.content, CONFIG
    if TOKENIZER in found:
        tokenizer = read(TOKENIZER, _Tokenizer)
        pieces = tokenizer.model.vocab
        if isinstance(pieces, list):
            pieces = {piece: index for index, (piece, _) in enumerate(pieces)}
        for token, index in pieces.items():
            yield index, token, TOKENIZER
        for token in tokenizer.added_tokens:
            yield token.id, token.content, TOKENIZER
    vocabulary = vocabulary_of(folder)
    if vocabulary is not None:
        for index in range(vocabulary.size):
            yield index, vocabulary.piece(index), VOCABULARY
