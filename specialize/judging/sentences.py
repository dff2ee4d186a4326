r"""Where the sentences of a text end.

A full stop ends a sentence before a blank or the end of the text, and so does a line
break. It does not after "Mr.", "e.g." or "p.m.", nor after the letter of an option:
"**B. It doubles**", "so C. the anvil".
"""

import itertools
import re

_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bi\.e)(?<!\be\.g)"
    r"(?<!\b[ap]\.m)(?<![.!?])[.!?]++[\"'”’)\]*_`$]*+(?=\s|$)|\n"
)
_OPTION_LETTER = re.compile(r"(?:^|[*_(])[*_`\"( ]*[A-Z]$", re.MULTILINE)
_LETTER = re.compile(r"(?<!\w)[A-Z]$")


def ends(text: str) -> list[tuple[int, int]]:
    """Offsets (begin, end) of the punctuation or line break that ends each sentence."""
    found: list[tuple[int, int]] = []
    for match in _END.finditer(text):
        begin, end = match.span()
        if match[0].startswith(".") and _goes_on(text, begin, end):
            continue
        found.append((begin, end))
    return found


def _goes_on(text: str, begin: int, end: int) -> bool:
    """Whether a full stop belongs to the letter of an option: "**B. It doubles**"."""
    near = max(0, begin - 8)
    if _OPTION_LETTER.search(text, near, begin):
        return True
    return bool(_LETTER.search(text, near, begin) and text[end + 1 : end + 2].islower())


def first(text: str) -> str:
    """The text up to its first sentence end or, after its first word, line end."""
    text = text.lstrip()
    end = next(iter(ends(text[:4_000])), None)
    return text[: end[0]] if end else text


def split(text: str) -> list[str]:
    """The sentences of a text, each without its final punctuation.

    Empty ones are left out; the last one may be unfinished.
    """
    cuts = [(0, 0), *ends(text), (len(text), len(text))]
    pieces = (text[one[1] : two[0]].strip() for one, two in itertools.pairwise(cuts))
    return [piece for piece in pieces if piece]


def introduced(text: str) -> list[str]:
    """The sentences of a text, with "So the right one is:" joined to what follows."""
    joined: list[str] = []
    for sentence in split(text):
        if joined and joined[-1].rstrip("*_ ").endswith(":"):
            joined[-1] += f" {sentence}"
        else:
            joined.append(sentence)
    return joined
