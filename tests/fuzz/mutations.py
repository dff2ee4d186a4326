"""One mutation of a valid file: of its bytes, its lines, its tokens, or its values.

A mutator takes the bytes of a file and a random generator, and returns other bytes. It
depends on nothing else, so that a number reproduces a mutation.
"""

import json
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

# JSON texts in the place of a value.
ODD_JSON = (
    *("null", "true", "false", "0", "-0", "-1", "1.5", "-0.0", "1e308", "1e999"),
    *("NaN", "-Infinity", "Infinity", "5e-324", "9" * 30, "1" * 400, "1" * 5000),
    *(str(2**31), str(2**53 + 1), str(2**63 - 1), str(2**63), str(-(10**400))),
    *('""', '" "', '"x"', '"\\ud800"', '"\\udfff x"', '"\\u2028\\u0085\\u000b"'),
    *('"\\u001b[2J\\u0007"', '"\\u0000"', '"\\u202e\\ufeff"', '"[/red][bold]"'),
    *('"../../x"', '"/etc/passwd"', '"a/../../b"', '"~"', '"gs://b/x"', '"."'),
    *('"' + "a" * 300 + '"', '"' + "é" * 70_000 + '"', '"1' + "0" * 5000 + '"'),
    *("[]", "{}", "[[]]", "[null]", '{"": null}', "[" * 200 + "]" * 200),
    *("[" * 100_000, '{"a":' * 100_000, "[" + "0," * 2000 + "0]", "tru", "'x'"),
    *('"\\x41"', "01", "+1", ".5", "1.", "/*c*/1", '"\t"', '"%s %(x)s {0}"'),
)
ODD_TEXTS = (
    *("", " ", "x", "0", "-1", "nan", "inf", "1e999", "9" * 400, "\u2028", "\x00"),
    *("\x1b]0;t\x07", "../../x", "/etc/passwd", "a/b", "~", "a" * 300, "é" * 70_000),
    *("\u202e", "\ufeff", "[/red]", "<script>", "```", "{0}", "%s", "\r", "\t"),
)
ODD_NUMBERS = (
    *(0, -1, 1, 2, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), -float("inf"), 5e-324),
)


class Twin(str):
    """A key that a dict can hold beside its equal."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Raw(str):
    """Text of a JSON value, which is written as it is."""

    __slots__ = ()


def chance(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def place_in(value: Any, rng: random.Random) -> tuple[Any, Any] | None:
    """A random container in a value, and a key or index of it; None for a scalar.

    Each level is as likely as the next, so that a long list does not hide the rest.
    """
    if not isinstance(value, dict | list) or not value:
        return None
    while True:
        key = rng.choice(list(value)) if isinstance(value, dict) else None
        key = rng.randrange(len(value)) if key is None else key
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or chance(rng, 0.25):
            return value, key
        value = inner


def tree(value: Any, rng: random.Random, odd: Callable[[Any], Any]) -> Any:
    """A value of dicts, lists and scalars with one mutation, in place where it can be.

    Args:
        value: the value.
        rng: random numbers.
        odd: makes another scalar or container from a value of the tree.
    """
    found = place_in(value, rng)
    if found is None or chance(rng, 0.03):
        return odd(value)
    holder, key = found
    how = rng.randrange(12)
    if how < 4:
        holder[key] = odd(holder[key])
    elif how < 6:
        del holder[key]
    elif how == 6 and isinstance(holder, dict) and isinstance(key, str):
        holder[rng.choice((Twin(key), key.upper(), key + " ", key[1:]))] = odd(None)
    elif how == 7 and isinstance(holder, dict) and isinstance(key, str):
        holder[rng.choice((*ODD_TEXTS[:12], key + "s"))] = holder.pop(key)
    elif how == 8 and isinstance(holder, list):
        holder[:] = _listed(holder, rng)
    elif how == 9:
        other = place_in(value, rng)
        if other is not None:
            there, at = other
            there[at], holder[key] = holder[key], there[at]
    elif how == 10:
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}))
    else:
        holder[key] = near(holder[key], rng)
    return value


def near(value: Any, rng: random.Random) -> Any:
    """A value of the same type that means something else."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value << 20, 0))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e6, value / 1e6, 1 + value, int(value)))
    if isinstance(value, str):
        at = rng.randint(0, len(value))
        text = rng.choice(ODD_TEXTS)
        return rng.choice((value[:at], value[at:], value[:at] + text + value[at:]))
    if isinstance(value, bytes):
        return raw(value, rng)
    if isinstance(value, list):
        return _listed(value, rng)
    if isinstance(value, dict):
        return dict(list(value.items())[: rng.randint(0, len(value))])
    return rng.choice((0, "", False))


def _listed(value: list[Any], rng: random.Random) -> list[Any]:
    return rng.choice(
        (
            value[: rng.randint(0, len(value))],
            value + value,
            value[::-1],
            (value * 1000)[:2000],
            rng.sample(value, len(value)),
            [list(value)],
        )
    )


def json_value(data: bytes, rng: random.Random) -> bytes:
    """A JSON text with one value, key, list or byte changed."""
    if chance(rng, 0.1):
        return raw(data, rng)

    def odd(old: Any) -> Any:
        # One of the same type passes the first check.
        alike = [text for text in ODD_JSON if _alike(text, old)]
        return Raw(rng.choice(alike if alike and chance(rng, 0.4) else ODD_JSON))

    return dumped(tree(json.loads(data), rng, odd))


