"""On Beam the corpus is the same to the byte (`make test-beam`)."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from specialize.errors import InputError

import flat  # isort: skip

pytest.importorskip("apache_beam", reason="needs the extra 'beam'")

RUNNER = ("--runner=DirectRunner", "--direct_running_mode=in_memory")


def build(world, out, **options):
    arguments = {
        "completions": (world.completions,),
        "teacher": "grammar",
        "demonstrations": 2,
        "num_shards": 3,
        "processes": 1,
    } | options
    return flat.build(world.problems, world.vocabulary, out, **arguments)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"near_duplicates": 0.9, "max_samples": 2, "max_input_tokens": 220},
        {"rationales": False, "formats": ["zero_shot_cot"], "method": "dtw"},
    ],
)
def test_the_corpus_is_that_of_one_machine(world, tmp_path, options):
    here = build(world, tmp_path / "here", **options)
    beam = build(world, tmp_path / "beam", beam_options=RUNNER, **options)
    assert beam == here
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "here")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beam", "here"]


def test_a_fault_in_a_file_is_one_message_there_too(world, tmp_path):
    lines = world.completions.read_text().splitlines()
    lines[7] = lines[7][:50]
    (tmp_path / "cut.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"cut\.jsonl:8: not JSON") as caught:
        build(
            world,
            tmp_path / "out",
            completions=(tmp_path / "cut.jsonl",),
            beam_options=RUNNER,
        )
    assert "while running" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["cut.jsonl"]


def test_a_completion_of_another_question_is_one_message_there_too(world, tmp_path):
    line = {"problem_id": "other-0", "sample": 0, "text": "The answer is 1"}
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    with pytest.raises(
        InputError, match=r"x\.jsonl:1: answers 'other-0', .* not"
    ) as one:
        build(
            world,
            tmp_path / "out",
            completions=(tmp_path / "x.jsonl",),
            beam_options=RUNNER,
        )
    assert "while running" not in str(one.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_run_that_keeps_nothing_is_an_error_there_too(world, tmp_path):
    line = {"problem_id": "gsm8k-train-0", "sample": 0, "text": "I do not know"}
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match="none of 1 samples is kept"):
        build(
            world,
            tmp_path / "out",
            completions=(tmp_path / "x.jsonl",),
            rationales=False,
            beam_options=RUNNER,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_seqios_own_cache_holds_the_same_examples(world, tmp_path, monkeypatch):
    build(world, tmp_path / "corpus")
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", str(tmp_path / "corpus"))
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(world.vocabulary))
    words = [sys.executable, "-m", "seqio.scripts.cache_tasks_main"]
    words += [
        "--tasks=specialize_gsm8k_.*",
        "--module_import=specialize_tasks",
        "--min_shards=2",
    ]
    words += [f"--output_cache_dir={tmp_path / 'cache'}"]
    words += [f"--pipeline_options={','.join(RUNNER)}"]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]

    import seqio

    import specialize_tasks  # noqa: F401

    seqio.add_global_cache_dirs([str(tmp_path / "cache")])
    teacher = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
    lengths = {"inputs": 90, "targets": 30, **dict.fromkeys(teacher, 30)}
    mixture = seqio.get_mixture_or_task("specialize_gsm8k_four_formats")
    assert len(mixture.tasks) == 4
    for task in mixture.tasks:
        found = [
            sorted(
                task.get_dataset(
                    lengths, "train", shuffle=False, use_cached=cached
                ).as_numpy_iterator(),
                key=lambda example: example["record_id"],
            )
            for cached in (False, True)
        ]
        assert len(found[0]) == len(found[1]) > 0
        for plain, cached in zip(*found, strict=True):
            assert plain.keys() == cached.keys()
            for name, value in plain.items():
                np.testing.assert_array_equal(value, cached[name])
