"""Suggests a checkpoint for a mistyped name."""

import pathlib

from specialize.errors import nearest, suggestion

# The models on the hub that the recipes start from.
HUB_NAMES = (
    *(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google/t5-v1_1-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")),
    "google/flan-ul2",
    "google/ul2",
)


def did_you_mean(source: str) -> str:
    """Returns " Did you mean ...?" for a path or hub name that does not exist, or "".

    The candidates are the folders beside the first missing part of the path, and the
    models on the hub that the recipes start from.
    """
    missing = pathlib.Path(source).expanduser()
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    rest = pathlib.Path(source).expanduser().relative_to(missing)
    try:
        here = sorted(one.name for one in missing.parent.iterdir() if one.is_dir())
    except OSError:
        here = []
    if missing.name.isdigit():
        # The step was probably not kept, rather than mistyped: list the kept steps.
        steps = sorted((one for one in here if one.isdigit()), key=int)
        return f" {missing.parent} holds {', '.join(steps)}." if steps else ""
    near = nearest(missing.name, here, cutoff=0.6)
    names = [str(missing.parent / one / rest) for one in near]
    return suggestion(names + nearest(source, HUB_NAMES, cutoff=0.8))
