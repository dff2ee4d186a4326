"""Where a file is: as configured, or as the environment says."""

import os
from typing import Any

from specialize import paths
from specialize.errors import InputError


def place(given: Any, macro: str, variable: str) -> Any:
    """A path as configured, or from the environment; the local copy of a bucket's.

    Raises:
        InputError: Neither names it.
    """
    found = os.path.expanduser(given or os.environ.get(f"SPECIALIZE_{variable}", ""))
    if not found:
        raise InputError(
            f"{macro} is not set. Set it with --gin.{macro}=\"'PATH'\", or in the "
            f"environment as SPECIALIZE_{variable}."
        )
    if paths.scheme_of(found):
        return str(paths.local(paths.checked(found, macro)))
    return found
