"""Adds or cuts embedding rows that no token uses (32,100 and 32,128).

T5's vocabulary has 32,000 pieces and 100 sentinels; the embedding is rounded up to a
multiple of 128 so that it can be sharded. Some checkpoints store the exact number. Two
sizes that round up to the same multiple have the same tokens, so rows can be added or
cut; any other difference means another vocabulary.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor, pieces

MULTIPLE = 128

# (canonical name, axis of the vocabulary)
_TENSORS = ((names.EMBEDDING, 0), (names.HEAD, 1))


def rounded_up(rows: int) -> int:
    """The number of rows with those that only fill up."""
    return -(-rows // MULTIPLE) * MULTIPLE


def same_tokens(first: int, second: int) -> bool:
    """Whether two numbers of rows differ only by rounding up."""
    return rounded_up(first) == rounded_up(second)


def adapted(
    tensors: Mapping[str, LazyTensor], rows: int
) -> tuple[dict[str, LazyTensor], str | None]:
    """Gives embedding and head `rows` rows, if the tokens stay the same.

    New rows are the mean of the others: the logit of such a token is the mean of all
    logits, so a model never prefers it.

    Args:
        tensors: tensors by canonical name.
        rows: requested number of rows.

    Returns:
        The tensors, and a line about the change (None: no change).
    """
    result = dict(tensors)
    embedding = tensors.get(names.EMBEDDING)
    have = rows if embedding is None else embedding.shape[0]
    if have == rows or not same_tokens(have, rows):
        return result, None
    for name, axis in _TENSORS:
        if name in result:
            result[name] = result[name].with_rows(rows, axis, _mean(result[name], axis))
    done = (
        f"padded with {rows - have} rows that no token uses (mean of the others)"
        if rows > have
        else f"cut by {have - rows} rows that no token of the tokenizer uses"
    )
    return result, f"vocabulary: {have} rows in the source, {rows} wanted: {done}"


def _mean(tensor: LazyTensor, axis: int) -> Callable[[], np.ndarray]:
    """A function that computes the mean over the vocabulary at its first call."""

    @functools.cache
    def mean() -> np.ndarray:
        matrix = tensor if axis == 0 else tensor.transposed()
        total = np.zeros(matrix.shape[1], np.float64)
        for part in pieces(matrix):
            total += part.sum(axis=0, dtype=np.float64)
        return total / matrix.shape[0]

    return mean
