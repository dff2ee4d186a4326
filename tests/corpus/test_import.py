"""`specialize corpus import`: every layout of files that were made elsewhere."""

import copy
import csv
import gzip
import io
import itertools
import json
import math
import os
import random
import re

import pytest

from specialize import cli
from specialize.corpus.building import pipeline
from specialize.corpus.choices import LAYOUTS
from specialize.corpus.completions import read_completions
from specialize.corpus.importing.convert import ImportSpec, convert
from specialize.corpus.importing.layouts import Clues, Fields, layout_of
from specialize.corpus.importing.matching import Finder
from specialize.corpus.importing.report import LOSSES
from specialize.corpus.records import Problem
from specialize.corpus.spec import AlignmentSpec, FolderSpec, RecordsSpec, Sources
from specialize.corpus.storage.cards import Card, read_card, write_card
from specialize.corpus.tasks.known import read_problems
from specialize.digests import file_digest
from specialize.errors import InputError


@pytest.fixture(scope="module")
def problems(world):
    return read_problems(world.problems, "gsm8k")


@pytest.fixture(scope="module")
def lines(world):
    """The world's completions: text, tokens and alternatives."""
    return [json.loads(line) for line in world.completions.read_text().splitlines()]


def pairs(top):
    return top.items() if isinstance(top, dict) else top


def chat_tokens(line):
    return [
        {
            "token": token,
            "logprob": value,
            "bytes": list(token.encode()),
            "top_logprobs": [
                {"token": text, "logprob": lp, "bytes": list(text.encode())}
                for text, lp in pairs(top)
            ],
        }
        for token, value, top in zip(
            line["tokens"], line["token_logprobs"], line["top_logprobs"], strict=True
        )
    ]


def chat(line):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "big",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": line["text"]},
                "logprobs": {"content": chat_tokens(line)},
                "finish_reason": line["finish_reason"],
            }
        ],
        "usage": {"completion_tokens": 3},
    }


def completions(line):
    logprobs = {
        "tokens": line["tokens"],
        "token_logprobs": line["token_logprobs"],
        "top_logprobs": [dict(pairs(top)) for top in line["top_logprobs"]],
    }
    choice = {"index": 0, "text": line["text"], "logprobs": logprobs}
    choice["finish_reason"] = line["finish_reason"]
    return {"object": "text_completion", "model": "big", "choices": [choice]}


def batch(body):
    def made(line, problem):
        response = {"status_code": 200, "request_id": "r", "body": body(line)}
        custom = f"{problem.id}-{line['sample']}"
        return {"id": "b", "custom_id": custom, "response": response, "error": None}

    return made


def vllm(line, problem):
    steps = []
    ids = []
    for token, value, top in zip(
        line["tokens"], line["token_logprobs"], line["top_logprobs"], strict=True
    ):
        step = {
            str(n): {"logprob": lp, "rank": n, "decoded_token": text}
            for n, (text, lp) in enumerate(pairs(top), 1)
            if text != token
        }
        step["77"] = {"logprob": value, "rank": 1, "decoded_token": token}
        steps.append(step)
        ids.append(77)
    output = {
        "index": 0,
        "text": line["text"],
        "token_ids": ids,
        "cumulative_logprob": -1.0,
        "logprobs": steps,
        "finish_reason": line["finish_reason"],
        "stop_reason": None,
    }
    return {
        "request_id": "0",
        "prompt": f"Q: an earlier one?\n\nQuestion: {problem.question}\nThink.",
        "prompt_token_ids": [1, 2],
        "outputs": [output],
        "finished": True,
    }


def gemini(line, problem):
    tokens = [(one["token"], one["logprob"], one["top_logprobs"]) for one in
              chat_tokens(line)]  # fmt: skip
    chosen = [{"token": t, "logProbability": lp} for t, lp, _ in tokens]
    tops = [
        {"candidates": [{"token": o["token"], "logProbability": o["logprob"]}
                        for o in top]}
        for _, _, top in tokens
    ]  # fmt: skip
    candidate = {
        "content": {"parts": [{"text": line["text"]}], "role": "model"},
        "finishReason": "STOP" if line["finish_reason"] == "stop" else "MAX_TOKENS",
        "logprobsResult": {"chosenCandidates": chosen, "topCandidates": tops},
    }
    return {"key": problem.id, "response": {"candidates": [candidate]}}


