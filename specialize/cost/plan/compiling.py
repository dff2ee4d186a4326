"""What a compiler says a program needs, remembered.

Compiling a large step takes minutes; the answer is a few numbers. They are kept under a
digest of everything they depend on, so that asking again takes seconds.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import time
from typing import Any

from specialize import outputs
from specialize.cost.plan.program import Memory, Program
from specialize.cost.plan.topologies import Topology

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of ([\d.]+)([KMGT]?)i?B? hbm")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A compiler's answer.

    Attributes:
        fits: whether the program was accepted.
        memory: what it takes, if it fits.
        used: bytes on one chip in all; also where it does not fit, if the compiler
            said so.
        peak: the most bytes alive at one time, by the compiler; less than `used`,
            which counts buffers at their own sizes although they share places.
        limit: bytes a program may use, if the compiler said so.
        seconds: compiling took, when it was done.
        cached: whether that was an earlier time.
        compiler: its name and version.
    """

    fits: bool
    memory: Memory | None
    used: int | None
    peak: int | None
    limit: int | None
    seconds: float
    cached: bool
    compiler: str


def cache_folder() -> pathlib.Path:
    """Where verdicts are kept: $SPECIALIZE_CACHE, or the user's cache folder."""
    base = os.environ.get("SPECIALIZE_CACHE")
    if base:
        return pathlib.Path(base) / "plan"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "specialize" / "plan"


def compiler_of(topology: Topology) -> str:
    """Name and version of the compiler for a topology."""
    package = "libtpu" if topology.compiler == "tpu" else "jaxlib"
    return f"{package} {importlib.metadata.version(package)}"


def judge(program: Program, topology: Topology, *, cache: bool = True) -> Verdict:
    """Compiles a program, or remembers that it did.

    Args:
        program: of `train_program` or `decode_program`.
        topology: what it was lowered for.
        cache: whether an earlier answer will do and this one is kept.

    Returns:
        The compiler's verdict. Running out of memory is one; other failures raise.
    """
    compiler = compiler_of(topology)
    key = _digest(program, topology, compiler)
    file = cache_folder() / f"{key}.json"
    if cache and (known := _load(file)):
        return known
    begin = time.perf_counter()
    try:
        compiled = program.lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used, limit = _numbers(str(error))
        verdict = Verdict(
            False, None, used, None, limit, time.perf_counter() - begin, False, compiler
        )
    else:
        memory = memory_of(compiled, program)
        verdict = Verdict(
            True,
            memory,
            memory.total,
            int(compiled.memory_analysis().peak_memory_in_bytes),
            None,
            time.perf_counter() - begin,
            False,
            compiler,
        )
    if cache:
        outputs.write_json(file, dataclasses.asdict(verdict))
    return verdict


def memory_of(compiled: Any, program: Program) -> Memory:
    """Splits the compiler's total into what the bytes are for.

    The compiler knows arguments, outputs, aliases and temporaries. Arguments are the
    state and the batch, whose shares follow from their shardings; the padding that a
    TPU's layout adds to them counts with the optimizer's. An output that takes an
    argument's place costs nothing; any other is a temporary to us.
    """
    stats = compiled.memory_analysis()
    arguments = int(stats.argument_size_in_bytes)
    fresh = int(stats.output_size_in_bytes) - int(stats.alias_size_in_bytes)
    batch = min(program.batch, arguments - program.params)
    return Memory(
        params=program.params,
        optimizer=arguments - program.params - batch,
        batch=batch,
        temporaries=int(stats.temp_size_in_bytes) + fresh,
        program=int(stats.generated_code_size_in_bytes),
    )


def _digest(program: Program, topology: Topology, compiler: str) -> str:
    parts = [
        program.lowered.as_text(),
        topology.text,
        repr(dict(program.mesh.shape)),
        repr([device.id for device in program.mesh.devices.flat]),
        compiler,
        importlib.metadata.version("jax"),
        importlib.metadata.version("jaxlib"),
        os.environ.get("XLA_FLAGS", ""),
        os.environ.get("LIBTPU_INIT_ARGS", ""),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _load(file: pathlib.Path) -> Verdict | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        memory = Memory(**found["memory"]) if found["memory"] else None
        return Verdict(**{**found, "memory": memory, "cached": True})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or of another version of this module: ask again


def _numbers(message: str) -> tuple[int | None, int | None]:
    found = _USED.search(message)
    if not found:
        return None, None
    used, unit, limit, other = found.groups()
    return int(float(used) * _UNITS[unit]), int(float(limit) * _UNITS[other])
