"""What a function takes at least: what other tests left behind can only add to it.

A collection of their garbage, a thread that still runs or a cache that is full takes
time or memory in whatever test comes next.
"""

import gc
import time
import tracemalloc


def memory(function, times=3):
    """The least of the most bytes that Python objects and arrays take in a call."""
    return min(_peak(function) for _ in range(times))


def _peak(function):
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def held():
    """The bytes that are in use where memory is measured, without any garbage."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def seconds(function, times=2):
    """The least CPU seconds of this thread that a call takes."""
    return min(_seconds(function) for _ in range(times))


def _seconds(function):
    begin = time.thread_time()
    function()
    return time.thread_time() - begin
