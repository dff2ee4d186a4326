"""Which checkpoint was meant where a name is mistyped."""

import pathlib

from specialize.errors import nearest, suggestion

# Of the hub, the models that this project's recipes begin with.
HUB_NAMES = (
    *(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google/t5-v1_1-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")),
    "google/flan-ul2",
    "google/ul2",
)


def did_you_mean(source: str) -> str:
    """Returns " Did you mean ...?" for a name that does not exist, or "".

    Looks at what lies where the first missing part of the path should be, and at the
    models of the hub that recipes begin with.

    Args:
        source: a path or hub name, as written.
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
        # A step that is not kept is no slip of the finger: say which are.
        steps = sorted((one for one in here if one.isdigit()), key=int)
        return f" {missing.parent} holds {', '.join(steps)}." if steps else ""
    near = nearest(missing.name, here, cutoff=0.6)
    names = [str(missing.parent / one / rest) for one in near]
    return suggestion(names + nearest(source, HUB_NAMES, cutoff=0.8))
