"""Which checkpoint was meant where a name is mistyped."""

import difflib
import pathlib

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
    near = difflib.get_close_matches(missing.name, here, n=1)
    names = [str(missing.parent / near[0] / rest)] if near else []
    names += difflib.get_close_matches(source, HUB_NAMES, n=1, cutoff=0.8)
    return (
        f" Did you mean {' or '.join(repr(name) for name in names)}?" if names else ""
    )
