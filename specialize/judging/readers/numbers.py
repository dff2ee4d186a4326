"""Numbers as final answers: which number of a passage is the answer.

After a mark (`marks`), within its first sentence:

- A number that comes first is the answer, whatever explanation follows: "The answer
  is $18.00 because 3 eggs ..." is 18. Currency, emphasis, "about", "a total of",
  "x =" and the like may precede it.
- A calculation counts by its result: "9 * 2 = 18" is 18, "18 = 9 * 2" too. Without a
  result ("9 * 2") it is no single number, and no gold equals it.
- Several offered numbers ("5 or 6", "5 to 6", "5 and 6") are no single number either,
  except where the gold itself has several (ASDiv: "5 (ft); 7 (ft)"): then the passage
  must hold exactly these, in any order.
- If other words come first ("The answer is that in 3 days she makes $18"), the number
  that the sentence states counts (`statements`).
- Numbers in words count where they come first and no digits do.

Without a mark the last emphasised number counts ("**18**"), else what the last
sentence with a number states; a text without digits may be a number in words. A text
that ends within a calculation after others was cut off, and states nothing.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from specialize.judging import sentences
from specialize.judging.marks import Passage
from specialize.judging.quantities import Clock, Quantity, find_quantities
from specialize.judging.readers.equal_quantities import same_quantities, same_quantity
from specialize.judging.readers.number_words import leading_number
from specialize.judging.readers.statements import stated

_LEAD = re.compile(
    r"""(?:[\s*_`"'“”‘’({\[~≈:=>$|-]
    | \\[(\[]|\\(?:d?frac|approx|sim|bf|bm|boldsymbol|left|quad|displaystyle)\b
    | [a-z]\s?=
    | (?:that|about|approximately|around|roughly|exactly|precisely|nearly|almost|just
        |only|simply|therefore|thus|hence|now|equal\ to|equals|indeed|actually|still
        |an?|the|is|total|totals?\ of|total\ of|sum\ of|number|of|USD|EUR|GBP|Rs\.?|RM
        |PHP|at\ least|at\ most|option|minus|negative|most\ likely|likely|probably)\b
    )*""",
    re.IGNORECASE | re.VERBOSE,
)
_NEGATIVE_WORD = re.compile(r"\b(?:minus|negative)\s+[$€£]?$", re.IGNORECASE)
_UNITS = r"(?:\s*\\?(?!or\b|and\b|to\b|x\b)[A-Za-z%.()²³]++){0,3}?"
_OPERATOR = re.compile(
    rf"{_UNITS}[\s)]*(?:[+*×·÷/=\u2212]|\s-|[-–](?=[\s$]*\d)|x\s?(?=[$\d(])|\\div\b"
    r"|(?:times|plus|minus|(?:divided|multiplied)\s+by)\b)[\s($]*(?=[-\d.$(])",
    re.IGNORECASE,
)
# "676 - 224, which is 452": words that mean an equals sign.
_RESULTS_IN = re.compile(
    r",?\s(?:(?:which|that|and)\s)?(?:is\s(?:equal\sto\s)?|equals\s|gives\s(?:us\s)?"
    r"|comes\s(?:out\s)?to\s)(?=[-$€£]?\d)"
)
_LISTED = re.compile(r",\s(?:and\s)?[-$€£]?\d[\d,.]*(?:\s*,\s|,?\s+and\s|[\s.]*$)")
# "8 pens will cost $12": the first number only counts the subject.
_COUNTED_SUBJECT = re.compile(
    r"(?:\s(?!because\b|since\b|so\b|as\b|and\b)[A-Za-z'-]+){1,8}?\s(?:"
    r"(?:(?:will|would|can)\s)?(?:costs?|weighs?|equals?|contains?|holds?|makes?|lasts?"
    r"|feeds?|is\sequal\sto)"
    r"|(?:will|would|can|could)\s(?!be\b|have\b|remain\b|stay\b|fit\b|still\b|not\b)"
    r"[a-z]+)\s(?:a\stotal\sof\s)?"
    r"(?:(?!in\b|at\b|on\b|after\b|before\b|by\b|per\b|within\b|if\b|and\b|or\b|with\b)"
    r"[A-Za-z'-]+\s){0,4}?[$€£]?(?=\d)"
)
_HEDGE = re.compile(
    r"(?:\s*\\?(?!(?:or|and|to|x|is|are|was|were)\b)"
    r"[A-Za-z%.()²³]++){0,6}?"
    r"\s*(?:,?\s*\b(?:or|and|to)\b|[–—]|-)\s*(?:\b(?:about|maybe|even)\s+)?[$€£]?$"
)
_REST_OF_SHORT = re.compile(
    r"[\s*_`$)\]}\"'”’.]*+(?:\\[)\]])?"
    r"(?:[A-Za-z²³$%/()*_.\\}-]++[^\S\n]*+){0,5}[.!\s*_`$)\]}\"'”’\\]*(?=\n|$)"
)
_PART_OF = re.compile(r"(?:half|a\s+\w+)\s+(?:of\s+)?the\b", re.IGNORECASE)
_TAIL = 1_000
_STEP = re.compile(r"^\**Step\s\d+\**:\s", re.IGNORECASE)
_HEADING = re.compile(r"\s*[*_]*(?:\d+[.)]|\(\d+\))\s+[*_]*[A-Za-z]")
_STEPS = re.compile(r"\n\W*step\s\d", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"\W*(?:so|therefore|thus|hence|finally|consequently|altogether|overall)\b", re.I
)
_EMPHASISED = re.compile(
    r"(?:\*\*|__)\s?(?P<number>[-−]?[$€£]?[-−]?\d[\d,.]*%?(?:\s[A-Za-z]+){0,3})[.!]?\s?(?:\*\*|__)"
)
_NUMBER_WORD = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty"
    r"|zero)\b",
    re.IGNORECASE,
)
_OPEN_SUM = re.compile(r"\d\s?(?:[-+*/×·÷^]|=)\s?$")
_POWER = re.compile(r"\s?(?:\^|\*\*)\s?$")
_FIRST_OF_LIST = re.compile(r"\s*1[.)]\s[^\n]*\n+\s*2[.)]\s")
_EXPLAINED = re.compile(
    r"[\s*_`$)\]}\"'.,;(-]*+(?:[A-Za-z]+\s){0,3}?[\s.,;:(*-]*+"
    r"(?:explanation|reason\w*|because|since|solution|step|note|as)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class NumberAnswer:
    """What a passage offers as its answer.

    Attributes:
        single: the one number it offers, None if it offers several or a calculation
            without a result.
        several: all numbers of the passage, in order.
        text: what was offered, for a reader.
    """

    single: Quantity | None
    several: tuple[Quantity, ...]
    text: str


def read_marked(passage: Passage) -> NumberAnswer | None:
    """Reads the number after a mark; None if there is none."""
    text = passage.text.lstrip(" \t\r\n*_`:")
    begins_anew = "\n" in passage.text[: len(passage.text) - len(text)]
    if passage.kind == "enclosed":
        return _offered(text.replace("\n", " ")) or _words(text)
    if passage.kind in ("hashes", "heading"):
        line = text.split("\n", 1)[0]
        if _HEADING.match(line) or not (_leads(line) and _is_short(line)):
            return None
        if passage.kind == "heading" and len(line.split()) > 3:
            return None  # "#### 3 rows of seats"
        return _offered(line)
    # A calculation may have its result on the next line.
    text = re.sub(r"=[ \t]*\n\s*(?=[-$€£\d])", "= ", text)
    if _STEP.match(text) and _STEPS.search(text):
        return None
    text = _STEP.sub("", text)
    sentence = sentences.first(text)
    if _FIRST_OF_LIST.match(text):
        return None
    if begins_anew and "=" in sentence and _goes_on(text, sentence):
        return None  # the first of several steps
    if passage.kind == "colon" and _goes_on(text, sentence):
        # "Answer: 9 eggs are left. She ..." opens a chain of thought.
        if not (_leads(sentence) or _words(text)):
            return None
        if not (_stands_alone(text) or _is_explained(text)):
            return None
    return _offered(sentence) or _words(sentence)


def read_unmarked(text: str) -> NumberAnswer | None:
    """Reads the number that a text without a mark states, or its number in words.

    That is its last emphasised number, else what its last sentence with a number
    states. A text that ends within a calculation after others states nothing.
    """
    said = [_tail(sentence) for sentence in sentences.split(text)]
    last = next((one for one in reversed(said) if find_quantities(one)), None)
    if last is None:
        return _words(text.lstrip(" \t\r\n*_`"))
    several = tuple(find_quantities(_tail(text)) or find_quantities(last))
    if last is said[-1] and _is_cut_off(text, last):
        return None
    single = _emphasised(text) or _last_stated(last)
    return NumberAnswer(single, several, str(single))


def _tail(text: str) -> str:
    """The last words of a text; an answer is not further from its end."""
    return text if len(text) <= _TAIL else text[-_TAIL:].partition(" ")[2]


def _last_stated(sentence: str) -> Quantity:
    """The number that a sentence states: the last one of a calculation."""
    found = find_quantities(sentence)
    operates = len(found) > 1 and _OPERATOR.match(sentence, found[-2].end)
    if "=" in sentence or operates and operates.end() >= found[-1].begin - 1:
        return found[-1]
    word = _NUMBER_WORD.search(sentence, 0, found[0].begin)
    if word and _CONCLUDES.match(sentence):
        read = _words(sentence[word.start() :])
        if (
            read
            and read.single
            and stated(
                sentence,
                [
                    dataclasses.replace(
                        read.single, begin=word.start(), end=word.end()
                    ),
                    *found,
                ],
            ).begin
            == word.start()
        ):
            return read.single
    return stated(sentence, found)


def _emphasised(text: str) -> Quantity | None:
    """The last number that is emphasised on its own, "**18 eggs**"."""
    found = collections.deque(_EMPHASISED.finditer(text), maxlen=1)
    return find_quantities(found[0]["number"])[0] if found else None


def _is_cut_off(text: str, sentence: str) -> bool:
    """Whether a text ends within a calculation: "... = 42. Then 42 + 14 * 3"."""
    if text.rstrip()[-1:] in ".!?" or "=" not in text[: -len(sentence)]:
        return False
    if _OPEN_SUM.search(sentence):
        return True
    rest = sentence.rpartition("=")[2]
    found = find_quantities(rest)
    if len(found) < 2:
        return False
    between = rest[found[-2].end : found[-1].begin]
    operator = _OPERATOR.match(rest, found[-2].end)
    return bool(_POWER.fullmatch(between)) or (
        operator is not None and operator.end() >= found[-1].begin
    )


def equals(answer: NumberAnswer, gold: str, how: str) -> bool:
    """Whether an answer is this gold.

    Args:
        answer: what the prediction offers.
        gold: "18", "1,080", "5 (ft); 7 (ft)", "5:45"; without a number nothing equals.
        how: "marked" or "last": for several golds without a mark, the last numbers of
            the text are compared.
    """
    parts = gold_quantities(gold)
    if not parts:
        return False
    if len(parts) == 1:
        single = _single(answer, parts[0], how)
        return single is not None and same_quantity(single, parts[0])
    offered = answer.several
    if how == "last":
        offered = offered[-len(parts) :]
    return same_quantities(offered, parts)


def spelled(answer: NumberAnswer, golds: Sequence[str], how: str) -> str:
    """The answer in one spelling, so that equal answers are equal texts."""
    wanted = max((len(gold_quantities(gold)) for gold in golds), default=1)
    if wanted > 1:
        offered = answer.several[-wanted:] if how == "last" else answer.several
        return "; ".join(sorted(str(quantity) for quantity in offered))
    wants = [part for gold in golds for part in gold_quantities(gold)]
    single = _single(answer, wants[0], how) if wants else answer.single
    return str(single) if single is not None else answer.text


def gold_quantities(gold: str) -> list[Quantity]:
    """The numbers a gold asks for: one, or one for each part between semicolons.

    Of a part with several numbers a time counts before others ("11:55 p.m. on 24
    December"), then the first.
    """
    parts: list[Quantity] = []
    for part in gold.split(";"):
        found = find_quantities(part)
        if found:
            clocks = [one for one in found if not _is_number(one)]
            parts.append((clocks or found)[0])
    return parts


def _single(answer: NumberAnswer, wanted: Quantity, how: str) -> Quantity | None:
    """The one number offered; where a time is wanted, times count before others."""
    if isinstance(wanted.value, Clock):
        if answer.single is None:
            return _as_ratio(answer)
        if how == "last":
            # A text that ends "at 11:55 p.m. on 24 December" answers with its time.
            clocks = [one for one in answer.several if not _is_number(one)]
            return clocks[-1] if clocks else answer.single
    return answer.single


def _is_number(quantity: Quantity) -> bool:
    return not isinstance(quantity.value, Clock)


def _offered(sentence: str) -> NumberAnswer | None:
    found = find_quantities(sentence)
    if not found:
        return None
    first = found[0]
    lead = _LEAD.match(sentence)
    leads = lead is not None and lead.end() >= first.begin
    words = None if leads or _PART_OF.match(sentence) else _words(sentence)
    if words is not None:
        return words
    if leads and len(found) > 1 and _COUNTED_SUBJECT.match(sentence, first.end):
        leads, found = False, found[1:]
    if _OPERATOR.match(sentence, first.end):
        if len(rewritten := _RESULTS_IN.sub(" = ", sentence, count=1)) != len(sentence):
            return _offered(rewritten)
    if _is_calculation(sentence, found) and (
        not leads
        or _OPERATOR.match(sentence, first.end)
        or sentence.startswith("^", first.end)
    ):
        single = _result(sentence)
    elif not leads:
        single = stated(sentence, found)
    elif _OPERATOR.match(sentence, first.end) or _is_hedged(sentence, found):
        single = None
    else:
        single = first
    if single is not None and _NEGATIVE_WORD.search(sentence[: single.begin]):
        if not isinstance(single.value, Clock):
            single = dataclasses.replace(single, value=-single.value)
    return NumberAnswer(single, tuple(found), " ".join(sentence.split()))


def _is_calculation(sentence: str, found: list[Quantity]) -> bool:
    return "=" in sentence and len(found) > 1


def _result(sentence: str) -> Quantity | None:
    """The result of "9 * 2 = 18" or "18 = 9 * 2"."""
    sides = [side for side in sentence.split("=") if find_quantities(side)]
    if not sides:
        return None
    for side in (sides[-1], sides[0]):
        found = find_quantities(side)
        if not _OPERATOR.match(side, found[0].end) or len(found) == 1:
            return found[0]
    return None


def _is_hedged(sentence: str, found: list[Quantity]) -> bool:
    if len(found) < 2 or same_quantity(found[0], found[1]):
        return False  # "5/2 or 2.5"
    if _LISTED.match(sentence, found[0].end):
        return True  # "5, 4, 9"
    return bool(_HEDGE.fullmatch(sentence, found[0].end, found[1].begin))


def _goes_on(text: str, sentence: str) -> bool:
    """Whether more than closing marks follows a text's first sentence."""
    return any(character.isalnum() for character in text.lstrip()[len(sentence) :])


def _leads(text: str) -> bool:
    found = find_quantities(sentences.first(text))
    lead = _LEAD.match(text)
    return bool(found) and lead is not None and lead.end() >= found[0].begin


def _is_short(text: str) -> bool:
    """Whether a line is a number with at most a unit of a few words, and no more."""
    line = text.split("\n", 1)[0]
    sentence = sentences.first(line)
    if line.lstrip()[len(sentence) :].strip(" .!?*_`$)]}\"'”’\\"):
        return False
    found = find_quantities(sentence)
    if not found:
        words = leading_number(sentence)
        return words is not None and bool(_REST_OF_SHORT.match(sentence, words[1]))
    return bool(_REST_OF_SHORT.match(sentence, found[-1].end))


def _stands_alone(text: str) -> bool:
    """Whether a short line is the answer and not the first step of a solution."""
    line, _, rest = text.partition("\n")
    if not _is_short(line):
        return False
    if not rest.strip() or _EXPLAINED.match(rest.lstrip()):
        return True
    # "A: 16 - 7 = 9" with more lines after it is a first step; "Answer: 18" and a
    # blank line is an answer with its reasons.
    return not rest.split("\n", 1)[0].strip() and "=" not in line


def _is_explained(text: str) -> bool:
    found = find_quantities(sentences.first(text))
    end = found[0].end if found else (leading_number(text) or (None, 0))[1]
    return bool(_EXPLAINED.match(text, end))


def _words(text: str) -> NumberAnswer | None:
    lead = re.compile(
        r"(?:[\s*_`\"'“($:]|(?:that|about|approximately|exactly|only|just|an?\s+total\s+of"
        r"|equal\s+to)\b)*",
        re.IGNORECASE,
    ).match(text)
    begin = lead.end() if lead else 0
    read = leading_number(text[begin:])
    if read is None:
        return None
    value, length = read
    quantity = Quantity(value, begin, begin + length)
    return NumberAnswer(quantity, (quantity,), text[begin : begin + length])


def _as_ratio(answer: NumberAnswer) -> Quantity | None:
    """Reads "3 to 4" as the ratio 3:4, where the gold is one."""
    match = re.fullmatch(r"\D*(\d+) to (\d+)\D*", answer.text)
    return find_quantities(f"{match[1]}:{match[2]}")[0] if match else None
