"""The T5 network: its sizes, its layers and the layouts of its parameters.

Gin files name the network through this package: `network.T5Config`,
`network.Transformer`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specialize.student.network.architecture import T5Config
    from specialize.student.network.transformer import Transformer

__all__ = ["T5Config", "Transformer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "architecture" if name == "T5Config" else "transformer"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
