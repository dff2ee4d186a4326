"""Applies one function to many items in several processes, results in order."""

import collections
import concurrent.futures
import concurrent.futures.process
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from specialize.errors import InputError

R = TypeVar("R")


def default_processes() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def ordered_map(
    function: Callable[..., R],
    items: Iterable[Any],
    *,
    processes: int,
    prepare: Callable[..., Any] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[R]:
    """Yields `function(prepared, item)` for each item, in the order of the items.

    At most two items per process are in progress at any moment, so memory stays
    bounded however long `items` is and however slowly results are taken. Processes
    come from a fork server: they inherit neither threads nor locks nor TensorFlow.

    Args:
        function: a picklable function.
        items: taken one by one, as results are taken.
        processes: number of processes; 1 works in this process.
        prepare: makes `prepared`, once in each process before its first item. None:
            the function takes only the item.
        arguments: arguments of `prepare`.

    Yields:
        The results. The first exception of `function` is raised here.
    """
    if processes <= 1:
        yield from map(_bound(function, prepare, arguments), items)
        return
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    executor = concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context(method),
        initializer=_start,
        initargs=(function, prepare, arguments),
    )
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(executor.submit(_call, item))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            f"one of {processes} worker processes was ended from outside, as the "
            "system does when memory is full. Run the same command with fewer "
            "--processes."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


# What a worker process calls for each item.
_work: Callable[[Any], Any] | None = None


def _start(*work: Any) -> None:
    global _work
    # Ctrl-C reaches the whole process group; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = _bound(*work)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; otherwise it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)


def _bound(
    function: Callable[..., R],
    prepare: Callable[..., Any] | None,
    arguments: tuple[Any, ...],
) -> Callable[[Any], R]:
    return functools.partial(function, prepare(*arguments)) if prepare else function
