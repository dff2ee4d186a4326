"""Does it fit, on what, for how long, at what price: asked before anything is booked.

A plan compiles the step that a recipe would run, for chips that need not be there, and
reads the memory off the compiler. Time and money are arithmetic on an assumed
utilisation, and are labelled so. Nothing in a plan has been measured on the chips.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from specialize.cost.plan import estimates, topologies
from specialize.cost.plan.estimates import Request, Row
from specialize.errors import InputError
from specialize.student.network import architecture

# From the least repeated arithmetic to the least memory.
REMAT_POLICIES = tuple(architecture.REMAT_POLICIES)


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


def plan(
    request: Request,
    *,
    command: str = "train",
    search: bool = True,
    cache: bool = True,
) -> Plan:
    """Plans a run.

    Args:
        request: what and for which chips.
        command: "train" or "evaluate".
        search: whether to look for the cheapest remat policy (of training) and the
            largest batch.
        cache: whether earlier answers of the compiler will do.

    Returns:
        The plan.

    Raises:
        InputError: the configuration is wrong, or there is no compiler for the chips.
    """
    if not 0 < request.mfu <= 1:
        raise InputError(f"--mfu {request.mfu}: a share between 0 and 1 is meant.")
    topologies.prepare(topologies.stand_in(request.topology))
    ask = {"train": estimates.train_row, "evaluate": estimates.evaluate_row}[command]
    ask = functools.partial(ask, request, cache=cache)
    written = ask()
    cheapest = largest = None
    if search:
        best = cheapest = cheapest_remat(ask, written) if command == "train" else None
        if command == "evaluate" and written.verdict.fits:
            best = written
        if best is not None:
            largest = largest_batch(ask, best)
    assumptions = {
        "mfu": request.mfu,
        "price_per_chip_hour": request.price,
        "time": "model FLOPs / (chips x peak x mfu)",
    }
    if command == "evaluate":
        assumptions["questions"] = request.questions
        assumptions["time"] += ", but each token reads the decoder's weights once"
    else:
        assumptions["teacher_k"] = request.teacher_k
    return Plan(written, cheapest, largest, assumptions)


def cheapest_remat(ask: Callable[..., Row], written: Row) -> Row | None:
    """The policy that repeats least arithmetic among those that fit.

    Policies are ordered by what they keep, so that "fits" changes once along them:
    three compilations decide between six.

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
    name = "BATCH_SIZE" if base.kind == "train" else "EVAL_BATCH_SIZE"
    kept = {"REMAT_POLICY": base.remat_policy}
    unit = base.mesh["data"] * base.mesh["fsdp"] * base.microbatches
    worst = None
    second = ask(**kept, **{name: base.batch_size + unit})
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
        tried = ask(**kept, **{name: int(batch)})
        if tried.verdict.fits:
            best = tried
        else:
            worst = tried
    return best
