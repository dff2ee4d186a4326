"""Greedy tokens per second against Hugging Face or CTranslate2, same weights.

    python benchmarks/decoding.py [--lengths 128 704] [--batch 32] [--new 128]
    python benchmarks/decoding.py --data ../shared/data [--prompts zero_shot_cot]
    python benchmarks/decoding.py --data ../shared/data --peer ctranslate2
    python benchmarks/decoding.py --data ../shared/data --weights int8 --peer none

A random T5 1.1 of 4+4 layers, D 256, vocabulary 32128, float32. Without `--data` the
prompts are random ids, equally long, and nothing ends early, so both decode batch x new
tokens. With it GSM8K's test questions are asked, from texts to texts, in turns: ours by
the engine that evaluation uses, Hugging Face's in the file's order, each batch padded
to its longest prompt, and CTranslate2's in its own batches of as many prompts, sorted
by length; what a sequence has after its end counts for none. The peers need torch and
transformers in the environment, and CTranslate2 the package `ctranslate2`; without
torch only ours is measured. One line of JSON a measurement; checks that both decode
the same.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "student"))


def measure(*calls, repetitions):
    """The median seconds and the result of each call; they take turns."""
    results = [call() for call in calls]  # compiles, warms up
    wall = [[] for _ in calls]
    for _ in range(repetitions):
        for seconds, call in zip(wall, calls, strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in wall], results


def hugging_face(arguments, vocabulary, config, params, folder):
    """Texts from prompts, by transformers."""
    import hf_t5

    model = hf_t5.build(config, params, folder)

    def answer(prompts):
        found = []
        for begin in range(0, len(prompts), arguments.batch):
            ids = [
                vocabulary.encode(text)
                for text in prompts[begin : begin + arguments.batch]
            ]
            x = np.zeros((len(ids), 1 + max(map(len, ids))), np.int32)
            for row, tokens in enumerate(ids):
                x[row, : len(tokens) + 1] = [*tokens, vocabulary.eos_id]
            found += [
                vocabulary.decode(tokens)
                for tokens in hf_t5.generate(model, x, arguments.new)
            ]
        return found

    return answer


def ctranslate2(arguments, vocabulary, config, params, folder):
    """Texts from prompts, by CTranslate2, from our export to Hugging Face."""
    import ctranslate2
    import hf_t5

    from specialize.checkpoints.formats import exact_tokenizer

    hf_t5.build(config, params, folder / "hf")
    spiece = pathlib.Path(arguments.data) / "t5/spiece.model"
    exact_tokenizer.write(spiece, folder / "hf", rows=config.vocab_size)
    converter = ctranslate2.converters.TransformersConverter(str(folder / "hf"))
    converter.convert(str(folder / "ct2"))
    words = json.loads((folder / "ct2/shared_vocabulary.json").read_text())
    ids_of = {word: number for number, word in enumerate(words)}
    model = ctranslate2.Translator(
        str(folder / "ct2"),
        compute_type=arguments.compute_type,
        intra_threads=len(os.sched_getaffinity(0)),
    )

    def answer(prompts):
        asked = [
            [*map(vocabulary.piece, vocabulary.encode(text)), "</s>"]
            for text in prompts
        ]
        found = model.translate_batch(
            asked,
            beam_size=1,
            max_batch_size=arguments.batch,
            max_decoding_length=arguments.new,
            max_input_length=0,
        )
        return [vocabulary.decode(map(ids_of.get, one.hypotheses[0])) for one in found]

    return answer


PIECES = 32_000
PEERS = {"hf": hugging_face, "ctranslate2": ctranslate2}


def asked(arguments, prompt, module, params, vocabulary, theirs):
    """One row: GSM8K's questions in one prompt format, from texts to texts."""
    import jax

    from specialize import sharding
    from specialize.evaluation.suites.loading import load_suite
    from specialize.inference.engine import Engine
    from specialize.inference.spec import DecodingSpec

    suite = load_suite(
        "gsm8k",
        pathlib.Path(arguments.data),
        prompt=prompt,
        split="all",
        max_examples=arguments.count,
    )
    prompts = [example.inputs for example in suite.examples]

    def ours(weights):
        engine = Engine(
            module,
            params,
            vocabulary,
            sharding.make_mesh(devices=jax.devices()[:1]),
            DecodingSpec(
                batch_size=arguments.batch,
                output_length=arguments.new,
                weights=weights,
            ),
        )
        return lambda: sorted(engine.generate(prompts), key=lambda one: one.index)

    lengths = [1 + len(vocabulary.encode(text)) for text in prompts]
    calls = [ours(arguments.weights)]
    if theirs is not None:
        calls.append(lambda: theirs(prompts))
    if arguments.weights != "float":
        calls.append(ours("float"))
    seconds, results = measure(*calls, repetitions=arguments.repetitions)
    produced = sum(one.num_tokens[0] for one in results[0])
    row = dict(
        prompts=f"gsm8k {prompt}",
        questions=len(prompts),
        median_input=statistics.median(lengths),
        longest_input=max(lengths),
        batch=arguments.batch,
        new=arguments.new,
        produced=produced,
        specialize_tokens_per_s=round(produced / seconds[0]),
    )
    if theirs is not None:
        row["peer"] = arguments.peer
        row["peer_tokens_per_s"] = round(produced / seconds[1])
        row["ratio"] = round(seconds[1] / seconds[0], 3)
        texts = [one.texts[0] for one in results[0]]
        row["same_texts"] = statistics.mean(
            a == b for a, b in zip(texts, results[1], strict=True)
        )
    if arguments.weights != "float":
        row["weights"] = arguments.weights
        produced = sum(one.num_tokens[0] for one in results[-1])
        row["float_tokens_per_s"] = round(produced / seconds[-1])
        row["ratio_to_float"] = round(seconds[-1] / seconds[0], 3)
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
    parser.add_argument("--peer", choices=[*PEERS, "none"], default="hf")
    parser.add_argument("--weights", choices=["float", "int8"], default="float")
    parser.add_argument("--compute_type", default="float32", help="of CTranslate2")
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
    # CTranslate2 has one name for several of the ids after the pieces; these are never
    # the likeliest now.
    params["decoder"]["logits_dense"]["kernel"][:, PIECES:] = 0.0
    module = Transformer(config)
    placed = jax.device_put(params)
    torch = importlib.util.find_spec("torch") and importlib.import_module("torch")
    if arguments.peer == "none":
        torch = None
    if arguments.data:
        from specialize.corpus.vocabulary import Vocabulary

        vocabulary = Vocabulary(pathlib.Path(arguments.data) / "t5/spiece.model")
        with tempfile.TemporaryDirectory() as folder:
            theirs = None
            if torch:
                build = PEERS[arguments.peer]
                place = pathlib.Path(folder)
                theirs = build(arguments, vocabulary, config, params, place)
            for name in arguments.prompts:
                row = asked(arguments, name, module, placed, vocabulary, theirs)
                print(json.dumps(row), flush=True)
        return
    spec = GenerationSpec()
    if arguments.beams > 1:
        spec = GenerationSpec("beam", num_beams=arguments.beams)
    if torch:
        import hf_t5

        with tempfile.TemporaryDirectory() as folder:
            theirs = hf_t5.build(config, params, pathlib.Path(folder))
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
        calls = [lambda x=x: np.asarray(run(placed, x))]
        if torch:
            calls.append(
                lambda x=x: hf_t5.generate(
                    theirs,
                    x,
                    arguments.new,
                    eos_token_id=None,
                    num_beams=arguments.beams,
                )
            )
        seconds, found = measure(*calls, repetitions=arguments.repetitions)
        produced = arguments.batch * arguments.new
        row["specialize_tokens_per_s"] = round(produced / seconds[0])
        if torch:
            row["torch"] = torch.__version__
            row["peer_tokens_per_s"] = round(produced / seconds[1])
            row["same_tokens"] = float(np.mean(found[0] == found[1]))
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
