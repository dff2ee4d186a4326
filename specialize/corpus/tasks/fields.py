"""From a row to the parts of a problem: columns, templates, patterns, options."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from specialize.corpus.tasks.rows import Row
from specialize.corpus.tasks.spec import LETTERS, Choices, Field
from specialize.corpus.templates import Template
from specialize.errors import InputError, did_you_mean

# Names that every row has besides its columns.
FILE, INDEX, CHOICES = "@file", "@index", "choices"
FILTERS = ("sentence",)


def text_of(field: Field, row: Row, where: str, name: str) -> str:
    """The text of a part.

    Args:
        field: How it is read.
        row: The row, with `FILE`, `INDEX` and perhaps `CHOICES`.
        where: File and line, for messages.
        name: Name of the part, for messages.

    Raises:
        InputError: A column is missing, is no text or number, or the pattern is not
            found.
    """
    values = values_of(field, row, where, name)
    if len(values) != 1:
        raise InputError(
            f"{where}: {name} is a list of {len(values)} values, expected one text."
        )
    return values[0]


def values_of(field: Field, row: Row, where: str, name: str) -> list[str]:
    """The texts of a part that may be a list; as `text_of` otherwise."""
    template = _filled_from(field, row, where, name)
    names = template.names
    if len(names) == 1 and template.text == f"{{{names[0]}}}":
        value = _value(names[0], row)
        raw = [value] if (values := _list(value)) is None else values
        texts = [_written(one, field, where, name) for one in raw]
    else:
        parts = {one: _written(_value(one, row), field, where, name) for one in names}
        texts = [template.fill(parts)]
    return [_found(text, field, where, name) for text in texts]


def options_of(choices: Choices, row: Row, where: str) -> dict[str, str]:
    """The options of a row, by letter or by the label that the row gives.

    Raises:
        InputError: A column is missing or holds no texts, or there are over 26.
    """
    found = [_value(column, row, where, "choices") for column in choices.columns]
    labels: list[str] = []
    if len(found) == 1:
        column = found[0]
        if (both := _object(column)) is not None:
            labels = [str(label) for label in _list(both.get("label")) or ()]
            column = both.get("text")
        options = _list(column)
        if options is None:
            raise InputError(
                f"{where}: choices is {_shown(column)}, expected a list of texts, or "
                "an object with 'label' and 'text'."
            )
        found = options
    texts = [_written(one, Field(""), where, "choices").strip() for one in found]
    labels = labels or list(LETTERS[: len(texts)])
    if not texts or len(labels) != len(texts) or len(set(labels)) != len(labels):
        raise InputError(
            f"{where}: choices has {len(texts)} texts for {len(labels)} labels, "
            f"expected 1 to {len(LETTERS)} of both."
        )
    return dict(zip(labels, texts, strict=True))


def listed(choices: Choices, options: Mapping[str, str]) -> str:
    """The options as a question shows them."""
    template = Template(choices.template)
    lines = [
        template.fill({"label": label, "choice": text})
        for label, text in zip(LETTERS, options.values(), strict=False)
    ]
    return choices.separator.join(lines)


def chosen(answer: str, choices: Choices, options: Mapping[str, str]) -> str | None:
    """The letter of an answer, as "(B)": a label, a number or the text of an option."""
    letters = dict(zip(options, LETTERS, strict=False))
    bare = answer.strip().strip("().")
    if bare in letters:
        return f"({letters[bare]})"
    if bare.isdecimal() and 0 <= int(bare) - choices.first < len(options):
        return f"({LETTERS[int(bare) - choices.first]})"
    for label, text in options.items():
        if text == answer.strip():
            return f"({letters[label]})"
    return None


def columns_of(field: Field) -> list[str]:
    """The columns that a part is read from."""
    names = Template(field.template).names
    return [one.partition("|")[0] for one in names if one[:1] != "@"]


def _filled_from(field: Field, row: Row, where: str, name: str) -> Template:
    template = _template(field.template)
    missing = [one for one in template.names if not _has(one, row)]
    if not missing:
        return template
    if field.default is not None:
        return _template(field.default)
    column = missing[0].partition("|")[0]
    raise InputError(
        f"{where}: the key {column!r} is missing, from which {name} is read; the row "
        f"has {', '.join(map(repr, row)) or 'none'}.{did_you_mean(column, row)}"
    )


@functools.cache
def _template(text: str) -> Template:
    return Template(text)


def _has(name: str, row: Row) -> bool:
    value: Any = row
    for key in _path(name):
        found = _object(value)
        if found is None or found.get(key) is None:
            return False
        value = found[key]
    return True


def _path(name: str) -> list[str]:
    column = name.partition("|")[0]
    return [column] if column[:1] == "@" else column.split(".")


def _value(name: str, row: Row, where: str = "", part: str = "") -> Any:
    value: Any = row
    for key in [name] if name in row else _path(name):
        found = _object(value)
        if found is None or found.get(key) is None:
            raise InputError(
                f"{where}: the key {name!r} is missing, from which {part} is read."
                f"{did_you_mean(name, row)}"
            )
        value = found[key]
    if name.endswith("|sentence") and isinstance(value, str):
        text = value.strip()
        return text if text.endswith((".", "?", "!", ",", ";", ":")) else f"{text}."
    return value


def _written(value: Any, field: Field, where: str, name: str) -> str:
    """A value as people write it: 39.0 becomes "39"."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        text = str(value) if abs(value) < 10**300 else repr(float("inf"))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where}: {name} is {value}, which is no answer or text.")
        text = str(int(value)) if value.is_integer() else repr(value)
    elif isinstance(value, str):
        text = value
    else:
        raise InputError(
            f"{where}: {name} is {_shown(value)}, expected a text or a number."
        )
    return field.values.get(text.strip(), text)


def _found(text: str, field: Field, where: str, name: str) -> str:
    if field.pattern is not None:
        matches = _matches(field.pattern, text)
        if not matches:
            raise InputError(
                f"{where}: {name} does not match {field.pattern!r} in the text of "
                f"{field.template!r}, which ends {text.strip()[-40:]!r}. Correct the "
                "row or remove it."
            )
        text = matches[-1]
        text = field.values.get(text.strip(), text)
    for pattern in field.remove:
        text = re.sub(pattern, "", text)
    return text.strip()


def _matches(pattern: str, text: str) -> list[str]:
    compiled = re.compile(pattern)
    return [
        match[1] if compiled.groups else match[0] for match in compiled.finditer(text)
    ]


def _shown(value: Any) -> str:
    if _object(value) is not None:
        return "an object"
    return "a list" if _list(value) is not None else repr(value)


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None  # pyright: ignore


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None  # pyright: ignore
