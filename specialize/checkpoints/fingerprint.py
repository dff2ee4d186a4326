"""The weight fingerprint: one number that is the same in every format and layout.

Each canonical tensor (`names`) gives a line with its name, its shape and the SHA-256 of
its values as little-endian float32 in C order; the fingerprint is the SHA-256 of the
sorted lines. So scanned and unrolled layers, transposed kernels, file shards, and
bfloat16 stored as float32 do not change it, and one changed value does.
"""

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from specialize.checkpoints.lazy_tensors import Index, LazyTensor
from specialize.progress import track

_ROWS = 4096
DIGITS = 16
# Number of concurrent reads in `of`; each holds one tensor.
_READERS = 2
# (checkpoint, part) -> (its files, the fingerprint) of the calls in this process.
_KNOWN: dict[tuple[str, str], tuple[Any, str]] = {}


class WeightFingerprint:
    """Hashes tensors while a conversion reads them, without a second pass.

    Args:
        on_tensor: called once per tensor, after it was read completely.
    """

    def __init__(self, on_tensor: Callable[[], object] = lambda: None) -> None:
        self._lines: dict[str, str] = {}
        self._expected: set[str] = set()
        self._not_finite: dict[str, int] = {}
        self._on_tensor = on_tensor

    def observed(self, name: str, tensor: LazyTensor) -> LazyTensor:
        """The same tensor; reading it completely adds it to the fingerprint."""
        self._expected.add(name)

        def load(index: Index) -> np.ndarray:
            array = tensor.load(index)
            if array.shape == tensor.shape and name not in self._lines:
                digest, count = _digest(array)
                self._lines[name] = f"{name} {tensor.shape} {digest}"
                if count:
                    self._not_finite[name] = count
                self._on_tensor()
            return array

        return LazyTensor(tensor.shape, tensor.dtype, load)

    def notes(self) -> list[str]:
        """A line about values that are NaN or infinite, if any was read."""
        if not (found := self._not_finite):
            return []
        names = sorted(found)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return [
            f"not finite, as in the source: {sum(found.values()):,} weights of "
            f"{', '.join(names[:3])}{more} are NaN or infinite"
        ]

    def digits(self) -> str:
        """The fingerprint, 16 hexadecimal digits.

        Raises:
            ValueError: an observed tensor was not read.
        """
        unread = self._expected - set(self._lines)
        if unread:
            raise ValueError(f"not read yet: {', '.join(sorted(unread))}")
        text = "\n".join(sorted(self._lines.values()))
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _digest(array: np.ndarray) -> tuple[str, int]:
    """The digest of an array, and the number of its values that are not finite."""
    digest, count = hashlib.sha256(), 0
    # By rows: a transposed or bfloat16 array is not copied whole.
    flat = array.reshape(1, -1) if array.ndim < 2 else array
    for start in range(0, flat.shape[0], _ROWS):
        part = np.ascontiguousarray(flat[start : start + _ROWS], dtype="<f4")
        digest.update(part.data)
        count += part.size - int(np.isfinite(part).sum())
    return digest.hexdigest(), count


def of(tensors: Mapping[str, LazyTensor], where: str, part: str) -> str:
    """The fingerprint of tensors by canonical name, each of which is read once.

    Files of this machine that have not changed since the last call are not read again.

    Args:
        tensors: the tensors.
        where: path of their checkpoint.
        part: which of the weights of the checkpoint they are, such as its average.
    """
    stamp, key = _stamp(where), (where, part)
    if stamp is not None and _KNOWN.get(key, (None, ""))[0] == stamp:
        return _KNOWN[key][1]
    found = WeightFingerprint()
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        observed = [found.observed(name, tensor) for name, tensor in tensors.items()]
        sizes = pool.map(lambda tensor: tensor.read().size, observed)
        for _ in track(sizes, "fingerprint", total=len(tensors)):
            pass
    digits = found.digits()
    if stamp is not None:
        _KNOWN[key] = (stamp, digits)
    return digits


def _stamp(where: str) -> tuple[tuple[str, int, int], ...] | None:
    """Names, sizes and times of the files of a local checkpoint; None elsewhere."""
    folder = pathlib.Path(where)
    if "://" in where or not folder.is_dir():
        return None
    files = [(str(file), file.stat()) for file in sorted(folder.rglob("*"))]
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in files)
