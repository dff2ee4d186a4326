"""Baseline: SeqIO's packing of the same stream of examples as our input pipeline.

    specialize bench input --peers

SeqIO packs rank-1 integers only, so its examples are without teacher rows, which our
own case packs as well. Shuffling and preprocessing are left out of both.
"""

import itertools
import platform
import sys
from importlib import metadata

import seqio
import tensorflow as tf

from specialize.cost.bench import protocol
from specialize.cost.bench.cases import STREAM_BATCHES, STREAM_LENGTHS
from specialize.cost.bench.shapes import shape_named
from specialize.cost.bench.stream import example_lengths, examples


def build(shape, which):
    if which in ("formats", "padded"):
        lengths, name, number = STREAM_LENGTHS, "all", 8000
    else:
        lengths = (shape.input_length, shape.target_length)
        name, number = "zero_shot_cot", 4000
    sizes = example_lengths(name, number, lengths)
    stored = examples(sizes, shape)

    # From memory, without a Python generator: as fast as SeqIO can be fed.
    dataset = tf.data.Dataset.from_tensor_slices(
        {
            side: tf.RaggedTensor.from_row_lengths(  # pyright: ignore[reportAttributeAccessIssue]
                stored.features[side], sizes[:, column]
            )
            for column, side in enumerate(("inputs", "targets"))
        }
    )
    converter = seqio.EncDecFeatureConverter(pack=which != "padded")
    packed = converter(dataset.repeat(), {"inputs": lengths[0], "targets": lengths[1]})
    batches = packed.batch(shape.batch).prefetch(2).as_numpy_iterator()

    def run():
        for _ in range(STREAM_BATCHES):
            next(batches)

    encoder = decoder = 0
    for batch in itertools.islice(batches, STREAM_BATCHES):
        encoder += int((batch["encoder_input_tokens"] > 0).sum())
        decoder += int((batch["decoder_target_tokens"] > 0).sum())
    positions = STREAM_BATCHES * shape.batch
    return protocol.Case(
        run,
        {
            "versions": {"python": platform.python_version()}
            | {name: metadata.version(name) for name in ("seqio", "tensorflow")},
            "device": "CPU",
            "useful_tokens": (encoder + decoder) // STREAM_BATCHES,
            "positions": shape.batch * sum(lengths),
            "encoder_filled": encoder / (positions * lengths[0]),
            "decoder_filled": decoder / (positions * lengths[1]),
        },
        times=STREAM_BATCHES,
    )


if __name__ == "__main__":
    protocol.serve(lambda: build(shape_named(sys.argv[1]), sys.argv[2]))
