"""The T5 network: its sizes, its layers, the layouts of its parameters.

Gin files name the network through this package: `network.T5Config`,
`network.Transformer`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specialize.student.network.transformer import T5Config, Transformer

__all__ = ["T5Config", "Transformer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from specialize.student.network import transformer

    return getattr(transformer, name)
