r"""Numbers as people and models write them -> exact values.

`find_quantities` reads a text from left to right. What it understands:

| written | read as |
|---|---|
| `18`, `18.00`, `.5`, `5.` at the end of a sentence | 18, 18, 1/2, 5 |
| `1,080`, `1'080`, `1_080`, `1 080` with a no-break space | 1080 |
| `1,00,000`, `1.234.567`, `1.234,50` | 100000, 1234567, 1234.5 |
| `12,5` | 12.5 (a list has a space after its comma) |
| `-3`, `−3` (U+2212), `-$3`, `$-3`, `-(1/3)` | -3, ... |
| `5-3`, `x-3`, `20 - 3` | 5 and 3, 3, 20 and 3: no sign |
| `$5`, `€5`, `5%`, `5 percent`, `5km`, `6th` | 5; a per cent sign is remembered |
| `1/2`, `1 1/2`, `2½`, `1⁄2`; not `12/25/1937` | 1/2, 3/2, 5/2, 1/2 |
| `1.5e3`, `1.5 × 10^3`, `1.5x10³` | 1500 |
| `2 million`, `$20k` | 2000000, 20000 |
| `5:45`, `5:45 p.m.`, `7 pm`, `9:03:36 a.m.`, `5 : 6` | a time, or a ratio |
| `2 hours and 30 minutes` | one quantity, 2.5 or 150 |

Values are `fractions.Fraction`, so nothing is lost to rounding and a different number
never compares equal. `normalised` must have been applied to the text first where it
may hold LaTeX, full-width digits or superscripts. `equal_quantities` compares values.
"""

import dataclasses
import functools
import heapq
import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

# A longer number is read by its first digits, and equals none (`equal_quantities`).
MOST_DIGITS = 300
_MINUS = "-\u2212\u2013\ufe63"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
# The 2 of "18 m²", "18 m^2" or "18 m2" is no number of its own.
_UNIT_EXPONENT = re.compile(
    r"(?<=[\s\d}](?:mm|cm|dm|km|ft|in|yd|mi))(?:\^\{?[23]\}?|[23²³])(?![\d.]\d|\d)"
    r"|(?<=[\s\d}]m)(?:\^\{?[23]\}?|[23²³])(?![\d.]\d|\d)"
    r"|(?<=(?:units|meter|metre|miles|yards))(?:\^\{?[23]\}?|[²³])"
    r"|(?<=(?:inches|meters|metres))(?:\^\{?[23]\}?|[²³])"
    r"|(?<=(?:feet|foot|unit|inch))(?:\^\{?[23]\}?|[²³])"
)
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")

_GROUPED = (
    r"\d{1,3}(?:,\d{3}){1,99}(?![\d])(?:\.\d+)?"  # 1,080.50
    r"|\d{1,2}(?:,\d{2}){1,99},\d{3}(?![\d,])(?:\.\d+)?"  # 1,00,000
    r"|\d{1,3}(?:['\u2019_\u00a0\u2009\u202f]\d{3}){1,99}(?!\d)(?:\.\d+)?"  # 1'080
    r"|\d{1,3}(?:\.\d{3}){2,99}(?![\d.]\d)(?:,\d+)?"  # 1.234.567
    r"|\d{1,3}(?:\.\d{3}){1,99},\d{1,2}(?!\d)"  # 1.234,50
)
_PLAIN = (
    r"\d+(?:,\d{3,}){1,99}(?:\.\d+)?"  # 10000,000: irregular, but one number
    r"|(?<![\d,])\d+,\d{1,2}(?![\d,])"  # 12,5
    r"|\d+\.\d+|\d+|\.\d+"
)
_CURRENCY = r"(?:US|NT|HK|A|C)?[$€£¥₹₱]"
_CLOCK = re.compile(
    r"(?<![\d:.,])(?P<first>\d{1,9})(?::| : )(?P<second>\d{1,9})(?::(?P<third>\d{2}))?"
    r"(?![\d:])"
    r"(?:\s*(?P<half>[ap])\.?\s?m\b\.?)?",
    re.IGNORECASE,
)
_HOUR = re.compile(
    r"(?<![\d:.,/])(?P<first>1[0-2]|[1-9])\s?(?P<half>[ap])(?:\.\s?m\.|m\b)",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    rf"""
    (?P<sign>[{_MINUS}+]\s?)?
    (?:{_CURRENCY}\s?)?
    (?P<inner>[{_MINUS}])?
    (?P<open>\()?
    (?P<digits>(?:{_GROUPED})|(?:{_PLAIN}))
    """,
    re.VERBOSE,
)
_FRACTION = re.compile(
    r"\s?[/\u2044]\s?(?P<denominator>\d{1,99})(?!\d)(?![\d,]*+\s?[/\u2044]\d)(?!\.\d)"
)
_MIXED = re.compile(
    r"(?:\s|-|\sand\s)(?P<numerator>\d{1,99})\s?[/\u2044]\s?(?P<denominator>\d{1,99})(?![\d/\u2044])"
)
_POWER = re.compile(
    r"[eE](?P<plain>[+-]?\d{1,9}+)(?![\d.]*[A-Za-z])"
    r"|\s?(?:[x×*·]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?[{(]?(?P<power>[+\u2212-]?\d{1,9})[)}]?"
)
_MAGNITUDE = re.compile(
    r"[\s-]?(?:(?P<word>hundred|thousand|million|billion|trillion)s?\b"
    r"|(?P<letter>[kKmMbB])(?![A-Za-z]))"
)
_MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "k": 10**3,
    "m": 10**6,
    "b": 10**9,
}
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b|per cent\b|pct\b)", re.IGNORECASE)

