"""Greedy tokens per second against Hugging Face's `generate`, same weights.

    python benchmarks/decoding.py [--lengths 128 704] [--batch 32] [--new 128]
    python benchmarks/decoding.py --data ../shared/data [--prompts zero_shot_cot]

A random T5 1.1 of 4+4 layers, D 256, vocabulary 32128, float32. Without `--data` the
prompts are random ids, equally long, and nothing ends early, so both decode batch x new
tokens. With it GSM8K's test questions are asked, from texts to texts: ours by the
engine that evaluation uses, Hugging Face's in the file's order, each batch padded to
its longest prompt; what a sequence has after its end counts for neither. Hugging Face
needs torch in the environment; without it only ours is measured. One line of JSON a
measurement; checks that both decode the same tokens.
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


def asked(arguments, prompt, module, params, theirs):
    """One row: GSM8K's questions in one prompt format, from texts to texts."""
    import jax

    from specialize import sharding
    from specialize.corpus.vocabulary import Vocabulary
    from specialize.evaluation.suites.loading import load_suite
    from specialize.inference.engine import Engine
    from specialize.inference.spec import DecodingSpec

    data = pathlib.Path(arguments.data)
    vocabulary = Vocabulary(data / "t5/spiece.model")
    suite = load_suite(
        "gsm8k", data, prompt=prompt, split="all", max_examples=arguments.count
    )
    prompts = [example.inputs for example in suite.examples]
    engine = Engine(
        module,
        params,
        vocabulary,
        sharding.make_mesh(devices=jax.devices()[:1]),
        DecodingSpec(batch_size=arguments.batch, output_length=arguments.new),
    )

    def ours():
        return sorted(engine.generate(prompts), key=lambda found: found.index)

    def hugging_face():
        import hf_t5

        found = []
        for begin in range(0, len(prompts), arguments.batch):
            ids = vocabulary.encode_batch(prompts[begin : begin + arguments.batch])
            x = np.zeros((len(ids), 1 + max(map(len, ids))), np.int32)
            for row, tokens in enumerate(ids):
                x[row, : len(tokens) + 1] = [*tokens, vocabulary.eos_id]
            found += [
                vocabulary.decode(tokens)
                for tokens in hf_t5.generate(theirs, x, arguments.new)
            ]
        return found

    lengths = [1 + len(ids) for ids in vocabulary.encode_batch(prompts)]
    seconds, generated = measure(ours, arguments.repetitions)
    produced = sum(one.num_tokens[0] for one in generated)
    row = dict(
        prompts=f"gsm8k {prompt}",
        questions=len(prompts),
        median_input=statistics.median(lengths),
        longest_input=max(lengths),
        batch=arguments.batch,
        new=arguments.new,
        produced=produced,
        specialize_tokens_per_s=round(produced / seconds),
    )
    if theirs is not None:
        seconds, found = measure(hugging_face, arguments.repetitions)
        row["hf_tokens_per_s"] = round(produced / seconds)
        texts = [one.texts[0] for one in generated]
        row["same_texts"] = statistics.mean(
            a == b for a, b in zip(texts, found, strict=True)
        )
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 704])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--data", help="folder with gsm8k/ and t5/spiece.model")
    parser.add_argument(
        "--prompts", nargs="+", default=["zero_shot_cot", "few_shot_cot"]
    )
    parser.add_argument("--count", type=int, default=256, help="questions asked")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import jax
    import reference_t5

    from specialize.student.decoding import decoding
    from specialize.student.decoding.spec import GenerationSpec
    from specialize.student.network.transformer import T5Config, Transformer

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
    spec = GenerationSpec()
    if arguments.beams > 1:
        spec = GenerationSpec("beam", num_beams=arguments.beams)
    placed = jax.device_put(params)
    if arguments.data:
        for name in arguments.prompts:
            row = asked(arguments, name, module, placed, theirs)
            print(json.dumps(row), flush=True)
        return
    run = jax.jit(
        lambda params, x: (
            decoding.generate(
                module, params, x, spec, max_length=arguments.new, eos_id=10**6
            ).tokens
        )
    )
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
