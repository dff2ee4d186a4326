"""Compiles a program and caches the memory that the compiler reports.

Compiling a large step takes minutes; the result is a few numbers. They are stored under
a digest of everything that they depend on, so that the next plan takes seconds.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
import re
import time
from typing import Any

from specialize import outputs, typed_json
from specialize.cost.plan.program import Memory, Program
from specialize.cost.plan.topologies import Topology
from specialize.errors import InputError
from specialize.typed_json import Count

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# All that a program needs, or its temporaries alone: bytes and the limit of both.
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of ([\d.]+)([KMGT]?)i?B? hbm")
_TEMPORARIES = re.compile(
    r"HLO temporaries \(([\d.]+)([KMGT]?)i?B?\) exceeds available HBM "
    r"\(([\d.]+)([KMGT]?)i?B?\)"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The compilation result of a program.

    Attributes:
        fits: whether the program fits into the memory.
        memory: bytes per purpose, if it fits.
        used: bytes on one chip in total; None if it does not fit and the compiler
            did not report them.
        peak: most bytes in use at one time; less than `used`, which counts every
            buffer although buffers share memory.
        limit: bytes that a program may use, if the compiler reported them.
        seconds: duration of the compilation.
        cached: whether the result comes from the cache.
        compiler: name and version of the compiler.
    """

    fits: bool
    memory: Memory | None
    used: Count | None
    peak: Count | None
    limit: Count | None
    seconds: float
    cached: bool
    compiler: str


def cache_folder() -> pathlib.Path:
    """The cache: $SPECIALIZE_CACHE, or the user's cache folder."""
    if base := os.environ.get("SPECIALIZE_CACHE"):
        return pathlib.Path(base).expanduser() / "plan"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "specialize" / "plan"


def compiler_of(topology: Topology) -> str:
    """Name and version of the compiler for a topology."""
    package = "libtpu" if topology.compiler == "tpu" else "jaxlib"
    return f"{package} {importlib.metadata.version(package)}"


def judge(program: Program, topology: Topology, *, cache: bool = True) -> Verdict:
    """Compiles a program, or reads the result of an earlier compilation.

    Args:
        program: result of `train_program` or `decode_program`.
        topology: the topology that it was lowered for.
        cache: whether to read and write the cache.

    Returns:
        The compilation result, also for a program that does not fit; other failures
        raise.
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
        used, limit = _numbers(str(error), program.arguments)
        memory = peak = None
    else:
        memory = memory_of(compiled, program)
        used, limit = memory.total, None
        peak = int(compiled.memory_analysis().peak_memory_in_bytes)
    seconds = time.perf_counter() - begin
    fits = memory is not None
    verdict = Verdict(fits, memory, used, peak, limit, seconds, False, compiler)
    if cache:
        outputs.write_json(file, dataclasses.asdict(verdict))
    return verdict


def too_large(program: Program, topology: Topology) -> Verdict:
    """The result for a program whose state does not fit; nothing is compiled.

    `used` is the size of the state, which is less than the program would use.
    """
    used = program.state + program.teacher
    name = compiler_of(topology)
    return Verdict(False, None, used, None, None, 0.0, False, name)


def with_more(
    verdict: Verdict, limit: float, *, teacher: int = 0, temporaries: int = 0
) -> Verdict:
    """The result with what uses memory beside the program.

    Args:
        verdict: the result of the program alone.
        limit: memory of one chip.
        teacher: bytes of a teacher's weights that the program does not read.
        temporaries: bytes that the step needs there beyond those of its compiler.
    """
    more = teacher + temporaries
    if not more or verdict.used is None:
        return verdict
    used, memory = verdict.used + more, verdict.memory
    if memory is not None:
        memory = dataclasses.replace(
            memory,
            teacher=memory.teacher + teacher,
            temporaries=memory.temporaries + temporaries,
        )
    return dataclasses.replace(
        verdict,
        memory=memory,
        used=used,
        peak=None if verdict.peak is None else verdict.peak + more,
        fits=verdict.fits and used <= limit,
    )


def memory_of(compiled: Any, program: Program) -> Memory:
    """Splits the compiler's total by purpose.

    The compiler reports arguments, outputs, aliases and temporaries. Arguments are the
    state, the batch and the weights of a teacher that reads it, whose sizes follow from
    their shardings; the padding of a TPU's layout counts with the optimizer's. An
    output that reuses an argument's memory costs nothing; other outputs count as
    temporaries.
    """
    stats = compiled.memory_analysis()
    arguments = int(stats.argument_size_in_bytes)
    fresh = int(stats.output_size_in_bytes) - int(stats.alias_size_in_bytes)
    teacher = program.teacher - program.beside
    batch = min(program.batch, arguments - program.params - teacher)
    return Memory(
        params=program.params,
        optimizer=arguments - program.params - teacher - batch,
        batch=batch,
        temporaries=int(stats.temp_size_in_bytes) + fresh,
        program=int(stats.generated_code_size_in_bytes),
        teacher=teacher,
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
    text = "".join(f"{part}\0" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _load(file: pathlib.Path) -> Verdict | None:
    try:
        found = typed_json.read(file, Verdict)
        return dataclasses.replace(found, cached=True)
    except InputError:
        return None  # missing, or of another version of this module: compile again


def _numbers(message: str, arguments: int) -> tuple[int | None, int | None]:
    """Bytes that a program needs, and that it may use, from the compiler's refusal.

    Args:
        message: the refusal.
        arguments: bytes of all that the program reads.
    """
    if found := _USED.search(message):
        arguments = 0
    elif not (found := _TEMPORARIES.search(message)):
        return None, None
    used, unit, limit, other = found.groups()
    used = int(float(used) * _UNITS[unit]) + arguments
    return used, int(float(limit) * _UNITS[other])
