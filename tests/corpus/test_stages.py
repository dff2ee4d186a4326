"""verify -> align -> write, each from a file to a file, end where build ends."""

import dataclasses
import json

import numpy as np
import pytest

from specialize.corpus.benchmarks.gsm8k import read_gsm8k
from specialize.corpus.building import pipeline, stages
from specialize.corpus.building.rendering import Settings
from specialize.corpus.storage import shards
from specialize.corpus.storage.cards import read_card
from specialize.errors import InputError


@pytest.fixture(scope="module")
def problems(world):
    return read_gsm8k(world.problems)


def settings(world, **changes):
    return Settings(vocabulary=str(world.vocabulary), demonstrations=2, **changes)


@pytest.fixture(scope="module")
def staged(world, problems, tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    stages.verify(
        problems,
        [world.completions],
        root / "right.jsonl.gz",
        teacher="grammar",
        rejected=root / "rejected.jsonl",
        processes=1,
    )
    stages.align(
        problems,
        root / "right.jsonl.gz",
        root / "aligned.jsonl",
        settings(world),
        processes=1,
    )
    manifest = stages.write(
        world.problems,
        problems,
        root / "aligned.jsonl",
        root / "corpus",
        settings(world),
        num_shards=2,
        processes=1,
    )
    return root, manifest


def test_the_stages_write_the_records_that_build_writes(world, staged, tmp_path):
    root, manifest = staged
    built = pipeline.build(
        world.problems,
        world.vocabulary,
        tmp_path / "corpus",
        completions_paths=[world.completions],
        teacher="grammar",
        demonstrations=2,
        num_shards=2,
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


def test_every_rejected_sample_is_listed_with_its_reason(world, staged):
    root, manifest = staged
    lines = (root / "rejected.jsonl").read_text().splitlines()
    assert len(lines) == manifest.funnel["rejected"]["wrong_answer"] > 0
    first = json.loads(lines[0])
    assert first["reason"] == "wrong_answer"
    assert first["where"].startswith(f"{world.completions}:")


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
        ({"alignment": "dtw"}, "method is 'bytes', now 'dtw'"),
        ({"rows": 640}, "vocabulary_rows is .*, now 640"),
    ],
)
def test_write_refuses_what_was_aligned_otherwise(
    world, problems, staged, tmp_path, changes, message
):
    root, _ = staged
    with pytest.raises(InputError, match=message):
        stages.write(
            world.problems,
            problems,
            root / "aligned.jsonl",
            tmp_path / "corpus",
            settings(world, **changes),
        )
    assert not list(tmp_path.iterdir())


def test_write_refuses_a_file_that_align_did_not_write(world, problems, tmp_path):
    with pytest.raises(InputError, match="no card"):
        stages.write(
            world.problems,
            problems,
            world.completions,
            tmp_path / "corpus",
            settings(world),
        )


def test_a_damaged_aligned_line_is_refused_and_nothing_is_left(
    world, problems, staged, tmp_path
):
    root, _ = staged
    lines = (root / "aligned.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"rows"', '"raws"')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    card = (root / "aligned.jsonl.card.json").read_text()
    (tmp_path / "a.jsonl.card.json").write_text(card)
    with pytest.raises(InputError, match=r"a\.jsonl:4: not a line of .*align"):
        stages.write(
            world.problems,
            problems,
            tmp_path / "a.jsonl",
            tmp_path / "corpus",
            settings(world),
            processes=1,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.jsonl",
        "a.jsonl.card.json",
    ]


def test_verify_refuses_and_leaves_nothing(world, problems, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"problem_id": "gsm8k-train-0", "sample": 0, "text": "x"}\n{"half')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: not JSON"):
        stages.verify(problems, [bad], tmp_path / "out.jsonl", processes=1)
    with pytest.raises(InputError, match="no completions"):
        stages.verify(problems, [], tmp_path / "out.jsonl", processes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def test_align_refuses_a_file_where_nothing_aligns(world, problems, tmp_path):
    poor = tmp_path / "poor.jsonl"
    line = {"problem_id": "gsm8k-train-0", "sample": 0, "text": "a"}
    line |= {"tokens": ["b"], "token_logprobs": [0.0], "top_logprobs": [{}]}
    poor.write_text(json.dumps(line))
    with pytest.raises(InputError, match="none of 1 completions"):
        stages.align(
            problems, poor, tmp_path / "out.jsonl", settings(world), processes=1
        )
    assert [p.name for p in tmp_path.iterdir()] == ["poor.jsonl"]
