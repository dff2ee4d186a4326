"""Plans a run: whether it fits, how long it takes and what it costs.

A plan compiles the step that a recipe would run, for chips that need not be present,
and reports the memory from the compiler. Time and price are computed from an assumed
MFU and are labelled so. Nothing in a plan was measured on the chips.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from specialize.cost.plan import estimates, topologies
from specialize.cost.plan.estimates import Request, Row
from specialize.cost.plan.topologies import Topology
from specialize.errors import InputError
from specialize.progress import say
from specialize.student.network import architecture

# From the least recomputation to the least memory.
REMAT_POLICIES = tuple(architecture.REMAT_POLICIES)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The result of planning.

    Attributes:
        as_written: the recipe without changes.
        cheapest: the recipe with the cheapest remat policy that fits; None if none
            fits or none was searched for.
        largest: `cheapest` with the largest batch that fits, or None likewise.
        assumptions: assumptions of the computed time and price.
    """

    as_written: Row
    cheapest: Row | None
    largest: Row | None
    assumptions: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Whether any of its rows fits."""
        return (self.largest or self.cheapest or self.as_written).verdict.fits

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
        request: recipe, topology and assumptions.
        command: "train" or "evaluate".
        search: whether to search for the cheapest remat policy (of training) and the
            largest batch.
        cache: whether to use cached compilation results.

    Raises:
        InputError: the configuration is invalid, or there is no compiler for the chips.
    """
    if not 0 < request.mfu <= 1:
        raise InputError(f"--mfu {request.mfu}: give a share between 0 and 1.")
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


def smallest(
    request: Request,
    slices: Sequence[Topology],
    *,
    command: str = "train",
    search: bool = True,
    cache: bool = True,
) -> Plan:
    """Plans a run for the first of some topologies on which it fits.

    A topology is left out if the recipe's mesh or batch does not divide over it.

    Args:
        request: recipe and assumptions; its topology is not used.
        slices: topologies, from the smallest.
        command: as for `plan`.
        search: whether other remat policies are tried, and larger batches on the
            topology that is found.
        cache: as for `plan`.

    Returns:
        The plan for the first that fits; if there is none, for the last.

    Raises:
        InputError: as for `plan`, or the recipe can be divided over none of them.
    """
    found, refused = None, None
    for topology in slices:
        ask = dataclasses.replace(request, topology=topology)
        try:
            found = plan(ask, command=command, search=search, cache=cache)
        except InputError as error:
            refused = refused or error
            say(f"{topology.text}: left out ({error})")
            continue
        if found.fits:
            return found
    if found is None:
        raise refused or InputError("--smallest: there are no topologies to try.")
    return found


def cheapest_remat(ask: Callable[..., Row], written: Row) -> Row | None:
    """The row of the policy with the least recomputation that fits, or None.

    Policies are ordered by memory, so "fits" changes once along them: three
    compilations decide between six.

    Args:
        ask: compiles a variant.
        written: the row of the recipe without changes.
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

    Memory grows nearly linearly with the batch: two results predict the limit, and
    the prediction is compiled and reduced by one unit while it does not fit. A unit is
    one more sequence per microbatch on every array shard of the batch.

    Args:
        ask: compiles a variant.
        base: a row that fits.

    Returns:
        The row of the largest batch, which is `base` if no larger one fits.
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
