"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import os
import pathlib

import jax


class Profiler:
    """Traces the steps first..last-1.

    Args:
        folder: where the trace goes.
        steps: (first, last), counted from 0; None traces nothing.
    """

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None) -> None:
        self._folder = folder
        self._steps = steps
        self._active = False

    def before(self, step: int) -> None:
        """Starts or ends the trace, if this step is the one."""
        if self._steps is None:
            return
        first, last = self._steps
        if first <= step < last and not self._active:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._active = True
        elif step >= last:
            self.stop()

    def stop(self) -> None:
        """Ends the trace if one is being made."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
            self._steps = None
