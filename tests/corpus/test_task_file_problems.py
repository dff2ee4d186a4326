"""Whatever is wrong with a task file is one message, all of it at once, with its line.

One valid task with every key is spoilt in generated ways: every key misspelt, of every
wrong type, or missing; as TOML, as JSON, and as the dict of a notebook.
"""

import copy
import json
import pathlib

import pytest

from specialize.corpus.tasks.files import read_task
from specialize.errors import InputError
from specialize.judging.choices import ANSWER_TYPES

WHOLE = {
    "name": "trips",
    "description": "How long trips take",
    "licence": "mine",
    "published": ["0123456789abcdef"],
    "demonstrations": "gsm8k",
    "files": {
        "train": "train.jsonl",
        "validation": "dev.jsonl",
        "test": "test.jsonl",
        "validation_share": [1, 5],
        "prompt": "prompt.txt",
        "hub": {"test": "test-*.parquet"},
    },
    "fields": {
        "question": {"from": "{q.text|sentence}", "default": "{title}"},
        "answer": {"from": "a", "pattern": "#### (.+)$", "values": {"1": "yes"}},
        "rationale": {"from": "why", "remove": ["<<[^<>]*>>"]},
        "id": "{@file}-{n}",
        "choices": {
            "from": ["x", "y"],
            "template": "{label}. {choice}",
            "separator": " ",
            "first": 1,
        },
        "records": "examples",
        "unique": "id",
        "unanswerable": True,
    },
    "answer": {"type": "choice", "judge": "near.py:near"},
    "formats": {
        "zero_shot_cot": "Q: {question}",
        "in_context_cot": "Q: {question}",
        "zero_shot_answer_only": "Q: {question}",
        "in_context_answer_only": "Q: {question}",
        "closing": "So {answer}.",
        "target": "{rationale} {closing}",
        "separator": "\n\n",
        "teacher": "{question}",
    },
    "subtasks": {"one": "words", "two": "number"},
}
FREE = ("values", "hub", "subtasks")  # tables whose keys are the user's


