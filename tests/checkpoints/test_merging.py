"""Merges: the formula, its ends bit for bit, and what is refused."""

import dataclasses
import decimal
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
from weight_cases import FAMILIES, random_weights

from specialize import cli
from specialize.checkpoints import lazy_tensors, merging, weighing
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import tokenizer_files
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.merging import merge
from specialize.checkpoints.opening import open_checkpoint
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "v0_1"
CONFIG = FAMILIES["t5_1_1"]


def read(path):
    opened = open_checkpoint(str(path), activation="gelu")
    return {name: tensor.read() for name, tensor in opened.tensors.items()}


@pytest.fixture
def pair(hf_folder, tmp_path):
    """Two checkpoints of one network: a Hugging Face folder and a T5X checkpoint."""
    first = hf_folder(CONFIG, random_weights(CONFIG, 1), name="first")
    second = hf_folder(CONFIG, random_weights(CONFIG, 2), name="second")
    convert(str(second), str(tmp_path / "t5x"), to="t5x", layers="scanned")
    return [str(first), str(tmp_path / "t5x")]


def test_a_merge_is_the_weighted_sum_of_every_tensor(family, hf_folder, tmp_path):
    seeds, weights = (1, 2, 3), (0.5, 0.75, -0.25)
    cases = [random_weights(family, seed) for seed in seeds]
    folders = [
        str(hf_folder(family, case, name=str(seed)))
        for seed, case in zip(seeds, cases, strict=True)
    ]
    merge(folders, str(tmp_path / "merged"), weights=weights)
    for name, found in read(tmp_path / "merged").items():
        parts = [case[name].astype(np.float64) for case in cases]
        expected = sum(w * part for w, part in zip(weights, parts, strict=True))
        np.testing.assert_array_equal(found, expected.astype(np.float32), err_msg=name)
    opened = open_checkpoint(str(tmp_path / "merged"))
    assert opened.config == family
    card = (tmp_path / "merged" / "README.md").read_text()
    assert f"0.75 x {folders[1]}" in card and "specialize merge" in card


@pytest.mark.parametrize("to", ["hf", "t5x", "orbax"])
def test_the_ends_are_the_inputs_bit_for_bit(pair, tmp_path, to):
    for number, source in enumerate(pair):
        weights = (1.0 - number, float(number))
        target = tmp_path / f"{to}{number}"
        done = merge(pair, str(target), weights=weights, to=to)
        assert done.fingerprint == convert(source, None).fingerprint
        expected = read(source)
        assert all(
            found.tobytes() == expected[name].tobytes()
            for name, found in read(target).items()
        )


