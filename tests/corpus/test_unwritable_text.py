"""The policies for text that the student cannot write, from files to a corpus."""

import asyncio
import json
import math
import pathlib
from typing import Any

import pytest

from specialize import cli
from specialize.corpus.building import stages
from specialize.corpus.inspection import lookup
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.records import Problem
from specialize.corpus.sampling import panel, sample
from specialize.corpus.sampling.spec import SamplingSpec
from specialize.corpus.sampling.teachers import Answer, Ask, Choice
from specialize.corpus.spec import AlignmentSpec, FolderSpec, RecordsSpec, Sources
from specialize.corpus.storage import shards
from specialize.corpus.storage.cards import read_card
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError
from specialize.evaluation.report import origins, runs

import flat  # isort: skip

RECORDS = {"demonstrations": 2, "num_shards": 1, "processes": 1, "rationales": False}
# The same answer in the words of different teachers.
TEXTS = (
    "Then 5 + 4 = 9.\nThe answer is {gold}",
    "**Then** 5 \\times 4 = 9.\n\\[ \\boxed{{{gold}}} \\] in 2 months",
    "Then {{5}} is there ☃.\nThe answer is {gold}",
)


def line(problem_id: str, sample: int, text: str) -> str:
    """One completion of one-character tokens, each with one alternative."""
    tokens = list(text)
    tops = [{token: math.log(0.75), "#": math.log(0.25)} for token in tokens]
    record: dict[str, Any] = {"problem_id": problem_id, "sample": sample, "text": text}
    record |= {"tokens": tokens, "token_logprobs": [math.log(0.75)] * len(tokens)}
    return json.dumps(record | {"top_logprobs": tops})


