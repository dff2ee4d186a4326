r"""Letters of options as final answers: "(B)", "B.", "option B", "**B) the falcon**".

After a mark the letter is at the beginning, or the only one of the first sentence.
Several offered letters ("(A) or (B)") stay several and equal no gold.

Without a mark, in this order:

1. the last conclusion that names a letter: a sentence with "so", "therefore", "based
   on", or one that calls an option right, best or the one it chooses;
2. the letter a text begins with;
3. the letter of its last sentence;
4. the one letter a text speaks of, where a sentence says it or ends with it.

Of a sentence only its main clause counts: "whereas (D) breaks the rule" is an aside,
and what follows "but" is the clause. Dismissed letters ("(F) does not apply", "unlike
(A)", "in contrast, (B) ...") and options reprinted one by one are no candidates.
"""

import re
from collections.abc import Iterator

from specialize.judging import sentences
from specialize.judging.marks import Passage

_PARENTHESISED = (
    r"(?:\((?:[Oo]ption\s|[Cc]hoice\s)?(?P<round>[A-Z])\)"
    r"|\[(?P<square>[A-Z])\]|\{(?P<curly>[A-Z])\})"
)
_ROUND = re.compile(_PARENTHESISED)
_LEADING = re.compile(
    r"[\s*_`\"'“$:-]*(?:\\[(\[]\s*)?(?:\\(?:text|mathrm|mathbf|textbf|boxed)\s*\{)?"
    r"(?:(?:most\s+)?(?:likely|probably|definitely|clearly)\s+(?:to\s+be\s+)?)?"
    r"(?:(?:[Tt]he\s+)?(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\s*:?\s*[*_`]*)?"
    rf"(?:{_PARENTHESISED}|\((?P<lower>[a-z])\)|(?P<tiny>[a-z])(?=[.)]?\s*$)"
    r"|(?P<bare>(?!I')[A-Z])(?=\s*(?:$|[\n().:,;!\]}*_`\"'”\\$]|[-–—]\s"
    r"|(?:because|since|as|is|which|and|or|for|given|explanation)\b))"
    r"|(?P<named>[B-HJ-Z])(?=\s))"
)
# Wherever a sentence speaks of an option by its letter.
_MENTION = re.compile(
    rf"{_PARENTHESISED}"
    r"|\b(?:[Oo]ptions?|[Cc]hoices?|[Aa]nswer|[Ll]etter)\s[*_`\"]*(?P<named>[A-Z])\b"
    r"|(?<=[*_`])(?P<bold>[A-Z])(?=[.):]\s|[*_`])"
    r"|(?<![\w(])(?P<listed>[A-Z])(?=\)\s)"
    r"|\b(?:is|be|with|choose|pick)\s(?P<said>[B-HJ-Z])(?=[.,;]?$|\.\s)"
    r"|(?:^|,\s)(?P<short>[A-HJ-Z])(?=\.\s[a-z])"
    r"|(?<![\w'])(?P<subject>[B-HJ-Z])(?=\s(?:is|was)\s(?:the\s)?"
    r"(?:correct|right|best|answer)\b)"
    r"|\b(?:or|and)\s[*_`]*(?P<other>[B-HJ-Z])(?=[*_`]*[\s.,;)]|$)"
)
_MENTION_LIMIT = 400  # a longer sentence is no statement of one letter
_CONCLUDES = re.compile(
    r"[\W_]*(?:so|therefore|thus|hence|then|finally|consequently|accordingly|overall"
    r"|ultimately|in\s(?:conclusion|summary|short|the\send)|as\sa\sresult|based\son"
    r"|conclusion|considering|all\sthings|all\sin\sall|to\ssum\sup|given\s(?:this|these"
    r"|that|the)|from\s(?:this|these|the)|this\s(?:leaves|means|makes|points)"
    r"|that\s(?:leaves|means|makes|points)|among)\b",
    re.IGNORECASE,
)
_CHOOSES = re.compile(
    r"\b(?:correct|right|best|only|closest|most\s\w+|likeliest|proper|better)\s"
    r"(?:\w+\s){0,3}?(?:answer|option|choice|match|fit|one|pick|candidate|statement"
    r"|sentence|order|recommendation)\b"
    r"|\b(?:is|be|as)\s(?:the\s(?:correct|right)|correct|right(?=[.,:;]|$))"
    r"|\bis\sthe\s(?:most\s\w+|best|only)\b|\bthe\s(?:most|best|only)\s[^.]{1,80}\sis\b"
    r"|\b[A-Z]\)?[*_`]*\s(?:is|was)\sthe\b"
    r"|\b(?:choose|pick|select|recommend|go\swith|answer\swith)\b",
    re.IGNORECASE,
)
# "If we look at (B), it says that this is the best plan ever" is no choice.
_REPORTS = re.compile(r"\b(?:says|states|suggests|claims|implies)\b", re.IGNORECASE)
_CONTRASTS = re.compile(
    r"[\W_]*(?:(?:in|by)\scontrast|in\scomparison|by\scomparison|conversely|meanwhile"
    r"|on\sthe\sother\shand|unlike|compared\s(?:to|with)|as\sopposed\sto"
    r"|(?:the\s)?(?:other|remaining)\s)",
    re.IGNORECASE,
)
_BUT = re.compile(r",?\s(?:but|however,?|yet)\s", re.IGNORECASE)
_ASIDE = re.compile(
    r"(?:,\s|\s)(?:whereas|while|although|though|unlike|because|since|as|when|if|than"
    r"|rather|instead|not|which|who|where|compared|so\sthat|despite)\b"
    r"|,\sand\s(?=[^,]*\b(?:is|are|was|has|does|lacks?)\b)|;\s",
    re.IGNORECASE,
)
_REFUTED = (
    r",?\s(?:which|(?:but|yet|although|though)\s(?:it|this|that))\s(?:is|was)"
    r"(?:(?:\snot|n't)\s(?:\w+\s)?(?:right|correct|true|it|listed|valid|an?\s)|\swrong|\sincorrect)"
)
_NOT_BEFORE = re.compile(
    r"\b(?:not(?:\s\w+){0,3}|unlike|than|without|excludes?|eliminates?|rules?\sout"
    r"|instead\sof|rather\sthan)\s(?:(?:the|option|choice|answer|statement)\s){0,2}[*_`(\"]*$",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"(?:,\s(?:by|in)\scontrast\b|,\son\sthe\sother\shand\b)"
    r"|(?:(?:,|,?\s(?:and|or))\s\(?[A-Z]\)?)*+"
    r"(?:(?!\b(?:because|since|as|while|whereas|but)\b|\([A-Z]\))[^,;]){0,80}?"
    r"\b(?:(?:is|are|was|were|does|do|did|can|could|would|will|has)\s"
    r"(?:\w+\s){0,2}?(?:not|never|no)\b|\w+n't\b|cannot\b"
    r"|(?:is|are|was)\s(?:\w+\s){0,2}?(?:incorrect|wrong|false|impossible|irrelevant"
    r"|unlikely|out|ruled\sout|eliminated|excluded)\b|lacks?\b|fails?\b|breaks?\b)"
    rf"|[^;]{{0,80}}?{_REFUTED}",
    re.IGNORECASE,
)
_HEDGE_ENDS = re.compile(
    r"\b(?:is|are|was|not|because|since|as|than|over|but|while|whereas|so|which|where"
    r"|rather|instead|unlike|explanation)\b|[;\n]|[.!?][*_`\"]*\s(?=[A-Z])",
    re.IGNORECASE,
)
_OFFERED = re.compile(
    rf"{_PARENTHESISED}|\b(?:or|and)\s[*_`\"]*(?P<joined>[A-Z])(?=[*_`\"]*(?:[\s.,)]|$))"
    r"|(?<![\w(])(?P<listed>[A-Z])(?=\)\s)|^[*_`\"]*\s?[/&,]\s?[*_`\"]*(?P<next>[A-Z])"
    r"(?=[*_`\"]*(?:[\s.,)]|$))"
)
_WRONG = re.compile(
    rf"[^.;\n]{{0,80}}?{_REFUTED}",
    re.IGNORECASE,
)
_POINTS_TO = re.compile(r"\b(?:is|be|was)\s+[*_`]*$")
_ENDS_WITH = re.compile(r"[*_`]*\s*(?:[.!]|$)")
_NEXT_OPTION = re.compile(r"(?:\n|[.;]\s+)\s*[-*_]*\(?([A-Z])\)")
_NEXT_LINE = re.compile(r"[^\n]*\n+[-*_ ]*\(?([A-Z])[).:]\s")
_LISTED = re.compile(r"\s*(?:[-*•]\s|[*_]*\(?[A-Z]\))")
_SPEAKER = re.compile(r"\s*(?:A|Answer)\s?:\s(?=\S)", re.IGNORECASE)


