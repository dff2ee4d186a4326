"""Files and folders in buckets that are either complete or absent.

Stores have no rename. A file appears in one step, when its upload ends. A folder is
uploaded file by file and its marker last; readers trust only a folder with its marker.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

from specialize import paths, typed_json, versions
from specialize.errors import InputError, stands_for
from specialize.outputs import lease
from specialize.outputs.hidden_folders import WORK, scratch
from specialize.paths import joined, store

# Seconds between two uploads of growing files: stores limit writes of one object.
PERIOD = 10.0


def place_of_work(url: str) -> pathlib.Path:
    """A path in the cache, beside which a command prepares what it uploads to `url`."""
    return paths.folder() / "outputs" / paths.name_of(url)


def kind_of(url: str, marker: str, kind: type) -> str | None:
    """The kind of our folder, from its marker; None for a folder without a marker."""
    place = joined(url, marker)
    content = store.read_bytes(place)
    if content is None:
        return None
    found = typed_json.decode(content, kind, place, remedy="Name another folder.")
    versions.FOLDER.check(found.version, place)
    return found.kind


def others(url: str) -> list[str]:
    """What is in a folder, unless it is what a killed command began to write there."""
    names = store.names(url)
    return [] if paths.WRITING in names else names


def check_file(url: str, name: str = "The output") -> str:
    """Refuses a file that would hide a folder, or be in a file.

    Stores permit both, but no disk to which they are copied does.

    Args:
        url: URL of the file, which may exist.
        name: What it is of, for the message.

    Returns:
        The URL as `paths.checked` returns it.

    Raises:
        InputError: It is a folder, or in a file.
    """
    url = paths.checked(url, name)
    inside: list[str] = []
    try:
        inside = store.names(url)
    except InputError as error:  # who may only write need not be able to list
        if not isinstance(error.__cause__, PermissionError):
            raise
    if inside:
        raise InputError(
            f"{name}: {url} is a folder, expected the name of a file to write."
        )
    _check_parents(url, name)
    return url


def check_folder(url: str) -> None:
    """Refuses a folder whose name is that of a file, or that is in a file.

    Raises:
        InputError: It is.
    """
    if store.stat(url) is not None:
        raise InputError(
            f"{url} is a file; the output must be a folder. Name another folder."
        )
    _check_parents(url, "The output")


def _check_parents(url: str, name: str) -> None:
    parent = paths.parent_of(url)
    while parent.count("/") > 2:  # the bucket is no object
        found = None
        with contextlib.suppress(InputError):  # only the output may be permitted
            found = store.stat(parent)
        if found is not None:
            raise InputError(
                f"{name}: {url} is in {parent}, which is a file. Name another place."
            )
        parent = paths.parent_of(parent)


@contextlib.contextmanager
def staged_file(url: str) -> Iterator[pathlib.Path]:
    """As `outputs.staged_file`."""
    url = check_file(url)
    with tempfile.TemporaryDirectory() as work:
        staged = pathlib.Path(work) / paths.name_of(url)
        staged.touch()
        yield staged
        store.upload(staged, url)


def claim(url: str, marker: str, content: Mapping[str, object]) -> None:
    """Writes the marker of a new folder; of several writers exactly one succeeds.

    Raises:
        InputError: Another command was faster.
    """
    text = json.dumps({**content, "unique": uuid.uuid4().hex}, indent=2) + "\n"
    try:
        store.create(joined(url, marker), text.encode())
    except store.TakenError as error:
        raise InputError(
            f"{url} was written by another command in the meantime. Nothing of this "
            "one was written there; name another folder."
        ) from error


@contextlib.contextmanager
def staged_directory(
    url: str, marker: str, content: Mapping[str, object]
) -> Iterator[pathlib.Path]:
    """As `outputs.staged_directory`; the folder at `url` may be replaced.

    While it is uploaded, readers find no folder: neither the old nor the new one.
    """
    before = store.find(url)
    with scratch(place_of_work(url)) as work:
        stands_for(work, url)
        yield work
        with lease.leased(url) as held:
            old = store.find(url)
            old.pop(paths.WRITING, None)
            arrived = [name for name in old if old[name] != before.get(name)]
            # A killed command may have left files, but not the marker that ends them.
            if arrived and (not held.inherited or marker in arrived):
                raise InputError(
                    f"{joined(url, arrived[0])} was written by another command while "
                    "this one ran. Nothing was changed; run this one again when the "
                    "other is finished."
                )
            # Without its marker, the rest is not trusted.
            _remove(url, sorted(old, key=lambda name: name != marker))
            try:
                for file in sorted(one for one in work.rglob("*") if one.is_file()):
                    held.check()
                    store.upload(file, joined(url, file.relative_to(work).as_posix()))
                held.check()
                claim(url, marker, content)
            except BaseException:
                held.keep = True
                with contextlib.suppress(InputError):
                    held.check()  # what is there may be of another command
                    _remove(url, set(store.find(url)) - {paths.WRITING})
                    held.keep = False
                raise


def _remove(url: str, names: Iterable[str]) -> None:
    store.remove(joined(url, name) for name in names)


class Uploads:
    """Uploads the files of a local folder that have changed.

    Args:
        folder: The local folder.
        url: The folder in a bucket.
        held: The right to write there.
    """

    def __init__(self, folder: pathlib.Path, url: str, held: lease.Lease) -> None:
        self._folder, self._url, self._held = folder, url, held
        self._done: dict[str, tuple[int, int]] = self._states()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "uploads")
        self._running: concurrent.futures.Future[None] | None = None
        self._last = time.monotonic()

    def begin(self) -> None:
        """Uploads in the background, if the last upload was long enough ago.

        Raises:
            InputError: An earlier upload failed.
        """
        if self._running is not None and not self._running.done():
            return
        if time.monotonic() - self._last >= PERIOD:
            self._wait()
            self._last = time.monotonic()
            self._running = self._worker.submit(self._upload)

    def now(self) -> None:
        """Uploads what has changed, and returns when it is in the bucket.

        Raises:
            InputError: An upload failed.
        """
        self._wait()
        self._upload()
        self._last = time.monotonic()

    def clear(self) -> None:
        """Removes the folder in the bucket but for the object of who writes there.

        The local files stay; only what changes in them afterwards is uploaded.

        Raises:
            InputError: Another command has begun to write there.
        """
        self._wait()
        self._held.check()
        self._done = self._states()
        _remove(self._url, set(store.find(self._url)) - {paths.WRITING})

    def finish(self) -> None:
        """`now`, for the last time."""
        try:
            self.now()
        finally:
            self._worker.shutdown()

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _upload(self) -> None:
        for name, state in self._states().items():
            if self._done.get(name) != state:
                self._held.check()
                store.upload(self._folder / name, joined(self._url, name))
                self._done[name] = state

    def _states(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for file in sorted(self._folder.rglob("*")):
            inside = file.relative_to(self._folder)
            if not any(WORK.fullmatch(part) for part in inside.parts):
                with contextlib.suppress(FileNotFoundError):  # a temporary file
                    state = file.stat()
                    if file.is_file():
                        found[inside.as_posix()] = (state.st_size, state.st_mtime_ns)
        return found


@dataclasses.dataclass(frozen=True)
class Working:
    """A folder in which a command writes while it runs.

    Attributes:
        path: The folder, or the local copy of one in a bucket.
        uploads: What is to be uploaded from that copy.
    """

    path: pathlib.Path
    uploads: Uploads | None = None

    def publish(self, *, now: bool = False) -> None:
        """Uploads what has changed: now, or in the background and not too often."""
        if self.uploads is not None:
            self.uploads.now() if now else self.uploads.begin()

    def clear(self) -> None:
        """Removes what is in the bucket, while nobody else can write there."""
        if self.uploads is not None:
            self.uploads.clear()


@contextlib.contextmanager
def working_copy(
    url: str, marker: str, content: Mapping[str, object], *, but: Sequence[str]
) -> Iterator[tuple[pathlib.Path, Uploads]]:
    """A local copy of a folder that we write in, whose changes are uploaded.

    The folder is marked as ours if it was empty, which is taken back if the block
    raises before anything else is in the bucket.

    Args:
        url: The folder; empty, or ours and of this kind.
        marker: Name of the marker.
        content: Its content.
        but: Patterns of names that are not copied from the bucket.

    Raises:
        InputError: Another process writes there.
    """
    with lease.leased(url) as held:
        ours = store.stat(joined(url, marker)) is not None
        if not ours:
            left = sorted(set(store.find(url)) - {paths.WRITING})
            if left and not held.inherited:
                raise InputError(
                    f"{joined(url, left[0])} was written by another command in the "
                    "meantime. Nothing was changed; name another folder."
                )
            _remove(url, left)
            claim(url, marker, content)
        with scratch(place_of_work(url)) as folder:
            stands_for(folder, url)
            inside = {
                name: entry
                for name, entry in store.find(url).items()
                if name not in (marker, paths.WRITING) and not paths.matches(name, but)
            }
            paths.refuse_clash(url, inside)
            for name, entry in inside.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                store.download(joined(url, name), folder / name, entry)
            uploads = Uploads(folder, url, held)
            try:
                yield folder, uploads
            except BaseException:
                with contextlib.suppress(InputError):
                    uploads.finish()
                    held.check()
                    if not ours and set(store.names(url)) <= {marker, paths.WRITING}:
                        store.remove([joined(url, marker)])
                raise
            uploads.finish()