# (larger unit, smaller unit): how many of the smaller make one of the larger.
_COMPOUNDS = {
    ("hour", "minute"): 60,
    ("minute", "second"): 60,
    ("day", "hour"): 24,
    ("week", "day"): 7,
    ("year", "month"): 12,
    ("dollar", "cent"): 100,
    ("foot", "inch"): 12,
    ("pound", "ounce"): 16,
    ("meter", "centimeter"): 100,
    ("kilometer", "meter"): 1000,
    ("kilogram", "gram"): 1000,
}
_UNITS = {
    "hr": "hour",
    "min": "minute",
    "sec": "second",
    "feet": "foot",
    "ft": "foot",
    "inches": "inch",
    "lb": "pound",
    "oz": "ounce",
    "metre": "meter",
    "centimetre": "centimeter",
    "kilometre": "kilometer",
    "cm": "centimeter",
    "km": "kilometer",
    "kg": "kilogram",
}
_UNIT = re.compile(r"\s?\(?(?P<unit>[A-Za-z]+)\)?")
_JOINT = re.compile(r"\.?(?:,? and |, | )$")


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """A time of day or a ratio: the text alone does not always tell which.

    Attributes:
        parts: numbers between the colons, seconds only where they are not zero.
        half: "a" or "p" where a.m. or p.m. was written, else "".
    """

    parts: tuple[int, ...]
    half: str = ""

    def __str__(self) -> str:
        first, *rest = self.parts
        digits = [
            str(first),
            *(f"{part:02}" if self.half else str(part) for part in rest),
        ]
        return ":".join(digits) + (f" {self.half}m" if self.half else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a text.

    Attributes:
        value: its exact value.
        begin: offset of its first character, sign and currency included.
        end: offset after its last character, per cent sign and a.m. included.
        percent: a per cent sign follows it.
        other: for "2 hours 30 minutes" the value in the smaller unit, else None.
    """

    value: Fraction | Clock
    begin: int
    end: int
    percent: bool = False
    other: Fraction | None = None

    def __str__(self) -> str:
        if isinstance(self.value, Clock):
            return str(self.value)
        return f"{canonical(self.value)}%" if self.percent else canonical(self.value)


def canonical(value: Fraction) -> str:
    """One spelling for each number: "18", "0.25", "1/3"."""
    denominator = value.denominator
    if denominator == 1:
        return str(value.numerator)
    places = 0
    while denominator % 10 == 0:
        denominator //= 10
        places += 1
    while denominator % 2 == 0:
        denominator //= 2
        places += 1
    while denominator % 5 == 0:
        denominator //= 5
        places += 1
    if denominator != 1 or places > 30:
        return f"{value.numerator}/{value.denominator}"
    scaled = value * 10**places
    digits = f"{abs(scaled.numerator):0{places + 1}d}"
    whole, decimals = digits[:-places], digits[-places:].rstrip("0")
    return f"{'-' if value < 0 else ''}{whole}.{decimals}"


def normalised(text: str) -> str:
    r"""Brings LaTeX, full-width digits and superscripts to plain characters.

    `\frac{1}{2}` becomes `1/2`, `1{,}080` becomes `1,080`, `10³` becomes `10^3`, `½`
    becomes `1⁄2`, `\$` becomes `$`, `<<3*4=12>>12` becomes `12`. Line breaks stay.
    """
    text = re.sub(r"<<[^<>\n]*?>>(?=\s?[$\d.-])", "", text)
    text = re.sub(r"<<[^<>\n]*?=([^<>=\n]*)>>", r"\1", text)
    text = _UNIT_EXPONENT.sub("", text)
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{run[0].translate(_SUPERSCRIPTS)}", text)
    text = _VULGAR.sub(" ", text)
    separators = "[\u00a0\u2009\u202f]"
    text = re.sub(rf"(?<=\d){separators}(?=\d{{3}}(?!\d))", "'", text)
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "$")
    text = text.replace("\\%", "%")
    text = re.sub(r"(?<=\d)\\[,;:](?=\d{3})", ",", text)
    text = re.sub(r"\\([dt]?frac)\s*(\d)\s*(\d)(?!\d)", r"\\\1{\2}{\3}", text)
    text = re.sub(r"(?<=\d)\s*\\[dt]?frac\s*{(\d+)}\s*{(\d+)}", r" \1/\2", text)
    text = re.sub(r"\\[dt]?frac\s*{([^{}]+)}\s*{([^{}]+)}", r"\1/\2", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*{([^{}]*)}", r"\1", text)
    text = text.replace("\\times", "×").replace("\\cdot", "·").replace("\\div", "÷")
    return text


def find_quantities(text: str) -> list[Quantity]:
    """All numbers of a text, from left to right.

    Args:
        text: any text; see `normalised`.

    Returns:
        Quantities that do not overlap, in the order of the text. Numbers written as
        words are not among them (`number_words`).
    """
    found: list[Quantity] = []
    position = 0
    clocks = _clocks(text)
    clock = next(clocks, None)
    while number := _search_number(text, position):
        while clock and clock.start() < position:
            clock = next(clocks, None)
        if clock and clock.start("first") <= number.start("digits"):
            quantity = _read_clock(clock)
        else:
            quantity = _read_number(text, number)
        found.append(quantity)
        position = quantity.end
    return _joined(text, found)


def _clocks(text: str) -> Iterator[re.Match[str]]:
    """Times, ratios and hours in the order of a text."""
    return heapq.merge(
        _CLOCK.finditer(text), _HOUR.finditer(text), key=lambda match: match.start()
    )


def _read_clock(match: re.Match[str]) -> Quantity:
    groups = match.groupdict()
    parts = tuple(
        int(groups[name])
        for name in ("first", "second", "third")
        if groups.get(name) is not None
    )
    if len(parts) == 1:
        parts = (*parts, 0)
    elif len(parts) == 3 and parts[2] == 0:
        parts = parts[:2]
    half = (groups["half"] or "").lower()
    return Quantity(Clock(parts, half), match.start(), match.end())


def _search_number(text: str, position: int) -> re.Match[str] | None:
    while match := _NUMBER.search(text, position):
        before = text[match.start("digits") - 1 : match.start("digits")]
        if match["digits"].startswith(".") and (before.isalnum() or before == "."):
            position = match.start("digits") + 1  # the ".5" of "v2.5" or "...5"
            continue
        return match
    return None


def _read_number(text: str, match: re.Match[str]) -> Quantity:
    begin, end = match.start(), match.end()
    value = _plain_value(match["digits"])
    mixed, fraction = _MIXED.match(text, end), _FRACTION.match(text, end)
    whole = match["digits"].isdigit()
    dated = text[match.start("digits") - 1 : match.start("digits")] in ("/", "\u2044")
    if mixed and whole and int(mixed["numerator"]) < int(mixed["denominator"]):
        value += Fraction(int(mixed["numerator"]), int(mixed["denominator"]))
        end = mixed.end()
    elif fraction and not dated and int(fraction["denominator"]):
        value /= int(fraction["denominator"])
        end = fraction.end()
    if match["open"]:
        # "-(1/3)": the parenthesis belongs to the number only if a sign precedes it
        # and it closes directly after the fraction.
        if text[end : end + 1] == ")" and match["sign"]:
            end += 1
        else:
            begin = match.start("digits")
    if power := _POWER.match(text, end):
        exponent = int((power["plain"] or power["power"]).replace("\u2212", "-"))
        if abs(exponent) <= 300:
            value *= Fraction(10) ** exponent
            end = power.end()
    has_currency = re.search("[$€£¥₹₱]", text[match.start() : match.start("digits")])
    if magnitude := _MAGNITUDE.match(text, end):
        # A bare "5k" may be a race; "$5k" is money.
        if magnitude["word"] or has_currency:
            value *= _MAGNITUDES[(magnitude["word"] or magnitude["letter"]).lower()]
            end = magnitude.end()
    if begin == match.start() and _negative(text, match):
        value = -value
    percent = _PERCENT.match(text, end)
    if percent:
        end = percent.end()
    return Quantity(value, begin, end, percent=percent is not None)


def _negative(text: str, match: re.Match[str]) -> bool:
    sign = match["inner"] or match["sign"] or ""
    if not sign or sign.strip() == "+":
        return False
    before = text[max(0, match.start() - 9) : match.start()].rstrip(" ")
    touching = match.start() > 0 and text[match.start() - 1 : match.start()] != " "
    if match["inner"] is None and sign != sign.strip():
        # "- 5": a sign only if no value precedes it to subtract from.
        return not before or before[-1] in "=(:,\n{["
    if not touching:
        # "20 -5" is a subtraction; "is -5" is a number.
        return not (before[-1:].isdigit() or before[-1:] in tuple(")%"))
    return not (before[-1:].isalnum() or before[-1:] in tuple(")]}%.!'\""))


def _plain_value(digits: str) -> Fraction:
    digits = digits[:MOST_DIGITS]
    if re.fullmatch(r"\d+,\d{1,2}", digits):
        return Fraction(digits.replace(",", "."))
    if re.fullmatch(
        r"\d{1,3}(?:\.\d{3}){2,99}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d{1,2}", digits
    ):
        return Fraction(digits.replace(".", "").replace(",", "."))
    return Fraction(re.sub("[,'\u2019_\u00a0\u2009\u202f]", "", digits))


def _joined(text: str, found: list[Quantity]) -> list[Quantity]:
    """Joins "2 hours and 30 minutes" into one quantity."""
    joined: list[Quantity] = []
    for quantity in found:
        if joined and (compound := _compound(text, joined[-1], quantity)):
            joined[-1] = compound
        else:
            joined.append(quantity)
    return joined


def _compound(text: str, first: Quantity, second: Quantity) -> Quantity | None:
    unit = _UNIT.match(text, first.end)
    last = _UNIT.match(text, second.end)
    if unit is None or last is None or not _JOINT.match(text, unit.end(), second.begin):
        return None
    factor = _COMPOUNDS.get((_unit(unit["unit"]), _unit(last["unit"])))
    if factor is None or not _joinable(first) or not _joinable(second):
        return None
    assert isinstance(first.value, Fraction) and isinstance(second.value, Fraction)
    return Quantity(
        first.value + second.value / factor,
        first.begin,
        last.end(),
        other=first.value * factor + second.value,
    )


def _joinable(quantity: Quantity) -> bool:
    return (
        isinstance(quantity.value, Fraction)
        and quantity.value >= 0
        and not quantity.percent
        and quantity.other is None
    )


@functools.lru_cache(maxsize=4096)
def _unit(word: str) -> str:
    word = word.lower()
    if word in _UNITS:
        return _UNITS[word]
    word = word.removesuffix("s")
    return _UNITS.get(word, word)