@pytest.mark.parametrize("alpha", ["0.1", "0.3", "0.999", "1e-7"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_merged_with_itself_is_itself(hf_folder, tmp_path, alpha, dtype):
    folder = hf_folder(CONFIG)
    convert(str(folder), str(tmp_path / "one"), to="hf", dtype=dtype)
    ((_, weights),) = merging.requested(2, str(tmp_path / "two"), alpha, None)
    one = str(tmp_path / "one")
    done = merge([one, one], str(tmp_path / "two"), weights=weights)
    assert done.dtype == dtype
    assert done.fingerprint == convert(one, None).fingerprint


@pytest.mark.parametrize("shares", [(0.3, 0.7), (1.0,), (0.25, 0.25, 0.5), (1.5, -0.5)])
@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_the_mean_of_equal_tensors_is_each_of_them_bit_for_bit(shares, dtype):
    """Also of zeros, which have signs, and of the smallest and largest numbers."""
    of = ml_dtypes.finfo(dtype)
    most, least, tiny = (float(one) for one in (of.max, of.min, of.smallest_subnormal))
    numbers = [0.0, -0.0, 1.0, -3.0, most, least, tiny, -tiny]
    one = np.array([numbers] * 3).astype(dtype)
    mean = lazy_tensors.weighted_mean(shares, [from_array(one)] * len(shares))
    if shares == (1.5, -0.5):  # 1.5 * 0.0 - 0.5 * 0.0 is 0.0 for both zeros
        one[one == 0] = 0
    assert mean.read().tobytes() == one.tobytes()


def test_two_types_are_merged_in_float32(hf_folder, tmp_path):
    weights = random_weights(CONFIG)
    folder = str(hf_folder(CONFIG, weights))
    convert(folder, str(tmp_path / "half"), to="hf", dtype="bfloat16")
    done = merge([folder, str(tmp_path / "half")], str(tmp_path / "mean"))
    assert done.dtype == "float32"
    for name, found in read(tmp_path / "mean").items():
        rounded = weights[name].astype(ml_dtypes.bfloat16).astype(np.float64)
        expected = 0.5 * weights[name].astype(np.float64) + 0.5 * rounded
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("shape", [(), (7,), (10, 3), (5, 2, 4)])
@pytest.mark.parametrize("limit", [1, 40, 10**6])
def test_tensors_are_summed_in_parts(monkeypatch, shape, limit):
    monkeypatch.setattr(lazy_tensors, "CHUNK_BYTES", limit)
    rng = np.random.default_rng(0)
    one, two = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    mean = lazy_tensors.weighted_mean((0.25, 0.75), [from_array(one), from_array(two)])
    expected = 0.25 * one.astype(np.float64) + 0.75 * two.astype(np.float64)
    np.testing.assert_array_equal(mean.read(), expected.astype(np.float32))
    if shape:
        part = [slice(1, 4), *[slice(0, 2)] * (len(shape) - 1)]
        np.testing.assert_array_equal(
            mean.read(part), expected.astype(np.float32)[tuple(part)]
        )


def near_ties(dtype):
    """float64 just below, at and just above the middle of two neighbours of a type."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(2000) * 2.0 ** rng.integers(-140, 120, 2000)
    below = numbers.astype(np.float32).astype(dtype)
    below = below[below != 0]  # a zero has two signs
    above = np.nextafter(below, np.asarray(np.inf, dtype))
    assert (above > below).all()
    low, high = below.astype(np.float64), above.astype(np.float64)
    middle = (low + high) / 2
    near = np.nextafter(middle, low), middle, np.nextafter(middle, high)
    even = np.where(below.view(np.uint16) % 2, above, below)
    return near, (below, even, above)


def test_a_mean_is_rounded_once():
    near, expected = near_ties(ml_dtypes.bfloat16)
    assert (near[0].astype(ml_dtypes.bfloat16) != expected[0]).any()  # twice
    for values, right in zip(near, expected, strict=True):
        found = lazy_tensors.rounded(values, ml_dtypes.bfloat16)
        np.testing.assert_array_equal(found.view(np.uint16), right.view(np.uint16))


def test_what_is_no_number_is_rounded_too():
    values = np.array([np.nan, np.inf, -np.inf, 1e39, -1e39, 0.0, -0.0, 1e-300])
    found = lazy_tensors.rounded(values, ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        found.astype(np.float64), [np.nan, *2 * [np.inf, -np.inf], 0.0, -0.0, 0.0]
    )


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_a_merge_in_bfloat16_is_rounded_once(hf_folder, tmp_path, kept):
    # A tie of two bfloat16 numbers, and what float32 would forget.
    one, two = random_weights(CONFIG, 1), {}
    for name, weight in one.items():
        low = np.abs(weight).astype(ml_dtypes.bfloat16)
        step = np.nextafter(low, np.asarray(np.inf, low.dtype)) - low
        one[name] = low.astype(np.float32)
        two[name] = one[name] + step.astype(np.float32)
    convert(str(hf_folder(CONFIG, one, name="a")), str(tmp_path / "one"), dtype=kept)
    convert(str(hf_folder(CONFIG, two, name="b")), str(tmp_path / "two"), dtype=kept)
    shares = (0.5 - 2**-40, 0.5 + 2**-40)
    merge(
        [str(tmp_path / "one"), str(tmp_path / "two")],
        str(tmp_path / "mean"),
        weights=shares,
        dtype="bfloat16",
    )
    for name, found in read(tmp_path / "mean").items():
        np.testing.assert_array_equal(found.astype(np.float32), two[name])


def test_the_command_writes_one_folder_for_each_alpha(pair, tmp_path, capsys):
    out = tmp_path / "grid"
    words = ["merge", *pair, "--alpha", "0:1:0.25", "--target", str(out)]
    assert cli.main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("alpha_0", "alpha_0.25", "alpha_0.5", "alpha_0.75", "alpha_1")
    ]
    assert capsys.readouterr().out.count("fingerprint") == 5
    one, two = map(read, pair)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        for name, found in read(out / f"alpha_{share:g}").items():
            expected = (1 - share) * one[name].astype(np.float64)
            expected += share * two[name].astype(np.float64)
            np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("alpha", "count"),
    [("0:1:0.1", 11), ("0.1:1:0.3", 4), ("0.2,0.5", 2), ("0.5,0.50", 1), ("1", 1)],
)
def test_alphas_are_decimal_and_both_ends_count(tmp_path, alpha, count):
    found = merging.requested(2, str(tmp_path / "m"), alpha, None)
    assert len({folder for folder, _ in found}) == len(found) == count
    assert all(abs(sum(weights) - 1) < 1e-12 for _, weights in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--alpha", "1.5"], "--alpha 1.5 is outside [0, 1]"),
        (["--alpha", "-0.1,0.5"], "is outside [0, 1]"),
        (["--alpha", "0:1"], "first:last:step"),
        (["--alpha", "1:0:0.1"], "first:last:step"),
        (["--alpha", "0:1:0"], "first:last:step"),
        (["--alpha", "0:1:1e-9"], "at most 1,000"),
        (["--alpha", "0:1:0.3"], "end at 0.9 and miss 1. Write 0:0.9:0.3, a step"),
        (["--alpha", "0.5:1:0.7"], "end at 0.5 and miss 1"),
        (["--alpha", "0:1:0.333333"], "end at 0.999999 and miss 1"),
        (["--alpha", "nan"], "--alpha nan: write 0.3, 0:1:0.1 or 0.2,0.5."),
        (["--alpha", "half"], "--alpha half: write 0.3, 0:1:0.1 or 0.2,0.5."),
        (["--alpha", ""], "--alpha : write 0.3, 0:1:0.1 or 0.2,0.5."),
        (["--weights", "0.5,0.4"], "sum 0.9"),
        (["--weights", "0.5,0.25,0.25"], "3 weights"),
        (["--alpha", "0:x:1"], "--alpha 0:x:1: write 0.3, 0:1:0.1 or 0.2,0.5."),
        (["--weights", "1e999,0"], "--weights 1e999,0: write 0.5,0.5."),
        (["--weights", "infinity,0"], "--weights infinity,0: write 0.5,0.5."),
        (["--vocabulary", "nowhere.model"], "nowhere.model does not exist"),
        (["--shard-size", "0"], "--shard_size"),
    ],
)
def test_what_a_command_line_may_not_ask_for(pair, tmp_path, capsys, words, said):
    target = tmp_path / "refused"
    words = [f"{words[0]}={words[1]}"]  # a negative number is no option
    assert cli.main(["merge", *pair, "--target", str(target), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and said in error
    assert not target.exists()


def test_one_checkpoint_is_no_merge(pair, tmp_path):
    with pytest.raises(InputError, match="two or more checkpoints, not 1"):
        merge(pair[:1], str(tmp_path / "m"))
    with pytest.raises(InputError, match="but there are 3"):
        merging.requested(3, str(tmp_path / "m"), "0.5", None)


def test_other_networks_are_refused_with_every_difference(hf_folder, tmp_path):
    one, two = FAMILIES["t5_1_1"], FAMILIES["ul2"]
    folders = [str(hf_folder(c, name=n)) for n, c in (("a", one), ("b", two))]
    with pytest.raises(InputError, match="emb_dim 24 and 16.*mlp_activations"):
        merge(folders, str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_other_vocabularies_are_refused(hf_folder, tmp_path):
    folders = [pathlib.Path(hf_folder(CONFIG, name=name)) for name in ("a", "b")]
    shutil.copyfile(GOLDEN / "vocabulary.model", folders[0] / "spiece.model")
    (folders[1] / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ByT5Tokenizer"}'
    )
    with pytest.raises(InputError, match="different vocabularies"):
        merge([str(folder) for folder in folders], str(tmp_path / "m"))


VOCABULARY = GOLDEN / "vocabulary.model"
PIECES = Vocabulary(VOCABULARY).size
ADDED = {"<newline>": PIECES, "{": PIECES + 1}


def tokenizer_json(added):
    pieces = [[Vocabulary(VOCABULARY).piece(i), 0.0] for i in range(PIECES)]
    tokens = [{"id": index, "content": token} for token, index in added.items()]
    return {"model": {"vocab": pieces}, "added_tokens": tokens}


# What a folder has of a tokenizer with added tokens, by file.
FORMS = {
    "added": lambda added: {"added_tokens.json": added},
    "decoder": lambda added: {
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(i): {"content": t} for t, i in added.items()}
        }
    },
    "fast": lambda added: {"tokenizer.json": tokenizer_json(added)},
    "none": lambda added: {},
}


@pytest.fixture
def student(hf_folder):
    """Writes a folder with so many rows whose tokenizer has added tokens."""

    def write(name, rows, form="none", added=ADDED, model=True):
        network = dataclasses.replace(CONFIG, vocab_size=rows)
        weights = random_weights(network, len(name))
        folder = pathlib.Path(hf_folder(network, weights, name=name))
        if model:
            shutil.copyfile(VOCABULARY, folder / "spiece.model")
        for file, content in FORMS[form](added).items():
            (folder / file).write_text(json.dumps(content))
        return str(folder)

    return write


OTHER = {"<newline>": PIECES + 1, "{": PIECES}  # the same tokens have other ids


@pytest.mark.parametrize("form", ["added", "decoder", "fast"])
@pytest.mark.parametrize("rows", [PIECES, PIECES + 2])
@pytest.mark.parametrize("other", [{}, OTHER], ids=["none", "other"])
def test_checkpoints_with_other_added_tokens_are_refused(
    student, tmp_path, form, rows, other
):
    pair = [student("base", rows, form, other), student("special", PIECES + 2, form)]
    for sources in (pair, pair[::-1]):
        for weights in ((0.5, 0.5), (0.0, 1.0)):
            with pytest.raises(InputError, match="have different tokens") as caught:
                merge(sources, str(tmp_path / "m"), weights=weights)
            said = str(caught.value)
            assert f"'<newline>' ({PIECES})" in said and str(PIECES + 1) in said
            assert all(path in said for path in pair)
            assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("one", ["added", "decoder", "fast"])
@pytest.mark.parametrize("two", ["added", "decoder", "fast"])
def test_checkpoints_with_the_same_added_tokens_are_merged(student, tmp_path, one, two):
    rows = PIECES + 2
    pair = [student("base", rows, one), student("special", rows + 3, two)]
    done = merge(pair, str(tmp_path / "m"))
    assert "3 rows that no token" in " ".join(done.notes)
    assert tokenizer_files.without_rows(tmp_path / "m", PIECES)[0][0] == PIECES
    for number, source in enumerate(pair):  # also with its own number of rows
        weights = (1.0 - number, float(number))
        done = merge(pair, None, weights=weights)
        assert done.fingerprint == convert(source, None).fingerprint


def test_a_token_needs_a_row_in_every_checkpoint(student, tmp_path):
    pair = [student("unknown", PIECES, model=False), student("own", PIECES + 2, "fast")]
    for sources in (pair, pair[::-1]):
        with pytest.raises(InputError, match="too few for 2 tokens of") as caught:
            merge(sources, str(tmp_path / "m"))
        said = str(caught.value)
        assert f"{pair[0]} has {PIECES} embedding rows" in said and "'{'" in said
    enough = student("padded", PIECES + 3, model=False)
    merge([enough, pair[1]], str(tmp_path / "m"))
    assert (tmp_path / "m" / "tokenizer.json").exists()  # of the one that has it


def test_files_that_name_fewer_tokens_of_every_t5_are_no_other_tokenizer(student):
    last = PIECES - 1
    named = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<extra_id_0>": last}
    plain = pathlib.Path(student("plain", PIECES))
    for form in ("added", "decoder", "fast"):
        full = pathlib.Path(student(form, PIECES, form, named))
        assert tokenizer_files.other_tokens(plain, full) == []
    reused = pathlib.Path(student("reused", PIECES, "added", {"{": PIECES}))
    (found,) = tokenizer_files.other_tokens(plain, reused)
    assert found == (PIECES, "{", reused / "added_tokens.json")


def test_a_series_ends_where_it_says_or_is_refused():
    for steps in range(1, 101):
        step = decimal.Decimal(steps) / 100
        text = f"0:1:{step}"
        if 100 % steps:
            with pytest.raises(InputError, match="--alphas .* and miss 1"):
                weighing.alphas("--alphas", text)
        else:
            found = weighing.alphas("--alphas", text)
            assert (found[0], found[-1]) == (0, 1) and len(found) == 100 // steps + 1


def test_the_weights_of_a_share_are_the_decimal_ones():
    for number in range(1001):
        share, rest = number / 1000, (1000 - number) / 1000
        assert weighing.weights_of(share) == [rest, share]
        assert weighing.weights_of(decimal.Decimal(str(share))) == [rest, share]


def test_a_series_is_not_written_into_a_folder_of_something_else(
    pair, tmp_path, capsys
):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("mine")
    made = tmp_path / "made"
    merge(pair, str(made))
    for folder in (*map(pathlib.Path, pair), notes, made):
        before = sorted(folder.rglob("*"))
        words = ["merge", *pair, "--alpha", "0.1,0.5", "--target", str(folder)]
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert error.count("error:") == 1 and str(folder) in error
        assert sorted(folder.rglob("*")) == before
    # A series that it began may have more shares.
    for alpha in ("0.1,0.5", "0.25,0.5"):
        words = ["merge", *pair, "--alpha", alpha, "--target", str(tmp_path / "s")]
        assert cli.main(words) == 0
    found = [path.name for path in (tmp_path / "s").iterdir()]
    assert sorted(found) == ["alpha_0.1", "alpha_0.25", "alpha_0.5"]


KERNEL = "decoder/layers_0/self_attention/query/kernel"


def kept_as(folder, kind, number, hf_folder):
    """A Hugging Face folder of a type, with a number at one place of a kernel."""
    weights = random_weights(CONFIG)
    weights = {name: array.astype(kind) for name, array in weights.items()}
    weights[KERNEL][2, 3] = number
    return str(hf_folder(CONFIG, weights, name=folder))


@pytest.mark.parametrize(
    ("kind", "dtype", "to"),
    [
        (np.float16, None, "hf"),
        (np.float32, None, "t5x"),
        (np.float32, "bfloat16", "hf"),
        (ml_dtypes.bfloat16, None, "orbax"),
        (np.float64, "float32", "hf"),
    ],
)
def test_a_mean_that_its_type_cannot_hold_is_refused(
    hf_folder, tmp_path, capsys, kind, dtype, to
):
    stored = np.dtype(dtype or kind)
    most = float(ml_dtypes.finfo(stored).max)
    pair = [kept_as("a", kind, most / 8, hf_folder), kept_as("b", kind, 0, hf_folder)]
    words = ["merge", *pair, "--target", str(tmp_path / "m"), "--to", to]
    words += [] if dtype is None else ["--dtype", dtype]
    assert cli.main([*words, "--weights", "10,-9"]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(errors) == 1 and "Warning" not in captured.err
    assert f"the mean of {KERNEL} at [2, 3] is 10 x " in errors[0]
    assert f"of {stored.name} is {most:g}." in errors[0]
    assert ("--dtype float32" in errors[0]) == (stored != np.float32)
    assert not (tmp_path / "m").exists()
    # A number less is no infinity.
    assert cli.main([*words, "--weights", "7,-6"]) == 0
    capsys.readouterr()
    assert np.isfinite(read(tmp_path / "m")[KERNEL].astype(np.float32)).all()


def test_a_conversion_to_a_type_that_cannot_hold_a_weight_is_refused(
    hf_folder, tmp_path, capsys
):
    folder = kept_as("a", np.float32, np.finfo(np.float32).max, hf_folder)
    words = ["convert", "--source", folder, "--dtype", "bfloat16", "--to", "hf"]
    assert cli.main([*words, "--target", str(tmp_path / "half")]) == 2
    error = capsys.readouterr().err
    assert f"{KERNEL} has 3.40282e+38 at [2, 3], but the largest number" in error
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", ["0.5,0.5", "1,0", "10,-9"])
def test_what_a_source_has_that_is_no_number_is_noted(
    hf_folder, tmp_path, capsys, value, weights
):
    pair = [
        kept_as("a", np.float32, value, hf_folder),
        kept_as("b", np.float32, value, hf_folder),
    ]
    target = tmp_path / "m"
    words = ["merge", *pair, "--target", str(target), "--weights", weights]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    shown = " ".join(captured.out.split())
    assert f"not finite, as in the source: 1 weights of {KERNEL} are NaN" in shown
    assert "Warning" not in captured.err
    (place,) = np.argwhere(~np.isfinite(read(target)[KERNEL]))
    assert place.tolist() == [2, 3]


def test_a_full_target_is_refused_before_anything_is_read(pair, tmp_path, capsys):
    taken = tmp_path / "grid" / "alpha_0.5"
    taken.mkdir(parents=True)
    (taken / "kept").write_text("mine")
    words = ["merge", *pair, "--alpha", "0:1:0.5", "--target", str(tmp_path / "grid")]
    assert cli.main(words) == 2
    assert "alpha_0.5" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "grid").iterdir()] == ["alpha_0.5"]
    assert (taken / "kept").read_text() == "mine"


def test_a_series_that_was_killed_keeps_what_it_finished(
    pair, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "grid"
    words = ["merge", *pair, "--alpha", "0:1:0.5", "--target", str(out)]
    real = merging.write

    def killed(mean, target, export, **more):
        if target and target.endswith("alpha_0.5"):
            raise KeyboardInterrupt
        return real(mean, target, export, **more)

    monkeypatch.setattr(merging, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        for target, weights in merging.requested(2, str(out), "0:1:0.5", None):
            merge(pair, target, weights=weights, keep_finished=True)
    assert [path.name for path in out.iterdir()] == ["alpha_0"]
    before = {p: p.stat().st_mtime_ns for p in (out / "alpha_0").iterdir()}
    monkeypatch.setattr(merging, "write", real)
    assert cli.main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "alpha_0").iterdir()} == before
    assert len(list(out.iterdir())) == 3
    assert capsys.readouterr().out.count("kept: this merge was finished") == 1
    assert read(out / "alpha_0.5").keys() == read(pair[0]).keys()
    # Neither another merge nor one of other weights is taken for it.
    assert cli.main([*words, "--dtype", "bfloat16"]) == 2
    assert "with other options (merge.json)" in capsys.readouterr().err
    assert cli.main(["merge", *reversed(pair), *words[3:]]) == 2
    assert "with other sources" in capsys.readouterr().err
    shutil.rmtree(pair[1])
    shutil.copytree(pair[0], pair[1])
    assert cli.main(words) == 2
    assert "alpha_0.5 already holds a merge of other weights" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["hf", "t5x", "orbax"])
def test_a_folder_is_never_without_the_record_of_its_merge(
    pair, tmp_path, monkeypatch, capsys, to
):
    out = tmp_path / "grid"
    words = ["merge", *pair, "--alpha", "0.5,1", "--to", to, "--target", str(out)]
    real = merging.write

    def killed(*args, **more):
        real(*args, **more)
        raise KeyboardInterrupt  # as soon as the folder is in its place

    monkeypatch.setattr(merging, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        for target, weights in merging.requested(2, str(out), "0.5,1", None):
            merge(pair, target, weights=weights, to=to, keep_finished=True)
    assert [path.name for path in out.iterdir()] == ["alpha_0.5"]
    monkeypatch.setattr(merging, "write", real)
    capsys.readouterr()
    assert cli.main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("kept: this merge was finished before") == 1
    # A record without what ends a folder is of a folder that was not finished.
    torn = tmp_path / "torn" / "alpha_0.5"
    torn.mkdir(parents=True)
    shutil.copyfile(out / "alpha_0.5/merge.json", torn / "merge.json")
    assert cli.main([*words[:-1], str(torn.parent)]) == 2
    assert "alpha_0.5 is not empty" in capsys.readouterr().err
