"""How the student is taught to write a teacher's text: the policy and the table."""

import collections
import functools
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from specialize.corpus.plain_text import table
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.machine import Machine
from specialize.corpus.vocabulary import Vocabulary

# The settings of version 0.1.
AS_IT_IS = {"unwritable": "keep", "digits": "whole"}

Path = str | os.PathLike[str]


class Writer:
    """Writes texts with one vocabulary under one policy.

    Args:
        vocabulary: the student's vocabulary.
        policy: what becomes of text that it cannot write: "rewrite" it by the table,
            "drop" such samples, or "keep" it as <unk>.

    Attributes:
        machine: the table; None if texts are taught as they are.
    """

    def __init__(self, vocabulary: Vocabulary, policy: str = "rewrite") -> None:
        self.vocabulary = vocabulary
        self.policy = policy
        self._writable: dict[str, bool] = {}
        rewrites = policy == "rewrite" and not all(map(self.writes, table.NEEDED))
        self.machine = Machine(self.writes) if rewrites else None
        self._joins_lines = "\n" not in vocabulary.decode(vocabulary.encode("a\nb"))

    @functools.cached_property
    def has_digit(self) -> Bool[np.ndarray, " V"]:
        """For each id of the vocabulary, whether its piece has a digit."""
        words = self.vocabulary
        pieces = map(words.spelling, range(words.size - words.extra_ids))
        found = [re.search(b"[0-9]", piece or b"") for piece in pieces]
        return np.pad(np.array(found, bool), (0, words.extra_ids))

    def writes(self, character: str) -> bool:
        """Whether the vocabulary can write a character."""
        known = self._writable.get(character)
        if known is None:
            known = not self.vocabulary.unwritable(character)
            self._writable[character] = known
        return known

    def text(self, text: str) -> str:
        """The text that the student is taught."""
        return text if self.machine is None else self.machine.text(text)

    def spelt(self, text: str) -> str:
        """The text as the student's pieces spell it, after encoding and decoding."""
        return self.vocabulary.decode(self.vocabulary.encode(self.text(text)))

    def counts(self, text: str) -> SpellingCounts:
        """What the vocabulary cannot write of one sample, and what is done about it."""
        counts = SpellingCounts()
        before = self.vocabulary.unwritable(text)
        counts.characters = collections.Counter(before)
        counts.samples = int(bool(before))
        written = text
        if self.machine is not None:
            rules: list[str] = []
            written = self.machine.text(text, rules.append)
            counts.rewritten = collections.Counter(rules)
            counts.rewritten_samples = int(written != text)
        after = before if written == text else self.vocabulary.unwritable(written)
        counts.lost = collections.Counter(after)
        counts.lost_samples = int(bool(after))
        if self._joins_lines:
            counts.newlines = written.strip().count("\n")
            counts.newline_samples = int(counts.newlines > 0)
        return counts


def description(writer: Writer) -> dict[str, Any]:
    """The settings of spelling that determine a corpus, for its fingerprint.

    Empty if texts are taught as version 0.1 did.
    """
    value: dict[str, Any] = {}
    if writer.machine is not None:
        value |= {"unwritable": "rewrite", "table": table.VERSION}
    elif writer.policy == "drop":
        value["unwritable"] = "drop"
    words = writer.vocabulary
    if words.digits != "whole" and not words.bytes_are_pieces:
        value["digits"] = words.digits
    return value


def of_description(value: Mapping[str, Any]) -> dict[str, str]:
    """The settings that `description` described."""
    return {name: value.get(name, before) for name, before in AS_IT_IS.items()}
