"""One function over many items in several processes, results in order."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_processes() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    processes: int,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[R]:
    """Yields `function(item)` for each item, in the order of the items.

    At most two items a process are on their way at any moment, so memory stays
    bounded however long `items` is and however slowly results are taken. Processes
    come from a fork server: they inherit neither threads nor locks nor TensorFlow.

    Args:
        function: at module level, so that another process can import it.
        items: taken one by one, as results are taken.
        processes: 1 works in this process.
        prepare: called once in each process before its first item.
        arguments: of `prepare`.

    Yields:
        The results. The first exception of `function` is raised here.
    """
    if processes <= 1:
        prepare(*arguments)
        for item in items:
            yield function(item)
        return
    method = "forkserver" if "forkserver" in _methods() else "spawn"
    executor = concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context(method),
        initializer=_start,
        initargs=(prepare, arguments),
    )
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole process group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(*arguments)


def _methods() -> list[str]:
    return multiprocessing.get_all_start_methods()
