r"""Lists of words, brackets and free text as final answers.

| type | an answer is | one spelling |
|---|---|---|
| words | the whole list, in order | words in lower case, one space |
| brackets | the whole run of brackets | brackets, one space |
| text | the whole sentence or line | lower case, one space |

Part of a list is not the list. A list is one line ("amber, cedar and pine"), or items
on lines of their own, numbered or not; a line that ends with a colon ("The words from
first to last are:") introduces it, and what follows the items is no part of it.
"""

import itertools
import re

from specialize.judging import sentences
from specialize.judging.marks import Passage
from specialize.judging.readers.labels import EDGE

_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s")
# A sentence after a list: "Just ask if you want it in reverse order!"
_PROSE = re.compile(r"\s*[A-Z][^:\n]*(?:\s[^:\s]+){2,}[.!?]\s*")
# "The list in order is amber, cedar, and pine."
_SAID = re.compile(r"[^,:]*\b(?:is|are)\s([^\s,]+(?:,\s[^\s,]+)*,?\sand\s[^\s,]+)")
_NO_LIST = re.compile(r"[?()\[\]\".]|\s\d")
_SEPARATOR = re.compile(r"[\s,;]+|\\n")
_AND = re.compile(r",\s*(?:and|&)\s|\s(?:and|&)\s(?=\S+\s*$)", re.IGNORECASE)
_BRACKETS = re.compile(r"[()\[\]{}<>]")
_BRACKET_RUN = re.compile(
    r"[\s\"'`*:$]*+(?P<run>[()\[\]{}<>](?:[\s,\"'`]*+[()\[\]{}<>])*+)"
)


def words_marked(passage: Passage) -> str | None:
    """The list of words after a mark: its items, or the rest of its line."""
    if passage.kind == "heading":
        return None
    lines = _lines(passage.text.lstrip(" \t\n:*"))
    if lines and _introduces(lines[0]):
        lines = lines[1:]
    if not lines:
        return None
    if words := _items(lines) or _bare(lines):
        return words
    return spelled_words(sentences.first(lines[0]).rpartition(": ")[2]) or None


def words_unmarked(text: str) -> str | None:
    """The last list of a text, whatever remarks come after it, else its last line."""
    lines = _lines(text)
    for end in range(len(lines), 0, -1):
        if words := _list_at_end(lines[:end]):
            return words
        if not _PROSE.fullmatch(lines[end - 1]):
            break
    listed = lines[-1].strip(EDGE).strip("[]()").strip(EDGE) if lines else ""
    return spelled_words(listed) if _is_word_list(listed) else None


def _lines(text: str) -> list[str]:
    """The lines that hold anything, without emphasis."""
    lines = (line.replace("**", "") for line in text.split("\n"))
    return [line for line in lines if line.strip(EDGE)]


def _list_at_end(lines: list[str]) -> str | None:
    """The list that lines end with: "Sorted: a b c", items, or words on their lines."""
    if ": " in lines[-1]:
        listed = lines[-1].rpartition(": ")[2].strip(EDGE).strip("[]()").strip(EDGE)
        if " " in listed and _is_word_list(listed):
            return spelled_words(listed)
    begin = len(lines)
    while begin and _ITEM.match(lines[begin - 1]):
        begin -= 1
    if len(lines) - begin > 1:
        return _items(lines[begin:])
    begin = len(lines)
    while begin and len(lines[begin - 1].strip(EDGE).split()) == 1:
        begin -= 1
    if not begin or _introduces(lines[begin - 1]):
        return _bare(lines[begin:])
    said = _SAID.fullmatch(lines[-1])
    return spelled_words(said[1]) if said else None


def _introduces(line: str) -> bool:
    return line.rstrip(" *_`").endswith(":")


def _items(lines: list[str]) -> str | None:
    """The words of the list items that lines begin with."""
    listed = " ".join(itertools.takewhile(_ITEM.match, lines))
    return spelled_words(listed) or None


def _bare(lines: list[str]) -> str | None:
    """The words that follow one another on lines of their own."""
    listed = list(
        itertools.takewhile(lambda line: len(line.strip(EDGE).split()) == 1, lines)
    )
    return spelled_words(" ".join(listed)) if len(listed) > 1 else None


def _is_word_list(text: str) -> bool:
    return (
        bool(text)
        and text.strip("\"'`")[:1].isalpha()
        and not _NO_LIST.search(text.replace('"', ""))
    )


def spelled_words(text: str) -> str:
    """Words in lower case with one space; numbering, commas and quotes dropped."""
    text = re.sub(r"(?:^|\s)(?:\d+[.)]|[-*•])(?=\s)", " ", text)
    if "," in text:
        text = _AND.sub(", ", text)
    words = [word.strip(EDGE + "()[]{}<>") for word in _SEPARATOR.split(text)]
    return " ".join(word.lower() for word in words if word.strip("<>=-→–"))


def brackets_marked(passage: Passage) -> str | None:
    """The run of brackets after a mark."""
    run = _BRACKET_RUN.match(passage.text)
    return spelled_brackets(run["run"]) if run else None


def brackets_unmarked(text: str) -> str | None:
    """The run of brackets that is a text or its last line."""
    lines = [line for line in text.split("\n") if line.strip()]
    for line in (lines[0], lines[-1]) if lines else ():
        run = _BRACKET_RUN.match(line)
        if run and not line[run.end() :].strip(EDGE):
            return spelled_brackets(run["run"])
    return None


def spelled_brackets(text: str) -> str:
    """Brackets with one space between two."""
    return " ".join(_BRACKETS.findall(text))


def text_marked(passage: Passage) -> str | None:
    """The sentence after a mark."""
    return spelled_text(sentences.first(passage.text)) or None


def text_unmarked(text: str) -> str | None:
    """The last line of a text."""
    lines = [line for line in text.split("\n") if line.strip(EDGE)]
    return (spelled_text(lines[-1]) or None) if lines else None


def spelled_text(text: str) -> str:
    """Lower case, one space, no punctuation or emphasis at the edges."""
    return " ".join(text.lower().split()).strip(EDGE)
