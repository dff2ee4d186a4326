"""Configuration: reads gin files, checks them, and calls functions with their values.

    flags --from_flags--> Config (read, linted, given to gin) --call--> a function

`read` reads files without importing what they name; `lint` lists every problem with
file, line and "did you mean"; `parse` does both and then configures gin. `save` and
`save_operative` write the configuration into the run's folder.
"""

from specialize.config.applying import (
    arguments,
    call,
    current,
    forget,
    from_flags,
    macros_of_parameters,
    parse,
)
from specialize.config.commands import register
from specialize.config.locations import place
from specialize.config.problems import Problem, raise_problems
from specialize.config.reading import (
    Config,
    add_flags,
    add_process_flags,
    read,
    words_of_flags,
)
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
    "add_process_flags",
    "arguments",
    "call",
    "current",
    "forget",
    "from_flags",
    "lint",
    "macros_of_parameters",
    "parse",
    "place",
    "raise_problems",
    "read",
    "register",
    "save",
    "save_operative",
    "words_of_flags",
]
