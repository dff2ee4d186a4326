"""32100 against 32128: embedding rows that no token uses.

T5's vocabulary has 32,000 pieces and 100 sentinels; the embedding is rounded up to a
multiple of 128 so that it can be sharded. Some checkpoints store the exact number. Two
sizes that round up to the same multiple hold the same tokens, so rows can be added or
cut; any other difference means another vocabulary.
"""

from collections.abc import Callable, Mapping

import numpy as np

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor, pieces

MULTIPLE = 128

# (canonical name, axis of the vocabulary)
_TENSORS = ((names.EMBEDDING, 0), (names.HEAD, 1))


def same_tokens(first: int, second: int) -> bool:
    """Whether two numbers of rows differ only by rounding up."""
    return -(-first // MULTIPLE) == -(-second // MULTIPLE)


def adapted(
    tensors: Mapping[str, LazyTensor], rows: int
) -> tuple[dict[str, LazyTensor], str | None]:
    """Gives embedding and head `rows` rows, if the tokens stay the same.

    New rows hold the mean of the others: the logit of such a token is the mean of all
    logits, so a model never prefers it.

    Args:
        tensors: by canonical name.
        rows: the wanted number.

    Returns:
        The tensors, and a line saying what was done (None: nothing).
    """
    embedding = tensors.get(names.EMBEDDING)
    if embedding is None or embedding.shape[0] == rows:
        return dict(tensors), None
    have = embedding.shape[0]
    if not same_tokens(have, rows):
        return dict(tensors), None
    result = dict(tensors)
    for name, axis in _TENSORS:
        if name in result:
            result[name] = result[name].with_rows(rows, axis, _mean(result[name], axis))
    done = (
        f"padded with {rows - have} rows that no token uses (mean of the others)"
        if rows > have
        else f"cut by {have - rows} rows that no token uses"
    )
    return result, f"vocabulary: {have} rows in the source, {rows} wanted: {done}"


def _mean(tensor: LazyTensor, axis: int) -> Callable[[], np.ndarray]:
    """Computes, once and when first needed, the mean over the vocabulary."""
    found: list[np.ndarray] = []

    def mean() -> np.ndarray:
        if not found:
            matrix = tensor if axis == 0 else tensor.transposed()
            total = np.zeros(matrix.shape[1], np.float64)
            for part in pieces(matrix):
                total += part.sum(axis=0, dtype=np.float64)
            found.append(total / matrix.shape[0])
        return found[0]

    return mean
