"""An object in a bucket that one command after the other replaces, as a file grows.

A database is written on a local disk, and copies of it become the object. Its command
holds the lease of the object, and each copy replaces the one before it by a
precondition, so no command overwrites what another one has written.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator

from specialize import paths
from specialize.errors import InputError
from specialize.outputs import in_buckets, lease
from specialize.paths import conditional, store


class ReplacedObject:
    """The object, which this command alone replaces.

    Args:
        url: URL of the object.
        held: The right to replace it.

    Attributes:
        folder: A folder of this machine for the work on it. What a killed command has
            left there is found by the next one on this machine.
    """

    def __init__(self, url: str, held: lease.Lease) -> None:
        self._url, self._held = url, held
        self._before = store.stat(url)
        self._version = None if self._before is None else self._before.version
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        place = paths.folder() / "outputs"
        self.folder = place / f"{paths.name_of(url)[:100]}.{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def download(self, file: pathlib.Path) -> bool:
        """Copies the object, as it was when the command began, into a file.

        Returns:
            Whether there is one.
        """
        if self._before is None:
            return False
        store.download(self._url, file, self._before)
        return True

    def replace(self, file: pathlib.Path) -> None:
        """Makes a file the object.

        Raises:
            InputError: Another command has replaced the object, or the store does not
                answer.
        """
        self._held.check()
        try:
            self._version = conditional.replace(self._url, file, self._version)
        except store.TakenError as error:
            raise InputError(
                f"{self._url} was replaced by another command while this one ran. This "
                "one ends, and leaves it as it is."
            ) from error


@contextlib.contextmanager
def replaced_object(url: str | os.PathLike[str]) -> Iterator[ReplacedObject]:
    """The right to replace an object while the block runs.

    Raises:
        InputError: Another command has it; or it is a folder, or in a file.
    """
    url = in_buckets.check_file(os.fspath(url))
    with lease.leased(url, is_file=True) as held:
        yield ReplacedObject(url, held)
