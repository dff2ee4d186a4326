r"""Applies the table from left to right, with as little look-ahead as possible.

A text is read in units: a run of plain text, a LaTeX command, a mark of Markdown. What
a unit writes depends on the text before it (`State`) and on a few characters after it.
If these are not known yet, the unit is pending. So the text may come in any pieces, and
what has been written never changes.

    >>> Machine(str.isascii).text("**8** \\times 9 = \\boxed{72}")
    '8 x 9 = 72'
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from specialize.corpus.plain_text import table

# Without one of these, a text is written as it is.
SPECIAL = re.compile(r"[\\{}^*$#`~<]|[^\x00-\x7f]")
_PLAIN = re.compile(r"[^\\{}^*$#`~<\n\x80-\U0010ffff]+")
_SIMPLE = re.compile(r"[A-Za-z0-9.,]*")
_LETTERS = re.compile(r"[A-Za-z]+\*?")
_WHITE = re.compile(r"[ \t]*")
_HASHES = re.compile(r"#+")
# GSM8K's mark of the answer, which is no heading.
_ANSWER = re.compile(r"####[ \t]+[-+$]*[\d.,%]*[ \t]*")
_DEGREES = ("^\\circ", "^{\\circ}")
_CLOSING = ".,;:!?)]}'\"% \t\n"

Count = Callable[[str], object]


class State(NamedTuple):
    """What the rules need to know of the text so far.

    Attributes:
        pending: source text that is not yet written.
        last: the last character that was written.
        frames: what closes the open braces, the innermost last.
        group: whether a brace was opened whose content may be one word: "/" for a
            numerator, "." for another; "" if there is none.
        denominator: whether the denominator of a fraction comes next.
        drop: text is not written up to this character, and "}" itself is not.
        fresh: whether the line has only whitespace so far.
        bold: whether bold text is open.
        math: whether `$...$` is open.
        money: whether the line has a "$" before a digit.
        apart: whether a space must come next.
    """

    pending: str = ""
    last: str = ""
    frames: tuple[str, ...] = ()
    group: str = ""
    denominator: bool = False
    drop: str = ""
    fresh: bool = True
    bold: bool = False
    math: bool = False
    money: bool = False
    apart: bool = False

    @property
    def neutral(self) -> bool:
        """Whether text without special characters is written as it is."""
        return not (
            self.pending or self.group or self.denominator or self.drop or self.apart
        )


class Unit(NamedTuple):
    """One unit: its length, what it writes, the rule, and the state after it."""

    length: int
    written: str
    rule: str
    state: State


class Machine:
    """Rewrites texts for one vocabulary.

    Args:
        writes: whether the vocabulary can write a character.
    """

    def __init__(self, writes: Callable[[str], bool]) -> None:
        self._writes = writes
        self._known = dict(table.ALWAYS)

    def text(self, text: str, count: Count | None = None) -> str:
        """The whole text; `count` is called with the rule of every rewritten unit."""
        if not SPECIAL.search(text):
            return text
        written, state = self.feed(State(), text, count)
        return written + self._run(state, state.pending, True, count)[0]

    def feed(
        self, state: State, text: str, count: Count | None = None
    ) -> tuple[str, State]:
        """Continues with some text; returns what is written now, and the new state."""
        return self._run(state, state.pending + text, False, count)

    def after(self, state: State, plain: str) -> State:
        """The state after plain ASCII text, if it is neutral before."""
        if "\n" in plain:
            return self.feed(state, plain)[1]
        fresh = state.fresh and plain.isspace()
        if state.last == plain[-1] and state.fresh == fresh:
            return state
        return state._replace(last=plain[-1], fresh=fresh)

    def finish(self, state: State) -> str:
        """What the pending text writes if the text ends here."""
        return self._run(state, state.pending, True, None)[0]

    def fair(self, state: State) -> bool:
        r"""Whether `finish` is a fair reading of the pending text at a token's end.

        It is after a whole command such as `\div`, and not after its beginning, before
        its argument, or after the marks of a heading.
        """
        pending = state.pending
        if pending.startswith("\\"):
            return pending[1:] in table.COMMANDS or pending[1:] == ","
        if pending.startswith("#"):
            return pending[-1].isdigit()  # the number of GSM8K's mark
        return not state.drop

    def _run(
        self, state: State, text: str, final: bool, count: Count | None
    ) -> tuple[str, State]:
        parts: list[str] = []
        at = 0
        while at < len(text):
            unit = self._unit(state, text, at, final)
            if unit is None:
                break
            length, out, rule, after = unit
            at += length
            if rule and count is not None:
                count(rule)
            if not out:
                state = after._replace(apart=after.apart or state.apart)
                continue
            word = out in table.WORDS and bool(rule)
            if word and state.last and not (state.last.isspace() or state.last in "(["):
                out = " " + out
            elif state.apart and out[0] not in _CLOSING:
                out = " " + out
            parts.append(out)
            state = after._replace(last=out[-1], apart=word)
        return "".join(parts), state._replace(pending=text[at:])

    def _unit(self, state: State, text: str, at: int, final: bool) -> Unit | None:
        """The unit that begins at `at`, or None if it may depend on more text."""
        if state.drop:
            return _dropped(state, text, at)
        if state.group:
            return _group(state, text, at, final)
        if state.denominator:
            white = _white(text, at)
            if at + white == len(text) and not final:
                return None
            if text[at + white : at + white + 1] == "{":
                after = state._replace(group=".", denominator=False)
                return Unit(white + 1, "", "", after)
            state = state._replace(denominator=False)
        plain = _PLAIN.match(text, at)
        if plain:
            fresh = state.fresh and plain[0].isspace()
            return Unit(len(plain[0]), plain[0], "", state._replace(fresh=fresh))
        sign = text[at]
        if sign == "\n":
            after = state._replace(fresh=True, bold=False, math=False, money=False)
            return Unit(1, "\n", "", after)
        fresh, state = state.fresh, state._replace(fresh=False)
        # What follows; None if it is not yet known.
        rest = text[at + 1 : at + 2] or ("" if final else None)
        if sign > "\x7f":
            written = self._character(sign, state)
            return Unit(1, written, "" if written == sign else sign, state)
        if sign == "\\":
            return _command(state, text, at, final)
        if sign == "}":
            return _close(state)
        if sign == "#":
            return (
                _heading(state, text, at, final) if fresh else Unit(1, "#", "", state)
            )
        if sign == "`":
            return _code(state, text, at, final, fresh)
        if sign == "{":
            return _open(state, text, at, final)
        if sign == "^":
            return _power(state, text, at, final)
        if rest is None:
            return None
        if sign == "*":
            return _star(state, text, at, final)
        if sign == "$":
            return _dollar(state, rest)
        if sign == "~":
            if rest == "~":
                return Unit(2, "", "~~", state)
            about = rest.isdigit() or rest == "$"
            return Unit(1, "about" if about else " ", "~", state)
        if rest == "=":
            return Unit(2, "at most", "<=", state)
        return Unit(1, "less than", "<", state)

    def _character(self, sign: str, state: State) -> str:
        if sign in table.FRACTIONS:
            space = " " if state.last.isdigit() else ""
            return space + table.FRACTIONS[sign]
        written = self._known.get(sign)
        if written is None:
            written = self._known[sign] = self._looked_up(sign)
        return written

    def _looked_up(self, sign: str) -> str:
        if self._writes(sign) or sign.isspace():
            return sign
        if sign in table.CHARACTERS:
            return table.CHARACTERS[sign]
        # A letter without its accent.
        base = unicodedata.normalize("NFKD", sign)[0]
        return base if base.isascii() and base.isalpha() else sign


def _dropped(state: State, text: str, at: int) -> Unit:
    end = text.find(state.drop, at)
    if end < 0:
        return Unit(len(text) - at, "", "", state)
    length = end - at + (state.drop == "}")
    return Unit(length, "", "", state._replace(drop=""))


def _group(state: State, text: str, at: int, final: bool) -> Unit | None:
    """The content of a brace: one word, or else in parentheses."""
    found = _SIMPLE.match(text, at)
    assert found is not None  # it matches the empty text
    numerator = state.group == "/"
    end = found.end()
    if end == len(text):
        return Unit(end - at, found[0], "", state._replace(group="")) if final else None
    if text[end] == "}":
        after = state._replace(group="", denominator=numerator)
        return Unit(end - at + 1, found[0] + "/" * numerator, "", after)
    frames = (*state.frames, ")/" if numerator else ")")
    return Unit(end - at, "(" + found[0], "", state._replace(group="", frames=frames))


def _white(text: str, at: int) -> int:
    found = _WHITE.match(text, at)
    return len(found[0]) if found else 0


def _command(state: State, text: str, at: int, final: bool) -> Unit | None:
    """A LaTeX command."""
    found = _LETTERS.match(text, at + 1)
    if found is None:
        return _sign(state, text, at, final)
    name, end = found[0].rstrip("*"), found.end()
    rule = "\\" + name
    if end == len(text) and not final:
        return None
    if name in table.COMMANDS:
        end -= found[0] != name
        return Unit(end - at, table.COMMANDS[name], rule, state)
    if name in table.SILENT:
        return Unit(end - at, "", rule, state)
    begin = end + _white(text, end)
    brace = text[begin : begin + 1]
    if not brace and not final:
        return None
    length = begin + 1 - at
    if name in table.FRACTION:
        space = " " * state.last.isdigit()
        if brace == "{":
            # A space before it: `3\frac{1}{2}` is not 31/2.
            return Unit(length, space, rule, state._replace(group="/"))
        if brace.isalnum():
            return Unit(length, f"{space}{brace}/", rule, state)
    if brace == "{":
        if name in ("begin", "end"):
            return Unit(length, "", rule, state._replace(drop="}"))
        if name in table.ARGUMENT:
            return Unit(length, "", rule, state._replace(frames=(*state.frames, "")))
        if name == "sqrt":
            return Unit(
                length, "sqrt(", rule, state._replace(frames=(*state.frames, ")"))
            )
    if name in table.ARGUMENT and name != "section":
        return Unit(end - at, "", rule, state)
    return Unit(end - at, found[0], rule if name == "sqrt" else "\\", state)


def _sign(state: State, text: str, at: int, final: bool) -> Unit | None:
    r"""A backslash and a sign, such as `\(`, `\%`, `\\`."""
    sign = text[at + 1 : at + 2]
    if not sign:
        return Unit(1, "", "\\", state) if final else None
    rule = "\\" + sign
    if sign == ",":
        after = text[at + 2 : at + 3]
        if not after and not final:
            return None
        thousands = after.isdigit() and state.last.isdigit()
        return Unit(2, "," if thousands else " ", rule, state)
    if sign == "\n":
        return Unit(1, "", "\\", state)
    return Unit(2, table.SIGNS.get(sign, sign), rule, state)


def _open(state: State, text: str, at: int, final: bool) -> Unit | None:
    """An opening brace that no command waits for."""
    if text.startswith("{,}", at):
        return Unit(3, ",", "{,}", state)
    if text.startswith("{}", at):
        return Unit(2, "", "{", state)
    if text[at:] in ("{", "{,") and not final:
        return None
    if state.last == "_":
        return Unit(1, "", "{", state._replace(group="."))
    return Unit(1, "(", "{", state._replace(frames=(*state.frames, ")")))


def _close(state: State) -> Unit:
    """A closing brace."""
    *frames, closer = state.frames or (")",)
    after = state._replace(frames=tuple(frames), denominator=closer.endswith("/"))
    return Unit(1, closer, "}" if closer == ")" else "", after)


def _power(state: State, text: str, at: int, final: bool) -> Unit | None:
    for degrees in _DEGREES:
        if text.startswith(degrees, at):
            return Unit(len(degrees), "°", "^\\circ", state)
        if degrees.startswith(text[at:]) and not final:
            return None
    if text[at + 1 : at + 2] == "{":
        return Unit(2, "**", "^", state._replace(group="."))
    return Unit(1, "**", "^", state)


def _heading(state: State, text: str, at: int, final: bool) -> Unit | None:
    """The marks of a heading, or GSM8K's mark of an answer."""
    found = _HASHES.match(text, at)
    assert found is not None  # it begins with one
    count, end = len(found[0]), found.end()
    if end == len(text) and not final:
        return None
    if count > 6 or text[end : end + 1] not in (" ", "\t"):
        return Unit(count, found[0], "", state)
    answer = _ANSWER.match(text, at)
    if count == 4 and answer is not None:
        if answer.end() == len(text) and not final:
            return None
        whole = answer.end() == len(text) or text[answer.end()] == "\n"
        if whole and any(map(str.isdigit, answer[0])):
            return Unit(len(answer[0]), answer[0], "", state)
    return Unit(end - at + _white(text, end), "", "#", state)


