r"""The parts of a model's output: its reply, and the reasoning before it.

Reasoning is what `<think>` and `</think>` enclose (either may be missing: a prompt can
open it, a limit can cut it), and what precedes the final channel of Harmony's format.
The reply is the rest, up to an end-of-text token.

Everything after this module reads a bounded text: runs of blanks are one blank, runs
of empty lines one empty line, and of a part with more than `HEAD + TAIL` characters the
first `HEAD` and the last `TAIL` count. An answer is at either end of a text, so that
the time of a verdict never grows with more than the length of the text.
"""

import dataclasses
import re
from collections.abc import Callable

HEAD, TAIL = 4_000, 16_000

END_TOKENS = re.compile(
    r"</s>|<eos>|<\|(?:im_end|endoftext|end_of_text|eot_id|eot|end|return)\|>"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>"
)
_IDLE_TOKENS = re.compile(
    r"<pad>|<s>|<bos>|<\|im_start\|>(?:assistant)?|<\|start\|>(?:assistant)?"
)
CHANNEL = re.compile(
    r"<\|channel\|>\s?(\w+)(?:\s?(?:to=[^<\s]*|<\|constrain\|>\w+))*\s?(?:<\|message\|>)?"
)
# The tags around reasoning; `closes` tells which end one is.
THOUGHT = re.compile(
    r"<(?P<close>/?)\s?(?:think|thinking|thoughts?|reasoning|seed:think)\s?>"
    r"|\[(?P<shut>/?)THINK\]|◁(?P<over>/?)think▷|<\|(?:begin|(?P<end>end))_of_thought\|>",
    re.IGNORECASE,
)
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textit)\s?\{([^{}\n]{0,400})\}")
_BLANKS = re.compile(r"[^\S\n\u00a0\u2009\u202f]{2,}")
_EMPTY_LINES = re.compile(r"\n\s*\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Segments:
    """The parts of an output.

    Attributes:
        reply: what is said to the reader; empty if a thought never ended.
        thought: the reasoning before it; empty if none is set apart.
        finished: whether the thought ended.
    """

    reply: str
    thought: str
    finished: bool


def split(text: str, prepared: Callable[[str], str] = str) -> Segments:
    """Splits an output into reply and thought, both bounded.

    Args:
        text: a model's whole output.
        prepared: is applied to each segment.

    Returns:
        Its segments.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    channels = list(CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        final = last[1] == "final"
        reply = text[last.end() :] if final else ""
        thought, finished = text[: last.start() if final else len(text)], final
        thought = CHANNEL.sub(" ", END_TOKENS.sub(" ", thought))
    else:
        reply, thought, finished = _outside_thoughts(text)
    reply = prepared(bounded(_without_tokens(reply)))
    thought = prepared(bounded(_IDLE_TOKENS.sub(" ", thought)))
    return Segments(bounded(reply), bounded(thought), finished)


def closes(tag: re.Match[str]) -> bool:
    """Whether a match of `THOUGHT` ends the reasoning."""
    return bool(tag["close"] or tag["shut"] or tag["over"] or tag["end"])


def _outside_thoughts(text: str) -> tuple[str, str, bool]:
    outside: list[str] = []
    inside: list[str] = []
    begin, thinking = 0, False
    for tag in THOUGHT.finditer(text):
        ends = closes(tag)
        piece = text[begin : tag.start()]
        begin = tag.end()
        if ends and not thinking:
            inside += [*outside, piece]  # the prompt opened it
            outside = []
        else:
            (inside if thinking else outside).append(piece)
        thinking = not ends
    if thinking and "".join(inside).strip():
        return "\n".join(outside), "\n".join(inside), True  # thinks again, without end
    (inside if thinking else outside).append(text[begin:])
    return "\n".join(outside), "\n".join(inside), not thinking


def _without_tokens(text: str) -> str:
    """Drops a tokenizer's padding tokens and what follows its end token."""
    text = _IDLE_TOKENS.sub(" ", text).lstrip()
    begin = 0
    for end in END_TOKENS.finditer(text):
        if text[begin : end.start()].strip():
            return text[begin : end.start()]
        begin = end.end()
    return text[begin:]


def bounded(text: str) -> str:
    """A text with single blanks and empty lines, of which only the ends are left."""
    text = _EMPTY_LINES.sub("\n\n", _BLANKS.sub(" ", text))
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n\n{text[-TAIL:]}"
    return text


def without_latex(text: str) -> str:
    r"""A text with the words of `\text{Yes}` and the like instead of the command."""
    return _LATEX.sub(r"\1", text)
