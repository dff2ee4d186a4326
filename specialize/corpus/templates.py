"""Templates: text with names in braces, filled in and read back."""

import dataclasses
import functools
import re
import string
from collections.abc import Collection, Mapping

from specialize.errors import InputError, did_you_mean


@functools.cache
def template(text: str) -> "Template":
    """The template of a text, read once."""
    return Template(text)


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with names in braces, such as "Q: {question}"; "{{" is a brace.

    Attributes:
        text: The template.

    Raises:
        InputError: A brace has no partner, or a name is empty.
    """

    text: str

    def __post_init__(self) -> None:
        for name in self.names:
            if not name or name != name.strip():
                raise InputError(
                    f"the template {self.text!r} has the name {name!r} in braces. "
                    "Write {name}, and {{ for a brace of the text."
                )

    @functools.cached_property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """(text, the name after it); the last name may be None."""
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise InputError(
                f"the template {self.text!r} cannot be read ({error}). Write {{{{ for "
                "a brace of the text."
            ) from error
        found: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in parsed:
            if spec or conversion:
                raise InputError(
                    f"the template {self.text!r} has ':' or '!' in braces. Write "
                    "{name}, and {{ for a brace of the text."
                )
            found.append((literal, name))
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return tuple(name for _, name in self.pieces if name is not None)

    def require(self, where: str, needed: Collection[str]) -> None:
        """Refuses a template that does not have each of these names once, in order.

        Raises:
            InputError: A name is missing, unknown, repeated or in another place.
        """
        if self.names == tuple(needed):
            return
        wanted = " then ".join(f"{{{name}}}" for name in needed)
        unknown = [name for name in self.names if name not in needed]
        hint = did_you_mean(unknown[0], needed) if unknown else ""
        raise InputError(
            f"{where} is {self.text!r}, expected a text with {wanted}, once each.{hint}"
        )

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with a value for each name."""
        return "".join(
            literal + ("" if name is None else values[name])
            for literal, name in self.pieces
        )

    def read(self, text: str) -> dict[str, str] | None:
        """The values that `fill` was given, or None if the text is not of this form.

        A text between two names is looked for from the end, so only the values after
        the first name must not contain it.
        """
        found = self._pattern.fullmatch(text)
        return (
            None
            if found is None
            else dict(zip(self.names, found.groups(), strict=True))
        )

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts: list[str] = []
        for literal, name in self.pieces:
            parts.append(re.escape(literal))
            if name is not None:
                parts.append("(.*)" if len(parts) == 1 else "(.*?)")
        return re.compile("".join(parts), re.DOTALL)
