"""Saves, restores and converts weights.

`store.CheckpointStore` stores a run's checkpoints, `load_params` reads weights of any
format, `convert.convert` writes any format. Importing the package imports neither.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load_params":
        from specialize.checkpoints.loading import load_params

        return load_params
    if name == "CheckpointStore":
        from specialize.checkpoints.store import CheckpointStore

        return CheckpointStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
