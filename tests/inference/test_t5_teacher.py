"""A checkpoint as a teacher: exact, resumable, and in no need of alignment."""

import asyncio
import json

import jax
import numpy as np
import pytest
from tiny_network import make_network

from specialize import cli, sharding
from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.alignment.aligning import align
from specialize.corpus.completions import read_completions
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.spec import PaceSpec, SamplingSpec
from specialize.corpus.sampling.wire import parse_body
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.vocabulary import Vocabulary
from specialize.inference.engine import Engine
from specialize.inference.spec import DecodingSpec
from specialize.inference.t5_teacher import T5Teacher
from specialize.quickstart import miniature

LENGTH = 10
K = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    folder = miniature.write(
        root / "world", num_train=6, num_test=1, num_samples=1, num_pretraining=100
    )
    vocabulary = miniature.train_vocabulary(
        folder / "text.txt", root / "vocabulary.model", size=300
    )
    return folder / "gsm8k" / "train.jsonl", Vocabulary(vocabulary)


@pytest.fixture(scope="module")
def network(world):
    return make_network(world[1].rows)


@pytest.fixture(scope="module")
def engine(world, network):
    module, params = network
    mesh = sharding.make_mesh(data=2)
    params = jax.device_put(params, sharding.replicated(mesh))
    decoding = DecodingSpec("sample", num_samples=2, batch_size=4, output_length=LENGTH)
    return Engine(module, params, world[1], mesh, decoding)


def teacher(world, engine):
    return T5Teacher(engine, world[1], "tiny", K)


def ask_all(world, engine, path, *, limit=None, concurrency=8, **asked):
    problems = read_problems(world[0], "gsm8k")[:limit]
    asked = {"samples": 4, "samples_per_request": 2} | asked
    tally = asyncio.run(
        sample.run(
            problems,
            teacher(world, engine),
            path,
            SamplingSpec(**asked, pace=PaceSpec(concurrency=concurrency)),
            convention="before_temperature",
        )
    )
    sample.export(path, path.with_suffix(".jsonl"))
    return tally, path.with_suffix(".jsonl").read_bytes()


def test_answers_depend_on_neither_the_batches_nor_an_interruption(
    world, engine, tmp_path
):
    tally, calm = ask_all(world, engine, tmp_path / "calm.sqlite")
    assert (tally.done, tally.failed) == (24, 0)
    _, alone = ask_all(world, engine, tmp_path / "alone.sqlite", concurrency=1)
    assert alone == calm
    ask_all(world, engine, tmp_path / "half.sqlite", limit=3, samples=2)
    tally, rest = ask_all(world, engine, tmp_path / "half.sqlite")
    assert (tally.cached, tally.done) == (6, 18)
    assert rest == calm
    texts = [json.loads(line)["text"] for line in calm.splitlines()]
    assert len(set(texts)) > 20


def test_the_teachers_distributions_reach_the_student_as_they_are(world, engine):
    """Sampled pieces that are the vocabulary's own: alignment is the identity."""
    vocabulary = world[1]
    text = "Ann has 12 apples and gives 5 away.\nThe answer is 7"
    ids = np.asarray(vocabulary.encode(text), np.int32)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(ids), vocabulary.rows)) * 3
    logits[np.arange(len(ids)), ids] += 6
    every = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    top_ids = np.argsort(-every, axis=-1)[:, :K]
    top = np.take_along_axis(every, top_ids, axis=-1)
    own = every[np.arange(len(ids)), ids]
    choice = teacher(world, engine)._choice(
        0, np.append(ids, vocabulary.eos_id), own, top_ids, top
    )
    assert choice["finish_reason"] == "stop"
    assert choice.pop("num_tokens") == len(ids) + 1
    (read,) = parse_body(json.dumps({"choices": [choice]}).encode(), "here")
    target = align(read.tokens, read.text, vocabulary, k=K)
    assert target is not None
    assert target.ids.tolist() == [*ids, vocabulary.eos_id]
    compared = 0
    for position in range(1, len(ids)):  # the text has no blank before its first word
        row = target.teacher_ids[position].tolist()
        found = dict(zip(row, target.teacher_logprobs[position], strict=True))
        assert found[ids[position]] == pytest.approx(own[position], abs=1e-4)
        for piece, logprob in zip(top_ids[position], top[position], strict=True):
            path = [*ids[:position], piece]
            if vocabulary.encode(vocabulary.decode(path)) != path or piece not in found:
                continue  # not how the vocabulary writes it, or no room beside the own
            compared += 1
            # Never less; more where another alternative reads as this piece, too.
            assert found[piece] > logprob - 1e-4
        kept = np.exp([v for v in found.values() if np.isfinite(v)]).sum()
        assert kept + target.tail[position] == pytest.approx(1, abs=1e-5)
    assert compared > len(ids)


