"""The identity of code: a digest of functions and of all that they refer to.

A function refers to its arguments' defaults, the cells of its closure, and the globals
and attributes of modules that its instructions name, which refer to others in turn.
Functions and classes count by their instructions, data by their content. What belongs
to a library counts by the library's version and its own source file, without what it
refers to. Every object has the number of the first reference to it, so that the digest
is the same in every process: it has no address, and no order of a set.
"""

import copyreg
import dis
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from specialize.digests import file_digest

# Names by which code reads what no digest of the code can know, each time it runs.
_READERS = frozenset(
    ("open", "environ", "getenv", "GFile", "read_text", "read_bytes", "read_file")
    + ("eval", "exec", "globals", "import_module", "__import__")
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# What an object of these kinds does, in attributes.
_HOLDERS = {
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    types.MethodType: ("__func__", "__self__"),
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    property: ("fget", "fset"),
}
_OF_C = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# Attributes of classes that say nothing about what its methods do.
_ABOUT_CLASSES = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__")
    + ("__annotations__", "__match_args__", "_abc_impl", "__abstractmethods__")
    + ("__dataclass_fields__", "__dataclass_params__", "__parameters__")
    + ("__slotnames__",)  # which pickle adds
)
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
_OURS = ("specialize", "specialize_tasks")
_LIBRARIES = {"site-packages", "dist-packages"}
_PYTHON = tuple(
    os.path.realpath(sysconfig.get_path(one)) + os.sep
    for one in ("stdlib", "platstdlib")
)


def identity(value: Any, *, may_read: bool = False) -> tuple[str, list[str]]:
    """Returns the digest of code or data, and what of it cannot be identified.

    Args:
        value: Functions, objects or data, in any of Python's containers.
        may_read: Whether the code may read files, which are identified otherwise.

    Returns:
        A digest that differs if the code or the data do, and, in words, what it does
        not cover: a lock, an open file, code that reads files or the environment.
    """
    walk = _Walk(may_read)
    return walk.digest(value), walk.unknown


def vocabulary_key(vocabulary: Any) -> list[Any]:
    """What identifies a vocabulary of SeqIO: the digest of its file, and its size."""
    file = getattr(vocabulary, "sentencepiece_model_file", None)
    size = vocabulary.vocab_size
    if file is None or not os.path.isfile(file):
        return [type(vocabulary).__name__, size, str(file)]
    return [file_digest(file), size]


def is_of_library(kind: type) -> bool:
    """Whether a class is of Python, of an installed library or of this project."""
    return _version(kind.__module__) is not None


