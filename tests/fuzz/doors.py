"""Functions that open a file as a command would that is too slow to be run whole.

    train      prepared examples, metrics, checkpoints, initial weights, gin files
    infer      prompts, and what was decoded before a kill
    evaluate   datasets of the hub
    plan       cached compilations

Also what makes the files that v0_1 does not have. A refusal is an `InputError`.
"""

import collections
import contextlib
import json
import pathlib
import shutil
from typing import Any

import jaxtyping


def read_corpus(root: pathlib.Path) -> None:
    import specialize

    for _ in specialize.Corpus(root / "corpus"):
        pass


def seal_corpus(root: pathlib.Path) -> None:
    """Makes the manifest state the bytes that the shards have."""
    from specialize.digests import file_digest

    path = root / "corpus/corpus.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        file = root / "corpus" / shard["file"]
        if file.is_file():
            shard |= {"bytes": file.stat().st_size, "sha256": file_digest(file)}
    path.write_text(json.dumps(manifest, indent=2))


def claim_run(root: pathlib.Path) -> None:
    from specialize import outputs

    outputs.claim(root / "run", "run")


def resume_log(root: pathlib.Path) -> None:
    from specialize.training.logging import run_log

    run_log._drop_after(root / "out/metrics.jsonl", 2)


def read_prompts(root: pathlib.Path) -> None:
    from specialize.inference import prompts

    for name in ("prompts.jsonl", "prompts.txt"):
        found = prompts.read_prompts(root / name)
        "".join(json.dumps(line, ensure_ascii=False) for line in found).encode()


def go_on_decoding(root: pathlib.Path) -> None:
    from specialize.inference.engine import Engine, Generation
    from specialize.inference.resumable import decode_to_file

    class Silent(Engine):
        def __init__(self) -> None:
            pass

        def generate(
            self, prompts: Any, *, done: Any = (), alternatives: int = 0
        ) -> Any:
            for index in range(len(prompts)):
                if index not in done:
                    yield Generation(index, ("new",), (-1.0,), (1,), 0)

    valid = next((root / "evaluation/decoded").iterdir()).read_text()
    settings = json.loads(valid.splitlines()[0])["settings"]
    path = root / "out/decoded.jsonl"
    for line in decode_to_file(Silent(), ["q"] * 4, path, settings):
        "".join(line["texts"]).encode()


def load_hf(root: pathlib.Path) -> None:
    _load(str(root / "hf"))


def read_step(root: pathlib.Path) -> None:
    from specialize.checkpoints.store import CheckpointStore

    store = CheckpointStore(root / "run/checkpoints", read_only=True, best_metric="x")
    store.best()
    for step in store.steps():
        store.metadata(step)
    _load(str(root / "run"))


def _load(source: str) -> None:
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from specialize.checkpoints import load_params, names
    from specialize.student.network.architecture import T5Config

    config = T5Config(
        **dict(vocab_size=256, emb_dim=2, num_heads=1, head_dim=2, mlp_dim=4),
        **dict(num_encoder_layers=1, num_decoder_layers=1),
        mlp_activations=("gelu", "linear"),
        logits_via_embedding=True,
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        tuple(name.split("/")): jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
        for name, shape in names.shapes(config).items()
    }
    load_params(source, unflatten_dict(wanted), quiet=True)


def make_batch(root: pathlib.Path) -> None:
    from specialize.training.data import examples, stored_examples
    from specialize.training.data.batches import BatchSource
    from specialize.training.data.mixtures import Mixture
    from specialize.training.data.spec import DataSpec

    lengths, orders = {"inputs": 128, "targets": 128}, ("random", "same_question")
    for order, folder in zip(
        orders, sorted((root / "examples").iterdir()), strict=True
    ):
        found = stored_examples.open_examples(folder, "golden")
        examples.report(found)
        mixture = Mixture("golden", [found], [1.0])
        data = DataSpec(mixture, lengths, 4, order=order, pack=False, window_rows=4)
        BatchSource(mixture, data).batch(0)


def give_to_gin(root: pathlib.Path) -> None:
    import gin

    from specialize import config
    from specialize.inference.spec import DecodingSpec
    from specialize.student.network import transformer

    try:
        config.parse([str(root / "plain.gin")])
        config.current().rows()
        config.arguments(transformer.Transformer)
        # A whole number is a number here, but not for the checks of the tests.
        with contextlib.suppress(jaxtyping.TypeCheckError):
            config.call(DecodingSpec)
    finally:
        gin.clear_config()


def read_plan(root: pathlib.Path) -> None:
    from specialize.cost import commands
    from specialize.cost.plan import compiling

    found = compiling._load(root / "cache/plan.json")
    if found is not None and found.used is not None:
        commands.size(found.used)
    if found is not None and found.memory is not None:
        commands.size(found.memory.total)


