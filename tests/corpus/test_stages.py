"""verify -> align -> write, each from a file to a file, end where build ends."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
import rich

from specialize.corpus.building import pipeline, stages
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)
from specialize.corpus.storage import shards
from specialize.corpus.storage.cards import read_card
from specialize.corpus.storage.funnel import Funnel
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

RECORDS = RecordsSpec(demonstrations=2)


def sources(world, *completions, **changes):
    return Sources(world.problems, completions, **changes)


def alignment(world, **changes):
    return AlignmentSpec(world.vocabulary, **changes)


def write(world, aligned, out, **changes):
    return stages.write(
        sources(world, aligned),
        alignment(world, **changes),
        FolderSpec(out, num_shards=2),
        records=RECORDS,
        processes=1,
    )


@pytest.fixture(scope="module")
def staged(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    right, aligned = root / "right.jsonl.gz", root / "aligned.jsonl"
    stages.verify(
        sources(world, world.completions, teacher="grammar"),
        right,
        rejected=root / "rejected.jsonl",
        processes=1,
    )
    stages.align(sources(world, right), alignment(world), aligned, processes=1)
    return root, write(world, aligned, root / "corpus")


def test_the_stages_write_the_records_that_build_writes(world, staged, tmp_path):
    root, manifest = staged
    built = pipeline.build(
        sources(world, world.completions, teacher="grammar"),
        alignment(world),
        FolderSpec(tmp_path / "corpus", num_shards=2),
        records=RECORDS,
        processes=1,
    )
    assert manifest.fingerprint == built.fingerprint
    assert manifest.funnel == built.funnel
    assert manifest.formats == built.formats
    left = {r.id: r for r in shards.read_shards(root / "corpus")}
    right = {r.id: r for r in shards.read_shards(tmp_path / "corpus")}
    assert left.keys() == right.keys()
    for identity, record in left.items():
        other = right[identity]
        assert (record.inputs, record.targets) == (other.inputs, other.targets)
        for field in dataclasses.fields(record.target):
            np.testing.assert_array_equal(
                getattr(record.target, field.name), getattr(other.target, field.name)
            )


def test_the_judge_of_verify_is_that_of_the_rationales_too(world, tmp_path):
    (tmp_path / "odd.py").write_text("def odd(text, golds): return len(text) % 2 == 1")
    judge = AcceptanceSpec(JudgeSpec(f"{tmp_path}/odd.py:odd"))
    right, aligned = tmp_path / "right.jsonl", tmp_path / "aligned.jsonl"
    given = sources(world, world.completions, teacher="grammar")
    stages.verify(given, right, acceptance=judge, processes=1)
    stages.align(sources(world, right), alignment(world), aligned, processes=1)
    staged = write(world, aligned, tmp_path / "staged")
    built = pipeline.build(
        given,
        alignment(world),
        FolderSpec(tmp_path / "built", num_shards=2),
        acceptance=judge,
        records=RECORDS,
        processes=1,
    )
    assert staged.funnel == built.funnel
    assert 0 < built.funnel["human"]["verified"] < built.funnel["human"]["read"]


def test_every_rejected_sample_is_listed_with_its_reason(world, staged):
    root, manifest = staged
    lines = (root / "rejected.jsonl").read_text().splitlines()
    assert len(lines) == manifest.funnel["rejected"]["wrong_answer"] > 0
    first = json.loads(lines[0])
    assert first["reason"] == "wrong_answer"
    assert first["where"].startswith(f"{world.completions}:")


def test_a_sample_that_only_its_spelling_makes_wrong_is_in_the_table():
    """As 10², which a vocabulary writes as 102 without an unwritable character."""
    funnel = Funnel(read=2, verified=1, rejected={"not_right_as_spelt": 1})
    output = io.StringIO()
    rich.print(funnel.table(), file=output)
    assert re.search(r"right .* 2 .*100\.0 %", output.getvalue())
    assert "not right as the student would spell it" in output.getvalue()


def test_each_file_carries_its_card(staged):
    root, _ = staged
    assert read_card(root / "right.jsonl.gz").teacher == "grammar"
    card = read_card(root / "aligned.jsonl")
    assert card.alignment["k"] == 5
    assert card.funnel["read"] > card.funnel["kept"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 4}, "k is 5, now 4"),
        ({"method": "dtw"}, "method is 'bytes', now 'dtw'"),
        ({"rows": 640}, "vocabulary_rows is .*, now 640"),
    ],
)
def test_write_refuses_what_was_aligned_otherwise(
    world, staged, tmp_path, changes, message
):
    root, _ = staged
    with pytest.raises(InputError, match=message):
        write(world, root / "aligned.jsonl", tmp_path / "corpus", **changes)
    assert not list(tmp_path.iterdir())


def test_write_refuses_a_file_that_align_did_not_write(world, tmp_path):
    with pytest.raises(InputError, match="no card"):
        write(world, world.completions, tmp_path / "corpus")


def test_a_damaged_aligned_line_is_refused_and_nothing_is_left(world, staged, tmp_path):
    root, _ = staged
    lines = (root / "aligned.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"rows"', '"raws"')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    card = (root / "aligned.jsonl.card.json").read_text()
    (tmp_path / "a.jsonl.card.json").write_text(card)
    with pytest.raises(InputError, match=r"a\.jsonl:4: the key 'rows' is missing"):
        write(world, tmp_path / "a.jsonl", tmp_path / "corpus")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.jsonl",
        "a.jsonl.card.json",
    ]


def test_verify_refuses_and_leaves_nothing(world, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"problem_id": "gsm8k-train-0", "sample": 0, "text": "x"}\n{"half')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: not JSON"):
        stages.verify(sources(world, bad), tmp_path / "out.jsonl", processes=1)
    with pytest.raises(InputError, match="no completions"):
        stages.verify(sources(world), tmp_path / "out.jsonl", processes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_name_that_is_too_long_for_the_card_is_refused_first(world, tmp_path):
    named = sources(world, world.completions)
    for stage in (
        lambda out: stages.verify(named, out, processes=1),
        lambda out: stages.align(named, alignment(world), out, processes=1),
    ):
        with pytest.raises(InputError, match="has 256 bytes, expected at most 255"):
            stage(tmp_path / ("x" * 246))
    assert list(tmp_path.iterdir()) == []


def test_align_refuses_a_file_where_nothing_aligns(world, tmp_path):
    poor = tmp_path / "poor.jsonl"
    line = {"problem_id": "gsm8k-train-0", "sample": 0, "text": "a"}
    line |= {"tokens": ["b"], "token_logprobs": [0.0], "top_logprobs": [{}]}
    poor.write_text(json.dumps(line))
    with pytest.raises(InputError, match="none of 1 comp.*'tokens_do_not_spell_the"):
        stages.align(
            sources(world, poor), alignment(world), tmp_path / "out.jsonl", processes=1
        )
    assert [p.name for p in tmp_path.iterdir()] == ["poor.jsonl"]