class _Walk:
    """The objects found so far, in the order of the first references to them."""

    def __init__(self, may_read: bool, sets: frozenset[int] = frozenset()) -> None:
        self.found: list[tuple[Any, bool]] = []
        self.unknown: list[str] = []
        self._numbers: dict[tuple[int, bool], int] = {}
        self._may_read = may_read
        self._sets = sets  # the ids of those around it

    def digest(self, value: Any) -> str:
        """The digest of a first value."""
        digest = hashlib.sha256(self.text(value).encode("utf-8", "surrogatepass"))
        for found in self.found:  # describing one may find others
            try:
                described = self.described(*found)
            except Exception as error:  # objects of a user may raise anything
                described = type(found[0]).__qualname__
                self.unknown.append(f"{described}: {error}")
            digest.update(described.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def text(self, value: Any, *, of_instance: bool = False) -> str:
        """A text of plain data; of others the number, which their description has.

        `of_instance`: the value is the class of an object that is there, so that how
        it was made does not count.
        """
        kind = type(value)
        if kind in _PLAIN:
            return f"{kind.__name__}:{value!r}"
        if kind is tuple:
            return f"({','.join(map(self.text, value))})"
        if kind in (set, frozenset):
            return self._set(value)
        if kind is np.ndarray or isinstance(value, np.generic):
            return self._array(np.ascontiguousarray(value))
        if isinstance(value, types.CodeType):
            return self._code(value)
        key = (id(value), of_instance)
        if key not in self._numbers:
            self._numbers[key] = len(self.found)
            self.found.append((value, of_instance))  # keeps it, and so its id
        return f"#{self._numbers[key]}"

    def described(self, value: Any, of_instance: bool) -> str:
        """What an object with a number is, by the numbers of what it refers to."""
        kind = type(value)
        if kind is list:
            parts = "list", *map(self.text, value)
        elif kind in (dict, types.MappingProxyType):
            parts = "dict", *(self.text(item) for item in value.items())
        elif isinstance(value, types.ModuleType):
            parts = "module", *self._module(value)
        elif isinstance(value, type):
            parts = "class", *self._class(value, of_instance)
        elif isinstance(value, types.FunctionType):
            parts = "function", *self._function(value)
        elif kind in _HOLDERS:
            held = (getattr(value, name) for name in _HOLDERS[kind])
            parts = kind.__name__, *map(self.text, held)
        elif isinstance(value, _OF_C):
            parts = "of C", *self._of_c(value)
        else:
            parts = "object", *self._object(value)
        return f"[{','.join(parts)}]"

    def _set(self, values: set[Any] | frozenset[Any]) -> str:
        """The elements, each by itself: their order differs in each process."""
        if id(values) in self._sets:
            return "a set around it"
        texts: list[str] = []
        for value in values:
            if type(value) in _PLAIN:
                texts.append(self.text(value))
                continue
            walk = _Walk(self._may_read, self._sets | {id(values)})
            texts.append(walk.digest(value))
            self.unknown += walk.unknown
        return f"{type(values).__name__}({','.join(sorted(texts))})"

    def _array(self, array: np.ndarray) -> str:
        if array.dtype.hasobject:
            return f"{array.dtype}{array.shape}{self.text(array.tolist())}"
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"{array.dtype}{array.shape}{digest}"

    def _code(self, code: types.CodeType) -> str:
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        what = code.co_code, code.co_exceptiontable, code.co_flags, code.co_consts
        return self.text((counts, names, what))

    def _module(self, module: types.ModuleType) -> Iterator[str]:
        """All of a module: code that has it as a value may use any of it."""
        yield module.__name__
        if (version := _version(module.__name__)) is not None:
            yield version
            return
        for name, value in sorted(vars(module).items()):
            # Of other modules it is what its functions name.
            other = isinstance(value, types.ModuleType)
            if not other and not _is_special(name):
                yield f"{name}={self.text(value)}"

    def _class(self, kind: type, of_instance: bool) -> Iterator[str]:
        yield f"{kind.__module__}.{kind.__qualname__}"
        if (version := _version(kind.__module__)) is not None:
            yield version
            return
        yield self.text((type(kind), {} if of_instance else _gin_bindings(kind)))
        yield from (self.text(one, of_instance=of_instance) for one in kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            made = of_instance and name in _CONSTRUCTORS
            if name not in _ABOUT_CLASSES and not made:
                yield f"{name}={self.text(value)}"

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        home, name = function.__module__, function.__qualname__
        yield f"{home}.{name}"
        yield self.text(_gin_bindings(function))
        version = _version(home or "")
        if version is not None and _attribute(sys.modules.get(home), name) is function:
            yield version
            return
        # A library's wrapper of a function has it in a cell of its closure.
        wrapped = function.__dict__.get("__wrapped__")
        version = _version(function.__globals__.get("__name__", ""))
        if version is not None and wrapped is not None and _is_of_gin(function):
            yield self.text(wrapped)
            return
        yield self.text((function.__defaults__, function.__kwdefaults__))
        yield from (self.text(_content(one)) for one in function.__closure__ or ())
        if version is not None:
            yield f"{version} {self.text(wrapped)}"
            return
        yield self.text(function.__dict__)
        yield self.text(function.__code__)
        yield from self._references(function.__code__, function.__globals__, name)

    def _references(
        self, code: types.CodeType, scope: dict[str, Any], where: str
    ) -> Iterator[str]:
        readers = sorted(_READERS.intersection(code.co_names))
        if readers and not self._may_read:
            self.unknown.append(f"{where} uses {', '.join(readers)}")
        for name, value in _named(code, scope):
            if isinstance(value, ImportError):
                self.unknown.append(f"{where} imports {name!r}: {value}")
            else:
                yield f"{name}={self.text(value)}"
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                yield from self._references(inner, scope, where)

    def _of_c(self, value: Any) -> Iterator[str]:
        owner = getattr(value, "__self__", None)
        home = getattr(value, "__objclass__", None) or type(owner)
        if getattr(value, "__module__", None):
            home = value  # a function of a module
        elif owner is not None:
            yield self.text(owner)
        version = _version(home.__module__)
        if version is None and not isinstance(value, types.MemberDescriptorType):
            self.unknown.append(f"{value.__qualname__} is not written in Python")
        yield f"{home.__module__}.{value.__qualname__} {version}"

    def _object(self, value: Any) -> Iterator[str]:
        """An object by what pickle would make it of: its class, arguments and state."""
        kind = type(value)
        home, name = (getattr(value, one, "") for one in ("__module__", "__qualname__"))
        if name and (version := _version(home or "")) is not None:
            if _attribute(sys.modules.get(home), name) is value:
                yield f"{home}.{name} {version}"  # a function of Cython
                return
        yield self.text(kind, of_instance=True)
        seqio = sys.modules.get("seqio")  # of which no object is, if it is not loaded
        if seqio is not None and isinstance(value, seqio.Vocabulary):
            yield self.text(tuple(vocabulary_key(value)))
            return
        try:
            wrapped = getattr(value, "__wrapped__", None)
            if wrapped is not None and is_of_library(kind):
                yield self.text(wrapped)  # of functools.cache or tf.function
                return
            if kind is object or value is os.environ:
                raise TypeError("it has no content of its own")
            reduce = copyreg.dispatch_table.get(kind)
            pieces = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            self.unknown.append(f"{kind.__qualname__}: {error}")
            return
        if isinstance(pieces, str):
            yield pieces
            return
        maker, arguments, *state = pieces
        yield self.text(maker, of_instance=maker is kind)
        yield self.text(tuple(one for one in arguments if one is not kind))
        for part in state:
            yield self.text(list(part) if isinstance(part, Iterator) else part)


def _named(code: types.CodeType, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The globals that instructions name, and what they import.

    An attribute of a module is followed: `helper.rule` is that function, not `helper`.
    A module that cannot be imported is given as the error.
    """
    steps = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    for n, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if step.argval in scope and not _is_special(step.argval):
                yield _followed(step.argval, scope[step.argval], steps[n + 1 :])
        elif step.opname == "IMPORT_NAME":
            level, names = steps[n - 2].argval, steps[n - 1].argval
            relative = f"{'.' * level}{step.argval}"
            try:
                yield from _imported(relative, names or (), scope.get("__package__"))
            except Exception as error:
                yield relative, ImportError(str(error))


def _followed(name: str, value: Any, steps: list[dis.Instruction]) -> tuple[str, Any]:
    for step in steps:
        of_module = isinstance(value, types.ModuleType)
        if not of_module or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        if _version(value.__name__) is not None:
            break
        name = f"{name}.{step.argval}"
        value = getattr(value, step.argval, None)
    return name, value


def _imported(
    name: str, attributes: tuple[str, ...], package: str | None
) -> Iterator[tuple[str, Any]]:
    full = importlib.util.resolve_name(name, package)
    if (version := _version(full)) is not None:
        yield full, version
        return
    module = importlib.import_module(full)
    if not attributes:
        yield full, module
    for one in attributes:
        if not hasattr(module, one):
            importlib.import_module(f"{full}.{one}")
        yield f"{full}.{one}", getattr(module, one)


def _version(name: str) -> str | None:
    """The version of a library's module and its source; None: it is no library's."""
    top = name.partition(".")[0]
    file = _file(name)
    if file is None:
        known = top in sys.stdlib_module_names and name != "__main__"
        return platform.python_version() if known else None
    if top in _OURS:
        return _source_digest(file)
    if _LIBRARIES.intersection(file.split(os.sep)):
        return f"{_installed(top)} {_source_digest(file)}"
    if os.path.realpath(file).startswith(_PYTHON):
        return platform.python_version()
    return None


def _source_digest(file: str) -> str:
    return file_digest(file) if file.endswith(".py") and os.path.isfile(file) else ""


def _file(name: str) -> str | None:
    """The file of a module, which need not be loaded."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    try:
        found = importlib.util.find_spec(name)
    except Exception:  # of a package around it, which is imported
        return None
    return found.origin if found is not None and found.has_location else None


@functools.cache
def _installed(top: str) -> str:
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(top), "__version__", ""))


def _attribute(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_special(name: str) -> bool:
    """Whether Python defines the name: `__file__` differs between machines."""
    return name.startswith("__") and name.endswith("__")


def _is_of_gin(function: types.FunctionType) -> bool:
    return function.__globals__.get("__name__", "").partition(".")[0] == "gin"


def _gin_bindings(function: Any) -> dict[str, Any]:
    import gin

    try:
        return dict(sorted(gin.get_bindings(function).items()))
    except ValueError:  # nothing that gin configures
        return {}
