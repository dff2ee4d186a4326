"""Baseline: greedy `generate` of Hugging Face's T5 at one of our bench shapes.

    SPECIALIZE_TORCH_PYTHON=/path/to/python specialize bench decode --peers

Every row is decoded to the full target length, as in our own case.
"""

import sys

import numpy as np
import torch
from torch_model import build_model, facts

from specialize.cost.bench import protocol
from specialize.cost.bench.batch import packed_batch
from specialize.cost.bench.shapes import shape_named


def build(shape, threads):
    model = build_model(shape, threads).eval()
    tokens = packed_batch(shape)["encoder_input_tokens"]
    tokens = torch.from_numpy(np.where(tokens == 0, 5, tokens)).long()

    def run():
        with torch.inference_mode():
            output = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                num_beams=1,
                min_new_tokens=shape.target_length,
                max_new_tokens=shape.target_length,
            )
        if output.shape[1] != shape.target_length + 1:
            raise RuntimeError(f"decoded {tuple(output.shape)}")

    return protocol.Case(run, facts(useful_tokens=shape.tokens, positions=shape.tokens))


if __name__ == "__main__":
    protocol.serve(lambda: build(shape_named(sys.argv[1]), int(sys.argv[2])))