def paths(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


def inside(values, path):
    for key in path:
        values = values[key]
    return values


def as_toml(value, path=()):
    """A dict as TOML: one key per line, and a header for each table."""
    plain = {k: v for k, v in value.items() if not isinstance(v, dict)}
    text = f"[{'.'.join(path)}]\n" if path else ""
    for key, one in plain.items():
        shown = "nan" if one != one else json.dumps(one, ensure_ascii=True)
        text += f"{json.dumps(key)} = {shown}\n"
    for key, one in value.items():
        if isinstance(one, dict):
            text += as_toml(one, (*path, key))
    return text


def spoilt(values, tmp_path, kind):
    """The source of a task of one kind."""
    if kind == "dict":
        return values
    file = tmp_path / f"task.{kind}"
    text = as_toml(values) if kind == "toml" else json.dumps(values, indent=1)
    file.write_text(text, encoding="utf-8")
    return file


def refusal(values, tmp_path, kind="toml"):
    with pytest.raises(InputError) as refused:
        read_task(spoilt(values, tmp_path, kind))
    *found, remedy = str(refused.value).split("\n")
    assert remedy == "docs/how-to/own_task.md describes task files."
    return found


def line_of(tmp_path, kind, key):
    if kind == "dict":
        return "the task: "
    text = (tmp_path / f"task.{kind}").read_text()
    [line] = [n for n, one in enumerate(text.split("\n"), 1) if key in one]
    return f"{tmp_path / f'task.{kind}'}:{line}: "


KINDS = ("toml", "json", "dict")
KEYS = [path for path in paths(WHOLE) if not any(one in FREE for one in path[:-1])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_task_is_read(tmp_path, kind):
    spec = read_task(spoilt(WHOLE, tmp_path, kind))
    assert spec.files.train == "train.jsonl" and spec.subtasks["one"] == "words"
    assert spec.digest == read_task(WHOLE).digest


@pytest.mark.parametrize("key", WHOLE)
def test_the_digest_is_of_what_determines_records(key):
    values = copy.deepcopy(WHOLE)
    determines = key in ("fields", "answer", "formats", "subtasks")
    changed = {
        "fields": {**WHOLE["fields"], "unique": "question"},
        "answer": {"type": "number"},
        "formats": {"closing": "{answer}"},
        "subtasks": {"one": "number", "two": "number"},
        "files": {"train": "other.jsonl"},
        "published": [],
        "demonstrations": "svamp",
    }
    values[key] = changed.get(key, "other")
    assert (read_task(values).digest != read_task(WHOLE).digest) == determines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_misspelt_key_is_told_the_right_one(tmp_path, kind, path):
    values = copy.deepcopy(WHOLE)
    *above, key = path
    wrong = key[0] + key
    holder = inside(values, above)
    holder[wrong] = holder.pop(key)
    found = refusal(values, tmp_path, kind)
    said = f"{'.'.join((*above, wrong))} is no key of a task. Did you mean '{key}'"
    [one] = [text for text in found if said in text]
    shown = f'"{wrong}"'
    if kind == "toml" and isinstance(holder[wrong], dict):
        shown = f"[{'.'.join((*above, wrong))}]"
    assert one.startswith(line_of(tmp_path, kind, shown))
    needed = {("name",), ("fields",), ("fields", "question"), ("fields", "answer")}
    needed |= {(*p, "from") for p in KEYS if (*p, "from") in KEYS}
    assert any("is missing" in text for text in found) == (path in needed)


WRONG = [3, -1.5, True, "", "?", ["x", 1], [], {"x": 1}, [[1]], float("nan")]


def fits(path, wrong):
    """Whether a value is of the type that a key has, or nothing at all."""
    right = inside(WHOLE, path)
    if wrong in ([], {}):
        return True  # nothing, which the key allows or a table lacks
    if isinstance(right, bool):
        return isinstance(wrong, bool)
    if path[-1] == "first":
        return wrong == 3 and wrong is not True
    if path[-1] == "subtasks":
        return False
    if path[-1] == "licence" or path[-1] == "description" or path[-1] == "name":
        return wrong == "?" and path[-1] != "name"
    if path[-1] in ("published", "remove", "from", "question", "answer", "rationale"):
        return wrong == "?"
    if path[-1] in ("pattern",):
        return False
    if path[-1] in ("id", "choices", "records", "default", "prompt", "demonstrations"):
        return wrong == "?"
    return wrong == "?" and path[0] == "files" and path[-1] != "validation_share"


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_wrong_value_is_named_with_its_key_and_line(tmp_path, path, wrong):
    if fits(path, wrong) or (path[-1] in ("separator",) and wrong == "?"):
        return
    values = copy.deepcopy(WHOLE)
    *above, key = path
    inside(values, above)[key] = wrong
    found = refusal(values, tmp_path)
    name = ".".join(path)
    assert any(f": {name}" in text for text in found), found
    assert len(found) <= 3, found
    assert all(text.startswith(f"{tmp_path / 'task.toml'}") for text in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        (("fields", "answer", "pattern"), bad, "is no regular expression")
        for bad in ("(", "[a", "*a", "a{2,1}", "(?P<x>", "\\", "(?<=a+)b", "a(?i)b")
    ]
    + [
        (("fields", "rationale", "remove"), ["ok", "("], "is no regular expression"),
        (("fields", "question", "from"), "{q", "cannot be read"),
        (("fields", "question", "from"), "{}", "name '' in braces"),
        (("fields", "question", "from"), "{q!r}", "':' or '!' in braces"),
        (("fields", "question", "from"), "{q|sentense}", "filter 'sentense'"),
        (("fields", "question", "default"), "{@fil}", "has '@fil'"),
        (("fields", "id"), "{@row}", "expected '@file' or '@index'"),
        (("fields", "choices", "template"), "{label}", "{label} then {choice}"),
        (("fields", "choices", "template"), "{labl} {choice}", "Did you mean 'label'"),
        (("fields", "unique"), "ids", "Did you mean 'id'?"),
        (("formats", "closing"), "So {answr}.", "Did you mean 'answer'"),
        (("formats", "target"), "{closing} {rationale}", "{rationale} then {closing}"),
        (("formats", "teacher"), "{question} {question}", "once each"),
        (("formats", "separator"), "--", "begins with white space"),
        (("answer", "judge"), "exactly", "Did you mean 'exact'"),
        (("answer", "judge"), ":near", "names no function"),
        (("files", "validation_share"), [5, 5], "expected [a, b]"),
        (("files", "validation_share"), [0, 5], "expected [a, b]"),
        (("files", "validation_share"), [1, 2, 3], "expected [a, b]"),
        (("files", "test"), "train.jsonl", "is the file of files.train"),
        (("files", "test"), "./x/../train.jsonl", "is the file of files.train"),
        (("files", "validation"), "./train.jsonl", "is the file of files.train"),
        (("files", "test"), "{split}.jsonl", "has {split}, expected {subtask}"),
        (("files", "prompt"), "a{.txt", "cannot be read"),
        (("demonstrations",), "gsmk8", "Did you mean 'gsm8k'"),
        (("name",), "my task", "letters, digits and underscores"),
        (("name",), "1st", "begin with a letter"),
    ]
    + [
        (path, f"{right[:-1]}z", f"expected one of {', '.join(ANSWER_TYPES)}")
        for path in (("answer", "type"), ("subtasks", "two"))
        for right in ANSWER_TYPES
    ],
)
def test_every_wrong_word_is_one_problem_with_its_line(
    tmp_path, kind, path, wrong, said
):
    values = copy.deepcopy(WHOLE)
    *above, key = path
    inside(values, above)[key] = wrong
    [found] = refusal(values, tmp_path, kind)
    assert said in found and found.count("\n") == 0
    text = "" if kind == "dict" else (tmp_path / f"task.{kind}").read_text()
    lines = text.split("\n")
    if kind != "dict":
        number = int(found.removeprefix(f"{tmp_path / f'task.{kind}'}:").split(":")[0])
        near = lines[number - 1]
        assert any(one in near for one in path), (near, found)


@pytest.mark.parametrize("kind", KINDS)
def test_all_problems_are_one_message_in_the_order_of_the_lines(tmp_path, kind):
    values = copy.deepcopy(WHOLE)
    values["fields"]["answer"]["pattern"] = "("
    values["fields"]["qestion"] = values["fields"].pop("question")
    values["answer"]["type"] = "numbr"
    values["formats"]["closing"] = "Done."
    values["files"]["train"] = 3
    values["license"] = values.pop("licence")
    found = refusal(values, tmp_path, kind)
    assert len(found) == 7  # the question is missing, too
    if kind != "dict":
        numbers = [int(text.split(":")[1]) for text in found]
        assert numbers == sorted(numbers)


SLIPS = {
    "toml": [
        ('name = "a"\n\n[fields\n', 3),
        ('name = "a"\nname = "b"\n', 2),
        ('[files]\ntrain = "a"\ntrain = "b"\n', 3),
        ('name = "a"\n[fields]\nx = 1\n[fields]\n', 4),
        ("name = 'a\n", 1),
        ("name = \n", 1),
        ('# x\nname = "\\q"\n', 2),
    ],
    "json": [
        ('{\n "name": "a",\n "fields": \n}', 4),
        ('{\n "name": "a"\n "fields": {}\n}', 3),
        ("{\n 'name': 1\n}", 2),
        ('{\n\n\n "a": tru }', 4),
    ],
}
SAID = {"toml": r"task.toml is not TOML: .*line {}\b", "json": r"not JSON .*line {}\)"}


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [(kind, text, line) for kind, slips in SLIPS.items() for text, line in slips],
)
def test_a_slip_is_one_message_with_its_line(tmp_path, kind, text, line):
    file = tmp_path / f"task.{kind}"
    file.write_text(text)
    with pytest.raises(InputError, match=SAID[kind].format(line)):
        read_task(file)


