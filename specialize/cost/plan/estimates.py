"""Estimates memory, time and price of one configuration on one topology.

A compiler reports the memory. Time and price are computed from an assumed MFU. Nothing
here was run on the chips.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from specialize import checks
from specialize import config as configuration
from specialize.cost.plan import compiling, program, rollouts, topologies
from specialize.cost.plan.compiling import Verdict
from specialize.cost.plan.topologies import Topology
from specialize.progress import say
from specialize.student.attention import fused_attention
from specialize.training.logging import throughput
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.state import adapted

ENTRIES = {
    "train": "specialize.training.loop.train.train",
    "evaluate": "specialize.evaluation.evaluate.evaluate",
}
# Macros that a run needs and a plan does not.
UNNEEDED = (
    "MODEL_DIR",
    "MIXTURE_OR_TASK_NAME",
    "CHECKPOINT_PATH",
    "SUITES",
    "OUTPUT_DIR",
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to plan.

    Attributes:
        gin_files: values of --gin_file.
        bindings: values of --gin.NAME=VALUE.
        search_paths: values of --gin_search_paths.
        topology: the chips.
        mfu: assumed share of the chips' peak that useful arithmetic reaches.
        price: price of one chip for one hour, in any currency; None: no prices.
        peak_flops: peak FLOP/s of one chip; None: the maker's dense bfloat16 figure.
        teacher_k: K of the corpus.
        questions: number of questions of an evaluation.
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    topology: Topology
    mfu: float = 0.4
    price: float | None = None
    peak_flops: float | None = None
    teacher_k: int = program.TEACHER_K
    questions: int = 1319

    def __post_init__(self) -> None:
        checks.real("--mfu", self.mfu, above=0, most=1)
        if self.price is not None:
            checks.real("--price", self.price, least=0)
        if self.peak_flops is not None:
            checks.real("--peak_flops", self.peak_flops, above=0)
        checks.whole("--teacher_k", self.teacher_k, most=1000)
        checks.whole("--questions", self.questions)


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration on one topology.

    Attributes:
        kind: "train" or "evaluate".
        topology: the topology as written.
        chips: number of chips.
        source: the compiler that reported the memory.
        mesh: number of chips along each axis.
        batch_size: sequences of the global batch.
        microbatches: number of microbatches.
        lengths: lengths of inputs and targets.
        optimizer: name of the optimizer, or the decoding method.
        remat_policy: which activations are stored for the backward pass.
        parameters: number of parameters.
        trained: number of them that are trained; 0 for an evaluation.
        verdict: the compilation result.
        hbm_bytes: memory of one chip.
        flops: model FLOPs of a step (of decoding one batch, for an evaluation).
        steps: number of steps of the whole run.
        step_seconds: seconds per step at the assumed MFU; None without a peak.
        hours: duration of all steps.
        price: price of the whole run, if a price was given.
    """

    kind: str
    topology: str
    chips: int
    source: str
    mesh: dict[str, int]
    batch_size: int
    microbatches: int
    lengths: dict[str, int]
    optimizer: str
    remat_policy: str
    parameters: int
    trained: int
    verdict: Verdict
    hbm_bytes: float
    flops: float
    steps: int
    step_seconds: float | None
    hours: float | None
    price: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; memory in bytes."""
        row = dataclasses.asdict(self)
        if math.isinf(self.hbm_bytes):
            row["hbm_bytes"] = None
        return row


def train_row(request: Request, *, cache: bool = True, **overrides: Any) -> Row:
    """Compiles the training step of one variant of the recipe.

    Args:
        request: recipe, topology and assumptions.
        cache: whether to use cached compilation results.
        **overrides: macros to set, such as BATCH_SIZE=64.

    Raises:
        InputError: the configuration is invalid, or there is no compiler.
    """
    from specialize.training.loop import train

    arguments = _arguments(request, "train", train.train, overrides)
    devices = topologies.devices(topologies.stand_in(request.topology))
    made = make_optimizer(arguments["optimizer"])
    arguments["model"] = adapted(arguments["model"], made)
    model, data = arguments["model"], arguments["data"]
    taken = ("model", "data", "optimizer", "mesh", "rules")
    with _kernels_of(request.topology):
        lowered = program.train_program(
            **{name: arguments[name] for name in taken if name in arguments},
            devices=devices,
            teacher_k=request.teacher_k,
            embedding_lookup=_lookup(request.topology),
        )
    return _row(
        request,
        lowered,
        model,
        cache=cache,
        kind="train",
        batch_size=data.batch_size,
        lengths=data.lengths,
        microbatches=data.microbatches,
        optimizer=arguments["optimizer"].name,
        flops=throughput.training_flops(
            model.module.config, data.batch_size, *data.lengths.values()
        )
        + rollouts.flops(model, data, lowered.reading),
        steps=int(arguments["total_steps"]),
        least_seconds=0.0,
    )


def evaluate_row(request: Request, *, cache: bool = True, **overrides: Any) -> Row:
    """Compiles the decoding of one batch for one variant of the recipe.

    Arguments and errors are those of `train_row`; `flops` are those of a batch whose
    texts all have the maximum length.
    """
    from specialize.evaluation import evaluate

    arguments = _arguments(request, "evaluate", evaluate.evaluate, overrides)
    devices = topologies.devices(topologies.stand_in(request.topology))
    spec = arguments["evaluation"].decoding
    with _kernels_of(request.topology):
        lowered = program.decode_program(
            arguments["model"], spec, devices, mesh=arguments.get("mesh")
        )
    lengths = {"inputs": spec.input_length, "targets": spec.output_length}
    # Every token reads the decoder's weights once: a lower bound of the time.
    read = lengths["targets"] * lowered.decoder / request.topology.chip.bandwidth
    return _row(
        request,
        lowered,
        arguments["model"],
        cache=cache,
        kind="evaluate",
        batch_size=spec.batch_size,
        lengths=lengths,
        microbatches=1,
        optimizer=spec.method,
        flops=throughput.forward_flops(
            arguments["model"].module.config, spec.batch_size, *lengths.values()
        ),
        steps=math.ceil(request.questions / spec.batch_size),
        least_seconds=read,
    )


def _arguments(
    request: Request, command: str, function: Any, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that the configuration, with `overrides`, binds to a function."""
    bindings = [*request.bindings, *(f"{k} = {v!r}" for k, v in overrides.items())]
    if (lookup := _lookup(request.topology)) != "auto":
        bindings.append(f"T5Config.embedding_lookup = {lookup!r}")
    configuration.parse(
        request.gin_files,
        bindings,
        request.search_paths,
        entry=ENTRIES[command],
        allow_missing=UNNEEDED,
        devices=request.topology.chips,
    )
    return configuration.arguments(function)


