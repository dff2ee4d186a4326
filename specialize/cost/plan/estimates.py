"""One configuration on one topology: lowered, judged by the compiler, priced.

Memory comes from a compiler. Time and money are arithmetic on an assumed utilisation,
and nothing here has been run on the chips.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from specialize import config as configuration
from specialize.cost.plan import compiling, program, topologies
from specialize.cost.plan.compiling import Verdict
from specialize.cost.plan.topologies import Topology
from specialize.progress import console
from specialize.training.logging import throughput

ENTRIES = {
    "train": "specialize.training.loop.train.train",
    "evaluate": "specialize.evaluation.evaluate.evaluate",
}
# What a plan does not need although a run does.
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
        gin_files: as given to --gin_file.
        bindings: as given to --gin.NAME=VALUE.
        search_paths: as given to --gin_search_paths.
        topology: for which chips.
        mfu: share of the chips' peak that useful arithmetic will reach: an assumption.
        price: of one chip for one hour, in any currency; None leaves money out.
        peak_flops: of one chip; None takes the maker's dense bfloat16 figure.
        teacher_k: alternatives a position in the corpus.
        questions: prompts of an evaluation.
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


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration on one topology.

    Attributes:
        kind: "train" or "evaluate".
        topology: as written.
        chips: how many.
        source: who says what memory it takes.
        mesh: chips along each axis.
        batch_size: rows of the global batch.
        microbatches: parts it is gone through in.
        lengths: of inputs and targets.
        optimizer: its name, or the decoding method.
        remat_policy: what the layers keep for the backward pass.
        parameters: numbers in the weights.
        verdict: the compiler's.
        hbm_bytes: of one chip.
        flops: model FLOPs of a step (a batch decoded, for an evaluation).
        steps: of the whole run.
        step_seconds: at the assumed utilisation; None without a peak.
        hours: of all steps.
        price: of the whole run, if a price was given.
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
        request: what and for which chips.
        cache: whether an earlier answer will do.
        **overrides: macros to set, such as BATCH_SIZE=64.

    Returns:
        Its row.

    Raises:
        InputError: the configuration is wrong, or there is no compiler.
    """
    from specialize.training.loop import train

    arguments = _arguments(request, "train", train.train, overrides)
    devices = topologies.devices(topologies.stand_in(request.topology))
    model, data = arguments["model"], arguments["data"]
    taken = ("model", "data", "optimizer", "mesh", "rules")
    lowered = program.train_program(
        **{name: arguments[name] for name in taken if name in arguments},
        devices=devices,
        teacher_k=request.teacher_k,
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
        flops=_forward(model, data.batch_size, data.lengths) * 3,
        steps=int(arguments["total_steps"]),
        least_seconds=0.0,
    )


def evaluate_row(request: Request, *, cache: bool = True, **overrides: Any) -> Row:
    """Compiles the decoding of one batch for one variant of the recipe.

    Args:
        request: what and for which chips.
        cache: whether an earlier answer will do.
        **overrides: macros to set, such as EVAL_BATCH_SIZE=64.

    Returns:
        Its row; `flops` of a batch whose texts all have the greatest length.

    Raises:
        InputError: the configuration is wrong, or there is no compiler.
    """
    from specialize.evaluation import evaluate

    arguments = _arguments(request, "evaluate", evaluate.evaluate, overrides)
    devices = topologies.devices(topologies.stand_in(request.topology))
    spec = arguments["evaluation"].decoding
    lowered = program.decode_program(
        arguments["model"], spec, devices, mesh=arguments.get("mesh")
    )
    lengths = {"inputs": spec.input_length, "targets": spec.output_length}
    # Every token reads the decoder's weights once; nothing decodes faster than that.
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
        flops=_forward(arguments["model"], spec.batch_size, lengths),
        steps=math.ceil(request.questions / spec.batch_size),
        least_seconds=read,
    )


def _arguments(
    request: Request, command: str, function: Any, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What the configuration, with some macros replaced, binds to a function."""
    bindings = [*request.bindings, *(f"{k} = {v!r}" for k, v in overrides.items())]
    if request.topology.compiler == "tpu":
        # "auto" goes by the backend that runs, which is this host's.
        bindings.append("T5Config.embedding_lookup = 'one_hot'")
    configuration.parse(
        request.gin_files,
        bindings,
        request.search_paths,
        entry=ENTRIES[command],
        allow_missing=UNNEEDED,
        devices=request.topology.chips,
    )
    return configuration.arguments(function)


def _forward(model: Any, rows: int, lengths: Mapping[str, int]) -> float:
    """Model FLOPs of a forward pass; decoding with a cache needs as many."""
    sizes = lengths["inputs"], lengths["targets"]
    return throughput.training_flops(model.module.config, rows, *sizes) / 3


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
    _say(
        f"{topology.text}: {lowered.num_params / 1e6:,.0f}M parameters, mesh {mesh}, "
        f"batch {known['batch_size']}, remat {network.remat_policy}: compiling"
    )
    verdict = compiling.judge(lowered, compiled_for, cache=cache)
    source = f"{verdict.compiler} for {compiled_for.text}"
    if compiled_for is not topology:
        source = f"modelled ({source}, the same mesh)"
        fits = verdict.used is not None and verdict.used <= topology.chip.hbm_bytes
        verdict = dataclasses.replace(verdict, fits=fits)
    peak = request.peak_flops or topology.chip.peak_flops
    seconds = known["flops"] / (topology.chips * peak * request.mfu)
    seconds = None if math.isnan(seconds) else max(seconds, least_seconds)
    hours = None if seconds is None else seconds * known["steps"] / 3600
    price = None
    if request.price is not None and hours is not None:
        price = hours * topology.chips * request.price
    return Row(
        topology=topology.text,
        chips=topology.chips,
        source=source,
        mesh=mesh,
        remat_policy=network.remat_policy,
        parameters=lowered.num_params,
        verdict=verdict,
        hbm_bytes=topology.chip.hbm_bytes,
        step_seconds=seconds,
        hours=hours,
        price=price,
        **known,
    )


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
