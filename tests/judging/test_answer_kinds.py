"""Kinds of errors seen on real outputs: generated siblings, and texts reworded by hand.

In a template of `kinds.jsonl`, {G} is the gold letter, {X} and {Y} are other ones; {n}
is the gold number, {a}, {b} and {c} are others; {L} is the gold label, {M} the other
one; {w} is the gold list as a line, {w,} with commas, {w&} with "and", {w|} and {w#} on
lines of their own. A template answers rightly, or wrongly, whatever is put into it.
"""

import itertools
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.judging.answers import judge

HERE = pathlib.Path(__file__).parent
LABELS = {
    "boolean": ("True", "False"),
    "yes_no": ("Yes", "No"),
    "valid_invalid": ("valid", "invalid"),
}
VALUES = dict(G="C", X="B", Y="D", n="48", a="17", b="31", c="92", noun="lamp")
WORDS = ["mango", "olive", "zebra", "pilot", "quartz", "rumour", "saddle", "tunnel"]


def records(name: str, key: str) -> dict[str, list[dict]]:
    lines = (HERE / name).read_text(encoding="utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    found.sort(key=lambda record: record[key])
    groups = itertools.groupby(found, key=lambda record: record[key])
    return {value: list(group) for value, group in groups}


KINDS = records("kinds.jsonl", "kind")
REWORDINGS = records("rewordings.jsonl", "answer_type")


def written(words: list[str]) -> dict[str, str]:
    return {
        "{w}": " ".join(words),
        "{w,}": ", ".join(words),
        "{w&}": f"{', '.join(words[:-1])}, and {words[-1]}",
        "{w|}": "\n".join(words),
        "{w#}": "\n".join(f"{n}. {word}" for n, word in enumerate(words, start=1)),
    }


def sibling(
    record: dict, values: dict[str, str], words: list[str], *, swap: bool = False
) -> tuple[str, str]:
    """The text that a template becomes, and its gold."""
    answer_type, template = record["answer_type"], record["template"]
    for name, text in written(words).items():
        template = template.replace(name, text)
    label, other = LABELS.get(answer_type, ("", ""))[:: -1 if swap else 1]
    golds = {"choice": f"({values['G']})", "number": values["n"]}
    gold = golds.get(answer_type, label or " ".join(words))
    return template.format(**values, L=label, M=other), gold


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(
    letters=st.permutations("BCDEFG"),
    numbers=st.lists(st.integers(13, 99), min_size=4, max_size=4, unique=True),
    words=st.lists(st.sampled_from(WORDS), min_size=3, max_size=5, unique=True),
    noun=st.sampled_from(["lamp", "kite", "spoon", "anchor"]),
    swap=st.booleans(),
)
def test_every_sibling_of_a_kind_is_judged_alike(
    kind, letters, numbers, words, noun, swap
):
    values = dict(zip("GXY", letters, strict=False))
    values |= dict(zip("nabc", map(str, numbers), strict=True)) | {"noun": noun}
    for record in KINDS[kind]:
        text, gold = sibling(record, values, words, swap=swap)
        verdict = judge(text, [gold], record["answer_type"])
        assert verdict.correct is record["right"], (text, verdict)


@pytest.mark.parametrize("answer_type", REWORDINGS)
def test_a_reworded_text_is_judged_as_a_reader_would(answer_type):
    for record in REWORDINGS[answer_type]:
        verdict = judge(record["text"], [record["gold"]], answer_type)
        assert verdict.correct is record["right"], (record, verdict)


def test_there_are_templates_and_rewordings_of_every_kind():
    assert len(KINDS) >= 15
    assert sum(map(len, KINDS.values())) >= 80
    assert sum(map(len, REWORDINGS.values())) >= 200
