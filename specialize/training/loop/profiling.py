"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import os
import pathlib

import jax


class Profiler:
    """Traces some steps into a folder.

    Args:
        folder: folder of the trace.
        steps: (first, last), counted from 0: the trace begins before `first` and ends
            before `last`. None: no trace.
    """

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None) -> None:
        self._folder = folder
        self._steps = steps
        self._active = False

    def before(self, step: int) -> None:
        """Starts or ends the trace, if it starts or ends before this step."""
        if self._steps is None:
            return
        first, last = self._steps
        if first <= step < last and not self._active:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._active = True
        elif step >= last:
            self.stop()

    def stop(self) -> None:
        """Ends a running trace."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
            self._steps = None
