"""Which number of a sentence it states, where others only give its circumstances.

"In 3 days she makes $18" and "She makes $18 in 3 days" state 18. A number that follows
another one is a circumstance where words like "in", "after", "to collect" or "if" bring
it in: "It takes 8 weeks to collect 200 sticks", "He has 250 minutes left if this month
has 30 days", "2 5 dollar toys". A pronoun, a comma or a total ends the circumstances:
"After 6 days, they have 390". Of the numbers that are left the last one is stated. What
grammar does not decide ("24 hours of this and 12 of that") is not decided here either.

Given numbers are no statements where another number follows them: "the remaining 9
kilometres at a pace of 4". Nor are attributes ("the 400-meter race"), nor the parts
after a colon: "10 tools: 2 saws, 5 files and 3 hammers" states 10.
"""

import re
from collections.abc import Sequence

from specialize.judging.quantities import Quantity

_CONDITION = re.compile(
    r"(?:\b(?:if|because|since|when|while|after|before|until|unless|given)"
    r"|\b(?:in\s+order\s+to|so\s+that))\b",
    re.IGNORECASE,
)
_RESET = re.compile(
    r"[,;:=]|\b(?:I|you|he|she|it|we|they|there|that|which|leaving|leaves|total|sum)\b"
)
_CIRCUMSTANCE = re.compile(
    r"\b(?:in|over|from|per|by|than|every|each|within|during|using|remaining|out\s+of"
    r"|under|above|below|on)\b"
    r"|(?<!left )(?<!up )(?<!ends )\bwith\b"
    r"|\b(?:for|at)\b"
    r"|(?<!have )(?<!has )(?<!had )(?<!need )(?<!needs )(?<!going )(?<!able )"
    r"(?<!wants )(?<!want )(?<!used )\bto\s+[a-z]{2,}"
    r"|^\s\S+\sof\s(?:size\s)?$|^\s$"
)
_PURPOSE = re.compile(r"\bto\s[a-z]{2,}")
_GIVEN = re.compile(
    r"\bthe\s(?:remaining|other|first|last|same|whole|given|initial|original|next)\s$"
)
# "her 12th lesson", "the 400-meter race"
_ATTRIBUTE = re.compile(r"(?:st|nd|rd|th)\b|-[a-z]{2,}")
# "The cost of the 10 litres is $28": the number that a verb of being gives.
_GIVES = re.compile(
    r"(?:\s\S+){3,}?\s(?<!which\s)(?<!that\s)(?<!this\s)(?<!\bit\s)(?<!there\s)"
    r"(?:is|was|will\sbe|would\sbe)\s(?:about\s|only\s|approximately\s)?[$€£]?"
)
_BREAKDOWN = re.compile(r"(?:\*\*)?(?:\s[A-Za-z'*-]+){1,8}?:\s?")
_PRICED = re.compile(r"\b(?:for|at)\s$")  # "sold 9 eggs for $18"
_OPENS_WITH = re.compile(
    r"\b(?:in|after|over|at|for|every|during)\s[^,.\d]{0,12}$", re.IGNORECASE
)


def stated(sentence: str, found: Sequence[Quantity]) -> Quantity:
    """The number that a sentence states.

    Args:
        sentence: one sentence.
        found: its numbers in order, at least one.

    Returns:
        One of `found`.
    """
    found = [one for one in found if not _ATTRIBUTE.match(sentence, one.end)] or found
    best, circumstance = found[0], False
    weak = _OPENS_WITH.search(sentence[: found[0].begin]) is not None
    weak = weak or _GIVEN.search(sentence[: found[0].begin]) is not None
    if len(found) > 2 and _BREAKDOWN.fullmatch(sentence, best.end, found[1].begin):
        return best
    for before, quantity in zip(found, found[1:], strict=False):
        between = sentence[before.end : quantity.begin]
        if _within_aside(sentence, quantity.begin):
            continue
        if _GIVES.fullmatch(between):
            best, circumstance, weak = quantity, False, False
            continue
        if _CONDITION.search(between):
            if "," in between:
                best, circumstance = quantity, False
                continue
            break
        if sentence[quantity.begin] in "$€£":
            between = _PRICED.sub("", between)
        resets = [
            match.end()
            for match in _RESET.finditer(between)
            if match[0] not in ("total", "sum")
            or not _PURPOSE.search(between, 0, match.start())
        ]
        tail = between[resets[-1] :] if resets else between
        given = weak and _GIVEN.search(sentence[: before.begin])
        if _CIRCUMSTANCE.search(tail) and not (weak and resets) and not given:
            circumstance = True
        elif resets or given or not circumstance:
            best, circumstance, weak = quantity, False, False
    return best


def _within_aside(sentence: str, position: int) -> bool:
    """Whether a parenthesis after other words is open at a position."""
    opened = sentence.rfind("(", 1, position)
    return opened > 0 and ")" not in sentence[opened:position]
