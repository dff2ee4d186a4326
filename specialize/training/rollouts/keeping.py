"""The texts of a window in the run's folder, so that a killed run has them again.

A run that resumes within a window no longer has the weights with which the texts of
the window were written. It reads them from `rollouts/<number>.npz`. A file is kept
while a checkpoint within its window is.
"""

import hashlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from specialize import outputs, run_folder, sharding, typed_json, versions
from specialize.training.rollouts.windows import Rows, Written

_ABOUT, _TEACHER = "about", "teacher"
_OWN = tuple(name for name in Written._fields if name != "rows")


class Keeper:
    """Writes and reads the texts of windows; all processes of a run call it together.

    Args:
        folder: the run's folder, or the local copy of one in a bucket; only that of
            process 0 is used.
        identity: what the batches of the run depend on.
        teacher: what else the teacher's rows depend on; not where it is.
        publish: called after a file was written, to upload it.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        identity: Any,
        teacher: Any,
        publish: Callable[[], None],
    ) -> None:
        self._folder = folder / run_folder.ROLLOUTS
        self._run = _digest(identity)
        self._teacher = _digest(teacher)
        self._publish = publish

    def write(self, number: int, weights: str, written: Written) -> None:
        """Keeps the texts of a window, which the weights with this digest wrote."""
        if jax.process_index() != 0:
            return
        about = {"version": versions.ROLLOUTS.writes, "run": self._run}
        about |= {_TEACHER: self._teacher, "window": number, "weights": weights}
        text = json.dumps(about)
        with outputs.staged_file(self._path(number)) as staged, open(staged, "wb") as f:
            arrays = {**written._asdict(), **written.rows._asdict()}
            del arrays["rows"]
            np.savez(f, **{_ABOUT: np.asarray(text)}, **arrays)
        self._publish()

    def read(self, number: int, weights: str | None) -> Written | None:
        """The texts of a window, if they are kept.

        Args:
            number: number of the window.
            weights: digest of the weights that must have written them. None: any, for
                a run that resumes within the window.

        Raises:
            InputError: the file has an unknown version.
        """
        data = b""
        if jax.process_index() == 0 and self._path(number).is_file():
            content = self._path(number).read_bytes()
            if self._fits(content, number, weights):
                data = content
        data = sharding.bytes_from_leader(data)
        return _arrays(data) if data else None

    def remove_before(self, number: int) -> None:
        """Removes the texts of the windows before this one."""
        if jax.process_index() != 0 or not self._folder.is_dir():
            return
        for file in self._folder.glob("*.npz"):
            if file.stem.isdigit() and int(file.stem) < number:
                file.unlink(missing_ok=True)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number}.npz"

    def _fits(self, content: bytes, number: int, weights: str | None) -> bool:
        """Whether a file is intact and of this window, run, teacher and weights."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                about = typed_json.decode(
                    str(file[_ABOUT]).encode(), typed_json.Object, self._path(number)
                )
                for name in (*_OWN, *Rows._fields):
                    file[name]  # compares its checksum
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return False  # cut by a kill, or changed: the texts are written again
        versions.ROLLOUTS.check(about.get("version"), self._path(number))
        known = {"run": self._run, "window": number}
        if weights is not None:
            known["weights"] = weights
        if weights is not None or _TEACHER in about:
            # A file of an earlier version does not say who read its texts. They are
            # written again where they can be. Within a window they cannot, and there
            # the checkpoint says that it is the same teacher.
            known[_TEACHER] = self._teacher
        return all(about.get(name) == value for name, value in known.items())


def _arrays(content: bytes) -> Written:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        rows = Rows(**{name: file[name] for name in Rows._fields})
        return Written(rows=rows, **{name: file[name] for name in _OWN})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=os.fspath)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
