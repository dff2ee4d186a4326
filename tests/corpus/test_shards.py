"""Corpus folders: whole or absent, equal for equal records, refused when unfit."""

import dataclasses
import gzip
import itertools
import json
import pathlib
import random
from collections.abc import Iterator

import least
import numpy as np
import pytest

from specialize import outputs
from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.choices import FORMATS
from specialize.corpus.records import FORMAT_IDS, Fingerprint
from specialize.corpus.storage import shards, tfrecord
from specialize.corpus.storage.manifest import Manifest
from specialize.errors import InputError

K = 3
FINGERPRINT = Fingerprint(
    vocabulary_sha256="0123",
    vocabulary_rows=32128,
    k=K,
    teacher="code-davinci-002",
    alignment="bytes",
    sampling={"temperature": 0.5},
    demonstrations={"count": 4, "seed": 0},
)


def record(number: int, format: str = "zero_shot_cot") -> DistillRecord:
    rng = np.random.default_rng([number, FORMATS.index(format)])
    length = int(rng.integers(2, 9))
    probs = rng.dirichlet(np.ones(K + 1), size=length)
    probs[-1] = [1, 0, 0, 0]
    probs[0] = [0.5, 0.25, 0, 0.25]
    with np.errstate(divide="ignore"):
        logprobs = np.log(probs[:, :K]).astype(np.float32)
    ids = rng.integers(3, 32000, (length, K)).astype(np.int32)
    ids[probs[:, :K] == 0] = 0
    origin = np.zeros(length, np.int32)
    origin[-1] = 2
    target = np.append(ids[:-1, 0], 1).astype(np.int32)
    ids[-1] = [1, 0, 0]
    return DistillRecord(
        id=f"gsm8k-train-{number}/0/{format}",
        format=format,
        inputs=f"Q: {number} clips é? A:",
        targets=f"The answer is\n{number}",
        input_ids=rng.integers(3, 32100, 20).astype(np.int32),
        target=AlignedTarget(
            target, ids, logprobs, probs[:, K].astype(np.float32), origin
        ),
    )


def records(count: int = 40) -> list[DistillRecord]:
    return [record(n, name) for n in range(count) for name in FORMATS]


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_records_come_back_with_ids_exact_and_probabilities_to_16_bits(
    tmp_path: pathlib.Path,
) -> None:
    written = shards.write_shards(records(), tmp_path / "c", FINGERPRINT, num_shards=3)
    assert written.counts() == dict.fromkeys(FORMATS, 40)
    assert Manifest.load(tmp_path / "c") == written
    back = {r.id: r for r in shards.read_shards(tmp_path / "c", k=K)}
    assert len(back) == 160
    for mine in records():
        other = back[mine.id]
        assert (mine.format, mine.inputs, mine.targets) == (
            other.format,
            other.inputs,
            other.targets,
        )
        np.testing.assert_array_equal(mine.input_ids, other.input_ids)
        for name in ("ids", "teacher_ids", "origin"):
            np.testing.assert_array_equal(
                getattr(mine.target, name), getattr(other.target, name)
            )
        np.testing.assert_array_equal(
            mine.target.teacher_logprobs.astype(np.float16),
            other.target.teacher_logprobs,
        )
        np.testing.assert_array_equal(
            mine.target.tail.astype(np.float16), other.target.tail
        )
        probs, tail = shards.normalise_rows(
            other.target.teacher_logprobs, other.target.tail
        )
        np.testing.assert_allclose(probs.sum(axis=1) + tail, 1.0, atol=1e-6)
        np.testing.assert_allclose(
            probs, np.exp(mine.target.teacher_logprobs), atol=2e-3
        )


