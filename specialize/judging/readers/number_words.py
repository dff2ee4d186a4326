"""Numbers in words, where a text says them instead of an answer in digits.

Only the beginning of a passage is read, because "one" and "a second" inside a
sentence are seldom numbers: "eighteen dollars", "twenty-five", "one hundred and
five", "minus three", "two and a half", "three quarters", "two point five", "a dozen",
"two million".
"""

import re
from fractions import Fraction

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PART = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
_PARTS = {**_PART, **{f"{word}s": value for word, value in _PART.items()}, "halves": 2}
_WORD = re.compile(r"[a-z]+")


def leading_number(text: str) -> tuple[Fraction, int] | None:
    """Reads the number in words that a passage begins with.

    Args:
        text: a passage; case does not matter.

    Returns:
        (value, offset after its last word), or None if it begins with no number.
        "one of them" and "a second chance" are not numbers.
    """
    words = [(match[0], match.end()) for match in _WORD.finditer(text.lower())]
    if not words or text[: words[0][1]].strip().lower() != words[0][0]:
        return None
    position, negative = 0, False
    if words[0][0] in ("minus", "negative"):
        position, negative = 1, True
    read = _cardinal([word for word, _ in words[position:]])
    if read is None:
        return None
    value, count = read
    position += count
    if value.denominator == 1:
        decimals, more = _decimals([word for word, _ in words[position:]])
        value, position = value + decimals, position + more
    if position < len(words) and words[position][0] in ("of", "by"):
        fractional = value.denominator != 1
        if not fractional:
            return None  # "one of them", "two by two"
    return (-value if negative else value), words[position - 1][1]


def _decimals(words: list[str]) -> tuple[Fraction, int]:
    """Reads "point two eight" or "point eighty-seven": (value, number of words)."""
    if words[:1] != ["point"] or words[1:2] == [] or words[1] not in _SMALL:
        return Fraction(0), 0
    digits, count = "", 1
    while count < len(words) and words[count] in _SMALL:
        value = _SMALL[words[count]]
        following = _SMALL.get(words[count + 1], 0) if words[count + 1 :] else 0
        if value >= 20 and 0 < following < 10:
            value, count = value + following, count + 1
        digits += str(value)
        count += 1
    return Fraction(int(digits), 10 ** len(digits)), count


def _cardinal(words: list[str]) -> tuple[Fraction, int] | None:
    total, group, count = 0, 0, 0
    seen = False
    article = words[:1] in (["a"], ["an"])
    if article:
        if words[1:2] == ["dozen"]:
            return Fraction(12), 2
        if words[1:2] and words[1] in _PARTS and words[1] != "second":
            return Fraction(1, _PARTS[words[1]]), 2
        if words[1:2] != ["hundred"] and words[1:2] not in [[word] for word in _LARGE]:
            return None
        group, count, seen = 1, 1, True
    if words[:1] == ["half"]:
        return Fraction(1, 2), 1
    while count < len(words):
        word = words[count]
        if word in _SMALL:
            if group % 10 and _SMALL[word] < 20 or group % 100 and _SMALL[word] > 9:
                break  # "five three": two numbers
            group += _SMALL[word]
        elif word == "hundred" and seen:
            group = max(group, 1) * 100
        elif word == "dozen" and seen:
            group *= 12
        elif word in _LARGE and seen:
            total, group = total + group * _LARGE[word], 0
        elif word == "and" and seen and words[count + 1 : count + 2]:
            following = words[count + 1 :]
            if following[:2] in (["a", "half"], ["one", "half"]):
                return total + group + Fraction(1, 2), count + 3
            if following[0] not in _SMALL or not (group % 100 == 0 and group + total):
                break
            count += 1
            continue
        elif word in _PARTS and seen and total == 0 and count == 1:
            return Fraction(group, _PARTS[word]), count + 1
        else:
            break
        seen = True
        count += 1
    return (Fraction(total + group), count) if seen else None