def _alike(text: str, old: Any) -> bool:
    first = text[:1]
    if isinstance(old, int | float) and not isinstance(old, bool):
        return first.isdigit() or first == "-"
    if isinstance(old, str):
        return first == '"'
    return first == "[" if isinstance(old, list) else False


def dumped(value: Any) -> bytes:
    """A value as JSON in which `Raw` texts are written as they are."""
    kept: list[str] = []

    def marked(one: Any) -> Any:
        if isinstance(one, Raw):
            kept.append(str(one))
            return f"\ue000{len(kept) - 1}\ue001"
        if isinstance(one, dict):
            return {key: marked(inner) for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return [marked(inner) for inner in one]
        return one

    text = json.dumps(marked(value), ensure_ascii=False)
    text = re.sub('"\ue000(\\d+)\ue001"', lambda found: kept[int(found[1])], text)
    return text.encode("utf-8", "surrogatepass")


def json_lines(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines with a line, or a value of a line, changed."""
    whole = data.splitlines(keepends=True)
    at = rng.randrange(len(whole))
    if chance(rng, 0.75):
        whole[at] = json_value(whole[at].rstrip(b"\n"), rng) + b"\n"
        return b"".join(whole)
    return lines(data, rng)


def lines(data: bytes, rng: random.Random) -> bytes:
    """A text file with a line added, removed, moved, cut or joined."""
    whole = data.splitlines(keepends=True) or [b""]
    at, other = rng.randrange(len(whole)), rng.randrange(len(whole))
    line = whole[at]
    odd = rng.choice(
        (
            *(b"\n\n \n", b"\xe2\x80\xa8\n", b"{}\n", b"[]\n", b"null\n", b"\x00\n"),
            *(b"x" * 1_000_000 + b"\n", b"\xff\xfe\n", b"1\n", b"#\n", b"\r"),
        )
    )
    changed: dict[str, Callable[[], Iterable[bytes]]] = {
        "drop": lambda: whole[:at] + whole[at + 1 :],
        "twice": lambda: [*whole[:at], line, line, *whole[at + 1 :]],
        "swap": lambda: [whole[other] if i == at else w for i, w in enumerate(whole)],
        "join": lambda: [*whole[:at], line.rstrip(b"\n"), *whole[at + 1 :]],
        "halve": lambda: [*whole[:at], line[: len(line) // 2], *whole[at + 1 :]],
        "break": lambda: [
            *whole[:at],
            line[: len(line) // 2] + b"\n" + line[len(line) // 2 :],
            *whole[at + 1 :],
        ],
        "insert": lambda: [*whole[:at], odd, *whole[at:]],
        "mark": lambda: [b"\xef\xbb\xbf", *whole],
        "windows": lambda: [one.replace(b"\n", b"\r\n") for one in whole],
        "list": lambda: [b"[", b",".join(one.rstrip(b"\n") for one in whole), b"]"],
        "unended": lambda: [b"".join(whole).rstrip(b"\n")],
        "short": lambda: whole[: rng.randint(0, len(whole))],
    }
    return b"".join(changed[rng.choice(sorted(changed))]())


def tokens(*odd: str) -> Mutator:
    """A mutator of text in some language, with texts that it may insert."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if chance(rng, 0.2):
            return rng.choice((raw, lines, encoded))(data, rng)
        parts = re.findall(r"\w+|\s+|[^\w\s]", data.decode())
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        begin, end = sorted((at, min(other, at + 20)))
        how = rng.randrange(8)
        if how == 0:
            del parts[at]
        elif how == 1:
            del parts[begin : end + 1]
        elif how == 2:
            parts[at] = parts[other]
        elif how == 3:
            parts[at], parts[other] = parts[other], parts[at]
        elif how == 4:
            parts[at:at] = parts[begin : end + 1]
        elif how == 5:
            parts[at] = rng.choice((*ODD_TEXTS, *odd))
        elif how == 6:
            parts.insert(at, rng.choice((*ODD_TEXTS, *odd)))
        else:
            parts[at] = near(parts[at], rng)
        return "".join(parts).encode("utf-8", "surrogatepass")

    return mutate


def encoded(data: bytes, rng: random.Random) -> bytes:
    """A text in another encoding."""
    text = data.decode("utf-8", "replace")
    code = rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "utf-7"))
    return text.encode(code, "replace")


def raw(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut, flipped, inserted, removed or overwritten at any place."""
    at = rng.randint(0, len(data))
    size = min(rng.choice((1, 2, 4, 8, 64, 512)), len(data))
    what = rng.choice(
        (bytes(size), b"\xff" * size, b"\x80" * size, rng.randbytes(size), b"\n", b'"')
    )
    how = rng.randrange(10)
    if how < 2:
        return data[:at]
    if how < 5 and at < len(data):
        flipped = data[at] ^ (1 << rng.randrange(8))
        return data[:at] + bytes((flipped,)) + data[at + 1 :]
    if how == 5:
        return data[:at] + what + data[at:]
    if how == 6:
        return data[:at] + data[at + size :]
    if how == 7:
        return data[:at] + what + data[at + len(what) :]
    if how == 8:
        return data + rng.choice((what, data, b"\n", b"\x1f\x8b", b"PK\x03\x04"))
    return rng.choice((b"", bytes(len(data)), data[::-1], data[at:] + data[:at]))
