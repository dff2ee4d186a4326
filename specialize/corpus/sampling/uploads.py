"""A response database in a bucket: written on a local disk, uploaded again and again.

SQLite needs a local file. Copies of it become the object in the bucket, each with a
precondition (`outputs.replaced_object`). What a killed command has not uploaded is
still on its machine, and the next command there adds it.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Generator

from specialize import paths
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.teachers import Unusable
from specialize.errors import InputError
from specialize.outputs.replaced_object import ReplacedObject, replaced_object
from specialize.progress import say

# Uploads may take this share of the time; slower ones are made less often.
_SHARE = 1 / 3
# Seconds between two uploads after a signal: what is under way may still arrive, and
# the machine may be taken away at any moment.
_ENDING_S = 2.0
# The copy that is written, and how the names of those begin that a killed command has
# left and that do not fit what is in the bucket.
_LOCAL, _KEPT = "responses.sqlite", "kept"


class Uploads:
    """Uploads a database that grows.

    Args:
        store: The database.
        place: What it becomes in the bucket.
        every_s: Seconds between the beginnings of two uploads.
        is_uploaded: Whether it is in the bucket as it was when it was opened.
    """

    def __init__(
        self,
        store: ResponseStore,
        place: ReplacedObject,
        every_s: float,
        *,
        is_uploaded: bool,
    ):
        self._store, self._place, self._every_s = store, place, every_s
        self._uploaded: int = 0 if is_uploaded else -1
        self._seconds = 0.0
        self._lock = threading.Lock()

    @property
    def pause_s(self) -> float:
        """Seconds from the end of an upload to the next, which grow with its size."""
        return max(self._every_s, self._seconds / _SHARE) - self._seconds

    def now(self) -> None:
        """Uploads the database, if it has changed.

        Raises:
            InputError: It cannot be uploaded, or another command has replaced it.
        """
        with self._lock:
            if self._store.changes == self._uploaded:
                return
            began = time.monotonic()
            copy = self._place.folder / "copy.sqlite"
            copy.unlink(missing_ok=True)
            changes = self._store.snapshot(copy)
            self._place.replace(copy)
            copy.unlink()
            self._uploaded = changes
            before = self._seconds
            self._seconds = time.monotonic() - began
            limit = self._every_s * _SHARE
            if before <= limit < self._seconds:
                say(
                    f"{self._store.path}: an upload takes {self._seconds:.0f} s, so "
                    f"the next begins {self._seconds / _SHARE:.0f} s after it"
                )

    @contextlib.asynccontextmanager
    async def regularly(self, stopping: asyncio.Event) -> AsyncGenerator[None]:
        """Uploads while the block runs; at once, and often, when it is to end.

        Args:
            stopping: Set when the block is to end; set here if an upload fails, because
                what is paid for could not be kept.

        Raises:
            InputError: An upload has failed.
        """
        failed: list[Exception] = []

        async def upload() -> None:
            while not failed:
                if stopping.is_set():
                    await asyncio.sleep(min(_ENDING_S, self.pause_s))
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), self.pause_s)
                try:
                    await asyncio.to_thread(self.now)
                except Exception as error:
                    failed.append(error)
                    stopping.set()

        task = asyncio.create_task(upload())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if failed:
            raise failed[0]


@contextlib.contextmanager
def opened(
    responses: str | os.PathLike[str], every_s: float
) -> Generator[tuple[ResponseStore, Uploads | None]]:
    """Opens a response database for writing; one in a bucket with its uploads.

    It is uploaded, for the last time, when the block ends.

    Args:
        responses: The database, or its URL.
        every_s: Seconds between the beginnings of two uploads.

    Raises:
        InputError: As for `ResponseStore`; another command writes the database, or it
            cannot be uploaded.
    """
    if not paths.in_bucket(responses):
        with ResponseStore(responses, create=True) as store:
            yield store, None
        return
    with replaced_object(responses) as place:
        is_kept = True
        try:
            with _working_copy(place, responses) as (store, is_there):
                uploads = Uploads(store, place, every_s, is_uploaded=is_there)
                try:
                    yield store, uploads
                finally:
                    _upload_the_rest(uploads, place)
                    is_kept = False  # it is all uploaded, whatever has ended the block
        finally:
            if not is_kept and _kept(place.folder):
                _remove(place.folder / _LOCAL)
            elif not is_kept:
                shutil.rmtree(place.folder, ignore_errors=True)


def _upload_the_rest(uploads: Uploads, place: ReplacedObject) -> None:
    try:
        uploads.now()
    except InputError as error:
        raise InputError(
            f"{error} What was not uploaded is kept in {place.folder}; the same "
            "command on this machine adds it."
        ) from error


@contextlib.contextmanager
def _working_copy(
    place: ReplacedObject, responses: str | os.PathLike[str]
) -> Generator[tuple[ResponseStore, bool]]:
    """The database as it is in the bucket, with what a killed command has left here.

    Also whether it is in the bucket already.
    """
    local, left = place.folder / _LOCAL, place.folder / "left.sqlite"
    fetched = place.folder / "fetched.sqlite"
    fetched.unlink(missing_ok=True)
    is_there = place.download(fetched)
    if is_there:
        if local.exists() and not left.exists():
            _move(local, left)
        _remove(local)
        _move(fetched, local)
    else:  # whoever has removed it begins anew
        _remove(local)
        _remove(left)
    with ResponseStore(local, create=True, name=responses) as store:
        for one in (left, *_kept(place.folder)):
            if is_there and one.exists():
                _adopt(store, one)
        yield store, is_there


def _kept(folder: pathlib.Path) -> list[pathlib.Path]:
    """The databases of killed commands that did not fit what was in the bucket."""
    return sorted(folder.glob(f"{_KEPT}.*.sqlite"))


def _adopt(store: ResponseStore, left: pathlib.Path) -> None:
    """Adds the responses that a killed command has left, or keeps its database.

    Somebody may have replaced the object in the bucket by one with other settings, and
    what is left is paid for.
    """
    kept, count = 0, 0
    with contextlib.suppress(InputError):  # killed before it had stored anything
        with ResponseStore(left) as other:
            count = store.adopt(other)
            kept = other.usage().responses
            if count is not None:
                _adopt_vain(store, other)
    if count is None and kept:
        if not left.name.startswith(_KEPT):
            place = left.with_name(f"{_KEPT}.{uuid.uuid4().hex[:8]}.sqlite")
            _move(left, place)
            left = place
        say(
            f"{store.path}: {kept:,} responses of a killed command have other settings "
            f"or questions than those in the bucket; they are kept in {left}"
        )
        return
    if count:
        say(f"{store.path}: {count:,} responses of a killed command were added")
    _remove(left)


def _adopt_vain(store: ResponseStore, other: ResponseStore) -> None:
    """Adds what was asked in vain: texts that have no scores, and tokens paid for.

    Both databases began as the same one, so the larger number of tokens counts.
    """
    known = store.unscored()
    for (question, text), (reason, said) in other.unscored().items():
        if (question, text) not in known:
            store.add_unscored(question, text, Unusable(reason, said))
    pairs = zip(store.unusable(), other.unusable(), strict=True)
    prompt, completion = (max(0, theirs - ours) for ours, theirs in pairs)
    if prompt or completion:
        store.add_unusable(prompt, completion)


def _move(file: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a database and the log beside it, without which it is incomplete."""
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{file}{end}", f"{target}{end}")


def _remove(file: pathlib.Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        pathlib.Path(f"{file}{end}").unlink(missing_ok=True)
