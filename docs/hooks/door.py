"""The reference of the Python door: what `specialize.__all__` names."""

import inspect

import specialize

INTRODUCTION = """# Python

`import specialize` gives the names on this page. They are public: their meaning does
not change within a minor version. All other modules are internal. The import takes
milliseconds; JAX is loaded when a name that needs it is used.

`specialize.__version__` is the installed version.

Scripts that import modules of version 0.1, such as `specialize.corpus.answers`, keep
working: each old import gives one `FutureWarning` with the new name. Gin files with old
names are refused (`tests/test_renamed.py`).
"""


def page() -> str:
    """Markdown with one mkdocstrings block for every public name."""
    lines = [INTRODUCTION]
    for name in getattr(specialize, "__all__", ()):
        public = getattr(specialize, name)
        if inspect.isclass(public) or inspect.isroutine(public):
            lines += [
                f"::: {public.__module__}.{public.__qualname__}",
                "    options:",
                f"      heading: specialize.{name}",
                f"      toc_label: {name}",
                "",
            ]
    return "\n".join(lines)
