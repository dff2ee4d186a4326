"""A synthetic batch for a shape that is timed; needs only numpy.

Our own cases and the baselines use the same batch and differ only in the keys that they
expect.
"""

import numpy as np

from specialize.cost.bench.shapes import BenchShape


def packed_batch(shape: BenchShape, seed: int = 0) -> dict[str, np.ndarray]:
    """A packed batch of random tokens, with the keys of our student.

    Half of the target positions have a soft teacher row, the others are one-hot: about
    the share in the paper's data after alignment.
    """
    random = np.random.default_rng(seed)
    rows, targets, slots = shape.batch, shape.target_length, shape.teacher_k
    encoder = _segments(random, shape, shape.input_length)
    decoder = _segments(random, shape, targets)
    ids = random.integers(3, shape.vocabulary, (rows, shape.input_length))
    target_ids = random.integers(3, shape.vocabulary, (rows, targets))
    target_ids = np.where(decoder > 0, target_ids, 0)
    shifted = np.concatenate([np.zeros((rows, 1), int), target_ids[:, :-1]], axis=1)
    positions = _positions(decoder)
    events = random.dirichlet(np.full(slots + 1, 0.3), (rows, targets))
    events = np.sort(events, axis=-1)[..., ::-1]
    soft = random.random((rows, targets)) < 0.5
    one_hot = np.eye(slots + 1)[0]
    events = np.where(soft[..., None], events, one_hot)
    events = np.where((decoder > 0)[..., None], events, 0)
    teacher_ids = random.integers(3, shape.vocabulary, (rows, targets, slots))
    teacher_ids[..., 0] = target_ids
    batch = {
        "encoder_input_tokens": np.where(encoder > 0, ids, 0),
        "encoder_segment_ids": encoder,
        "encoder_positions": _positions(encoder),
        "decoder_input_tokens": np.where(positions > 0, shifted, 0),
        "decoder_target_tokens": target_ids,
        "decoder_segment_ids": decoder,
        "decoder_positions": positions,
        "decoder_loss_weights": (decoder > 0).astype(np.float32),
        "decoder_teacher_ids": teacher_ids,
        "decoder_teacher_probs": events[..., :slots].astype(np.float32),
        "decoder_teacher_tail": events[..., slots].astype(np.float32),
        "decoder_format_ids": np.where(decoder > 0, 1 + decoder % 4, 0),
    }
    return {
        name: values.astype(np.int32) if values.dtype.kind == "i" else values
        for name, values in batch.items()
    }


def _segments(
    random: np.random.Generator, shape: BenchShape, length: int
) -> np.ndarray:
    """Segment numbers from 1; 0 at the padding of a sequence."""
    segments = np.zeros((shape.batch, length), int)
    end = max(shape.examples_per_row, round(shape.filled * length))
    for row in range(shape.batch):
        inner = random.choice(end - 1, shape.examples_per_row - 1, replace=False) + 1
        cuts = [0, *np.sort(inner), end]
        for number in range(shape.examples_per_row):
            segments[row, cuts[number] : cuts[number + 1]] = number + 1
    return segments


def _positions(segments: np.ndarray) -> np.ndarray:
    """Position in the segment; 0 at padding."""
    index = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.diff(segments, axis=1, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    return np.where(segments > 0, index - first, 0)