def write_plan(path: pathlib.Path) -> None:
    sizes = ("params", "optimizer", "batch", "temporaries", "program")
    verdict = {"fits": True, "memory": dict.fromkeys(sizes, 5), "used": 25, "peak": 7}
    verdict |= {"limit": None, "seconds": 0.5, "cached": False, "compiler": "jaxlib 1"}
    path.write_text(json.dumps(verdict))


def read_parquet(root: pathlib.Path) -> None:
    from specialize.corpus.tasks.known import read_problems, shipped
    from specialize.evaluation.suites import hub

    made = root / "hub.specialize"
    try:
        folder = hub._laid_out(root / "hub", "hub:x/y", "gsm8k", [shipped("gsm8k")])
        read_problems(folder / "gsm8k/test.jsonl", "gsm8k")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_parquet(root: pathlib.Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"question": f"What is {n}?", "answer": f"{n}\n#### {n}"} for n in range(5)]
    (root / "hub/main").mkdir(parents=True)
    file = root / "hub/main/test-0.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def released_entries(vocabulary_path: pathlib.Path) -> list[dict[str, Any]]:
    """Two entries of each format, as the paper's authors released them."""
    from specialize.corpus.vocabulary import Vocabulary

    vocabulary = Vocabulary(vocabulary_path)
    answer = "There are 3 + 4 = 7.\nThe answer is 7"
    ids = vocabulary.encode(answer)
    steps: list[Any] = [{vocabulary.piece(index): 1.0} for index in ids]
    steps[2] = collections.OrderedDict(
        [(vocabulary.piece(ids[2]), 0.6), (vocabulary.piece(30), 0.3), ("no!", 0.05)]
    )
    query = "Q: Ann has 3 eggs. Ann buys 4 more. How many eggs does Ann have?"
    shared = {"answer_gold": "Answer: ...\n#### 7\n", "answer_label": 1}
    kinds = {
        "zero_shot_chain_of_thought": f"{query}\nLet's think step by step",
        "zero_shot_answer_only": f"{query} A:",
        "in_context_answer_only": f"Q: One?\nA: The answer is 1\n\n{query}\nA:",
    }
    return [
        {"question": text, "type": kind, "answer": "The answer is 7\n"}
        | ({"answer": answer, "per_step_probs": steps} if "thought" in kind else {})
        | shared
        for kind, text in kinds.items()
    ] * 2


def write_sampled(root: pathlib.Path) -> None:
    """The database of responses, with the settings of `formats.ASK`."""
    import hashlib

    from specialize.corpus.sampling.responses import ResponseStore
    from specialize.corpus.sampling.spec import Endpoint, RequestSpec

    endpoint = Endpoint(
        base_url="http://127.0.0.1:9/v1", model="m", request=RequestSpec()
    )
    settings = endpoint.describe() | {
        "prompt_sha256": hashlib.sha256((root / "prompt.txt").read_bytes()).hexdigest(),
        "seed": 0,
        "samples_per_request": 2,
        "dataset": "gsm8k",
    }
    path = root / "sampled.sqlite"
    shutil.copy(root / "responses.sqlite", path)
    with ResponseStore(path, create=True) as store:
        store._set("settings", settings)
    import sqlite3

    # One file, as a copy would be: not in the mode that needs a log beside it.
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()


def write_weights(root: pathlib.Path) -> None:
    """The weights of v0_1 in several files, with a tokenizer, and as T5X has them."""
    from specialize.checkpoints.convert import convert

    source = str(root / "hf")
    convert(source, str(root / "parts"), to="hf", max_shard_bytes=2000)
    convert(source, str(root / "t5x"), to="t5x")
    convert(source, str(root / "orbax"), to="orbax")
    vocabulary = str(root / "vocabulary.model")
    convert(source, str(root / "tokens"), to="hf", vocabulary=vocabulary)
    for name in ("added_tokens.json", "special_tokens_map.json"):
        if not (root / "tokens" / name).exists():
            content = (
                {"<x>": 151} if name.startswith("added") else {"pad_token": "<pad>"}
            )
            (root / "tokens" / name).write_text(json.dumps(content))


def write_adapters(root: pathlib.Path) -> None:
    """A folder of PEFT, whose adapters adapt the weights of v0_1 in `hf`."""
    import numpy as np

    from specialize.checkpoints import opening
    from specialize.checkpoints.formats import peft
    from specialize.checkpoints.lazy_tensors import from_array
    from specialize.checkpoints.source import AdapterPair, Adapters

    base = opening.open_checkpoint(str(root / "hf"))
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return from_array(rng.standard_normal(shape, np.float32))

    pairs = {
        name: AdapterPair(matrix(tensor.shape[0], 2), matrix(2, tensor.shape[1]), 1.0)
        for name, tensor in base.tensors.items()
        if name.endswith("/kernel") and "logits" not in name
    }
    adapters = Adapters(pairs, base, "hf")
    (root / "peft").mkdir()
    peft.write_folder(root / "peft", peft.matrices_of(adapters), adapters, "hf")
