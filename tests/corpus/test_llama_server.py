"""Sampling from llama-cpp-python's server: a real server, a real model, its quirks.

The model is tiny_llama's, so every probability that the server reports, and every row
that comes of it, has a known value.

    pip install 'llama-cpp-python[server]' gguf      # here, or somewhere else:
    SPECIALIZE_LLAMA_PYTHON=~/llama/bin/python pytest -m llama
"""

import json
import math
import pathlib
import subprocess
from operator import itemgetter

import numpy as np
import pytest

from specialize import cli
from specialize.corpus.completions import read_completions
from specialize.corpus.prompts import solution
from specialize.corpus.tasks.known import find, read_problems

import tiny_llama  # isort: skip
from real_servers import interpreter, serving  # isort: skip

pytestmark = pytest.mark.llama

# Of a log-probability: the server computes in float32.
CLOSE = 1e-4


@pytest.fixture(scope="module", params=tiny_llama.KINDS)
def url(request, tmp_path_factory):
    python = interpreter("llama", ["llama_cpp"], "SPECIALIZE_LLAMA_PYTHON")
    folder = tmp_path_factory.mktemp("llama")
    model = folder / "tiny.gguf"
    make = [python, tiny_llama.__file__, str(model), request.param]
    subprocess.run(make, check=True)
    words = [python, "-m", "llama_cpp.server", "--model", model]
    words += ["--host", "127.0.0.1", "--port", "PORT", "--n_ctx", 1024]
    with serving(words, "/v1/models", folder / "server.log", 120) as base:
        yield f"{base}/v1"


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A benchmark file of ours, whose golds are what the model may answer."""
    path = tmp_path_factory.mktemp("questions") / "train.jsonl"
    lines = [
        {"question": f"She had {n} cakes. How many?", "answer": f"So.\n#### {gold}"}
        for n, gold in enumerate(tiny_llama.ANSWERS * 2)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def corpus(*words, status=0):
    assert cli.main(["corpus", *map(str, words)]) == status


def sample(url, questions, responses, *options, api="completions"):
    words = ["sample", "--problems", questions, "--responses", responses]
    words += ["--base_url", url, "--model", "tiny", "--api", api, "--n", 8]
    words += ["--max_tokens", 64, "--top_logprobs", 6, "--concurrency", 2]
    corpus(*words, *options)


def exported(responses):
    out = responses.with_suffix(".jsonl")
    corpus("export", "--responses", responses, "--out", out)
    return out


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_what_is_exported_are_the_models_own_probabilities(
    url, questions, tmp_path, api
):
    sample(url, questions, tmp_path / "r.sqlite", api=api)
    out = exported(tmp_path / "r.sqlite")
    card = json.loads((tmp_path / "r.jsonl.card.json").read_text())
    # Asked at temperature 0.5, this server says what the model would say at 1.
    assert card["sampling"]["logprobs"] == "before_temperature"
    known, names = tiny_llama.logprobs(), tiny_llama.pieces()
    ids = {name: index for index, name in enumerate(names) if name}
    samples = [
        found.completion
        for found in read_completions(out, read_problems(questions, "gsm8k"))
    ]
    assert len(samples) == 48
    assert len({found.text for found in samples}) > 12
    checked = split = 0
    for found in samples:
        assert found.tokens is not None
        assert b"".join(t.token for t in found.tokens).decode() == found.text
        for before, token in zip(found.tokens, found.tokens[1:], strict=False):
            if before.token not in ids or token.token not in ids:
                split += 1
                continue
            row = known[ids[before.token]]
            assert token.logprob == pytest.approx(row[ids[token.token]], abs=CLOSE)
            # An alternative of no text is an end or a lone byte: not known which.
            for text, value in filter(itemgetter(0), token.top):
                assert value == pytest.approx(row[ids[text]], abs=CLOSE)
            checked += 1
    assert checked > 300
    # "é" and the smile are tokens that are no text by themselves: here, none is lost.
    texts = "".join(found.text for found in samples)
    assert "é" in texts and split >= texts.count("é")


CAKES = """\
name = "cakes"
[files]
test = "t.jsonl"
[fields]
question = "q"
answer = "a"
rationale = "why"
[answer]
type = "number"
[formats]
teacher = "{question}\\n"
"""


@pytest.mark.parametrize("url", ["gpt2"], indirect=True)
def test_scores_of_given_texts_are_the_models_own_probabilities(url, tmp_path):
    """The other kind cuts texts to bytes, and the server loses those of spaces."""
    (tmp_path / "cakes.toml").write_text(CAKES)
    rows = [
        {"q": f"She {does} {of}.", "why": f"So she {does} caf{e}.\nThe", "a": answer}
        for does in ("sells", "sold")
        for of, e, answer in zip(
            *(("half of them", "half of the", "half"), ("es", "é", "és")),
            *(tiny_llama.ANSWERS,),
            strict=True,
        )
    ]
    questions = tmp_path / "t.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    responses, task = tmp_path / "scores.sqlite", ["--task", tmp_path / "cakes.toml"]
    words = ["--problems", questions, "--responses", responses, "--base_url", url]
    corpus("score", *task, *words, "--model", "tiny", "--top_logprobs", 6)
    problems = read_problems(questions, find(str(tmp_path / "cakes.toml")))
    scored = [one.completion for one in read_completions(exported(responses), problems)]
    known, names = tiny_llama.logprobs(), tiny_llama.pieces()
    ids = {name: index for index, name in enumerate(names) if name}
    checked = 0
    assert len(scored) == len(problems) == 6
    for found, problem in zip(scored, problems, strict=True):
        assert found.text == solution(problem)
        assert b"".join(one.token for one in found.tokens) == found.text.encode()
        for before, token in zip(found.tokens, found.tokens[1:], strict=False):
            if before.token in ids and token.token in ids:
                row = known[ids[before.token]]
                own = row[ids[token.token]]
                assert token.logprob == pytest.approx(own, abs=CLOSE)
                for text, value in filter(itemgetter(0), token.top):
                    assert value == pytest.approx(row[ids[text]], abs=CLOSE)
                checked += 1
    assert checked > 40


def test_a_character_of_two_tokens_has_their_product_and_the_firsts_alternatives(
    url, questions, tmp_path
):
    sample(url, questions, tmp_path / "r.sqlite")
    out = exported(tmp_path / "r.sqlite")
    known, names = tiny_llama.logprobs(), tiny_llama.pieces()
    caf, first, second = (names.index(t) for t in (b" caf", b"\xc3", b"\xa9"))
    expected = known[caf, first] + known[first, second]
    found = [
        token
        for read in read_completions(out, read_problems(questions, "gsm8k"))
        for token in read.completion.tokens
        if token.token == "é".encode()
    ]
    assert found
    for token in found:
        assert token.logprob == pytest.approx(expected, abs=CLOSE)
        other = dict(token.top)[b"es"]
        assert other == pytest.approx(known[caf, names.index(b"es")], abs=CLOSE)


def test_the_same_command_again_asks_for_nothing_and_a_new_database_for_the_same(
    url, questions, tmp_path, capfd
):
    sample(url, questions, tmp_path / "a.sqlite")
    first = exported(tmp_path / "a.sqlite").read_bytes()
    capfd.readouterr()
    sample(url, questions, tmp_path / "a.sqlite")
    lines = capfd.readouterr().err.splitlines()
    (last,) = [line for line in lines if line.startswith("sample: ")][-1:]
    assert last.startswith("sample: 0 done, 48 cached, ")
    assert exported(tmp_path / "a.sqlite").read_bytes() == first
    # Seeds follow from question and number, whatever runs beside them.
    sample(url, questions, tmp_path / "b.sqlite", "--concurrency", 5)
    assert exported(tmp_path / "b.sqlite").read_bytes() == first


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_samples_are_verified_aligned_and_written(url, questions, world, tmp_path, api):
    sample(url, questions, tmp_path / "r.sqlite", api=api)
    samples = exported(tmp_path / "r.sqlite")
    data = ["--problems", questions]
    right, aligned = tmp_path / "right.jsonl", tmp_path / "aligned.jsonl"
    corpus("verify", *data, "--completions", samples, "--out", right)
    golds = {
        problem.id: problem.answers[0] for problem in read_problems(questions, "gsm8k")
    }
    kept = [json.loads(line) for line in right.read_text().splitlines()]
    assert 5 <= len(kept) < 48
    assert all(
        line["text"].rstrip(".").endswith(golds[line["problem_id"]]) for line in kept
    )
    student = ["--vocabulary", world.vocabulary]
    corpus("align", *data, *student, "--completions", right, "--out", aligned)
    folder = tmp_path / "corpus"
    write = ["write", *data, *student, "--aligned", aligned, "--out", folder]
    corpus(*write, "--demonstrations", 2, "--no_rationales")
    manifest = json.loads((folder / "corpus.json").read_text())
    assert manifest["formats"]["zero_shot_cot"]["records"] == len(kept)
    assert manifest["funnel"]["kept"] == len(kept)
    assert "tiny" in (folder / "README.md").read_text()
    page = tmp_path / "page.html"
    corpus(
        "inspect",
        *student,
        "--corpus",
        folder,
        *data,
        "--completions",
        samples,
        "--html",
        page,
    )
    assert "The" in page.read_text()


def test_the_rows_of_the_answer_are_the_models(url, questions, world, tmp_path):
    """After " is" the model is at a loss among three numbers, and so is the row."""
    from specialize.corpus.alignment.aligning import align
    from specialize.corpus.vocabulary import Vocabulary

    sample(url, questions, tmp_path / "r.sqlite")
    out = exported(tmp_path / "r.sqlite")
    vocabulary = Vocabulary(world.vocabulary)
    rows = []
    for read in read_completions(out, read_problems(questions, "gsm8k")):
        found = read.completion
        if not found.text.endswith(tuple(f" is {n}" for n in tiny_llama.ANSWERS)):
            continue
        target = align(found.tokens, found.text, vocabulary, k=8)
        assert target is not None
        pieces = [vocabulary.piece(index) for index in target.ids[:-1]]
        at = len(pieces) - 1
        while not pieces[at].startswith("▁"):
            at -= 1
        # What the world's vocabulary makes of " 2", " 4" and " 7", with " 24" or "▁".
        own = target.teacher_logprobs[at][target.teacher_ids[at] == target.ids[at]]
        rest = np.exp(target.teacher_logprobs[at]).sum() + target.tail[at]
        assert rest == pytest.approx(1, abs=1e-3)
        rows.append((pieces[at], float(own[0])))
    assert rows
    for piece, own in rows:
        expected = 0.0 if piece == "▁" else math.log(1 / 3)
        assert own == pytest.approx(expected, abs=0.01), piece


def test_a_question_that_does_not_fit_the_context_ends_with_one_message(
    url, questions, tmp_path, capfd
):
    long = tmp_path / "prompt.txt"
    long.write_text("word " * 3000)
    words = ["sample", "--problems", questions, "--responses", tmp_path / "r.sqlite"]
    words += [
        "--base_url",
        url,
        "--model",
        "tiny",
        "--prompt",
        long,
        "--concurrency",
        2,
    ]
    corpus(*words, status=2)
    said = capfd.readouterr().err
    assert "context" in said and "refused" in said
    assert "Traceback" not in said
    assert pathlib.Path(tmp_path / "r.sqlite").exists()