def responses(line, problem):
    part = {"type": "output_text", "text": line["text"], "logprobs": chat_tokens(line)}
    whole = line["finish_reason"] == "stop"
    body = {
        "object": "response",
        "status": "completed" if whole else "incomplete",
        "incomplete_details": None if whole else {"reason": "max_output_tokens"},
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [part]},
        ],
    }
    answer = {"status_code": 200, "body": body}
    return {"custom_id": problem.id, "response": answer, "error": None}


def anthropic(line, problem):
    reason = "end_turn" if line["finish_reason"] == "stop" else "max_tokens"
    message = {
        "type": "message",
        "model": "big",
        "content": [{"type": "text", "text": line["text"]}],
        "stop_reason": reason,
    }
    return {
        "custom_id": problem.id,
        "result": {"type": "succeeded", "message": message},
    }


def messages(line, problem):
    asked = f"Solve this:\n{problem.question}"
    return {
        "messages": [
            {"role": "system", "content": "You count."},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": line["text"]},
        ],
        "finish_reason": line["finish_reason"],
    }


def sharegpt(line, problem):
    return {
        "conversations": [
            {"from": "human", "value": problem.question},
            {"from": "gpt", "value": line["text"]},
        ],
        "finish_reason": line["finish_reason"],
    }


def trl(line, problem):
    return {
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": line["text"]}],
        "finish_reason": line["finish_reason"],
    }


def rows(question, text, *, many=False):
    def made(line, problem):
        said = [line["text"]] if many else line["text"]
        reason = [line["finish_reason"]] if many else line["finish_reason"]
        spaced = f"  {problem.question.replace(' ', '  ', 3)}\n"
        return {question: spaced, text: said, "finish_reason": reason, "answer": "72"}

    return made


# name -> (the layout, how an object is made, whether it has log-probabilities)
MAKERS = {
    "ours": ("ours", lambda line, problem: line, True),
    "ours, by question": (
        "ours",
        lambda line, problem: (
            {k: v for k, v in line.items() if k != "problem_id"}
            | {"question": problem.question}
        ),
        True,
    ),
    "batch of chat": ("batch", batch(chat), True),
    "batch of completions": ("batch", batch(completions), True),
    "batch of responses": ("batch", responses, True),
    "batch of Gemini": ("batch", gemini, True),
    "batch of Anthropic": ("batch", anthropic, False),
    "chat": ("body", lambda line, p: {"problem_id": p.id, **chat(line)}, True),
    "completions": (
        "body",
        lambda line, p: {"question": p.question, **completions(line)},
        True,
    ),
    "request and response": (
        "body",
        lambda line, p: {
            "request": {"messages": [{"role": "user", "content": p.question}]},
            "response": chat(line),
        },
        True,
    ),
    "vllm": ("vllm", vllm, True),
    "messages": ("messages", messages, False),
    "sharegpt": ("messages", sharegpt, False),
    "trl": ("messages", trl, False),
    "generations": ("rows", rows("problem", "generations", many=True), False),
    "question and text": ("rows", rows("question", "text"), False),
    "instruction and output": ("rows", rows("instruction", "output"), False),
    "prompt and completion": ("rows", rows("prompt", "completion"), False),
}


