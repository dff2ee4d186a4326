"""Does it fit, on what, for how long, at what price: asked before anything is booked.

A plan compiles the step that a recipe would run, for chips that need not be there, and
reads the memory off the compiler. Time and money are arithmetic on an assumed
utilisation, and are labelled so. Nothing in a plan has been measured on the chips.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from specialize import config as configuration
from specialize.cost import compiling, program, topologies
from specialize.cost.compiling import Verdict
from specialize.cost.topologies import Topology
from specialize.errors import InputError
from specialize.progress import console
from specialize.training import throughput

TRAIN = "specialize.training.loop.train"
# From the least repeated arithmetic to the least memory.
REMAT_POLICIES = ("none", "save_dots", "minimal", "save_mlp", "full")
# What a plan does not need although a run does.
UNNEEDED = ("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "CHECKPOINT_PATH", "OUTPUT_DIR")


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
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    topology: Topology
    mfu: float = 0.4
    price: float | None = None
    peak_flops: float | None = None
    teacher_k: int = program.TEACHER_K


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration on one topology.

    Attributes:
        topology: as written.
        chips: how many.
        source: who says what memory it takes.
        mesh: chips along each axis.
        batch_size: rows of the global batch.
        microbatches: parts it is gone through in.
        lengths: of inputs and targets.
        optimizer: its name.
        remat_policy: what the layers keep.
        parameters: numbers in the weights.
        verdict: the compiler's.
        hbm_bytes: of one chip.
        flops: model FLOPs of a step.
        steps: of the whole run.
        step_seconds: at the assumed utilisation; None without a peak.
        hours: of all steps.
        price: of the whole run, if a price was given.
    """

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        as_written: the recipe as it stands.
        cheapest: the same with the cheapest remat policy that fits; None if none does
            or it was not looked for.
        largest: that with the largest batch that fits; None likewise.
        assumptions: of the arithmetic.
    """

    as_written: Row
    cheapest: Row | None
    largest: Row | None
    assumptions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "as_written": self.as_written.to_json(),
            "cheapest_remat": self.cheapest and self.cheapest.to_json(),
            "largest_batch": self.largest and self.largest.to_json(),
            "assumptions": self.assumptions,
        }


def plan(request: Request, *, search: bool = True, cache: bool = True) -> Plan:
    """Plans a training run.

    Args:
        request: what and for which chips.
        search: whether to look for the cheapest remat policy and the largest batch.
        cache: whether earlier answers of the compiler will do.

    Returns:
        The plan.

    Raises:
        InputError: the configuration is wrong, or there is no compiler for the chips.
    """
    if not 0 < request.mfu <= 1:
        raise InputError(f"--mfu {request.mfu}: a share between 0 and 1 is meant.")
    topologies.prepare(request.topology)

    def ask(**overrides: Any) -> Row:
        return row(request, cache=cache, **overrides)

    written = ask()
    cheapest = largest = None
    if search:
        cheapest = cheapest_remat(ask, written)
        if cheapest is not None:
            largest = largest_batch(ask, cheapest)
    assumptions = {
        "mfu": request.mfu,
        "price_per_chip_hour": request.price,
        "teacher_k": request.teacher_k,
        "time": "model FLOPs / (chips x peak x mfu); nothing was run",
    }
    return Plan(written, cheapest, largest, assumptions)


def row(request: Request, *, cache: bool = True, **overrides: Any) -> Row:
    """Compiles one variant of the recipe.

    Args:
        request: what and for which chips.
        cache: whether an earlier answer will do.
        **overrides: macros to set, such as BATCH_SIZE=64.

    Returns:
        Its row.
    """
    topology, compiled_for = request.topology, topologies.stand_in(request.topology)
    bindings = [*request.bindings, *(f"{k} = {v!r}" for k, v in overrides.items())]
    if topology.compiler == "tpu":
        # Chosen by the backend that runs, which is this host's.
        bindings.append("T5Config.embedding_lookup = 'one_hot'")
    parsed = configuration.parse(
        request.gin_files,
        bindings,
        request.search_paths,
        entry=TRAIN,
        allow_missing=UNNEEDED,
        devices=topology.chips,
    )
    from specialize.training import loop

    arguments = configuration.arguments(loop.train)
    lowered = program.train_program(
        arguments, topologies.devices(compiled_for), teacher_k=request.teacher_k
    )
    network = arguments["model"].module.config
    told = " ".join(f"{k}={v}" for k, v in overrides.items())
    _say(
        f"{topology.text}: {lowered.num_params / 1e9:.2f}B parameters, mesh "
        f"{dict(lowered.mesh.shape)}, batch {arguments['batch_size']}, remat "
        f"{network.remat_policy}{' (' + told + ')' if told else ''}: compiling"
    )
    verdict = compiling.judge(lowered, compiled_for, cache=cache)
    source = f"{verdict.compiler} for {compiled_for.text}"
    if compiled_for is not topology:
        source = f"modelled ({source}, the same mesh)"
        fits = verdict.used is not None and verdict.used <= topology.chip.hbm_bytes
        verdict = dataclasses.replace(verdict, fits=fits)
    lengths = {k: int(arguments["feature_lengths"][k]) for k in ("inputs", "targets")}
    flops = throughput.training_flops(
        throughput.Shape.of(network),
        arguments["batch_size"],
        lengths["inputs"],
        lengths["targets"],
    )
    steps = int(arguments["total_steps"])
    peak = request.peak_flops or topology.chip.peak_flops
    seconds = flops / (topology.chips * peak * request.mfu)
    seconds = None if math.isnan(seconds) else seconds
    hours = None if seconds is None else seconds * steps / 3600
    price = None
    if request.price is not None and hours is not None:
        price = hours * topology.chips * request.price
    return Row(
        topology=topology.text,
        chips=topology.chips,
        source=source,
        mesh=dict(lowered.mesh.shape),
        batch_size=arguments["batch_size"],
        microbatches=arguments.get("microbatches", 1),
        lengths=lengths,
        optimizer=str(parsed.value("OPTIMIZER", arguments["optimizer"].name)),
        remat_policy=network.remat_policy,
        parameters=lowered.num_params,
        verdict=verdict,
        hbm_bytes=topology.chip.hbm_bytes,
        flops=flops,
        steps=steps,
        step_seconds=seconds,
        hours=hours,
        price=price,
    )


def cheapest_remat(ask: Callable[..., Row], written: Row) -> Row | None:
    """The policy that repeats least arithmetic among those that fit.

    Policies are ordered by what they keep, so that "fits" changes once along them:
    three compilations decide between five.

    Args:
        ask: compiles a variant.
        written: the recipe as it stands, whose policy needs no asking.

    Returns:
        Its row, or None if not even the most sparing policy fits.
    """
    known = {written.remat_policy: written}

    def fitting(index: int) -> bool:
        policy = REMAT_POLICIES[index]
        if policy not in known:
            known[policy] = ask(REMAT_POLICY=policy)
        return known[policy].verdict.fits

    low, high = 0, len(REMAT_POLICIES)
    start = REMAT_POLICIES.index(written.remat_policy)
    if written.verdict.fits:
        high = start
    else:
        low = start + 1
    while low < high:
        middle = (low + high) // 2
        if fitting(middle):
            high = middle
        else:
            low = middle + 1
    return known.get(REMAT_POLICIES[low]) if low < len(REMAT_POLICIES) else None


def largest_batch(ask: Callable[..., Row], base: Row) -> Row | None:
    """The largest batch that fits with the remat policy of `base`.

    Memory grows nearly linearly with the batch: two answers predict the limit, and
    the prediction is compiled, going down by one unit while it does not fit. A unit is
    the batch that gives every shard one more row.

    Args:
        ask: compiles a variant.
        base: a row that fits.

    Returns:
        The row of the largest batch, `base` itself if no larger one fits.
    """
    if math.isinf(base.hbm_bytes) or base.verdict.used is None:
        return None
    policy = base.remat_policy
    unit = base.mesh["data"] * base.mesh["fsdp"] * base.microbatches
    best, worst = base, None
    second = ask(REMAT_POLICY=policy, BATCH_SIZE=base.batch_size + unit)
    if not second.verdict.fits:
        return base
    best = second
    for _ in range(4):
        used = [r.verdict.used or 0 for r in (base, best)]
        slope = (used[1] - used[0]) / (best.batch_size - base.batch_size)
        limit = (worst.verdict.limit if worst else None) or base.hbm_bytes
        room = (limit - used[1]) / max(slope, 1.0)
        units = max(1, int(room // unit))
        ceiling = worst.batch_size - unit if worst else math.inf
        batch = min(best.batch_size + units * unit, ceiling)
        if batch <= best.batch_size:
            break
        tried = ask(REMAT_POLICY=policy, BATCH_SIZE=int(batch))
        if tried.verdict.fits:
            best = tried
        else:
            worst = tried
    return best


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