@pytest.fixture(scope="module")
def modern(world: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Three samples each of four questions."""
    path = tmp_path_factory.mktemp("modern") / "modern.jsonl"
    lines = [
        line(problem.id, number, text.format(gold=problem.answers[0]))
        for problem in read_problems(world.problems, "gsm8k")[:4]
        for number, text in enumerate(TEXTS)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def build(world: Any, modern: pathlib.Path, out: pathlib.Path, **options: Any) -> Any:
    options = RECORDS | {"completions": (modern,), "teacher": "modern"} | options
    return flat.build(world.problems, world.vocabulary, out, **options)


def texts(folder: pathlib.Path) -> set[str]:
    return {
        " ".join(record.targets.split()[:3])
        for record in shards.read_shards(folder, formats=["zero_shot_cot"])
    }


def test_by_default_text_is_rewritten_and_counted(world, modern, tmp_path):
    manifest = build(world, modern, tmp_path / "c")
    assert manifest.fingerprint.spelling == {"unwritable": "rewrite", "table": 1}
    assert texts(tmp_path / "c") == {"Then 5 +", "Then 5 x", "Then (5) is"}
    funnel = Funnel.from_json(manifest.funnel, "here")
    assert (funnel.right, funnel.verified, funnel.kept) == (12, 12, 12)
    spelling = manifest.funnel["spelling"]
    assert (spelling["samples"], spelling["rewritten_samples"]) == (8, 8)
    assert spelling["lost"] == {"☃": 4} and spelling["lost_samples"] == 4
    assert spelling["characters"]["\\"] == 16
    assert spelling["rewritten"]["**"] == 8 and spelling["rewritten"]["\\times"] == 4
    assert (spelling["newlines"], spelling["newline_samples"]) == (12, 12)
    assert 0 < spelling["soft_number_pieces"] <= spelling["number_pieces"]


def test_samples_with_unwritable_text_can_be_dropped(world, modern, tmp_path):
    manifest = build(world, modern, tmp_path / "c", unwritable="drop")
    assert manifest.fingerprint.spelling == {"unwritable": "drop"}
    assert texts(tmp_path / "c") == {"Then 5 +"}
    assert manifest.funnel["rejected"] == {"unwritable": 8}
    assert manifest.funnel["verified"] == 4
    assert Funnel.from_json(manifest.funnel, "here").right == 12


def test_kept_text_must_still_be_right_as_the_student_spells_it(
    world, modern, tmp_path
):
    manifest = build(world, modern, tmp_path / "c", unwritable="keep")
    # As in version 0.1, so that such corpora still fit.
    assert manifest.fingerprint.spelling == {}
    assert "spelling" not in manifest.fingerprint.to_json()
    # Without its box, the last number of the second text is 2.
    answers = {p.id: p.answers[0] for p in read_problems(world.problems, "gsm8k")[:4]}
    lost = sum(answer != "2" for answer in answers.values())
    assert manifest.funnel["rejected"] == {"not_right_as_spelt": lost}
    assert "Then {5} is" in texts(tmp_path / "c")
    assert manifest.funnel["spelling"]["lost"]["{"] >= 4


def test_the_stages_reject_and_count_as_build_does(world, modern, tmp_path):
    for policy in ("rewrite", "drop", "keep"):
        folder = tmp_path / policy
        folder.mkdir()
        built = build(world, modern, folder / "built", unwritable=policy)
        spec = AlignmentSpec(world.vocabulary, unwritable=policy)
        sources = Sources(world.problems, (modern,), teacher="modern")
        for early in (None, spec):
            right, aligned = folder / "right.jsonl", folder / "aligned.jsonl"
            stages.verify(sources, right, alignment=early, processes=1)
            staged = Sources(world.problems, (right,), rationales=False)
            stages.align(staged, spec, aligned, processes=1)
            written = stages.write(
                Sources(world.problems, (aligned,), rationales=False),
                spec,
                FolderSpec(folder / f"staged-{early is None}", num_shards=1),
                records=RecordsSpec(demonstrations=2),
                processes=1,
            )
            assert written.fingerprint == built.fingerprint
            assert written.formats == built.formats
            for name in ("read", "kept", "rejected", "spelling"):
                assert written.funnel.get(name) == built.funnel.get(name), name
            assert written.funnel["verified"] == built.funnel["verified"]


def test_a_stage_with_another_spelling_is_refused(world, modern, tmp_path):
    spec = AlignmentSpec(world.vocabulary)
    other = AlignmentSpec(world.vocabulary, unwritable="keep")
    sources = Sources(world.problems, (modern,), teacher="modern")
    right, aligned = tmp_path / "right.jsonl", tmp_path / "aligned.jsonl"
    stages.verify(sources, right, alignment=spec, processes=1)
    staged = Sources(world.problems, (right,))
    with pytest.raises(InputError, match="verified with other settings: the spelling"):
        stages.align(staged, other, aligned, processes=1)
    assert not aligned.exists()
    stages.align(staged, spec, aligned, processes=1)
    with pytest.raises(InputError, match="unwritable is 'rewrite', now 'keep'"):
        stages.write(
            Sources(world.problems, (aligned,)), other, FolderSpec(tmp_path / "c")
        )


def test_aligned_samples_of_0_1_are_written_as_they_are(world, modern, tmp_path):
    spec = AlignmentSpec(world.vocabulary, unwritable="keep")
    aligned = tmp_path / "aligned.jsonl"
    sources = Sources(world.problems, (modern,), rationales=False)
    stages.align(sources, spec, aligned, processes=1)
    card = tmp_path / "aligned.jsonl.card.json"
    value = json.loads(card.read_text())
    for name in ("unwritable", "digits"):
        del value["alignment"][name]
    card.write_text(json.dumps(value))
    manifest = stages.write(
        Sources(world.problems, (aligned,), rationales=False),
        AlignmentSpec(world.vocabulary),  # the default is to rewrite
        FolderSpec(tmp_path / "c", num_shards=1),
        records=RecordsSpec(demonstrations=2),
        processes=1,
    )
    assert manifest.fingerprint.spelling == {}
    assert "Then {5} is" in texts(tmp_path / "c")


def test_an_answer_that_the_student_cannot_spell_is_not_taught(world, tmp_path):
    problems, out = tmp_path / "p.jsonl", tmp_path / "c"
    golds = [["5 { 4"], ["5 + 4"], ["5 < 4", "4 + 5"]]
    rows = [{"q": f"Close {n}.", "a": gold} for n, gold in enumerate(golds)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "close",
        "files": {"train": "p.jsonl"},
        "fields": {"question": "q", "answer": "a"},
        "answer": {"type": "text"},
    }
    done = tmp_path / "done.jsonl"
    asked = Sources(problems, task=task).read()
    lines = [
        line(p.id, 0, f"The answer is {g[-1]}")
        for p, g in zip(asked, golds, strict=True)
    ]
    done.write_text("\n".join(lines))
    manifest = flat.build(
        problems,
        world.vocabulary,
        out,
        task=task,
        completions=(done,),
        formats=["zero_shot_cot", "zero_shot_answer_only"],
        **RECORDS,
    )
    assert manifest.counts() == {"zero_shot_cot": 2, "zero_shot_answer_only": 1}
    assert manifest.funnel["rejected"] == {"not_right_as_spelt": 1}
    # The third question's sample has its second answer; its first cannot be written.
    dropped = {"zero_shot_answer_only": {"not_right_as_spelt": 1}}
    assert manifest.funnel["dropped"] == dropped
    found = sorted(record.targets for record in shards.read_shards(out))
    assert found == ["The answer is 4 + 5", *["The answer is 5 + 4"] * 2]


def test_digits_are_spelled_singly_in_targets_alone(world, modern, tmp_path):
    manifest = build(world, modern, tmp_path / "c", digits="single")
    assert manifest.fingerprint.spelling["digits"] == "single"
    shown = lookup.look_at_record(tmp_path / "c", world.vocabulary)
    pieces = [p.piece for group in shown.groups for p in group.positions]
    assert all(sum(map(str.isdigit, piece)) < 2 for piece in pieces)


def test_a_rewritten_record_is_shown_beside_the_teachers_tokens(
    world, modern, tmp_path
):
    build(world, modern, tmp_path / "c")
    problems = read_problems(world.problems, "gsm8k")
    identity = f"{problems[0].id}/1/zero_shot_cot"
    shown = lookup.look_at_record(
        tmp_path / "c",
        world.vocabulary,
        identity=identity,
        completions=(modern,),
        problems=problems,
    )
    sampled = "".join(token.text for group in shown.groups for token in group.tokens)
    assert sampled.startswith("**Then**␣5␣\\times")
    assert shown.targets.startswith("Then 5 x 4 = 9.")
    again = lookup.look_at_completion(
        (modern,), problems, AlignmentSpec(world.vocabulary), f"{problems[0].id}/1"
    )
    assert again.targets.startswith("Then 5 x 4 = 9.")


def test_the_table_of_the_funnel_and_the_report_say_it(world, modern, tmp_path):
    manifest = build(world, modern, tmp_path / "c")
    funnel = Funnel.from_json(manifest.funnel, "here")
    cells = list(funnel.table().columns[0].cells)
    assert cells[1] == "right" and "with <unk> for the student" in cells
    caption = str(funnel.table().caption)
    assert "<unk>: ☃ 4" in caption and "\\times 4" in caption and "\\[ 4" in caption
    card = (tmp_path / "c" / "README.md").read_text()
    assert "spelling: lost: ☃" in card and "unwritable: rewrite" in card
    run = runs.Run.__new__(runs.Run)
    read = runs.Funnel(spelling=SpellingCounts(lost={"☃": 4}, lost_samples=4))
    object.__setattr__(run, "corpora", {"c": runs.Corpus(funnel=read)})
    ((_, _, rows),) = origins.funnel([run]).tables
    assert ("characters made <unk>", "☃ 4") in rows


class Chatty:
    """A teacher that answers rightly, in a box and before another number."""

    name = "chatty"

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.name}

    async def ask(self, ask: Ask) -> Answer:
        text = "\\boxed{%s}\nThat took 3 steps ☃"
        number = ask.prompt.rpartition("is ")[2].partition("?")[0]
        choices = [
            Choice(index, text % number, None, "stop") for index in range(ask.count)
        ]
        raw = [{"index": n, "text": one.text} for n, one in enumerate(choices)]
        return Answer(choices, json.dumps({"choices": raw}).encode(), 1, 1, 0.1)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("policy", [None, "rewrite", "keep"])
def test_sampling_judges_as_the_student_spells(world, tmp_path, policy):
    problems = [Problem(f"p-{n}", f"What is {n}?", (str(n),)) for n in (5, 7)]
    student = policy and AlignmentSpec(world.vocabulary, unwritable=policy)
    asked = SamplingSpec(samples=1, samples_per_request=1, student=student or None)
    store = tmp_path / "r.sqlite"
    tally = asyncio.run(sample.run(problems, Chatty(), store, asked))
    assert tally.done == 2
    line = panel.line(tally)
    if policy is None:
        assert tally.right == 2 and "unwritable" not in line
    elif policy == "rewrite":
        assert (tally.right, tally.misspelt) == (0, 2)
        assert "2 right ones are not right as the student spells them" in line
        assert "2 with <unk> for: ☃ 2" in line and "2 newlines made spaces" in line
    else:
        assert "☃ 2" in line and "\\ 2" in line


def test_the_commands_take_the_policy(world, modern, tmp_path, capsys):
    common = ["--problems", str(world.problems), "--completions", str(modern)]
    common += ["--vocabulary", str(world.vocabulary), "--processes", "1"]
    build_it = ["corpus", "build", *common, "--no_rationales", "--demonstrations", "2"]
    out = tmp_path / "c"
    assert cli.main([*build_it, "--out", str(out), "--unwritable", "drop"]) == 0
    assert "has characters that the student cannot write" in capsys.readouterr().err
    right = tmp_path / "right.jsonl"
    verify = ["corpus", "verify", *common, "--out", str(right)]
    assert cli.main([*verify, "--unwritable", "keep"]) == 0
    card = read_card(right)
    assert card is not None and card.spelling["unwritable"] == "keep"
    assert cli.main([*build_it, "--out", str(out), "--unwritable", "hide"]) == 2
