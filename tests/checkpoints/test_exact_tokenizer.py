"""An exported tokenizer gives the pieces of its SentencePiece model."""

import io
import os
import pathlib
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize import quiet
from specialize.checkpoints.formats import exact_tokenizer, tokenizer_files
from specialize.corpus.piece_models import parsed
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

LINES = [
    f"{name} sells {a} red apples and {b} pears. How many are {a} + {b}? <<{a}+{b}>>"
    for name in ("Ann", "Bert", "Chloé", "Zoë")
    for a in range(2, 40, 3)
    for b in (5, 17, 120)
]
KINDS = {
    "plain": {},
    "bytes": {"byte_fallback": True},
    "no prefix": {"add_dummy_prefix": False},
    "spaces kept": {"remove_extra_whitespaces": False},
    "not normalized": {"normalization_rule_name": "identity"},
    "defined pieces": {"user_defined_symbols": ["$%", "sells"]},
    "pieces over spaces": {"split_by_whitespace": False},
}


def trained(path, model_type, **options):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=written,
        model_type=model_type,
        vocab_size=400,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(written.getvalue())
    return path


@pytest.fixture(
    scope="module", params=[(m, k) for m in ("bpe", "unigram") for k in KINDS]
)
def exported(request, tmp_path_factory):
    """(transformers' tokenizer, ours) of one kind of model."""
    import transformers

    model_type, kind = request.param
    folder = tmp_path_factory.mktemp("tokenizer")
    path = trained(folder / "v.model", model_type, **KINDS[kind])
    exact_tokenizer.write(path, folder, rows=640)
    return transformers.AutoTokenizer.from_pretrained(folder), Vocabulary(path)


def tied(vocabulary, first, second):
    """Whether a unigram model has no reason to prefer one of two ways."""
    model = parsed(vocabulary.path.read_bytes())
    assert model.trainer_spec.model_type == exact_tokenizer.UNIGRAM
    a, b = (sum(model.pieces[i].score for i in way) for way in (first, second))
    texts = {"".join(map(vocabulary.piece, way)) for way in (first, second)}
    return len(texts) == 1 and abs(a - b) < 1e-3


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.one_of(
        st.text(max_size=20),
        st.text(alphabet="aelps 013+<>$%▁\n\x85é", max_size=30),
        st.lists(st.sampled_from(LINES), max_size=2).map("\n".join),
    )
)
def test_every_text_has_the_same_pieces(exported, text):
    theirs, ours = exported
    # One character for transformers, two for SentencePiece.
    ids = ours.encode(text := text.replace("\r\n", "\n"))
    found = theirs(text).input_ids
    if found != [*ids, ours.eos_id]:
        assert tied(ours, ids, found[:-1])
    if ours.unk_id not in ids:
        assert theirs.decode(ids) == ours.decode(ids)


def test_the_sentinels_keep_their_ids(exported):
    theirs, ours = exported
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == ours.size - 1
    assert theirs.pad_token_id == 0 and theirs.eos_token_id == 1


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_model_that_transformers_cannot_follow_is_refused(tmp_path, model_type):
    path = trained(tmp_path / "v.model", model_type, treat_whitespace_as_suffix=True)
    with pytest.raises(InputError, match="gives other pieces.*from piece 0 on"):
        exact_tokenizer.write(path, tmp_path, rows=640)


@pytest.mark.parametrize("model_type", ["word", "char"])
def test_other_kinds_of_models_are_refused(tmp_path, model_type):
    path = trained(tmp_path / "v.model", model_type)
    with pytest.raises(InputError, match="only unigram and BPE"):
        exact_tokenizer.write(path, tmp_path, rows=640)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path):
    path = trained(tmp_path / "v.model", "bpe")
    with pytest.raises(InputError, match="the embedding only 128 rows"):
        exact_tokenizer.write(path, tmp_path, rows=128)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", '{"<newline>": 700, "{": 701}'),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"700": {"content": "{"}}}',
        ),
        (
            "tokenizer.json",
            '{"model": {"vocab": {}}, "added_tokens": [{"id": 700, "content": "{"}]}',
        ),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0, "b": 700}}}'),
    ],
)
def test_rows_of_tokens_are_not_cut(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    tokenizer_files.check_rows(tmp_path, 702)
    with pytest.raises(InputError, match=rf"{name} would lose their rows.*\(700\)"):
        tokenizer_files.check_rows(tmp_path, 700)


def test_rows_of_the_sentinels_are_not_cut(tmp_path):
    path = trained(tmp_path / "spiece.model", "bpe")
    tokenizer_files.check_rows(tmp_path, Vocabulary(path).size)
    with pytest.raises(InputError, match="extra_id_0"):
        tokenizer_files.check_rows(tmp_path, Vocabulary(path).size - 1)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": null}', "[1]", "\xff", ""])
def test_a_damaged_tokenizer_file_is_one_error(tmp_path, content):
    (tmp_path / "added_tokens.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="added_tokens.json"):
        tokenizer_files.check_rows(tmp_path, 10)


def test_transformers_does_not_advise_to_install_what_is_not_needed(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", raising=False)
    assert hasattr(quiet.import_transformers(), "AutoTokenizer")
    assert os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] == "1"
    folder = pathlib.Path(exact_tokenizer.__file__).parents[2]
    for path in folder.rglob("*.py"):
        assert not re.search(r"^ +import transformers", path.read_text(), re.M), path
