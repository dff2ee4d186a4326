"""The wait until all processes of a command have joined.

JAX waits for five minutes without a word, and then aborts the process from C++. So it
waits in a thread, and for longer than this module, which says what it waits for and
ends with one message. The thread cannot be ended: the process ends without it.
"""

import argparse
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from specialize.processes.watching import LostError, accepts, end_without, watch

# Seconds until the others must have joined (machines of a pod start minutes apart),
# and until a process says that it waits.
WAIT, SAID = 300.0, 30.0
# Seconds between two looks at process 0; looks in a row that find it gone, after one
# that found it.
PERIOD, GONE = 1.0, 3
# Seconds by which JAX waits longer.
_MARGIN = 120.0


def are_several(flags: argparse.Namespace) -> bool:
    """Whether the flags of a command say that it has several processes.

    A command whose flags have `is_alone` may work alone in spite of them.
    """
    if not hasattr(flags, "coordinator"):
        return False
    given = (flags.coordinator, flags.num_processes, flags.process_id)
    several = given != (None, None, None) or flags.multiprocess_gpu
    several = several or os.environ.get("SPECIALIZE_CLUSTER") == "1"
    return several and not getattr(flags, "is_alone", lambda _: False)(flags)


def join(initialize: Callable[..., Any], **options: Any) -> int:
    """Joins the other processes, and watches them from then on.

    It does nothing if this process has joined them before.

    Args:
        initialize: `jax.distributed.initialize`.
        **options: Its arguments.

    Returns:
        The number of processes.

    Raises:
        LostError: Not all have joined within `WAIT` seconds, or process 0 has ended.
        Exception: What `initialize` raises.
    """
    if count := watch():
        return count
    raised: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        try:
            timeout = math.ceil(WAIT + _MARGIN)
            initialize(initialization_timeout=timeout, **options)
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=run, name="join", daemon=True)
    thread.start()
    end_without(thread)
    _wait(over)
    thread.join()
    if raised:
        raise raised[0]
    return watch()


def _wait(over: threading.Event) -> None:
    from jax._src import distributed

    state: Any = distributed.global_state
    begun, is_said, was_there, gone = time.monotonic(), False, False, 0
    while not over.wait(PERIOD):
        waited = time.monotonic() - begun
        first = state.coordinator_address
        if state.process_id != 0 and first is not None:
            is_there = accepts(first)
            was_there |= is_there
            gone = gone + 1 if was_there and not is_there else 0
        if over.is_set():
            return
        if gone >= GONE:
            raise LostError(
                f"process 0 of {state.num_processes} ended before all processes had "
                "joined; its own message says why. Correct that, and start all "
                "processes again."
            )
        missing = _missing(state, was_there)
        if waited > WAIT:
            raise LostError(
                f"{missing} did not join within {WAIT:.0f} s. Start the same command "
                "in all processes; if one has ended, its own message says why."
            )
        if waited > SAID and not is_said:
            is_said = True
            print(
                f"waiting up to {WAIT:.0f} s for the other processes: {missing} did "
                "not join yet.",
                file=sys.stderr,
                flush=True,
            )


def _missing(state: Any, has_seen_first: bool) -> str:
    """Which processes have not joined, as far as this one can know.

    JAX tells which have joined when all have.
    """
    count, here = state.num_processes, state.process_id
    if state.coordinator_address is None:
        return "the processes of the cluster"
    if here != 0 and not has_seen_first:
        return f"process 0 of {count}, at {state.coordinator_address},"
    if count == 2:
        return f"process {1 - here} of 2"
    besides = f"0 and {here}" if here else "0"
    return f"at least one of {count} processes besides {besides}"
