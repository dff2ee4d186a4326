"""Tensors in files, of which only the requested part is read.

Every format opens as a mapping of names to `LazyTensor`s; conversions compose views of
them (transposed, one layer of a stack, a stack of layers, more or fewer rows), which
read the bytes when the target is written. So a conversion holds one tensor at a time,
and a process that restores an array shard reads that shard.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from specialize.errors import InputError

Index = tuple[slice, ...]

# Size of the parts in which large tensors are read and written.
CHUNK_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is stored in a file.

    Attributes:
        shape: its shape.
        dtype: its stored type.
        load: reads a part; the index has one slice (start, stop, step 1) per axis.
        parts: for a stack, its layers and the axis they are stacked on, so that a
            writer can read one layer at a time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[Index], np.ndarray]
    parts: tuple[Sequence["LazyTensor"], int] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.size * self.dtype.itemsize

    def read(self, index: Sequence[Any] | None = None) -> np.ndarray:
        """Reads the tensor, or a part of it, as a C-contiguous array.

        Args:
            index: one slice with step 1 per axis; None reads everything.
        """
        full = [slice(None)] * len(self.shape) if index is None else index
        bounded = tuple(
            slice(*part.indices(size)[:2])
            for part, size in zip(full, self.shape, strict=True)
        )
        # Not np.ascontiguousarray, which turns a scalar into a vector.
        return np.asarray(self.load(bounded), order="C")

    def blocks(self) -> Iterator[tuple[Index, "LazyTensor"]]:
        """Yields (index, tensor) of each layer of a stack, or of the tensor itself."""
        if self.parts is None:
            yield tuple(slice(0, size) for size in self.shape), self
            return
        layers, axis = self.parts
        for number, layer in enumerate(layers):
            where = [slice(0, size) for size in self.shape]
            where[axis] = slice(number, number + 1)
            yield tuple(where), layer.expanded(axis)

    def transposed(self) -> "LazyTensor":
        """The matrix with its two axes exchanged."""
        rows, columns = self.shape
        return LazyTensor(
            (columns, rows), self.dtype, lambda index: self.load(index[::-1]).T
        )

    def expanded(self, axis: int) -> "LazyTensor":
        """The tensor with a new axis of size 1."""
        shape = (*self.shape[:axis], 1, *self.shape[axis:])

        def load(index: Index) -> np.ndarray:
            inner = self.load((*index[:axis], *index[axis + 1 :]))
            return np.expand_dims(inner, axis)

        return LazyTensor(shape, self.dtype, load)

    def layer(self, number: int, axis: int) -> "LazyTensor":
        """One layer of a stacked tensor, without the stack's axis."""
        shape = (*self.shape[:axis], *self.shape[axis + 1 :])

        def load(index: Index) -> np.ndarray:
            where = (*index[:axis], slice(number, number + 1), *index[axis:])
            return np.squeeze(self.load(where), axis)

        return LazyTensor(shape, self.dtype, load)

    def joined(self, axis: int) -> "LazyTensor":
        """The tensor with `axis` and the next one as one axis."""
        inner = self.shape[axis + 1]
        shape = (*self.shape[:axis], self.shape[axis] * inner, *self.shape[axis + 2 :])

        def load(index: Index) -> np.ndarray:
            start, stop = index[axis].start, index[axis].stop
            first, last = start // inner, -(-stop // inner)
            both = (slice(first, last), slice(0, inner))
            part = self.load((*index[:axis], *both, *index[axis + 1 :]))
            merged = part.reshape(
                *part.shape[:axis], (last - first) * inner, *part.shape[axis + 2 :]
            )
            wanted = slice(start - first * inner, stop - first * inner)
            return merged[(slice(None),) * axis + (wanted,)]

        return LazyTensor(shape, self.dtype, load)

    def split(self, axis: int, outer: int) -> "LazyTensor":
        """The tensor with `axis` as two, the first of size `outer`."""
        inner = self.shape[axis] // outer
        shape = (*self.shape[:axis], outer, inner, *self.shape[axis + 1 :])

        def load(index: Index) -> np.ndarray:
            first, last = index[axis].start, index[axis].stop
            both = slice(first * inner, last * inner)
            part = self.load((*index[:axis], both, *index[axis + 2 :]))
            halved = part.reshape(
                *part.shape[:axis], last - first, inner, *part.shape[axis + 1 :]
            )
            return halved[(slice(None),) * (axis + 1) + (index[axis + 1],)]

        return LazyTensor(shape, self.dtype, load)

    def cast(self, dtype: Any, name: str = "a tensor") -> "LazyTensor":
        """The tensor in another type, rounded to nearest even.

        Reading it raises an `InputError`, with `name`, if a number is too large for it.
        """
        to = np.dtype(dtype)
        if to == self.dtype:
            return self

        def load(index: Index) -> np.ndarray:
            values = self.load(index)
            result = rounded(values, to)
            for place in _first(np.isfinite(values) & ~np.isfinite(result)):
                where = f"{name} has {values[place]:g} at {_absolute(place, index)}"
                raise _too_large(where, to, "Leave --dtype out")
            return result

        parts = self.parts
        if parts is not None:
            layers = [
                layer.cast(to, f"layer {number} of {name}")
                for number, layer in enumerate(parts[0])
            ]
            parts = (layers, parts[1])
        return LazyTensor(self.shape, to, load, parts)

    def scaled(self, factor: float) -> "LazyTensor":
        """The tensor times a number."""
        return LazyTensor(
            self.shape,
            self.dtype,
            lambda index: (self.load(index) * np.float32(factor)).astype(self.dtype),
        )

    def with_rows(self, rows: int, axis: int, fill: Callable[[], np.ndarray]) -> Any:
        """The matrix with size `rows` along `axis`, cut or filled.

        Args:
            rows: the new size of `axis`.
            axis: 0 or 1.
            fill: returns the vector (without `axis`) for every new row.
        """
        shape = tuple(rows if a == axis else s for a, s in enumerate(self.shape))
        have = self.shape[axis]

        def load(index: Index) -> np.ndarray:
            wanted = index[axis]
            inside = slice(min(wanted.start, have), min(wanted.stop, have))
            part = self.load((*index[:axis], inside, *index[axis + 1 :]))
            extra = (wanted.stop - wanted.start) - (inside.stop - inside.start)
            if not extra:
                return part
            other = index[1 - axis]
            filler = np.expand_dims(fill()[other], axis).astype(self.dtype)
            return np.concatenate([part, np.repeat(filler, extra, axis)], axis)

        return LazyTensor(shape, self.dtype, load)


