"""ASDiv: word problems of many kinds, as XML."""

import pathlib
import xml.etree.ElementTree as ElementTree

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem
from specialize.errors import InputError
from specialize.judging.quantities import find_quantities


def read_asdiv(path: parsing.Path) -> list[Problem]:
    """Reads ASDiv: an XML file of `Problem` elements.

    Args:
        path: `ASDiv.xml`.

    Returns:
        Problems with ids `asdiv-<ID>`. `answers` holds the gold answer as published,
        units included; it is empty if that has no number (56 of 2,305).

    Raises:
        InputError: the file is malformed, an element is missing or empty, or an `ID`
            occurs twice. The message names file and record.
    """
    file = pathlib.Path(path)
    try:
        root = ElementTree.fromstring(parsing.read_text(file))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InputError(
            f"{file}:{line}: not XML at column {column} ({error}). "
            "Expected ASDiv.xml as its owners publish it."
        ) from error
    problems: list[Problem] = []
    for index, element in enumerate(root.iter("Problem")):
        identity = (element.get("ID") or "").strip()
        where = f"{file}#{identity or index}"
        if not identity:
            raise InputError(f"{where}: a <Problem> has no ID.")
        parts: dict[str, str] = {}
        for name in ("Body", "Question", "Answer"):
            parts[name] = (element.findtext(name) or "").strip()
            if not parts[name]:
                raise InputError(f"{where}: <{name}> is missing or empty.")
        gold = parts["Answer"]
        problems.append(
            Problem(
                id=f"asdiv-{identity}",
                question=f"{parts['Body']} {parts['Question']}",
                answers=(gold,) if find_quantities(gold) else (),
                source=where,
            )
        )
    return parsing.checked(problems, file, "the ID")