def shuffled(value, rng):
    """The same JSON value with the fields of objects in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(one, rng)) for key, one in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(one, rng) for one in value]
    return value


def plain(data):
    return data


FILES = {
    "lines": ("\n", plain),
    "gzip": ("\n", gzip.compress),
    "CRLF": ("\r\n", plain),
    "BOM": ("\n", lambda data: b"\xef\xbb\xbf" + data),
    "empty lines": ("\n\n \n", plain),
}


def write(path, records, how="lines"):
    end, packed = FILES[how]
    text = "".join(json.dumps(one) + end for one in records)
    path.write_bytes(packed(text.encode()))
    return path


def made_of(maker, lines, problems):
    by_id = {problem.id: problem for problem in problems}
    return [
        maker(copy.deepcopy(line), by_id[line["problem_id"]]) for line in lines[:12]
    ]


def imported(world, path, out, **fields):
    spec = ImportSpec(**({"without_logprobs": True} | fields))
    return convert(Sources(world.problems, [path]), out, spec)


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_gives_the_completions_that_it_was_made_of(
    world, problems, lines, tmp_path, name, how
):
    layout, maker, has_rows = MAKERS[name]
    wanted = [dict(line) for line in lines[:12]]
    wanted[5]["finish_reason"] = "length"
    records = made_of(maker, wanted, problems)
    records = [shuffled(one, random.Random(name)) for one in records]
    path = write(tmp_path / "theirs.jsonl", records, how)
    report = imported(world, path, tmp_path / "ours.jsonl.gz")
    assert (report.read, report.written, report.lost) == (12, 12, {})
    assert report.layouts == {layout: 12}
    assert report.one_hot == (0 if has_rows else 12)
    assert report.judged["cut_off"] == 1
    found = [one.completion for one in
             read_completions(tmp_path / "ours.jsonl.gz", problems)]  # fmt: skip
    before = [one.completion for one in read_completions(world.completions, problems)]
    seen = {}
    for one, was in zip(found, before[:12], strict=True):
        number = seen[was.problem_id] = seen.get(was.problem_id, -1) + 1
        assert (one.problem_id, one.text) == (was.problem_id, was.text)
        assert one.sample == (was.sample if layout == "ours" else number)
        if not has_rows:
            assert one.tokens is None
            continue
        for ours, theirs in zip(one.tokens, was.tokens, strict=True):
            assert ours.token == theirs.token
            assert ours.logprob == pytest.approx(theirs.logprob)
            assert dict(ours.top) == pytest.approx(dict(theirs.top))
    assert [one.finish_reason in ("length", "MAX_TOKENS", "max_tokens",
            "max_output_tokens") for one in found].index(True) == 5  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_list_of_objects_is_read_too(world, problems, lines, tmp_path, name):
    records = made_of(MAKERS[name][1], lines, problems)
    (tmp_path / "list.json").write_text(json.dumps(records, indent=1))
    report = imported(world, tmp_path / "list.json", None)
    assert report.written == 12
    (tmp_path / "list.json.gz").write_bytes(
        gzip.compress(b"\n" + json.dumps(records).encode())
    )
    assert imported(world, tmp_path / "list.json.gz", None).written == 12


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            yield from places(one, (*path, key))


ODD = (None, 3, "", [], {}, [[]], {"a": [1]}, "\ud800", 1e400, True)


@pytest.mark.parametrize("name", MAKERS)
def test_a_field_of_another_type_loses_at_most_its_own_object(
    world, problems, lines, tmp_path, name
):
    good, odd, *_ = made_of(MAKERS[name][1], lines, problems)
    rng = random.Random(name)
    every = [path for path in places(odd) if path and len(path) < 7]
    for path in rng.sample(every, min(len(every), 8)):
        records = [good, *(copy.deepcopy(odd) for _ in ODD)]
        for record, value in zip(records[1:], ODD, strict=True):
            inner = record
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
        file = write(tmp_path / "odd.jsonl", records)
        report = imported(world, file, tmp_path / "out.jsonl")
        assert report.written >= 1
        assert report.written + report.lost.total() == report.read
        assert set(report.lost) <= set(LOSSES)
        list(read_completions(tmp_path / "out.jsonl", problems))


@pytest.mark.parametrize("name", MAKERS)
def test_a_missing_field_is_optional_or_loses_its_own_object(
    world, problems, lines, tmp_path, name
):
    whole = made_of(MAKERS[name][1], lines, problems)
    optional = "finish_reason usage object id model index request_id finished".split()
    for key in list(whole[3]):
        records = copy.deepcopy(whole)
        del records[3][key]
        report = imported(world, write(tmp_path / "f.jsonl", records), None)
        assert report.written >= 11, key
        assert report.written == 12 or key not in optional, key


def test_every_layout_is_made_here_but_the_notebooks():
    assert {layout for layout, _, _ in MAKERS.values()} | {"notebook"} == set(LAYOUTS)


def test_what_is_lost_is_counted_by_reason_with_the_first_places(
    world, problems, lines, tmp_path, capfd
):
    good = made_of(batch(chat), lines, problems)
    failed = {"custom_id": "x", "response": None, "error": {"code": "expired"}}
    refused = {"custom_id": "y", "error": None, "response": {
        "status_code": 429, "body": {"error": {"message": "slow down"}}}}  # fmt: skip
    declined = copy.deepcopy(good[0])
    message = declined["response"]["body"]["choices"][0]["message"]
    message |= {"content": None, "refusal": "I cannot."}
    foreign = [copy.deepcopy(one) | {"custom_id": f"other-{n}"}
               for n, one in enumerate(good[:5])]  # fmt: skip
    silent = copy.deepcopy(good[1])
    silent["response"]["body"]["choices"][0]["logprobs"] = None
    odd = {"what": 1, "is": 2, "this": 3}
    records = [*good, failed, refused, declined, *foreign, silent, odd]
    path = write(tmp_path / "results.jsonl", records)
    words = ("corpus", "import", "--problems", world.problems, "--completions", path)
    assert cli.main([*map(str, words), "--dry_run"]) == 0
    said = " ".join(capfd.readouterr().err.split())
    for expected in (
        "read (batch 21) │ 22 │",
        "answers none of the questions │ 5",
        "the server returned an error │ 2",
        "refused by the teacher │ 1",
        "no log-probabilities (see --without_logprobs) │ 1",
        "has no known layout (see --text_field) │ 1",
        "written │ 12",
        f"{path}:16: other-0",
        "/ ",
        f"{path}:18: other-2",
        "fields what, is, this",
        "I cannot.",
        "expired",
        "HTTP 429",
        "nothing was written",
    ):
        assert expected in said, expected
    assert f"{path}:19" not in said, "only the first three of a reason are named"
    assert said.count("before:") == said.count("after:") == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dry", [True, False])
def test_a_file_without_a_usable_completion_is_one_error_and_leaves_nothing(
    world, lines, problems, tmp_path, capfd, dry
):
    records = made_of(batch(chat), lines, problems)
    path = write(
        tmp_path / "r.jsonl", [one | {"custom_id": "elsewhere"} for one in records]
    )
    words = ["corpus", "import", "--problems", world.problems, "--completions", path]
    words += ["--out", tmp_path / "o.jsonl", *(["--dry_run"] if dry else [])]
    assert cli.main(list(map(str, words))) == 2
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert "none of 12 completions" in said
    assert "12 answers none of the questions" in said
    assert list(tmp_path.iterdir()) == [path]


def test_log_probabilities_may_be_missing_only_where_the_user_says_so(
    world, problems, lines, tmp_path
):
    path = write(tmp_path / "m.jsonl", made_of(messages, lines, problems))
    with pytest.raises(InputError, match=r"12 no log-probabilities \(see --without_l"):
        imported(world, path, tmp_path / "o.jsonl", without_logprobs=False)
    imported(world, path, tmp_path / "o.jsonl")
    card = read_card(tmp_path / "o.jsonl")
    assert card.sampling["logprobs"] == "none"
    assert card.imported["one_hot"] == 12
    manifest = pipeline.build(
        Sources(world.problems, [tmp_path / "o.jsonl"], rationales=False),
        AlignmentSpec(world.vocabulary),
        FolderSpec(tmp_path / "corpus", num_shards=1),
        records=RecordsSpec(("zero_shot_cot",)),
        processes=1,
    )
    assert manifest.fingerprint.sampling["logprobs"] == "none"
    assert manifest.formats["zero_shot_cot"].soft_share == 0


def test_a_batch_whose_ids_are_its_own_is_matched_by_its_requests(
    world, problems, lines, tmp_path
):
    records = made_of(batch(completions), lines, problems)
    asked = {problem.id: problem.question for problem in problems}
    requests = []
    for number, one in enumerate(records):
        problem_id = lines[number]["problem_id"]
        content = f"Solve.\n\nQ:   {asked[problem_id]}\nA:"
        body = {"model": "big", "messages": [{"role": "user", "content": content}]}
        one["custom_id"] = f"request-{number}"
        requests.append({"custom_id": f"request-{number}", "method": "POST",
                         "url": "/v1/chat/completions", "body": body})  # fmt: skip
    path = write(tmp_path / "results.jsonl", records)
    with pytest.raises(InputError, match="12 answers none of the questions"):
        imported(world, path, None)
    asked_in = write(tmp_path / "requests.jsonl", requests)
    report = imported(world, path, None, requests=[asked_in])
    assert (report.written, report.models) == (12, {"big"})
    wrong = write(tmp_path / "wrong.jsonl", [{"a": 1}])
    with pytest.raises(InputError, match=r"wrong\.jsonl:1: 'custom_id' is missing"):
        imported(world, path, None, requests=[wrong])


def test_fields_of_ones_own_names_are_read_if_they_are_named(
    world, problems, lines, tmp_path
):
    by_id = {problem.id: problem.question for problem in problems}
    path = write(
        tmp_path / "own.jsonl",
        [{"q": by_id[line["problem_id"]], "said": line["text"]} for line in lines[:6]],
    )
    with pytest.raises(InputError, match="6 has no known layout .* fields q, said"):
        imported(world, path, None)
    assert imported(world, path, None, fields=Fields("q", "said")).written == 6
    with pytest.raises(InputError, match="layout is 'row', expected one of ours"):
        ImportSpec(layout="row")


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet"])
def test_a_table_has_rows(world, problems, lines, tmp_path, ending):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    found = made_of(rows("problem", "generation"), lines, problems)
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        for one in found:
            one["generation"] = [one["generation"], "<think>no</think>The answer is 0"]
            one["finish_reason"] = ["stop", "length"]
        parquet.write_table(pyarrow.Table.from_pylist(found), path)
    else:
        text = io.StringIO()
        table = csv.DictWriter(
            text, list(found[0]), delimiter="\t" if ending == "tsv" else ","
        )
        table.writeheader()
        table.writerows(found)
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    report = imported(world, path, tmp_path / "out.jsonl")
    assert report.written == (24 if ending == "parquet" else 12)
    assert report.judged["cut_off"] == report.reasoned == report.written - 12
    texts = [
        s.completion.text for s in read_completions(tmp_path / "out.jsonl", problems)
    ]
    assert {line["text"] for line in lines[:12]} <= set(texts)


def test_a_folder_of_datasets_has_rows_and_its_card_names_it(
    world, problems, lines, tmp_path
):
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    file = folder / "data-00000-of-00001.arrow"
    table = pyarrow.Table.from_pylist(made_of(rows("problem", "text"), lines, problems))
    with (
        pyarrow.OSFile(str(file), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    assert imported(world, folder, tmp_path / "o.jsonl").written == 12
    (source,) = read_card(tmp_path / "o.jsonl").sources
    assert (source["file"], source["bytes"]) == ("saved", file.stat().st_size)
    digest = file_digest(folder)
    file.write_bytes(file.read_bytes() + b"\0")
    assert file_digest(folder) != digest == source["sha256"]


def test_exports_that_were_sampled_otherwise_are_not_imported_as_one(
    world, lines, tmp_path
):
    files = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    for number, file in enumerate(files):
        write_card(write(file, [lines[number]]), Card("t", sampling={"seed": number}))
    with pytest.raises(InputError, match="differ in sampling"):
        convert(Sources(world.problems, files), tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("marks", ["<|im_end|>", "</s>\n", "<|eot_id|><|end_of_text|>"])
def test_end_marks_after_a_text_are_no_part_of_it(
    world, problems, lines, tmp_path, marks
):
    records = made_of(rows("question", "text"), lines, problems)
    for one in records:
        one["text"] += marks
    line = copy.deepcopy(lines[0])
    line["text"] += marks
    line["tokens"].append(marks)
    line["token_logprobs"].append(-0.1)
    line["top_logprobs"].append({marks: -0.1})
    for records_, with_tokens in ((records, False), ([line], True)):
        path = write(tmp_path / "m.jsonl", records_)
        imported(world, path, tmp_path / "o.jsonl")
        first, *_ = read_completions(tmp_path / "o.jsonl", problems)
        assert first.completion.text == lines[0]["text"]
        assert (first.completion.tokens is not None) == with_tokens


def test_every_choice_of_a_response_is_a_sample(world, problems, lines, tmp_path):
    body = chat(lines[0])
    for number, line in enumerate(lines[1:3], 1):
        body["choices"].append(chat(line)["choices"][0] | {"index": number})
    body["choices"][1]["logprobs"] = None
    record = {"problem_id": problems[0].id, **body}
    path = write(tmp_path / "r.jsonl", [record, record])
    report = imported(world, path, tmp_path / "o.jsonl", without_logprobs=False)
    assert (report.read, report.written, report.lost) == (6, 4, {"no_logprobs": 2})
    found = [*read_completions(tmp_path / "o.jsonl", problems)]
    assert [one.completion.sample for one in found] == [0, 1, 2, 3]
    assert {one.completion.text for one in found} == {
        lines[0]["text"],
        lines[2]["text"],
    }


def test_a_layout_that_the_user_names_is_not_guessed(world, problems, lines, tmp_path):
    path = write(
        tmp_path / "q.jsonl", made_of(rows("question", "text"), lines, problems)
    )
    with pytest.raises(InputError, match="12 not as its layout says"):
        imported(world, path, None, layout="batch")
    assert imported(world, path, None, layout="rows").written == 12


def test_reasoning_is_set_apart_and_shown_before_and_after(
    world, problems, lines, tmp_path, capfd
):
    records = made_of(sharegpt, lines, problems)
    for one in records:
        reply = one["conversations"][1]
        reply["value"] = f"<think>The answer is 999.</think>\n{reply['value']}"
    path = write(tmp_path / "r.jsonl", records)
    words = ["corpus", "import", "--problems", world.problems, "--completions", path]
    words += ["--without_logprobs", "--out", tmp_path / "o.jsonl"]
    assert cli.main([*map(str, words), "--dry_run"]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "reasoning set apart │ 12 │ 100.0 %" in said
    assert "before: <think>The answer is 999.</think>" in said
    assert "after: <think>" not in said
    for policy, expected in (("drop", False), ("keep", True)):
        assert cli.main([*map(str, words), "--reasoning", policy]) == 0
        text = (tmp_path / "o.jsonl").read_text()
        assert ("999" in text) == expected
        assert "think>" not in text
        assert read_card(tmp_path / "o.jsonl").sampling["reasoning"] == policy
        for one in read_completions(tmp_path / "o.jsonl", problems, policy):
            assert "999" not in one.completion.answer


@pytest.mark.parametrize("dry", [True, False])
def test_what_the_student_cannot_write_of_right_completions_is_counted(
    world, problems, lines, tmp_path, capfd, dry
):
    records = made_of(sharegpt, lines, problems)
    golds = {problem.question: problem.answers[0] for problem in problems}
    texts = (
        "Then 5 \\times 4 = 9 \u2603.\nThe answer is {gold}",
        "It is \\boxed{{{gold}}} in 99123 months",  # right only with its box
        "The answer is {gold}9 \u2603",  # wrong, and so not counted
    )
    for one, text in zip(records, itertools.cycle(texts), strict=False):
        asked, reply = one["conversations"]
        gold = next(g for question, g in golds.items() if question in asked["value"])
        reply["value"] = text.format(gold=gold)
    path = write(tmp_path / "r.jsonl", records)
    out = tmp_path / "o.jsonl"
    words = ["corpus", "import", "--problems", world.problems, "--completions", path]
    words += ["--without_logprobs", *(["--dry_run"] if dry else ["--out", out])]
    words = [*map(str, words)]
    assert cli.main(words) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "right, as 'verify' judges │ 8 │" in said
    assert "unwritable" not in said and "<unk>" not in said
    written = b"" if dry else out.read_bytes()
    words += ["--vocabulary", str(world.vocabulary)]
    assert cli.main([*words, "--unwritable", "keep"]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "right, as 'verify' judges │ 4 │" in said
    assert "not right as the student would spell it │ 4 │" in said
    assert "with <unk> for the student │ 8 │" in said
    assert re.search(r"<unk>: .*\u2603 4", said)
    assert cli.main(words) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "rewritten as plain text │ 8 │" in said
    assert "with unwritable characters │ 8 │" in said
    assert "<unk>: \u2603 4" in said
    assert dry or out.read_bytes() == written
    assert cli.main([*words[:-2], "--unwritable", "drop"]) == 2
    assert "--unwritable drop needs --vocabulary" in capfd.readouterr().err


def test_reasoning_in_a_field_of_its_own_is_kept_or_dropped(
    world, problems, lines, tmp_path
):
    """With the tokens of the reasoning, with tokens of the answer alone, with none."""
    first = lines[0]
    thought = ["Hm", ",", " the", " answer", " is", " 999", "."]
    for marks in ([], ["<think>", "</think>"]):
        for with_tokens in (True, False):
            body = chat(first)
            choice = body["choices"][0]
            choice["message"]["reasoning_content"] = "Hm, the answer is 999."
            extra = [*marks[:1], *thought, *marks[1:], "\n\n"] if with_tokens else []
            choice["logprobs"]["content"] = [
                {"token": t, "logprob": -0.1, "bytes": list(t.encode()),
                 "top_logprobs": []}
                for t in extra
            ] + chat_tokens(first)  # fmt: skip
            record = {"problem_id": first["problem_id"], **body}
            path = write(tmp_path / "r.jsonl", [record])
            for policy in ("drop", "keep"):
                sources = Sources(world.problems, [path], reasoning=policy)
                report = convert(sources, tmp_path / "o.jsonl")
                assert report.reasoned == 1
                (found,) = read_completions(tmp_path / "o.jsonl", problems, policy)
                one = found.completion
                assert one.answer.strip() == first["text"]
                assert ("999" in one.text) == (policy == "keep")
                assert "think" not in one.text
                own = [t for t in one.tokens if not t.is_unknown]
                assert [t.token.decode() for t in own][-len(first["tokens"]) :] == (
                    first["tokens"]
                )
                unknown = policy == "keep" and not with_tokens
                assert any(t.is_unknown for t in one.tokens) == unknown
                assert report.divided == unknown


def test_the_question_is_found_whatever_is_around_it():
    problems = [
        Problem("t-1", "What is 2 + 3?", ("5",)),
        Problem("t-2", "Tom has 2 apples. What is 2 + 3?", ("5",)),
        Problem("t-3", "Ann reads\n30 pages a day in May. How many in all?", ("930",)),
        Problem("t-n-4", "How many?", ("4",)),
    ]
    finder = Finder(problems, "t", {"r-1": Clues([], ["Question: What is 2 + 3?"])})

    def find(*ids, text=""):
        found = finder.find(Clues(list(ids), [text]))
        return found and found.id

    assert find("t-1") == "t-1"
    assert find("t-1/7") == find("t-1_s7") == find("t-1-0") == find("1") == "t-1"
    assert find("1#3") == find("1-3") == "t-1"
    assert find("r-1") == "t-1"
    assert find("n-4") == "t-n-4"
    assert find("t-9") is None
    assert find("9-1-2", "chatcmpl-1") is None
    assert find(text="Q: What is  2 +\n3?\nA:") == "t-1"
    assert find(text="What is 2+3?") == "t-1"
    assert find(text="Q: Tom has 2 apples. What is 2 + 3?\nA:") == "t-2"
    shots = "Q: What is 2 + 3?\nA: 5\n\nQ: Ann reads 30 pages a day in May. How many"
    assert find(text=f"{shots} in all?\nLet's think") == "t-3"
    assert find(text="What is 2 + 4?") is None
    assert find("1", text="How many?") == "t-n-4", "the question is surer than a number"
    assert find("1", text="Who?") is None, "another question of that number"


def test_the_layout_of_an_object_without_one_is_none():
    for one in ({}, {"a": 1}, {"choices_": []}, {"question": "?"}, {"messages": []}):
        assert layout_of(one) is None


def test_values_that_are_no_probabilities_lose_their_completion(
    world, problems, lines, tmp_path
):
    records = made_of(batch(completions), lines, problems)
    for number, value in ((2, 0.4), (4, math.nan)):
        choice = records[number]["response"]["body"]["choices"][0]
        choice["logprobs"]["token_logprobs"][1] = value
    choice = records[6]["response"]["body"]["choices"][0]
    choice["logprobs"]["tokens"][1] = "?!"
    report = imported(world, write(tmp_path / "p.jsonl", records), None)
    assert report.lost == {"bad_logprobs": 2, "tokens_differ": 1}
    assert report.written == 9


@pytest.mark.parametrize(
    "request_",
    [
        {"body": {"prompt": "Q: {}\nA:"}},
        {"body": {"input": "{}"}},
        {"body": {"input": [{"role": "user", "content": "{}"}]}},
        {"body": {"messages": [{"role": "user",
                                "content": [{"type": "text", "text": "{} Go."}]}]}},
        {"params": {"messages": [{"role": "user", "content": "{}"}]}},
        {"request": {"contents": [{"parts": [{"text": "Think. {}"}]}]}},
    ],
)  # fmt: skip
def test_requests_of_every_service_say_what_was_asked(
    world, problems, tmp_path, request_
):
    problem = problems[3]
    written = json.dumps(request_).replace("{}", json.dumps(problem.question)[1:-1])
    asked = json.loads(written) | {"custom_id": "mine"}
    said = {"choices": [{"text": "The answer is 1", "finish_reason": "stop"}]}
    answer = {"custom_id": "mine", "response": {"status_code": 200, "body": said}}
    path = write(tmp_path / "a.jsonl", [answer])
    requests = [write(tmp_path / "r.jsonl", [asked])]
    report = imported(world, path, None, requests=requests)
    assert report.examples[0].problem == problem


def bad_files(folder):
    (folder / "bad.jsonl").write_text('{"a": 1}\n{"b')
    (folder / "bad.json").write_text('[{"a": 1}, 3')
    (folder / "number.json").write_text("[3]")
    (folder / "empty.json").write_text("[]")
    (folder / "empty.jsonl").write_text("")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 999)[:-9])
    (folder / "cut.json.gz").write_bytes(gzip.compress(b"[" + b"{}," * 9999)[:-9])
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "latin.jsonl").write_bytes(b'{"text": "\xe9"}')


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad.jsonl", r"bad\.jsonl:2: not JSON"),
        ("bad.json", r"bad\.json: not JSON"),
        ("number.json", r"number\.json#0: expected an object, found"),
        ("empty.json", "is an empty list"),
        ("empty.jsonl", "is empty"),
        ("cut.jsonl.gz", "damaged gzip"),
        ("cut.json.gz", "damaged gzip"),
        ("folder", "is a folder"),
        ("fifo", "is a pipe or device"),
        ("absent", "does not exist"),
        ("latin.jsonl", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(
    world, tmp_path, capfd, name, message
):
    bad_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    words = ["corpus", "import", "--problems", world.problems, "--completions"]
    words += [tmp_path / name, "--out", tmp_path / "out.jsonl"]
    assert cli.main(list(map(str, words))) == 2
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert re.search(message, said)
    assert sorted(tmp_path.iterdir()) == before


def test_no_place_to_write_to_is_said_before_any_work(world, capfd):
    words = ["corpus", "import", "--problems", world.problems, "--completions", "x"]
    assert cli.main(list(map(str, words))) == 2
    assert "--out is missing" in capfd.readouterr().err


def test_files_that_answer_other_questions_are_named_once_with_a_count(
    world, lines, tmp_path
):
    other = [line | {"problem_id": f"other-{n}"} for n, line in enumerate(lines[:9])]
    path = write(tmp_path / "c.jsonl", [*lines[9:12], *other])
    with pytest.raises(InputError) as refusal:
        pipeline.build(
            Sources(world.problems, [path], teacher="t"),
            AlignmentSpec(world.vocabulary),
            FolderSpec(tmp_path / "x"),
            processes=1,
        )
    said = str(refusal.value)
    assert "c.jsonl:4: answers 'other-0', which is not among the 24 problems" in said
    assert "8 more of 12 lines" in said
    assert "other-2" in said
    assert "other-3" not in said
