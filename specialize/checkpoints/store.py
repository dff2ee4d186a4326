"""Checkpoints of a run, saved in the background, completely or not at all.

A thin layer over Orbax's `CheckpointManager`, which writes each step into a temporary
folder beside the others and renames it when every process has finished. This module
adds which steps are kept, checksums that detect a flipped bit (`integrity`), the return
to an older step when the newest is damaged, and errors that say what to do.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_manager import StepAlreadyExistsError

from specialize import paths, sharding
from specialize.checkpoints import integrity, step_folder
from specialize.checkpoints.spec import CheckpointSpec
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.errors import InputError
from specialize.outputs import failed_saves, free_space, is_full
from specialize.paths import arrays, failures
from specialize.paths import store as objects
from specialize.progress import say

# Seconds in which the threads of a save that failed end.
_LAST_WRITES = 10.0


class CheckpointStore:
    """The checkpoints of one run, one folder per step, `<directory>/<step>`.

    A run resumes from the newest step that can be read exactly as it was saved. A
    damaged newer step is reported in one line, skipped, and renamed to `<step>.damaged`
    when the run next saves.

    All processes of a run create the store and call its methods together.

    Args:
        directory: the folder of the steps, usually `<model_dir>/checkpoints`; local
            or in a bucket (`gs://...`, `s3://...`). The first save creates it.
        keep: number of latest steps to keep, at least 1.
        best_metric: name of a metric in `metadata["metrics"]`; the best step by it
            is kept as well. Steps without it, or with NaN, are never the best.
        best_mode: "max" or "min".
        asynchronous: write in the background; `save` then returns when the arrays
            have been copied from the devices.
        read_only: never write, rename or delete anything.

    Raises:
        InputError: `keep`, `best_mode` or `directory` is invalid.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        best_metric: str | None = None,
        best_mode: str = "max",
        asynchronous: bool = True,
        read_only: bool = False,
    ) -> None:
        CheckpointSpec(keep=keep, best_mode=best_mode)  # checks both
        if paths.in_bucket(directory):
            if not read_only:
                paths.checked_for_checkpoints(directory, "The folder of checkpoints")
            arrays.teach_orbax(directory)
        self.directory = epath.Path(_absolute(directory))
        with objects.explained(self.directory):
            if self.directory.exists() and not self.directory.is_dir():
                raise InputError(
                    f"{self.directory} is a file; checkpoints need a folder. Name "
                    "another model directory."
                )
        self._best_metric = best_metric
        self._sign = 1.0 if best_mode == "max" else -1.0
        self._metrics: dict[int, float | None] = {}
        self._damaged: dict[int, str] = {}
        self._failed = False
        self._safe: int | None = None
        self._manager = None
        self._names = step_folder.Names()
        if not read_only:
            with objects.explained(self.directory):
                self._manager = self._new_manager(keep, asynchronous)

    def _new_manager(self, keep: int, asynchronous: bool) -> ocp.CheckpointManager:
        step_folder.drop_late_callbacks()
        self._names.steps = step_folder.steps_of_all(self.directory)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LatestAndBest(keep, self.best),
            save_decision_policy=_Always(),
            enable_async_checkpointing=asynchronous,
            cleanup_tmp_directories=True,
            # Orbax's own metric and time files are not sealed; a damaged one would
            # end the run here. Our metadata are read when they are needed.
            lightweight_initialize=True,
            save_root_metadata=False,
            step_name_format=self._names,
        )
        return ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                step_folder.STATE: step_folder.state_handler(),
                step_folder.METADATA: ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that are not known to be damaged, oldest first.

        After `save` the new one counts as finished, and those that it replaces as
        removed, although both happen in the background.
        """
        if self._manager is not None:
            found = self._manager.all_steps()
        else:
            found = step_folder.steps_of_all(self.directory)
        return sorted(set(found) - set(self._damaged))

    def after_a_kill(self) -> list[int]:
        """The steps from which a run may resume if it is killed now, oldest first.

        Beside `steps()` it is the newest step before the last save: whether this has
        succeeded is known only when the next one begins.
        """
        safe = [] if self._safe is None else [self._safe]
        return sorted({*safe, *self.steps()})

    def latest(self) -> int | None:
        """The newest of `steps()`, or None."""
        return max(self.steps(), default=None)

    def best(self, steps: Sequence[int] | None = None) -> int | None:
        """The step with the best value of `best_metric`; of equal ones, the latest."""
        if self._best_metric is None:
            return None
        scored = [
            (self._sign * value, step)
            for step in (self.steps() if steps is None else steps)
            if (value := self._metric(step)) is not None
        ]
        return max(scored)[1] if scored else None

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Saves `state` as `step`; returns when the arrays may be overwritten.

        Args:
            step: number of the step, not smaller than 0.
            state: pytree of jax arrays, the parameters under `params`.
            metadata: JSON values to store beside it; `metadata["metrics"]`, if
                present, maps names to numbers.

        Raises:
            InputError: this or an earlier background save failed (disk full, no
                permission). The earlier checkpoints are unchanged.
        """
        self._guarded(lambda: self._save(step, state, metadata))

    def _save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        if self._manager is None:
            raise ValueError(f"{self.directory} was opened read-only")
        # An earlier save's failure is reported before a new one starts.
        self._manager.wait_until_finished()
        self._set_damaged_aside(self._manager)
        self._safe = self.latest()
        leaves = step_folder.named_leaves(state)
        sums = integrity.checksums(leaves)
        sealed = step_folder.sealed(step, metadata, leaves, sums)
        self._metrics[step] = self._metric_in(metadata)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    metadata=ocp.args.JsonSave(sealed),
                ),
            )
        except StepAlreadyExistsError as error:
            raise InputError(
                f"{self.directory / str(step)} exists already. Resume from it, or "
                "name another model directory."
            ) from error

    def restore(
        self, step: int | None, abstract_state: Any, *, or_older: bool = True
    ) -> tuple[Any, dict[str, Any]]:
        """Restores a step onto the shardings of `abstract_state`, and verifies it.

        Each process reads only its own shards.

        Args:
            step: the step, or None for the newest.
            abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings (or of
                arrays, whose values are ignored), structured as the saved state.
            or_older: if the step is damaged, print this and restore an older one.

        Returns:
            The state and the metadata given to `save`, with its `"step"` added.

        Raises:
            InputError: there is no such step, or names, shapes or dtypes differ (all
                are named).
            DamagedCheckpointError: no step could be restored.
        """
        known = self.steps()
        wanted = self.latest() if step is None else step
        if wanted is None or wanted not in known:
            raise InputError(
                f"{self.directory} has no checkpoint "
                f"{'' if wanted is None else f'{wanted} '}"
                f"(found: {', '.join(map(str, known)) or 'none'})."
            )
        candidates = [s for s in reversed(known) if s <= wanted]
        for candidate in candidates:
            try:
                return self._restore_exactly(candidate, abstract_state)
            except DamagedCheckpointError as damage:
                self._damaged[candidate] = str(damage)
                older = [s for s in candidates if s < candidate]
                if not or_older or not older:
                    raise
                say(
                    f"checkpoint {self.directory / str(candidate)} is damaged "
                    f"({damage}); going back to step {older[0]}."
                )
        raise AssertionError("candidates has at least `wanted`")

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata of a step, with its `"step"`; no array is read.

        Raises:
            DamagedCheckpointError: the metadata are missing, unreadable or changed.
        """
        return step_folder.read_metadata(self.directory / str(step))[0]

    def amend(self, step: int, metrics: Mapping[str, float], **others: Any) -> None:
        """Adds metrics that were measured after a finished step had been saved.

        Args:
            step: number of the step.
            metrics: names and numbers, for `metadata["metrics"]`.
            **others: JSON values that replace those of the same name in the metadata.

        Raises:
            InputError: the metadata cannot be read, or as `save`.
        """
        if (value := self._metric_in({"metrics": metrics})) is not None:
            self._metrics[step] = value
        if jax.process_index() == 0:
            folder = self.directory / str(step)
            self._guarded(lambda: step_folder.amend_metadata(folder, metrics, others))

    def wait(self) -> None:
        """Blocks until everything is written.

        Raises:
            InputError: as `save`.
        """
        if self._manager is not None:
            self._guarded(self._manager.wait_until_finished)

    def close(self) -> None:
        """Finishes writing and releases the threads.

        Raises:
            InputError: as `save`.
        """
        if self._manager is not None:
            try:
                self._guarded(self._manager.close)
            finally:
                self._remove_unfinished()

    def _restore_exactly(
        self, step: int, abstract_state: Any
    ) -> tuple[Any, dict[str, Any]]:
        folder = self.directory / str(step)
        failure = difference = None
        metadata: dict[str, Any] = {}
        state: Any = None
        try:
            metadata, table = step_folder.read_metadata(folder)
            difference = step_folder.mismatch(
                folder, table, step_folder.named_leaves(abstract_state)
            )
            if difference is None:
                state = step_folder.read_state(folder, abstract_state)
        except DamagedCheckpointError as damage:
            failure = str(damage)
        # Every process must take the same branch, even if only one of them failed.
        if not sharding.all_agree(failure is None):
            raise DamagedCheckpointError(failure or "unreadable in another process")
        if difference is not None:
            raise InputError(difference)
        sums = integrity.checksums(step_folder.named_leaves(state))
        wrong = [name for name in sums if sums[name] != table[name].sums]
        if wrong:
            raise DamagedCheckpointError(
                f"{len(wrong)} of {len(sums)} arrays differ from what was saved: "
                + _some(wrong)
            )
        return state, metadata

    def _metric(self, step: int) -> float | None:
        if step not in self._metrics:
            try:
                metadata, _ = step_folder.read_metadata(self.directory / str(step))
                self._metrics[step] = self._metric_in(metadata)
            except DamagedCheckpointError:
                self._metrics[step] = None
        return self._metrics[step]

    def _metric_in(self, metadata: Mapping[str, Any]) -> float | None:
        value = metadata.get("metrics", {}).get(self._best_metric)
        if value is None or math.isnan(value):
            return None
        return float(value)

    def _set_damaged_aside(self, manager: ocp.CheckpointManager) -> None:
        """Renames the folders of damaged steps, so that they can be saved again."""
        if not self._damaged:
            return
        if jax.process_index() == 0:
            for step in self._damaged:
                folder = self.directory / str(step)
                if folder.exists():
                    aside = self.directory / f"{step}.damaged"
                    if aside.exists():
                        aside.rmtree()
                    if paths.in_bucket(folder):
                        objects.move(folder, aside, marker=arrays.COMMIT)
                    else:
                        folder.rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._names.steps = self.steps()
        self._damaged.clear()
        self._metrics.clear()
        manager.reload()

    def _remove_unfinished(self) -> None:
        """Removes the step whose save failed: it may take most of the disk."""
        if not self._failed or jax.process_index() != 0:
            return
        # Orbax reports a failure while other threads still write; they may make the
        # folder anew. It is gone if it is absent twice.
        absent, deadline = 0, time.monotonic() + _LAST_WRITES
        while absent < 2 and time.monotonic() < deadline:
            found: list[Any] = []
            with contextlib.suppress(Exception):  # the store may refuse this, too
                found = list(self.directory.glob("*.orbax-checkpoint-tmp"))
            absent = 0 if found else absent + 1
            for unfinished in found:
                with contextlib.suppress(OSError):
                    unfinished.rmtree()
            time.sleep(0.1)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except InputError:
            raise
        except Exception as error:
            here = "://" not in os.fspath(self.directory)
            reason, found = failed_saves.reason_of(error), failures.of_store(error)
            if found is not None and not here:
                found = objects.told_why(os.fspath(self.directory), found)
                reason = failures.reason_of(found)
            if reason is None and here and is_full(self.directory):
                reason = failed_saves.FULL  # what Orbax raises may be a consequence
            if reason is None:
                raise
            free = f" ({free_space(self.directory)})" if here else ""
            remedy = "Free space or name another model directory and start again"
            if not here:
                remedy = failures.remedy_of(found)
            self._failed = True
            self._remove_unfinished()
            if not here and failed_saves.is_removal(error):
                remedy = _KEPT if remedy == failures.GRANT else remedy
                raise InputError(
                    f"The last checkpoint is saved in {self.directory}, but an older "
                    f"one cannot be removed: {reason}. {remedy}; the run resumes from "
                    "the last checkpoint."
                ) from error
            raise InputError(
                f"Could not save a checkpoint in {self.directory}: {reason}{free}. "
                f"Earlier checkpoints are unchanged. {remedy}; the run resumes from "
                "the last checkpoint."
            ) from error


@dataclasses.dataclass(frozen=True)
class _LatestAndBest:
    """Orbax's preservation protocol: the `keep` latest steps and the best one."""

    keep: int
    best: Any

    def should_preserve(self, checkpoints: Sequence[Any], **_: object) -> list[bool]:
        steps = sorted(info.step for info in checkpoints)
        kept = {*steps[-self.keep :], self.best(steps)}
        return [info.step in kept for info in checkpoints]


class _Always:
    """Orbax's save protocol: the caller has decided."""

    def should_save(self, *_: object, **__: object) -> bool:
        return True


def _absolute(directory: str | os.PathLike[str]) -> str:
    text = os.fspath(directory)
    return text if "://" in text else os.path.abspath(text)


# What helps if a store permits no deletes.
_KEPT = (
    "Give this account the right to delete objects there (and the bucket no rule that "
    "forbids it), or keep more checkpoints (KEEP), and run the same command again"
)


def _some(names: Sequence[str], limit: int = 4) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