def test_a_dict_of_a_notebook_may_have_pythons_values():
    values = copy.deepcopy(WHOLE)
    values["files"]["train"] = pathlib.Path("train.jsonl")
    values["fields"]["answer"]["values"] = {1: "yes", 0: "no"}
    values["fields"]["choices"]["from"] = ("x", "y")
    spec = read_task(values)
    assert spec.files.train == "train.jsonl"
    assert spec.rows.answer.values == {"1": "yes", "0": "no"}
    assert spec.rows.choices is not None and list(spec.rows.choices.columns) == [
        *("x", "y")
    ]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda task: task.update({3: "x"}), "3 is no key"),
        (lambda task: task.update(name=None), "name is missing"),
        (lambda task: task["fields"].update(question=None), "question is missing"),
        (lambda task: task["answer"].update(judge=len), "expected a text"),
        (lambda task: task["fields"].update(answer=len), "expected a column"),
        (lambda task: task.update(fields=[1]), "fields is [1], expected a table"),
    ],
)
def test_a_dict_of_a_notebook_is_refused_like_a_file(tmp_path, spoil, said):
    values = copy.deepcopy(WHOLE)
    spoil(values)
    assert any(said in text for text in refusal(values, tmp_path, "dict"))


def test_a_dict_that_holds_itself_is_one_message():
    values = {"name": "x"}
    values["fields"] = values
    with pytest.raises(InputError, match="holds itself"):
        read_task(values)