def test_tensorflow_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: pathlib.Path,
) -> None:
    tf = pytest.importorskip("tensorflow")
    shards.write_shards(records(10), tmp_path / "c", FINGERPRINT, num_shards=2)
    back = {r.id: r for r in shards.read_shards(tmp_path / "c")}
    for name in FORMATS:
        paths = shards.shard_paths(tmp_path / "c", name)
        dataset = tf.data.TFRecordDataset(paths, compression_type="GZIP")
        parsed = list(
            dataset.map(lambda x: shards.parse_example(x, k=K)).as_numpy_iterator()
        )
        assert len(parsed) == 10
        for element in parsed:
            mine = back[element["id"].decode()]
            probs, tail = shards.normalise_rows(
                mine.target.teacher_logprobs, mine.target.tail
            )
            assert element["inputs"].decode() == mine.inputs
            assert element["targets"].decode() == mine.targets
            assert element["format_id"] == FORMAT_IDS[name]
            for key, value in (
                ("input_ids", mine.input_ids),
                ("target_ids", mine.target.ids),
                ("teacher_ids", mine.target.teacher_ids),
                ("origin", mine.target.origin),
            ):
                assert element[key].dtype == np.int32
                np.testing.assert_array_equal(element[key], value)
            assert element["teacher_probs"].dtype == np.float32
            np.testing.assert_allclose(element["teacher_probs"], probs, rtol=1e-6)
            np.testing.assert_allclose(element["teacher_tail"], tail, rtol=1e-6)
            total = element["teacher_probs"].sum(axis=1) + element["teacher_tail"]
            np.testing.assert_allclose(total, 1.0, atol=1e-6)
    path = str(tmp_path / "theirs.gz")
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    example = tf.train.Example()
    example.features.feature["name"].bytes_list.value.append(b"text")
    example.features.feature["number"].int64_list.value.append(-5)
    with tf.io.TFRecordWriter(path, options) as writer:
        writer.write(example.SerializeToString())
    with open(path, "rb") as stream:
        (data,) = tfrecord.read_frames(stream)
    assert tfrecord.decode_example(data) == {"name": b"text", "number": -5}


def test_a_target_token_costs_4k_plus_2_bytes_of_teacher() -> None:
    mine = record(1)
    features = tfrecord.decode_example(shards.encode_record(mine, FINGERPRINT))
    teacher = sum(
        len(features[name])
        for name in ("teacher_ids", "teacher_logprobs", "teacher_tail")
    )
    assert teacher == (4 * K + 2) * len(mine.target.ids)


def test_equal_records_give_equal_files_whoever_made_the_blocks(
    tmp_path: pathlib.Path,
) -> None:
    mine = records()
    shards.write_shards(mine, tmp_path / "a", FINGERPRINT, num_shards=4)
    shards.write_shards(iter(mine), tmp_path / "b", FINGERPRINT, num_shards=4)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    blocks = [
        shards.encode_block(mine[begin : begin + 32], FINGERPRINT, num_shards=4)
        for begin in range(0, len(mine), 32)
    ]
    shards.write_shards(blocks, tmp_path / "c", FINGERPRINT, num_shards=4)
    shards.write_shards(blocks, tmp_path / "d", FINGERPRINT, num_shards=4)
    assert files(tmp_path / "c") == files(tmp_path / "d")
    in_order = [r.id for r in shards.read_shards(tmp_path / "a")]
    assert in_order == [r.id for r in shards.read_shards(tmp_path / "c")]
    # The order of a shard is the order of arrival.
    for shard in Manifest.load(tmp_path / "a").shards:
        data = gzip.decompress((tmp_path / "a" / shard.file).read_bytes())
        assert len(data) > 0
        assert shard.bytes == (tmp_path / "a" / shard.file).stat().st_size


def test_the_manifest_summarises_each_format(tmp_path: pathlib.Path) -> None:
    mine = [record(n) for n in range(30)]
    written = shards.write_shards(
        mine, tmp_path / "c", FINGERPRINT, funnel=lambda: {"read": 31, "kept": 30}
    )
    summary = written.formats["zero_shot_cot"]
    lengths = sorted(len(r.target.ids) for r in mine)
    assert list(written.formats) == ["zero_shot_cot"]
    assert summary.records == 30
    assert summary.targets.max == lengths[-1]
    assert summary.targets.mean == round(sum(lengths) / 30, 2)
    assert summary.targets.median == lengths[14]
    assert summary.inputs.mean == 20
    assert summary.origins == {"soft": sum(lengths) - 30, "eos": 30}
    assert summary.soft_share == 1.0
    soft = np.concatenate([r.target.tail[:-1] for r in mine])
    assert summary.kept_mass == pytest.approx(1 - soft.mean(), abs=1e-6)
    own = [np.exp(r.target.teacher_logprobs[:-1, 0]) for r in mine]
    assert summary.sampled_mass == pytest.approx(np.concatenate(own).mean(), abs=1e-6)
    assert written.funnel == {"read": 31, "kept": 30}
    with pytest.raises(InputError, match=r"no 'in_context_cot' records.*zero_shot_cot"):
        written.shards_of("in_context_cot")


