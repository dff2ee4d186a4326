"""Compares what the processes of a command were given, before they work together.

Each process reads its own files and options. If they differ, no collective fails: the
processes would train on mixed data, or decode each its part of other texts. So all of
them send a short description to process 0, through JAX's coordination service, which
takes no part of the devices, and all end with the same message if one differs.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from specialize.errors import InputError
from specialize.processes.messages import received

_PLACE = "specialize/agreement"
_rounds = itertools.count()
# Names of paths, which may differ between machines; their contents may not.
_PATH = re.compile(r"(?i)(^|[_./])(dir|folder|file|path)s?$")
_DIGEST = re.compile(r'"([0-9a-f]{12})[0-9a-f]{4,}"')
# Characters of a value, differences and processes that a message has at most.
_LONGEST, _MOST, _NAMED = 60, 8, 4
_ABSENT = "not set"


def judged(own: Any, judge: Callable[[list[Any]], Any]) -> Any:
    """What process 0 finds when it looks at a JSON value of every process.

    Every process calls it, and all get the same.

    Args:
        own: The value of this process.
        judge: Returns a JSON value; called in process 0, with the values in order.
    """
    state = state_of_several()
    if state is None:
        return judge([own])
    client, number = state.client, next(_rounds)
    place = f"{_PLACE}/{number}"
    if state.process_id != 0:
        client.key_value_set(f"{place}/{state.process_id}", json.dumps(own))
        return received(client, f"{place}/verdict", "process 0")
    others = range(1, state.num_processes)
    values = [own]
    values += [received(client, f"{place}/{n}", f"process {n}") for n in others]
    verdict = judge(values)
    client.key_value_set(f"{place}/verdict", json.dumps(verdict))
    # Whoever is in this round has read what was found in the last one.
    if number:
        client.key_value_delete(f"{_PLACE}/{number - 1}")
    return verdict


def state_of_several() -> Any:
    """JAX's state of its processes; None if this is the only one."""
    from jax._src import distributed

    state: Any = distributed.global_state
    alone = state.client is None or state.num_processes == 1
    return None if alone else state


def agree(values: Mapping[str, Any], *, what: str, remedy: str) -> None:
    """Checks that every process of the command was given the same.

    Every process calls it, and either all or none raise. It is cheap: only short texts
    are sent, of long values their digests.

    Args:
        values: Names and JSON values; mappings in them are compared name by name.
        what: What the values are, in the plural, for the message.
        remedy: What the user can do, as a sentence.

    Raises:
        InputError: They differ; it names the processes and the values that do.
    """
    found = judged([what, dict(_flat(values))], _differences)
    if found is not None:
        raise InputError(f"{found} {remedy}")


def comparable(value: Any, name: str = "") -> Any:
    """A JSON value without the paths in it, which may differ between machines.

    Args:
        value: The value; what JSON does not have becomes text.
        name: Its name: what is called a path is one.
    """
    if _PATH.search(name):
        return "a path"
    if isinstance(value, Mapping):
        return {
            f"path {n}" if "/" in str(key) else str(key): comparable(one, str(key))
            for n, (key, one) in enumerate(value.items())
        }
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return "a path" if "/" in str(value) else str(value)


def in_words(numbers: Sequence[int]) -> str:
    """Numbers of processes, such as "processes 1, 2 and 5"."""
    named = [str(number) for number in numbers[:_NAMED]]
    if more := len(numbers) - len(named):
        named.append(f"{more} more")
    *first, last = named
    return f"processes {', '.join(first)} and {last}" if first else f"process {last}"


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names such as "network.emb_dim", and what is sent of each value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", _short(value)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    if found := _DIGEST.fullmatch(text):
        text = f"{found[1]} (digest)" if len(text) > _LONGEST else text
    if len(text) > _LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        text = f"{text[: _LONGEST // 2]}... (digest {digest})"
    return text


def _differences(sent: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """A sentence about what differs; None if nothing does."""
    (what, first), *_ = sent
    others = [n for n, (kind, had) in enumerate(sent) if (kind, had) != (what, first)]
    if not others:
        return None
    one = len(others) == 1
    who = in_words(others).capitalize()
    if elsewhere := sorted({kind for kind, _ in sent} - {what}):
        return (
            f"{who} of {len(sent)} {'is' if one else 'are'} at another part of the "
            f"work than process 0: at the {elsewhere[0]}, not at the {what}."
        )
    lines: list[str] = []
    for name in dict.fromkeys(name for _, had in sent for name in had):
        having: dict[str, list[int]] = {}
        for number, (_, had) in enumerate(sent):
            having.setdefault(had.get(name, _ABSENT), []).append(number)
        if len(having) > 1:
            parts = [f"{text} in {in_words(where)}" for text, where in having.items()]
            lines.append(f"{name} is {', '.join(parts[:_NAMED])}")
    if more := len(lines) - _MOST:
        lines = [*lines[:_MOST], *([f"and {more} more"] if more > 0 else [])]
    return f"{who} of {len(sent)} got other {what} than process 0: {'; '.join(lines)}."