def test_a_prompt_beyond_the_inputs_is_given_up_and_the_others_are_answered(
    world, network, tmp_path
):
    module, params = network
    vocabulary = world[1]
    mesh = sharding.make_mesh(data=2)
    lengths = [
        len(vocabulary.encode(sample.teacher_prompt("", p.question))) + 1
        for p in read_problems(world[0], "gsm8k")
    ]
    small = Engine(
        module,
        jax.device_put(params, sharding.replicated(mesh)),
        vocabulary,
        mesh,
        DecodingSpec(
            "sample",
            num_samples=2,
            batch_size=4,
            input_length=max(lengths) - 1,
            output_length=4,
        ),
    )
    longest = lengths.count(max(lengths))
    tally, _ = ask_all(world, small, tmp_path / "responses.sqlite", samples=2)
    assert tally.failed == 2 * longest
    assert tally.done == 2 * (len(lengths) - longest)
    assert "INPUT_LENGTH" in tally.last_fault


def test_the_command_samples_a_kept_checkpoint_with_its_top_k(
    world, network, tmp_path, capsys
):
    with CheckpointStore(tmp_path / "run" / "checkpoints") as store:
        store.save(3, {"params": network[1]}, {})
    (tmp_path / "tiny.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from specialize.student import network\n"
        f"network.T5Config.vocab_size = {world[1].rows}\n"
        "network.T5Config.emb_dim = 16\n"
        "network.T5Config.num_heads = 2\n"
        "network.T5Config.num_encoder_layers = 1\n"
        "network.T5Config.num_decoder_layers = 1\n"
        "network.T5Config.head_dim = 8\n"
        "network.T5Config.mlp_dim = 32\n"
        "network.T5Config.mlp_activations = ('gelu', 'linear')\n"
        "DTYPE = 'float32'\n"
        "SCAN_LAYERS = False\n"
    )
    out = tmp_path / "answers.sqlite"

    def command(*words):
        return cli.main(
            [
                "sample",
                f"--gin_file={tmp_path / 'tiny.gin'}",
                f"--gin.CHECKPOINT_PATH='{tmp_path / 'run'}'",
                f"--gin.VOCABULARY_PATH='{world[1].path}'",
                "--gin.EVAL_BATCH_SIZE=8",
                "--gin.MESH='4x2'",
                f"--gin.OUTPUT_LENGTH={LENGTH}",
                f"--problems={world[0]}",
                f"--responses={out}",
                "--n=2",
                "--n_per_request=2",
                *words,
            ]
        )

    assert command("--limit=2") == 0
    assert sample.export(out, tmp_path / "answers.jsonl") == 4
    completions = list(
        read_completions(tmp_path / "answers.jsonl", read_problems(world[0], "gsm8k"))
    )
    assert {len(token.top) for c in completions for token in c.completion.tokens} <= {
        *range(1, 7)
    }
    card = json.loads((tmp_path / "answers.jsonl.card.json").read_text())
    assert card["sampling"]["logprobs"] == "before_temperature"
    capsys.readouterr()
    # Other settings are another sampling.
    assert command("--gin.TOP_P=0.5") == 2
    assert "top_p was 1.0, now 0.5" in capsys.readouterr().err