def marked(passage: Passage) -> str | None:
    """The letter after a mark, "(B)"; several offered letters stay several."""
    text = passage.text
    leading = _LEADING.match(text)
    if passage.kind == "heading" and not (
        leading and not text[leading.end() :].strip(" *_`.:!)")
    ):
        return None
    if leading:
        if _is_list(text, leading) or _WRONG.match(text, leading.end()):
            return None
        return _offered(text, leading)
    sentence = sentences.first(text)
    if passage.kind == "colon" and text.strip()[len(sentence) :].strip(" .!*_`"):
        return None  # the first sentence of a chain of thought
    return _named(sentence)


def unmarked(text: str) -> str | None:
    """The letter that a text without a mark states, by the ranks of this module."""
    speaker = _SPEAKER.match(text)
    text = text[speaker.end() :] if speaker else text
    said = sentences.introduced(text)
    for sentence in reversed(said):
        if _concludes(sentence) and (letter := _named(sentence)):
            return letter
    leading = _LEADING.match(text)
    if leading and leading["named"] is None and not _is_list(text, leading):
        # "(A) says ... \n(B) says ..." discusses the options one by one.
        letter = _letter(leading)
        others = _NEXT_OPTION.findall(text[leading.end() :])
        dismissed = _NOT_AFTER.match(text, leading.end())
        if not dismissed and all(f"({other})" == letter for other in others):
            return _offered(text, leading)
    if said and not (len(said) > 1 and all(map(_LISTED.match, said[-2:]))):
        if letter := _named(said[-1], main=False):
            return letter
    return _only(text)


