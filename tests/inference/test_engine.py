import json
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_network import make_network

from specialize import sharding
from specialize.errors import InputError
from specialize.inference.engine import Engine
from specialize.inference.resumable import decode_to_file
from specialize.inference.spec import DecodingSpec
from specialize.student.decoding import decoding

LENGTH = 12


class Bytes:
    """A tokenizer of letters: 'a' is 3, 'b' is 4, ..."""

    eos_id = 1

    def encode(self, text):
        return [ord(letter) - 94 for letter in text]

    def decode(self, ids):
        kept = []
        for index in ids:
            if index == self.eos_id:
                break
            kept.append(chr(index + 94) if index > 2 else "_")
        return "".join(kept)


@pytest.fixture(scope="module")
def network():
    return make_network(32)


def engine(network, *, devices=1, **decoding):
    module, params = network
    mesh = sharding.make_mesh(data=devices)
    return Engine(
        module,
        jax.device_put(params, sharding.replicated(mesh)),
        Bytes(),
        mesh,
        DecodingSpec(**{"batch_size": 4, "output_length": LENGTH} | decoding),
    )


@pytest.fixture(scope="module")
def one(network):
    return engine(network)


PROMPTS = ["abc", "z", "hello", "abcabcabc" * 5, "ba", "qwertz", "abc", "mnop", "x"]


@pytest.fixture(scope="module")
def texts(one):
    return {g.index: g.texts[0] for g in one.generate(PROMPTS)}


def test_every_prompt_is_answered_as_if_it_were_alone(network, texts):
    module, params = network
    alone = jax.jit(
        lambda tokens: decoding.generate(
            module, params, tokens, max_length=LENGTH, eos_id=1
        )
    )
    for index, prompt in enumerate(PROMPTS):
        tokens = np.zeros((1, 64), np.int32)
        ids = [*Bytes().encode(prompt), 1]
        tokens[0, : len(ids)] = ids
        expected = Bytes().decode(np.asarray(alone(tokens).tokens)[0].tolist())
        assert texts[index] == expected
    assert len(set(texts.values())) > 3


def test_eight_devices_say_what_one_says(network, texts):
    many = engine(network, devices=8, batch_size=8)
    assert {g.index: g.texts[0] for g in many.generate(PROMPTS)} == texts


def test_prompts_are_bucketed_by_length_longest_first(one):
    ids, buckets = one.buckets(PROMPTS)
    assert [b.length for b in buckets] == sorted(b.length for b in buckets)[::-1]
    assert sorted(i for b in buckets for i in b.indices) == list(range(len(PROMPTS)))
    assert all(len(ids[i]) <= b.length for b in buckets for i in b.indices)


def test_a_prompt_too_long_loses_its_front_and_says_so(network):
    small = engine(network, input_length=8)
    (cut,) = small.generate(["aaaabcdefgh"])
    (short,) = small.generate(["bcdefgh"])
    assert (cut.texts, cut.truncated) == (short.texts, 4)
    assert short.truncated == 0


def test_samples_depend_on_the_seed_and_resume_unchanged(network, one):
    def drawn(seed, done=()):
        draws = engine(network, method="sample", num_samples=2, seed=seed)
        return {g.index: g.texts for g in draws.generate(PROMPTS, done=done)}

    first = drawn(0)
    assert first != drawn(1)
    assert all(len(texts) == 2 for texts in first.values())
    _, buckets = one.buckets(PROMPTS)
    rest = drawn(0, done=set(buckets[0].indices))
    assert rest == {i: t for i, t in first.items() if i not in buckets[0].indices}


# Kills itself as the third batch is to be decoded; nothing is flushed or closed.
def batches(one):
    """The rows of every batch."""
    ids, buckets = one.buckets(PROMPTS)
    return [[ids[index] for index in bucket.indices] for bucket in buckets]


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_engine
from specialize.inference.resumable import decode_to_file
one = test_engine.engine(test_engine.make_network(32))
decode, calls = one.decode, []
def dies(*given, **options):
    calls.append(given)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*given, **options)
one.decode = dies
decode_to_file(one, test_engine.PROMPTS, sys.argv[2], {"weights": "w"})
"""


def test_after_kill_9_the_rerun_gives_the_same_and_repeats_no_batch(
    one, tmp_path, monkeypatch
):
    settings = {"weights": "w"}
    calm = decode_to_file(one, PROMPTS, tmp_path / "calm.jsonl", settings)
    path = tmp_path / "killed.jsonl"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, pathlib.Path(__file__).parent, path],
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = path.read_text().splitlines()
    assert len(kept) == 1 + 4  # the settings and the first batch of four
    decode, again = one.decode, []

    def counts(rows, *rest, **options):
        again.append(rows)
        return decode(rows, *rest, **options)

    monkeypatch.setattr(one, "decode", counts)
    assert decode_to_file(one, PROMPTS, path, settings) == calm
    assert again == batches(one)[1:]
    lines = path.read_text().splitlines()
    assert lines[1:5] == kept[1:]
    assert sorted(json.loads(line)["index"] for line in lines[1:]) == list(range(9))


def test_an_interrupted_run_goes_on_and_repeats_no_finished_batch(
    one, tmp_path, monkeypatch
):
    path = tmp_path / "decoded.jsonl"
    settings = {"weights": "w"}
    undisturbed = decode_to_file(one, PROMPTS, tmp_path / "calm.jsonl", settings)
    decode, calls = one.decode, []

    def dies(rows, *rest, **options):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(rows, *rest, **options)

    monkeypatch.setattr(one, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        decode_to_file(one, PROMPTS, path, settings)
    with open(path, "a") as file:
        file.write('{"index": 3, "te')  # the line that the kill cut
    finished = len(path.read_text().splitlines()) - 2
    assert finished == 4
    calls.clear()
    calls.extend([None] * 3)
    resumed = decode_to_file(one, PROMPTS, path, settings)
    assert calls[3:] == batches(one)[1:]  # batch 0 was whole
    assert resumed == undisturbed
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["index"] for line in lines[1:]) == list(range(len(PROMPTS)))


def test_predictions_of_other_weights_are_refused(one, tmp_path):
    path = tmp_path / "decoded.jsonl"
    decode_to_file(one, PROMPTS[:1], path, {"weights": "w"})
    with pytest.raises(InputError, match="other settings"):
        decode_to_file(one, PROMPTS[:1], path, {"weights": "v"})


def test_a_batch_that_does_not_divide_over_the_mesh_is_refused(network):
    with pytest.raises(InputError, match="multiple of 8"):
        engine(network, devices=8, batch_size=12)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("method", "gready", "Did you mean 'greedy'?"),
        ("batch_size", 0, "batch_size = 0; it must be at least 1"),
        ("output_length", 0, "output_length = 0"),
        ("top_p", 0.0, "above 0 and at most 1"),
    ],
)
def test_a_decoding_that_cannot_work_is_refused_where_it_is_made(field, value, said):
    with pytest.raises(InputError, match=re.escape(said)):
        DecodingSpec(**{field: value})


def test_settings_of_version_0_1_are_those_of_the_same_decoding_today():
    old = {"method", "temperature", "top_p", "num_samples", "num_beams", "seed"}
    old |= {"batch_size", "input_length", "output_length"}
    assert DecodingSpec().to_json().keys() == old
    assert DecodingSpec(top_k=3).to_json().keys() == old | {"top_k"}
