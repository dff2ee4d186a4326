"""Greedy tokens per second against Hugging Face's `generate`, same weights.

    python benchmarks/decoding.py [--lengths 128 704] [--batch 32] [--new 128]

A random T5 1.1 of 4+4 layers, D 256, vocabulary 32128, float32; prompts are equally
long and nothing ends early, so both decode batch x new tokens, end to end.
Hugging Face needs torch in the environment; without it only ours is measured. One line
of JSON a measurement; checks that both decode the same tokens.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "student"))


def measure(call, repetitions):
    call()  # compiles, warms up
    wall = []
    for _ in range(repetitions):
        began = time.perf_counter()
        result = call()
        wall.append(time.perf_counter() - began)
    return statistics.median(wall), result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 704])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import jax
    import reference_t5

    from specialize.student import decoding
    from specialize.student.network import T5Config, Transformer

    config = T5Config(
        vocab_size=32128,
        emb_dim=256,
        num_heads=4,
        head_dim=64,
        mlp_dim=512,
        num_encoder_layers=4,
        num_decoder_layers=4,
        **reference_t5.FAMILIES["t5_1_1"],
    )
    params = reference_t5.random_params(config, 0)
    module = Transformer(config)
    try:
        import hf_t5
        import torch

        with tempfile.TemporaryDirectory() as folder:
            theirs = hf_t5.build(config, params, pathlib.Path(folder))
    except ImportError:
        theirs = None
    options = {"eos_id": 10**6}
    if arguments.beams > 1:
        options |= {"method": "beam", "num_beams": arguments.beams}
    run = jax.jit(
        lambda params, x: (
            decoding.generate(
                module, params, x, max_length=arguments.new, **options
            ).tokens
        )
    )
    placed = jax.device_put(params)
    for length in arguments.lengths:
        x = np.random.default_rng(length).integers(2, 32128, (arguments.batch, length))
        x = x.astype(np.int32)
        row = dict(
            input=length,
            batch=arguments.batch,
            new=arguments.new,
            beams=arguments.beams,
            cores=len(os.sched_getaffinity(0)),
            jax=jax.__version__,
        )
        seconds, ours = measure(
            lambda x=x: np.asarray(run(placed, x)), arguments.repetitions
        )
        produced = arguments.batch * arguments.new
        row["specialize_tokens_per_s"] = round(produced / seconds)
        if theirs is not None:
            seconds, found = measure(
                lambda x=x: hf_t5.generate(
                    theirs,
                    x,
                    arguments.new,
                    eos_token_id=None,
                    num_beams=arguments.beams,
                ),
                arguments.repetitions,
            )
            row["torch"] = torch.__version__
            row["hf_tokens_per_s"] = round(produced / seconds)
            row["same_tokens"] = float(np.mean(found == ours))
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
