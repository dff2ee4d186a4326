"""Configuration: gin files in, one account of every value out.

    flags --from_flags--> Config (read, linted, given to gin) --call--> a function

`read` examines files without importing what they name; `lint` says all that is wrong
with them, with file, line and "did you mean"; `parse` does both and then configures
gin. `save` and `save_operative` keep it beside the run.
"""

from specialize.config.applying import arguments, call, current, from_flags, parse
from specialize.config.commands import register
from specialize.config.locations import place
from specialize.config.problems import Problem, raise_problems
from specialize.config.reading import Config, add_flags, read, words_of_flags
from specialize.config.rules import lint
from specialize.config.saved import save, save_operative
from specialize.config.scanning import Binding, Macro, Origin, Reference

__all__ = [
    "Binding",
    "Config",
    "Macro",
    "Origin",
    "Problem",
    "Reference",
    "add_flags",
    "arguments",
    "call",
    "current",
    "from_flags",
    "lint",
    "parse",
    "place",
    "raise_problems",
    "read",
    "register",
    "save",
    "save_operative",
    "words_of_flags",
]