def test_the_dataset_card_names_origin_terms_funnel_and_layout(
    tmp_path: pathlib.Path,
) -> None:
    card = {
        "licences": {"gsm8k": "MIT (openai/grade-school-math)"},
        "sources": [{"file": "train.jsonl", "bytes": 12345, "sha256": "ab" * 32}],
    }
    funnel = {"read": 9, "rejected": {"wrong_answer": 4}}
    shards.write_shards(
        [record(1)], tmp_path / "c", FINGERPRINT, card=card, funnel=funnel
    )
    text = (tmp_path / "c" / "README.md").read_text()
    for part in (
        "code-davinci-002",
        "temperature: 0.5",
        "MIT (openai/grade-school-math)",
        "| train.jsonl | 12,345 |",
        "| rejected: wrong answer | 4 |",
        "| zero_shot_cot | 1 |",
        "float16 [L, 3]",
        FINGERPRINT.digest(),
    ):
        assert part in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocabulary_sha256", "9999"), ("vocabulary_rows", 32000), ("k", 5)],
)
def test_a_corpus_of_another_fingerprint_is_refused_by_field(
    tmp_path: pathlib.Path, field: str, value: object
) -> None:
    shards.write_shards([record(1)], tmp_path / "c", FINGERPRINT)
    with pytest.raises(InputError, match=f"{field} is .* expected {value!r}"):
        next(shards.read_shards(tmp_path / "c", **{field: value}))


def test_a_damaged_shard_is_one_error_that_names_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    shards.write_shards(
        [record(n) for n in range(50)], folder, FINGERPRINT, num_shards=1
    )
    (shard,) = Manifest.load(folder).shards
    path = folder / shard.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(
        InputError, match=rf"{shard.file} has {len(whole) - 20:,} bytes"
    ):
        list(shards.read_shards(folder))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(
        InputError, match=rf"{shard.file} has sha256 \w+, .* says {shard.sha256}"
    ):
        list(shards.read_shards(folder))
    path.unlink()
    with pytest.raises(InputError, match=f"{shard.file} is missing"):
        list(shards.read_shards(folder))


@pytest.mark.parametrize("rows", [65_536, 65_537, 250_112, 256_384, 2**31])
def test_ids_of_any_vocabulary_come_back(tmp_path: pathlib.Path, rows: int) -> None:
    """16 bits where they suffice, as ever; 32 where they do not (mT5, umT5)."""
    tf = pytest.importorskip("tensorflow")
    fingerprint = dataclasses.replace(FINGERPRINT, vocabulary_rows=rows)
    mine = record(1)
    mine.target.teacher_ids[0, 0] = mine.target.ids[0] = rows - 1
    mine.input_ids[3] = rows - 2
    shards.write_shards([mine], tmp_path / "c", fingerprint, num_shards=1)
    (back,) = shards.read_shards(tmp_path / "c")
    (path,) = shards.shard_paths(tmp_path / "c", mine.format)
    (data,) = tf.data.TFRecordDataset(path, compression_type="GZIP")
    parsed = shards.parse_example(data, k=K)
    for found in (back.target.ids, parsed["target_ids"].numpy()):
        np.testing.assert_array_equal(found, mine.target.ids)
    for found in (back.target.teacher_ids, parsed["teacher_ids"].numpy()):
        np.testing.assert_array_equal(found, mine.target.teacher_ids)
    for found in (back.input_ids, parsed["input_ids"].numpy()):
        np.testing.assert_array_equal(found, mine.input_ids)
    stored = tfrecord.decode_example(shards.encode_record(mine, fingerprint))
    width = 2 if rows <= 65_536 else 4
    assert len(stored["target_ids"]) == width * len(mine.target.ids)
    said = (tmp_path / "c" / "README.md").read_text()
    assert f"`target_ids` | {'uint16' if width == 2 else 'int32'} [L]" in said


