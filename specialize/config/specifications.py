"""The specifications of a configuration; what they reject is reported by the lint."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

from specialize.config.problems import Problem, target_of
from specialize.config.reading import Config, resolve
from specialize.config.scanning import (
    REQUIRED,
    Binding,
    Macro,
    Reference,
    leaves,
    map_leaves,
)

# What checks the fields of a class whose own module imports jax.
_LIGHT = {
    "specialize.student.network.T5Config": "specialize.student.network.spec.check",
    "specialize.student.loss.losses.LossConfig": (
        "specialize.student.loss.spec.LossConfig"
    ),
}

# Functions of plain values, whose results are fields of specifications.
_PURE = ("specialize.config.neutral.parts",)


class Specifications:
    """Makes the specifications of a run from their bindings, as gin would.

    Args:
        config: The configuration.
        imports: Whether modules that are not light may be imported.
        allow_missing: Macros that may stay `%gin.REQUIRED`; their value is None.

    Attributes:
        made: The specifications, by the name of their class.
        problems: Why others could not be made.
    """

    def __init__(
        self, config: Config, *, imports: bool, allow_missing: Sequence[str]
    ) -> None:
        self.made: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self._imports = imports
        self._macros = {
            name: dataclasses.replace(one, value=None)
            if name in allow_missing and one.value == Macro(REQUIRED)
            else one
            for name, one in config.scan.macros().items()
        }
        self._bound: dict[tuple[str, str], dict[str, Binding]] = {}
        self._values: dict[Reference, Any] = {}
        for one in config.scan.effective().values():
            key = (one.scope, one.selector)
            self._bound.setdefault(key, {})[one.parameter] = one
        for (_, selector), bindings in self._bound.items():
            if selector and self._class(selector) is None:
                for binding in bindings.values():
                    self._value(binding.value)

    def _class(self, selector: str) -> Any:
        """The frozen dataclass of this name, or what makes its value, or None."""
        if selector in _PURE:
            return target_of(selector)
        if not self._imports and selector in _LIGHT:
            return target_of(_LIGHT[selector])
        module = selector.rpartition(".")[0]
        light = module.endswith(".spec")
        if not module.startswith("specialize.") or not (light or self._imports):
            return None
        found = target_of(selector)
        parameters = getattr(found, "__dataclass_params__", None)
        return found if parameters is not None and parameters.frozen else None

    def _value(self, written: Any) -> Any:
        """A value as gin would pass it; an unknown leaf stays as written."""

        def leaf(item: Any) -> Any:
            if isinstance(item, Reference) and item.calls:
                if self._class(item.selector) is not None:
                    return self._specification(item)
            return item

        return map_leaves(resolve(written, self._macros), leaf)

    def _specification(self, reference: Reference) -> Any:
        if reference not in self._values:
            self._values[reference] = Macro(REQUIRED)  # until it is made
            self._values[reference] = self._new(reference)
        return self._values[reference]

    def _new(self, reference: Reference) -> Any:
        found = self._class(reference.selector)
        bound: dict[str, Binding] = {}
        for scope in dict.fromkeys(("", reference.scope)):
            bound |= self._bound.get((scope, reference.selector), {})
        values = {name: self._value(one.value) for name, one in bound.items()}
        if any(isinstance(item, Macro) for v in values.values() for item in leaves(v)):
            return Macro(REQUIRED)  # which `macro_problems` reports
        try:
            inspect.signature(found).bind(**values)
        except TypeError:
            return Macro(REQUIRED)  # a missing or unknown field, reported likewise
        try:
            made = found(**values)
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            self.problems.append(self._problem(error, reference, bound))
            return Macro(REQUIRED)
        self.made[found.__name__] = made
        return made

    def _problem(
        self, error: Exception, reference: Reference, bound: dict[str, Binding]
    ) -> Problem:
        """An error of a constructor at the value that it is about.

        That is the field that the error has, or else the first one that it names, or
        the first macro.
        """
        words = re.findall(r"\w+", str(error))
        fields = [getattr(error, "field", None), *words]
        for binding in (bound[one] for one in fields if one in bound):
            value = binding.value
            if isinstance(value, Macro) and value.name in self._macros:
                name, origin = value.name, self._macros[value.name].origin
            else:
                name, origin = binding.name, binding.origin
            return Problem("value", f"{name}: {error}", origin)
        for name in words:
            if name in self._macros:
                return Problem("value", str(error), self._macros[name].origin)
        return Problem("value", f"{reference}: {error}")