def _lookup(topology: Topology) -> str:
    """What "auto", which would choose by this host's backend, is on the chips."""
    return "one_hot" if topology.compiler == "tpu" else "auto"


def _kernels_of(topology: Topology) -> contextlib.AbstractContextManager[None]:
    """Fused attention where a GPU has it, with another compiler."""
    if topology.compiler == "modelled":
        return fused_attention.planned()
    return contextlib.nullcontext()


def _row(
    request: Request,
    lowered: program.Program,
    model: Any,
    *,
    cache: bool,
    least_seconds: float,
    **known: Any,
) -> Row:
    topology, compiled_for = request.topology, topologies.stand_in(request.topology)
    network = model.module.config
    mesh = dict(lowered.mesh.shape)
    limit = topology.chip.hbm_bytes
    too_large = lowered.state + lowered.teacher > limit
    say(
        f"{topology.text}: {lowered.num_params / 1e6:,.0f}M parameters"
        + f" ({lowered.trained / 1e6:,.1f}M trained)"
        * (0 < lowered.trained < lowered.num_params)
        + f", mesh {mesh}, batch {known['batch_size']}, remat {network.remat_policy}: "
        + ("the state alone is too large" if too_large else "compiling")
    )
    if too_large:
        verdict = compiling.too_large(lowered, compiled_for)
    else:
        verdict = compiling.judge(lowered, compiled_for, cache=cache)
        verdict = compiling.with_more(
            verdict,
            compiled_for.chip.hbm_bytes,
            teacher=lowered.beside,
            # As measured on a GPU (benchmarks/RESULTS.md, "Planned memory").
            temporaries=0 if compiled_for is topology else lowered.moment,
        )
    source = f"{verdict.compiler} for {compiled_for.text}"
    if compiled_for is not topology:
        source = f"modelled ({source}, the same mesh)"
        fits = verdict.used is not None and verdict.used <= limit
        verdict = dataclasses.replace(verdict, fits=fits, limit=None)
    peak = request.peak_flops or topology.chip.peak_flops
    seconds = known["flops"] / (topology.chips * peak * request.mfu)
    seconds = None if math.isnan(seconds) else max(seconds, least_seconds)
    hours = price = None
    if seconds is not None:
        hours = seconds * known["steps"] / 3600
        if request.price is not None:
            price = hours * topology.chips * request.price
    return Row(
        topology=topology.text,
        chips=topology.chips,
        source=source,
        mesh=mesh,
        remat_policy=network.remat_policy,
        parameters=lowered.num_params,
        trained=lowered.trained,
        verdict=verdict,
        hbm_bytes=limit,
        step_seconds=seconds,
        hours=hours,
        price=price,
        **known,
    )
