"""A section of the page, and how it shows scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: Heading.
        text: What is shown and how to read it.
        figures: (caption, SVG) pairs.
        tables: (caption, header, rows).
        samples: Texts side by side.
        missing: What is not shown, and the remedy.
    """

    title: str
    text: str = ""
    figures: Sequence[tuple[str, Markup]] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    samples: Sequence[Mapping[str, str]] = ()
    missing: str = ""


def triple(score: Mapping[str, Any]) -> tuple[float, float, float]:
    """An accuracy with the ends of its interval."""
    return float(score["accuracy"]), float(score["low"]), float(score["high"])


def label(key: str) -> str:
    """The name of "suite:prompt" for people."""
    suite, _, prompt = key.partition(":")
    return f"{suite} {prompt.replace('_', ' ')}".strip()


def percent(value: float) -> str:
    """A share as text."""
    return f"{value * 100:.1f} %"