def test_a_vocabulary_of_more_than_31_bits_is_refused(tmp_path: pathlib.Path) -> None:
    wide = dataclasses.replace(FINGERPRINT, vocabulary_rows=2**31 + 1)
    with pytest.raises(InputError, match="2,147,483,649 rows.*2,147,483,648"):
        shards.write_shards([record(1)], tmp_path / "c", wide)


def broken(case: str) -> DistillRecord:
    mine = record(7)
    target = mine.target
    if case == "id":
        target.teacher_ids[0, 0] = 32_128
    elif case == "negative":
        mine.input_ids[0] = -1
    elif case == "mass":
        target.teacher_logprobs[0] = np.log(0.5)
    elif case == "nan":
        target.tail[1] = np.nan
    elif case == "format":
        return dataclasses.replace(mine, format="two_shot")
    elif case == "empty":
        none = AlignedTarget(*(part[:0] for part in dataclasses.astuple(target)))
        return dataclasses.replace(mine, target=none)
    return mine


@pytest.mark.parametrize("case", ["id", "negative", "mass", "nan", "format", "empty"])
def test_an_unfit_record_is_named_and_nothing_is_left_behind(
    tmp_path: pathlib.Path, case: str
) -> None:
    with pytest.raises(InputError, match="'gsm8k-train-7/0/zero_shot_cot'"):
        shards.write_shards([record(1), broken(case)], tmp_path / "c", FINGERPRINT)
    assert list(tmp_path.iterdir()) == []


def test_no_records_at_all_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no record is left"):
        shards.write_shards([], tmp_path / "c", FINGERPRINT)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_the_earlier_corpus_as_it_was(
    tmp_path: pathlib.Path,
) -> None:
    shards.write_shards([record(1)], tmp_path / "c", FINGERPRINT)
    before = files(tmp_path / "c")

    def source() -> Iterator[DistillRecord]:
        yield record(2)
        raise InputError("completions.jsonl:3: not JSON")

    with pytest.raises(InputError, match="already holds"):
        shards.write_shards([record(2)], tmp_path / "c", FINGERPRINT)
    with pytest.raises(InputError, match="not JSON"):
        shards.write_shards(source(), tmp_path / "c", FINGERPRINT, replace=True)
    assert files(tmp_path / "c") == before
    shards.write_shards([record(2)], tmp_path / "c", FINGERPRINT, replace=True)
    assert files(tmp_path / "c") != before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_ours_is_never_touched(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not written by specialize"):
        shards.write_shards([record(1)], tmp_path, FINGERPRINT, replace=True)
    with pytest.raises(InputError, match="not written by specialize"):
        shards.check_output(tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"years of work"}
    outputs.claim(tmp_path / "run", "run")
    with pytest.raises(InputError, match="holds a run of specialize, not a corpus"):
        shards.check_output(tmp_path / "run", replace=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a corpus"),
        ("{", "corpus.json: not JSON"),
        ("[]", "expected an object, found a list"),
        ('{"version": 99}', "version 99; .* reads version 1"),
        ('{"version": 1}', "the key 'fingerprint' is missing"),
    ],
)
def test_a_folder_without_a_sound_manifest_is_refused(
    tmp_path: pathlib.Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Manifest.load(tmp_path)


def test_a_fingerprint_with_unknown_fields_is_refused(tmp_path: pathlib.Path) -> None:
    shards.write_shards([record(1)], tmp_path / "c", FINGERPRINT)
    path = tmp_path / "c" / "corpus.json"
    value = json.loads(path.read_text())
    value["fingerprint"]["colour"] = "red"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="unknown.*colour"):
        Manifest.load(tmp_path / "c")


def test_writing_takes_no_more_memory_for_more_records(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_BLOCK_RECORDS", 8)
    rng = random.Random(0)
    mine = record(1)

    def many(count: int) -> Iterator[DistillRecord]:
        for number in range(count):
            noise = rng.randbytes(5_000).hex()
            yield dataclasses.replace(mine, id=str(number), inputs=noise)

    folders = itertools.count()

    def write(count: int) -> None:
        folder = tmp_path / str(next(folders))
        shards.write_shards(many(count), folder, FINGERPRINT)

    few, more = (least.memory(lambda n=n: write(n), times=2) for n in (30, 120))
    assert more < 1.2 * few
