"""From a row to the parts of a problem: columns, templates, patterns, options."""

import math
import re
from collections.abc import Mapping
from typing import Any

from specialize.corpus.tasks.rows import Row
from specialize.corpus.tasks.spec import LETTERS, Choices, Field
from specialize.corpus.templates import Template, template
from specialize.errors import InputError, did_you_mean

# Names that every row has besides its columns.
FILE, INDEX, CHOICES = "@file", "@index", "choices"
FILTERS = ("sentence",)
# Python writes no whole number of over 4,300 digits.
_LARGEST = 10**300


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
    found = _filled_from(field, row, where, name)
    names = found.names
    if len(names) == 1 and found.text == f"{{{names[0]}}}":
        value = _value(names[0], row)
        raw = [value] if (values := _list(value)) is None else values
        texts = [_written(one, field, where, name) for one in raw]
    else:
        parts = {one: _written(_value(one, row), field, where, name) for one in names}
        texts = [found.fill(parts)]
    return [_found(text, field, where, name) for text in texts]


def options_of(choices: Choices, row: Row, where: str) -> dict[str, str]:
    """The options of a row, by letter or by the label that the row gives.

    Raises:
        InputError: A column is missing or holds no texts, or there are over 26.
    """
    for column in choices.columns:
        if _value(column, row) is None:
            raise _missing(column, row, where, "choices")
    found = [_value(column, row) for column in choices.columns]
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
    if len(set(labels)) != len(labels):
        raise InputError(
            f"{where}: the labels of choices are {', '.join(labels)}, expected each of "
            "them once."
        )
    if len(labels) != len(texts) or not 1 <= len(texts) <= len(LETTERS):
        raise InputError(
            f"{where}: choices has {len(texts)} texts for {len(labels)} labels, "
            f"expected 1 to {len(LETTERS)} of both."
        )
    return dict(zip(labels, texts, strict=True))


def listed(choices: Choices, options: Mapping[str, str]) -> str:
    """The options as a question shows them."""
    option = template(choices.template)
    lines = [
        option.fill({"label": label, "choice": text})
        for label, text in zip(LETTERS, options.values(), strict=False)
    ]
    return choices.separator.join(lines)


def chosen(answer: str, choices: Choices, options: Mapping[str, str]) -> str | None:
    """The letter of an answer, as "(B)": a label, a number or the text of an option."""
    letters = dict(zip(options, LETTERS, strict=False))
    bare = answer.strip().strip("().")
    if bare in letters:
        return f"({letters[bare]})"
    number = int(bare) - choices.first if bare.isdecimal() and len(bare) < 9 else -1
    if 0 <= number < len(options):
        return f"({LETTERS[number]})"
    for label, text in options.items():
        if text == answer.strip():
            return f"({letters[label]})"
    return None


def _filled_from(field: Field, row: Row, where: str, name: str) -> Template:
    texts = (
        [field.template] if field.default is None else [field.template, field.default]
    )
    missing: list[str] = []
    for found in map(template, texts):
        missing = [one for one in found.names if _value(one, row) is None]
        if not missing:
            return found
    raise _missing(missing[0].partition("|")[0], row, where, name)


def _missing(column: str, row: Row, where: str, name: str) -> InputError:
    columns = [one for one in row if one not in (FILE, INDEX, CHOICES)]
    return InputError(
        f"{where}: the key {column!r} is missing, from which {name} is read; the row "
        f"has {', '.join(map(repr, columns)) or 'none'}.{did_you_mean(column, columns)}"
    )


def _value(name: str, row: Row) -> Any:
    """The value of a name in a template, or None if the row does not have it."""
    column, _, filter = name.partition("|")
    value: Any = row
    # A table may also have a column with a full stop in its name.
    for key in [column] if column in row else column.split("."):
        value = (_object(value) or {}).get(key)
    if filter == "sentence" and isinstance(value, str):
        text = value.strip()
        return text if text.endswith((".", "?", "!", ",", ";", ":")) else f"{text}."
    return value


def _written(value: Any, field: Field, where: str, name: str) -> str:
    """A value as people write it: 39.0 becomes "39"."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise InputError(f"{where}: {name} is a number of over 300 digits.")
        text = str(value)
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
    return [
        # Of alternatives with a group each, the group of the one that matched.
        next((group for group in match.groups() if group is not None), match[0])
        for match in re.finditer(pattern, text)
    ]


def _shown(value: Any) -> str:
    if _object(value) is not None:
        return "an object"
    return "a list" if _list(value) is not None else repr(value)


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None  # pyright: ignore


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None  # pyright: ignore
