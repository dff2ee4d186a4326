"""The released pickles become records, and nothing in a pickle is ever run."""

import collections
import copyreg
import json
import os
import pickle

import numpy as np
import pytest

from specialize.corpus.alignment.aligning import align
from specialize.corpus.alignment.rows import SOFT, UNMATCHED
from specialize.corpus.building import safe_pickle
from specialize.corpus.building.released import import_released, query_of
from specialize.corpus.completions import read_completions
from specialize.corpus.spec import AlignmentSpec, FolderSpec
from specialize.corpus.storage import shards
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

QUESTION = "Ann has 3 eggs. Ann buys 4 more. How many eggs does Ann have?"


class Runs:
    """Pickles as a call of something."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def vocabulary(world):
    return Vocabulary(world.vocabulary)


def entries(vocabulary, *, label=1):
    """One entry of each format, as the release has them."""
    answer = "There are 3 + 4 = 7.\nThe answer is 7"
    ids = vocabulary.encode(answer)
    steps = [{vocabulary.piece(index): 1.0} for index in ids]
    other = next(i for i in range(10, 40) if i != ids[2])
    steps[2] = collections.OrderedDict(
        [(vocabulary.piece(ids[2]), 0.6), (vocabulary.piece(other), 0.3), ("no!", 0.05)]
    )
    shots = "Q: One?\nLet's think step by step\nIt is 1.\nThe answer is 1\n\n" * 4
    shared = {"answer_gold": "Answer: ...\n#### 7\n", "answer_label": label}
    cot = {"answer": answer, "per_step_probs": steps} | shared
    plain = {"answer": "The answer is 7\n"} | shared
    query = f"Q: {QUESTION}"
    hint = "\nLet's think step by step"
    texts = {
        "in_context_chain_of_thought": (shots + query + hint + "\n", cot),
        "zero_shot_chain_of_thought": (query + hint, cot),
        "in_context_answer_only": (
            "Q: One?\nA: The answer is 1\n\n" * 4 + query + "\nA:",
            plain,
        ),
        "zero_shot_answer_only": (query + " A:", plain),
    }
    return [
        {"question": text, "type": kind} | rest for kind, (text, rest) in texts.items()
    ]


def dumped(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_each_format_becomes_its_records(world, vocabulary, tmp_path, protocol):
    made = entries(vocabulary)
    paths = [
        dumped(tmp_path / f"{entry['type']}.pkl", [entry, entry], protocol)
        for entry in made
    ]
    manifest = import_released(
        paths,
        AlignmentSpec(world.vocabulary),
        FolderSpec(tmp_path / "corpus", num_shards=1),
        processes=1,
    )
    assert set(manifest.counts().values()) == {2}
    assert manifest.fingerprint.alignment == "dtw"
    assert (manifest.funnel["read"], manifest.funnel["kept"]) == (8, 8)
    assert manifest.funnel["questions"] == manifest.funnel["solved"] == 1
    records = {r.id: r for r in shards.read_shards(tmp_path / "corpus")}
    assert len(records) == 8
    for record in records.values():
        assert record.inputs.endswith(("step by step", "A:"))
        assert QUESTION in record.inputs
        encoded = vocabulary.encode(record.targets)
        assert record.target.ids.tolist() == [*encoded, vocabulary.eos_id]
        assert record.targets.endswith("The answer is 7")
    target = records["released-0/1/zero_shot_cot"].target
    assert target.origin[2] == SOFT
    assert target.origin[1] == UNMATCHED
    np.testing.assert_allclose(np.exp(target.teacher_logprobs[2, :2]), [0.6, 0.3], 1e-3)
    assert target.tail[2] == pytest.approx(0.1, abs=1e-3), "the unknown piece's mass"


def test_records_carry_the_problems_ids(world, vocabulary, tmp_path):
    problem = read_problems(world.problems, "gsm8k")[3]
    entry = entries(vocabulary)[1]
    entry["question"] = entry["question"].replace(QUESTION, problem.question)
    import_released(
        [dumped(tmp_path / "x.pkl", [entry])],
        AlignmentSpec(world.vocabulary),
        FolderSpec(tmp_path / "corpus"),
        problems=read_problems(world.problems, "gsm8k"),
        processes=1,
    )
    (record,) = shards.read_shards(tmp_path / "corpus")
    assert record.id == f"{problem.id}/0/zero_shot_cot"


@pytest.mark.parametrize("index", range(4))
def test_the_query_is_found_behind_its_demonstrations(vocabulary, index):
    assert query_of(entries(vocabulary)[index]["question"]) == QUESTION


def test_wrong_and_unaligned_entries_are_counted(world, vocabulary, tmp_path):
    good, wrong, short = (entries(vocabulary)[1] for _ in range(3))
    wrong["answer_label"] = 0
    short["per_step_probs"] = short["per_step_probs"][:-1]
    manifest = import_released(
        [dumped(tmp_path / "x.pkl", [good, wrong, short])],
        AlignmentSpec(world.vocabulary),
        FolderSpec(tmp_path / "corpus"),
        processes=1,
    )
    assert manifest.funnel["rejected"] == {"wrong_answer": 1, "unaligned": 1}
    assert manifest.funnel["verified"] == 2


def spoilt(vocabulary, change):
    entry = entries(vocabulary)[1]
    change(entry)
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("question"), "x.pkl#1: 'question' is missing"),
        (lambda e: e.update(type="cot"), "x.pkl#1: 'type' is 'cot'"),
        (lambda e: e.pop("per_step_probs"), "'per_step_probs' is NoneType"),
        (lambda e: e["per_step_probs"][3].update(a=float("nan")), "position 3.* nan"),
        (lambda e: e["per_step_probs"][3].update(a=0.7), "sum to 1.7"),
        (lambda e: e["per_step_probs"][3].update(a="1"), "probability '1'"),
        (
            lambda e: e["per_step_probs"].__setitem__(2, {}),
            "position 2: .* found an empty dict",
        ),
    ],
)
def test_an_entry_of_another_layout_stops_the_import(
    world, vocabulary, tmp_path, change, message
):
    path = dumped(
        tmp_path / "x.pkl", [entries(vocabulary)[1], spoilt(vocabulary, change)]
    )
    with pytest.raises(InputError, match=message):
        import_released(
            [path],
            AlignmentSpec(world.vocabulary),
            FolderSpec(tmp_path / "corpus"),
            processes=1,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.system, "touch {marker}"), "posix.system"),
        (Runs(eval, "open('{marker}', 'w')"), "builtins.eval"),
        (Runs(open, "{marker}", "w"), "io.open"),
        (Runs(getattr, {}, "clear"), "builtins.getattr"),
        (Runs(bytearray, 1 << 40), "builtins.bytearray"),
        (np.float32(0.5), "numpy"),
        (collections.Counter("a"), "collections.Counter"),
        ([{"question": collections.deque()}], "collections.deque"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_but_plain_data_is_refused_by_name_and_not_run(
    tmp_path, value, name, protocol
):
    marker = tmp_path / "ran"
    data = pickle.dumps(value, protocol)
    if isinstance(value, Runs):
        function, arguments = value.call
        filled = [
            a.format(marker=marker) if isinstance(a, str) else a for a in arguments
        ]
        data = pickle.dumps(Runs(function, *filled), protocol)
    (tmp_path / "x.pkl").write_bytes(data)
    short = name.rpartition(".")[2]
    with pytest.raises(InputError, match=rf"refused: it names .*{short}"):
        safe_pickle.load(tmp_path / "x.pkl")
    assert not marker.exists()


def test_references_and_extension_codes_are_refused(tmp_path):
    class Outside(pickle.Pickler):
        def persistent_id(self, obj):
            return "elsewhere" if obj == "x" else None

    with open(tmp_path / "persistent.pkl", "wb") as file:
        Outside(file).dump(["x"])
    with pytest.raises(InputError, match="outside the file"):
        safe_pickle.load(tmp_path / "persistent.pkl")
    copyreg.add_extension("posix", "system", 240)
    try:
        dumped(tmp_path / "extension.pkl", os.system, 2)
        with pytest.raises(InputError, match="system"):
            safe_pickle.load(tmp_path / "extension.pkl")
    finally:
        copyreg.remove_extension("posix", "system", 240)


def test_plain_containers_come_through(tmp_path):
    value = [
        {"a": (1, 2.5, None, True), "b": {1, 2}, "c": frozenset("x")},
        collections.OrderedDict(x=1),
    ]
    for protocol in range(6):
        assert safe_pickle.load(dumped(tmp_path / "x.pkl", value, protocol)) == value


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"hello", b"\x80\x04]q\x00("])
def test_a_damaged_pickle_is_one_message(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match="not a readable pickle"):
        safe_pickle.load(tmp_path / "x.pkl")


def test_the_golden_release_is_what_our_dtw_gives(shared_data, tmp_path):
    golden = json.loads(
        (shared_data / "codex" / "aligned_q0_sample0_codex_to_t5.json").read_text()
    )
    problems = read_problems(shared_data / "gsm8k" / "train.jsonl", "gsm8k")[:1]
    dump = shared_data / "codex" / "codex_raw_q0_50samples.json"
    sample = next(iter(read_completions(dump, problems))).completion
    entry = {
        "question": f"Q: {problems[0].question}\nLet's think step by step",
        "answer": sample.text,
        "answer_gold": "#### 72",
        "answer_label": 1,
        "type": "zero_shot_chain_of_thought",
        "per_step_probs": [dict(step) for step in golden["t5_per_step_probs"]],
    }
    path = shared_data / "t5" / "spiece.model"
    import_released(
        [dumped(tmp_path / "x.pkl", [entry])],
        AlignmentSpec(path),
        FolderSpec(tmp_path / "corpus"),
        problems=problems,
        processes=1,
    )
    (record,) = shards.read_shards(tmp_path / "corpus")
    ours = align(sample.tokens, sample.text, Vocabulary(path), method="dtw", k=5)
    np.testing.assert_array_equal(record.target.ids, ours.ids)
    np.testing.assert_array_equal(record.target.origin, ours.origin)
    np.testing.assert_allclose(
        np.exp(record.target.teacher_logprobs),
        np.exp(ours.teacher_logprobs),
        atol=5e-4,
    )
    np.testing.assert_allclose(record.target.tail, ours.tail, atol=5e-4)