def rounded(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Values in another type, each rounded to nearest even, and once.

    float64 becomes bfloat16 through float32, whose rounding can make a tie of what was
    none. So the float32 in between is rounded to odd (Boldo and Melquiond, "When double
    rounding is odd", 2005): inexact values get a last bit of 1, and no tie arises.
    """
    if values.dtype != np.float64 or np.dtype(dtype) != ml_dtypes.bfloat16:
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    with np.errstate(over="ignore"):
        between = np.asarray(values.astype(np.float32))
    inexact = between != values  # also NaN, which an odd bit leaves NaN
    away = np.abs(between) > np.abs(values)
    between[away] = np.nextafter(between[away], np.float32(0))
    between.view(np.uint32)[inexact] |= 1
    return between.astype(dtype)


def from_array(array: np.ndarray) -> LazyTensor:
    """A tensor that is already in memory (a small one, inlined in its file)."""
    return LazyTensor(array.shape, array.dtype, lambda index: array[index])


def stacked(layers: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """One or more layers of the same shape, stacked along a new axis."""
    first = layers[0]
    shape = (*first.shape[:axis], len(layers), *first.shape[axis:])

    def load(index: Index) -> np.ndarray:
        inner = (*index[:axis], *index[axis + 1 :])
        wanted = layers[index[axis]]
        sizes = [part.stop - part.start for part in inner]
        whole = np.empty([*sizes[:axis], len(wanted), *sizes[axis:]], first.dtype)
        for number, layer in enumerate(wanted):
            whole[(slice(None),) * axis + (number,)] = layer.load(inner)
        return whole

    return LazyTensor(shape, first.dtype, load, (layers, axis))


def weighted_mean(
    weights: Sequence[float],
    tensors: Sequence[LazyTensor],
    dtype: Any = None,
    name: str = "a tensor",
) -> LazyTensor:
    """The weighted mean of tensors of one shape, one block in memory at a time.

    Reading it raises an `InputError` if the mean of finite numbers is too large for its
    type.

    Args:
        weights: one number for each tensor; their sum is 1. Of one tensor the mean is
            this tensor.
        tensors: the tensors.
        dtype: type of the mean (None: the tensors', or float32 if they have several).
            The sums are float64 and rounded once.
        name: what the error calls the tensor.
    """
    if len(tensors) == 1 and weights[0] == 1:
        return tensors[0]
    types = {tensor.dtype for tensor in tensors}
    common = types.pop() if len(types) == 1 else np.dtype(np.float32)
    to = common if dtype is None else np.dtype(dtype)
    mean = functools.partial(_mean, weights, tensors, to, name)
    return LazyTensor(tensors[0].shape, to, functools.partial(_in_parts, mean, to))


def _in_parts(
    mean: Callable[[Index], np.ndarray], dtype: np.dtype, index: Index
) -> np.ndarray:
    sizes = [part.stop - part.start for part in index]
    if not sizes:
        return mean(index)
    result = np.empty(sizes, dtype)
    # In parts: their sums in float64 are twice as large as the tensor itself.
    rows = max(1, CHUNK_BYTES * sizes[0] // max(1, result.nbytes))
    first = index[0].start
    for start in range(0, sizes[0], rows):
        stop = min(start + rows, sizes[0])
        part = (slice(first + start, first + stop), *index[1:])
        result[start:stop] = mean(part)
    return result


def _mean(
    weights: Sequence[float],
    tensors: Sequence[LazyTensor],
    dtype: np.dtype,
    name: str,
    index: Index,
) -> np.ndarray:
    # Adding to -0.0 changes nothing; 0.0 would lose the sign of zeros.
    total = np.full([part.stop - part.start for part in index], -0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, tensor in zip(weights, tensors, strict=True):
            total += weight * tensor.load(index).astype(np.float64)
    result = rounded(total, dtype)
    lost = ~np.isfinite(result)
    if lost.any():  # unless a source has NaN or infinity there itself
        for tensor in tensors:
            lost &= np.isfinite(tensor.load(index))
    for place in _first(lost):
        terms = " + ".join(
            f"{weight:g} x {tensor.load(index)[place]:g}"
            for weight, tensor in zip(weights, tensors, strict=True)
        )
        where = f"the mean of {name} at {_absolute(place, index)} is {terms}"
        raise _too_large(f"{where} = {total[place]:g}", dtype, "Give smaller --weights")
    return result


def _first(found: np.ndarray) -> list[tuple[int, ...]]:
    """The place of the first true element, if there is one."""
    return [tuple(map(int, place)) for place in np.argwhere(found)[:1]]


def _absolute(place: tuple[int, ...], index: Index) -> list[int]:
    return [part.start + one for part, one in zip(index, place, strict=True)]


def _too_large(what: str, dtype: np.dtype, remedy: str) -> InputError:
    most = float(ml_dtypes.finfo(dtype).max)
    wider = "" if dtype == np.float32 else ", or write float32 (--dtype float32)"
    return InputError(
        f"{what}, but the largest number of {dtype.name} is {most:g}. {remedy}{wider}."
    )


def cached(
    tensor: LazyTensor, slot: dict[int, np.ndarray], limit: int = 512 * 2**20
) -> LazyTensor:
    """A tensor that is read once, completely; its parts are served from memory.

    Chunks of a stacked tensor usually span all layers, so reading it layer by layer
    would read the file once per layer.

    Args:
        tensor: a stacked tensor.
        slot: cache shared by all tensors of a checkpoint; it holds the last one read.
        limit: number of bytes above which a tensor is not cached.
    """
    if tensor.nbytes > limit:
        return tensor

    def load(index: Index) -> np.ndarray:
        whole = slot.get(id(tensor))  # another thread may clear it
        if whole is None:
            whole = tensor.read()
            slot.clear()
            slot[id(tensor)] = whole
        return whole[index]

    return LazyTensor(tensor.shape, tensor.dtype, load)


def pieces(tensor: LazyTensor) -> Iterator[np.ndarray]:
    """Reads a tensor along its first axis, in C order, `CHUNK_BYTES` at a time."""
    if not tensor.shape or tensor.nbytes <= CHUNK_BYTES:
        yield tensor.read()
        return
    rows = max(1, CHUNK_BYTES * tensor.shape[0] // tensor.nbytes)
    rest = [slice(None)] * (len(tensor.shape) - 1)
    for start in range(0, tensor.shape[0], rows):
        yield tensor.read([slice(start, start + rows), *rest])
