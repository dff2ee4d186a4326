"""Counts of what a student's vocabulary cannot write, by character."""

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

from specialize.typed_json import Count


@dataclasses.dataclass
class SpellingCounts:
    """Counts over the right samples of one source.

    Attributes:
        samples: samples with characters that the vocabulary cannot write.
        characters: those characters, as the teacher wrote them.
        rewritten_samples: samples that the table changed.
        rewritten: how often each rule of the table was applied.
        lost_samples: samples in which characters are <unk> for the student.
        lost: those characters.
        newline_samples: samples whose newlines the vocabulary makes spaces.
        newlines: number of these newlines.
        number_pieces: pieces with a digit in the targets of the kept samples.
        soft_number_pieces: of those, pieces with a soft row.
    """

    samples: Count = 0
    characters: dict[str, Count] = dataclasses.field(default_factory=dict[str, int])
    rewritten_samples: Count = 0
    rewritten: dict[str, Count] = dataclasses.field(default_factory=dict[str, int])
    lost_samples: Count = 0
    lost: dict[str, Count] = dataclasses.field(default_factory=dict[str, int])
    newline_samples: Count = 0
    newlines: Count = 0
    number_pieces: Count = 0
    soft_number_pieces: Count = 0

    def add(self, other: "SpellingCounts") -> None:
        """Adds the counts over other samples."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in BY_NAME:
            mine = self.by_name(name)
            for key, count in other.by_name(name).items():
                mine[key] = mine.get(key, 0) + count

    def by_name(self, field: str) -> dict[str, int]:
        """The counts of one of the fields `BY_NAME`."""
        value: dict[str, int] = getattr(self, field)
        return value

    def to_json(self) -> dict[str, Any]:
        """Plain values, the most frequent first, without what is empty."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        by_name = {name: most_frequent(self.by_name(name)) for name in BY_NAME}
        return {name: value for name, value in (numbers | by_name).items() if value}


BY_NAME = ("characters", "rewritten", "lost")
NUMBERS = tuple(
    field.name
    for field in dataclasses.fields(SpellingCounts)
    if field.name not in BY_NAME
)


def most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    """The same counts in an order that does not depend on how they were added."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def shown(counts: Mapping[str, int], most: int = 8) -> str:
    r"""The most frequent ones in words: `\ 512, { 210 and 14 others 31`."""
    items = list(most_frequent(counts).items())
    parts = [f"{visible(name)} {count:,}" for name, count in items[:most]]
    rest = [count for _, count in items[most:]]
    end = f" and {len(rest):,} others {sum(rest):,}" if rest else ""
    return ", ".join(parts) + end


def visible(name: str) -> str:
    """A character that can be seen: itself, or its number."""
    if name.isascii() and name.isprintable() and not name.isspace():
        return name
    if not any(unicodedata.category(character)[0] in "MCZ" for character in name):
        return name
    return " ".join(f"U+{ord(character):04X}" for character in name)
