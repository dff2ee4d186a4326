"""A stream of examples with the lengths of the four-format GSM8K mixture.

Synthetic, so that a benchmark needs no data. Proportions and mean lengths were measured
on the real corpus with T5's vocabulary: mean inputs of 631, 329, 68 and 63 tokens;
chain-of-thought targets of 74 tokens in the mean and 255 at most.
"""

import numpy as np
from jaxtyping import Int

from specialize.cost.bench.shapes import BenchShape
from specialize.training.data.examples import Examples

# format: (examples in thousands, encoder mean and deviation, target mean and deviation)
FORMATS = {
    "in_context_cot": (207.0, 631, 110, 74, 33),
    "in_context_answer_only": (7.3, 329, 55, 7, 1),
    "zero_shot_cot": (207.0, 68, 24, 74, 33),
    "zero_shot_answer_only": (7.3, 63, 24, 7, 1),
}
LONGEST_TARGET = 255


def example_lengths(
    which: str, number: int, lengths: tuple[int, int], seed: int = 0
) -> Int[np.ndarray, "N 2"]:
    """Encoder and decoder tokens of `number` examples.

    Args:
        which: a format, or "all" for the mixture.
        number: number of examples, N.
        lengths: maximum lengths: encoder, decoder.
        seed: seed of the random draw.
    """
    random = np.random.default_rng(seed)
    table = np.array([FORMATS[which]] if which != "all" else list(FORMATS.values()))
    rates = table[:, 0] / table[:, 0].sum()
    chosen = table[random.choice(len(table), number, p=rates)]
    sizes = []
    for mean, deviation in ((1, 2), (3, 4)):
        # Gamma: positive, and skewed to the right like the lengths of texts.
        shape = (chosen[:, mean] / chosen[:, deviation]) ** 2
        sizes.append(random.gamma(shape, chosen[:, mean] / shape))
    drawn = np.stack(sizes, axis=1).round().astype(np.int32)
    most = [lengths[0], min(lengths[1], LONGEST_TARGET)]
    return np.clip(drawn, 3, most).astype(np.int32)


def examples(sizes: Int[np.ndarray, "N 2"], shape: BenchShape) -> Examples:
    """Examples of these lengths with random tokens and teacher rows."""
    random = np.random.default_rng(1)
    encoder, decoder = (int(total) for total in sizes.sum(0, dtype=np.int64))
    events = random.dirichlet(np.full(shape.teacher_k + 1, 0.3), decoder)
    draw = random.integers
    return Examples.in_memory(
        "bench",
        {
            "inputs": draw(3, shape.vocabulary, encoder, np.int32),
            "targets": draw(3, shape.vocabulary, decoder, np.int32),
            "teacher_ids": draw(
                3, shape.vocabulary, (decoder, shape.teacher_k), np.int32
            ),
            "teacher_probs": events[:, :-1].astype(np.float32),
            "teacher_tail": events[:, -1].astype(np.float32),
            "format_id": draw(1, 5, decoder, np.int32),
        },
        sizes,
        [f"bench/{index}" for index in range(len(sizes))],
        digest="bench",
    )