def _code(state: State, text: str, at: int, final: bool, fresh: bool) -> Unit | None:
    """A backtick, or the line that opens or closes a block of code."""
    if not fresh:
        return Unit(1, "", "`", state)
    if text.startswith("```", at):
        return Unit(3, "", "```", state._replace(drop="\n"))
    if text[at:] in ("`", "``") and not final:
        return None
    return Unit(1, "", "`", state)


def _star(state: State, text: str, at: int, final: bool) -> Unit | None:
    """A mark of bold text, or a multiplication or power, which stay."""
    if text[at + 1 : at + 2] != "*":
        return Unit(1, "*", "", state)
    if state.bold:
        return Unit(2, "", "**", state._replace(bold=False))
    after = text[at + 2 : at + 3]
    if not after and not final:
        return None
    number = state.last.isalnum() or state.last == ")"
    if number and (after.isalnum() or after in ("(", "-")):
        return Unit(2, "**", "", state)
    if state.last == " " == after:
        return Unit(2, "**", "", state)
    return Unit(2, "", "**", state._replace(bold=not number))


def _dollar(state: State, rest: str) -> Unit:
    """A sign of money, which stays, or of a formula, which goes."""
    if rest == "$":
        return Unit(2, "", "$", state)
    if state.math:
        return Unit(1, "", "$", state._replace(math=False))
    if rest.isdigit():
        return Unit(1, "$", "", state._replace(money=True))
    if rest.isalpha() or rest in tuple("\\({-[|"):
        return Unit(1, "", "$", state._replace(math=True))
    if state.money and (state.last.isalnum() or state.last in tuple(")%")):
        # It closes a formula that began with a number.
        return Unit(1, "", "$", state._replace(money=False))
    return Unit(1, "$", "", state)
