"""Files that a corpus is made from or made of: what is refused, and with what words."""

import json
import os
import pathlib
import pickle
import shutil

import pytest

from specialize.corpus.building import passes, pipeline, stages
from specialize.corpus.building.released import import_released
from specialize.corpus.inspection import lookup, view
from specialize.corpus.lines import read_lines
from specialize.corpus.spec import AlignmentSpec, FolderSpec, RecordsSpec, Sources
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.tasks.known import index, licence_of, read_problems, shipped
from specialize.errors import InputError


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """One of each file: completions, aligned samples, card, corpus."""
    root = tmp_path_factory.mktemp("made")
    sources = Sources(world.problems, [world.completions], teacher="t")
    alignment = AlignmentSpec(world.vocabulary)
    stages.verify(sources, root / "v.jsonl", processes=1)
    stages.align(
        Sources(world.problems, [root / "v.jsonl"]),
        alignment,
        root / "a.jsonl",
        processes=1,
    )
    pipeline.build(
        sources,
        alignment,
        FolderSpec(root / "c", 1),
        records=RecordsSpec(("zero_shot_cot",)),
        processes=1,
    )
    return root


BENCHMARK_TEXTS = {
    "gsm8k": json.dumps({"question": "Q 1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}),
    "svamp": json.dumps([{"ID": "a", "Body": "B", "Question": "Q?", "Answer": 3.0}]),
    "multiarith": json.dumps([{"iIndex": 1, "sQuestion": "Q", "lSolutions": [4.0]}]),
    "bbh": json.dumps({"examples": [{"input": "Q", "target": "A", "id": 3}]}),
}


def test_a_line_of_an_aligned_file_with_another_text_is_refused(world, made, tmp_path):
    lines = (made / "a.jsonl").read_text().splitlines()
    card = (made / f"a.jsonl{cards.SUFFIX}").read_text()
    (tmp_path / f"a.jsonl{cards.SUFFIX}").write_text(card)
    first = json.loads(lines[0])
    for text in ("The answer is 9", first["text"] + " 1", first["text"][:-1], ""):
        changed = json.dumps(first | {"text": text})
        (tmp_path / "a.jsonl").write_text("\n".join([changed, *lines[1:]]))
        with pytest.raises(InputError, match=r"a\.jsonl:1: its 'ids' are not those"):
            stages.write(
                Sources(world.problems, [tmp_path / "a.jsonl"]),
                AlignmentSpec(world.vocabulary),
                FolderSpec(tmp_path / "out"),
                processes=1,
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["append", "cut", "replace", "empty"])
def test_a_file_that_changes_between_the_passes_is_refused(
    world, tmp_path, monkeypatch, change
):
    file = tmp_path / "c.jsonl"
    lines = world.completions.read_text().splitlines(keepends=True)
    file.write_text("".join(lines))
    real = passes.verify_all

    def verify_all(*arguments, **options):
        found = real(*arguments, **options)
        more = json.dumps(json.loads(lines[-1]) | {"sample": 100}) + "\n"
        later = {
            "append": [*lines, more],
            "cut": lines[:-1],
            "replace": [*lines[1:], lines[0]],
            "empty": [],
        }
        file.write_text("".join(later[change]))
        return found

    monkeypatch.setattr(pipeline, "verify_all", verify_all)
    with pytest.raises(InputError, match=r"changed while it was read|is empty"):
        pipeline.build(
            Sources(world.problems, [file], teacher="t"),
            AlignmentSpec(world.vocabulary),
            FolderSpec(tmp_path / "out"),
            processes=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".", "..", "x\0", "c/../x"]
)
def test_a_shard_outside_its_corpus_is_refused(made, tmp_path, name):
    shutil.copytree(made / "c", tmp_path / "c")
    path = tmp_path / "c" / "corpus.json"
    value = json.loads(path.read_text())
    value["shards"][0]["file"] = name
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"shard"):
        shards.open_corpus(tmp_path / "c")


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_bit_of_a_shard_is_noticed_by_whatever_reads_the_corpus(
    made, world, tmp_path, place
):
    shutil.copytree(made / "c", tmp_path / "c")
    (shard,) = Manifest.load(tmp_path / "c").shards
    path = tmp_path / "c" / shard.file
    data = bytearray(path.read_bytes())
    data[{"first": 20, "middle": len(data) // 2, "last": len(data) - 1}[place]] ^= 1
    path.write_bytes(data)
    for read in (
        lambda: lookup.look_at_record(tmp_path / "c", world.vocabulary),
        lambda: lookup.summary(tmp_path / "c"),
        lambda: shards.shard_paths(tmp_path / "c", "zero_shot_cot"),
        lambda: next(shards.read_shards(tmp_path / "c")),
    ):
        with pytest.raises(InputError, match=f"{shard.file} has sha256"):
            read()


def test_a_refused_pickle_is_a_short_message_whatever_it_holds(world, tmp_path):
    nested: list = [0]
    for _ in range(60):
        nested = [nested, nested]
    text = "The answer is 5"
    entry = {"question": "q", "answer": text, "type": "zero_shot_chain_of_thought"}
    length = len(AlignmentSpec(world.vocabulary).vocabulary.read_bytes()) and 40
    for value in (
        nested,
        [nested],
        [entry | {"type": nested}],
        [entry | {"question": nested}],
        [entry | {"per_step_probs": nested}],
        [entry | {"per_step_probs": [nested] * length}],
        [entry | {"per_step_probs": [{"a": nested}] * length}],
        [{"question": "q"} | {"k" * 10_000: 1}],
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(InputError) as refusal:
            import_released(
                [tmp_path / "x.pkl"],
                AlignmentSpec(world.vocabulary),
                FolderSpec(tmp_path / "o"),
                processes=1,
            )
        assert len(str(refusal.value)) < 1500


@pytest.mark.parametrize("dataset", sorted(BENCHMARK_TEXTS))
def test_a_file_of_ones_own_has_no_licence_and_no_human_author(
    world, tmp_path, dataset
):
    own = tmp_path / "own.json"
    own.write_text(BENCHMARK_TEXTS[dataset])
    assert licence_of(shipped(dataset), own).startswith("unknown")
    card = cards.corpus_card(Sources(own, [own], dataset, "t"), rationales=False)
    assert card.licences[dataset].startswith("unknown")
    assert card.teacher == "t"


def test_the_owners_files_have_their_licence(shared_data):
    for name in index().tasks:
        task = shipped(name)
        file = shared_data / str(task.files.test).format(subtask="navigate")
        assert licence_of(task, file) == task.licence


@pytest.mark.parametrize("name", ["loop", "x" * 300, "folder", "absent", "fifo", "a\0"])
def test_an_input_that_cannot_be_read_is_one_error(world, tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError):
        list(read_lines(tmp_path / name))
    if name != "fifo":  # problems are read once, so a FIFO is welcome
        with pytest.raises(InputError):
            read_problems(tmp_path / name, "gsm8k")
    with pytest.raises(InputError):
        list(read_lines(pathlib.Path("/dev/zero")))
    with pytest.raises(InputError):  # before it is opened to make its digest
        cards.corpus_card(Sources(world.problems, [tmp_path / name], "gsm8k", "t"))


def test_no_control_character_of_a_teacher_is_shown():
    text = "".join(map(chr, (*range(32), *range(127, 160))))
    assert all(character.isprintable() for character in view.visible(text))