def _offered(text: str, leading: re.Match[str]) -> str:
    """The leading letter, and another one that the same breath offers."""
    rest = text[leading.end() : leading.end() + 300]
    stop = _HEDGE_ENDS.search(rest)
    limit = stop.start() if stop else None
    letter = _letter(leading)
    for other in _OFFERED.finditer(rest[:limit]):
        if _letter(other) != letter:
            return f"{letter} {_letter(other)}"
    return letter


def _is_list(text: str, leading: re.Match[str]) -> bool:
    """Whether the options are reprinted, each on its line, from this letter on."""
    following = _NEXT_LINE.match(text, leading.end())
    return following is not None and f"({following[1]})" != _letter(leading)


def _concludes(sentence: str) -> bool:
    if _CONCLUDES.match(sentence):
        return True
    return bool(_CHOOSES.search(sentence)) and not _REPORTS.search(sentence)


def _named(sentence: str, *, main: bool = True) -> str | None:
    """The one letter of a sentence, or of its main clause, that is not dismissed."""
    if len(sentence) > _MENTION_LIMIT:
        return None
    if _CONTRASTS.match(sentence) or _WRONG.search(sentence):
        return None
    for clause in reversed(_BUT.split(sentence)):
        letters = {_letter(match) for match in _mentions(clause)}
        if len(letters) > 1 and main:
            clause = _without_aside(clause)
            letters = {_letter(match) for match in _mentions(clause)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None


def _without_aside(clause: str) -> str:
    """The clause up to the first aside after a letter."""
    first = _MENTION.search(clause)
    aside = _ASIDE.search(clause, first.end()) if first else None
    return clause[: aside.start()] if aside else clause


def _mentions(clause: str) -> Iterator[re.Match[str]]:
    for match in _MENTION.finditer(clause):
        if _NOT_BEFORE.search(clause, max(0, match.start() - 60), match.start()):
            continue
        if _NOT_AFTER.match(clause, match.end()):
            continue
        yield match


def _only(text: str) -> str | None:
    """The one letter a text speaks of, where a sentence says or ends with it."""
    found = list(_ROUND.finditer(text))
    if len({_letter(match) for match in found}) == 1 and any(
        _POINTS_TO.search(text, max(0, match.start() - 12), match.start())
        or _ENDS_WITH.match(text, match.end())
        for match in found
        if not _NOT_AFTER.match(text, match.end())
        and not _NOT_BEFORE.search(text, max(0, match.start() - 60), match.start())
    ):
        return _letter(found[0])
    return None


def _letter(match: re.Match[str]) -> str:
    letter = next(value for value in match.groupdict().values() if value)
    return f"({letter.upper()})"
