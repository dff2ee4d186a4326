r"""Rewrites a teacher's tokens and alternatives alike, so that alignment stays exact.

A token writes what its text adds to the rewritten text so far: " \times" writes " x",
and "**" writes nothing. An alternative writes what it would add in the place of the
token. A token may end in the middle of a unit of the table: "*" may become "**". It is
then read as if the text ended there, unless this text has an example to the contrary.
An alternative that ends so, or at the beginning of a command (`\fra`), leaves its last
word open: it ends with `OPEN`, which is no UTF-8, and alignment settles nothing of that
word.
"""

import codecs
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from specialize.corpus.plain_text.machine import SPECIAL, Machine, State

OPEN = b"\xff"


class Rewritten(NamedTuple):
    """Tokens that spell the rewritten text.

    Attributes:
        text: the rewritten text.
        tokens: T texts, joined `text`; some are empty.
        alternatives: for each token, what its alternatives write.
    """

    text: bytes
    tokens: list[bytes]
    alternatives: list[list[bytes]]


class _Node(NamedTuple):
    """The place before a token.

    Attributes:
        state: the state of the machine.
        half: the bytes of a character that is not yet complete.
        end: number of bytes that the machine has written.
    """

    state: State
    half: bytes
    end: int

    @property
    def waits(self) -> bool:
        return bool(self.state.pending or self.state.group)

    @property
    def kind(self) -> str:
        return "group" if self.state.group else self.state.pending


def rewrite(
    tokens: Sequence[bytes],
    alternatives: Sequence[Sequence[bytes]],
    machine: Machine,
    is_control: Callable[[bytes], bool] = lambda _: False,
) -> Rewritten | None:
    """Rewrites tokens that together are UTF-8.

    Args:
        tokens: T tokens.
        alternatives: the alternatives of each token.
        machine: the table for the student's vocabulary.
        is_control: whether an alternative is no text, such as `<|im_end|>`.

    Returns:
        What they write; None if nothing changes.
    """
    every = itertools.chain(tokens, *alternatives)
    if not any(_special(token) and not is_control(token) for token in every):
        return None
    nodes, text = _path(tokens, machine)
    surprising = frozenset(
        node.kind
        for node in nodes[1:-1]
        if node.waits and not text.startswith(_finish(node, machine), node.end)
    )
    places = [0]
    for node in nodes[1:-1]:
        guess = b""
        if node.waits and node.kind not in surprising and machine.fair(node.state):
            guess = _finish(node, machine)
        places.append(max(places[-1], node.end + len(guess)))
    places.append(len(text))
    done: list[list[bytes]] = []
    for node, place, options in zip(nodes, places, alternatives, strict=False):
        done.append([])
        plain = node.state.neutral and not node.half
        ahead = text[node.end : place]
        for option in options:
            if plain and not _special(option):
                out = option
            elif is_control(option):
                out = OPEN if node.half or node.waits else option
            else:
                out = _alternative(node, option, machine, surprising)
                # What it writes otherwise than the text, it writes before this place.
                out = out[len(ahead) :] if out.startswith(ahead) else OPEN
            done[-1].append(out)
    written = [text[begin:end] for begin, end in itertools.pairwise(places)]
    return Rewritten(text, written, done)


@functools.lru_cache(maxsize=1 << 16)
def _special(token: bytes) -> bool:
    return SPECIAL.search(token.decode("latin-1")) is not None


def _path(tokens: Sequence[bytes], machine: Machine) -> tuple[list[_Node], bytes]:
    """The nodes before each token and after the last, and the rewritten text."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    node = _Node(State(), b"", 0)
    nodes = [node]
    written: list[bytes] = []
    for token in tokens:
        state, half, end = node
        if token and not half and state.neutral and not _special(token):
            # Most tokens are plain ASCII. They write themselves.
            state, half = machine.after(state, token.decode()), b""
            out = token
        else:
            text, state = machine.feed(state, decoder.decode(token))
            out, half = _bytes(text), decoder.getstate()[0]
        written.append(out)
        node = _Node(state, half, end + len(out))
        nodes.append(node)
    return nodes, b"".join(written) + _finish(node, machine)


def _alternative(
    node: _Node, option: bytes, machine: Machine, surprising: frozenset[str]
) -> bytes:
    """What an alternative writes, from the end of what the machine has written."""
    raw = node.half + option
    try:
        text, rest = raw.decode("utf-8", "surrogatepass"), b""
    except UnicodeDecodeError as error:
        text = raw[: error.start].decode("utf-8", "surrogatepass")
        rest = raw[error.start :]
    out, state = machine.feed(node.state, text)
    after = _Node(state, rest, 0)
    if rest:
        # Half a character: no UTF-8, so alignment leaves the word open.
        return _bytes(out) + rest
    if not after.waits and not state.drop:
        return _bytes(out)
    if after.kind in surprising or not machine.fair(state):
        return _bytes(out) + OPEN
    return _bytes(out) + _finish(after, machine)


def _finish(node: _Node, machine: Machine) -> bytes:
    return _bytes(machine.finish(node.state))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
