"""Writes a SentencePiece model as a tokenizer of transformers that gives the same ids.

transformers reads every `spiece.model` of a T5 as a unigram model with settings of its
own, also one that is BPE or has byte fallback or no prefix space. Here the tokenizer is
built from the settings in the model, and compared with SentencePiece on text: a student
whose pieces differ from those it was trained on gives other answers.
"""

import pathlib
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from specialize import quiet
from specialize.corpus.piece_models import (
    CONTROL,
    NORMAL,
    SPACE,
    USER_DEFINED,
    SpecialIds,
    parsed,
)
from specialize.corpus.vocabulary import Vocabulary, read_vocabulary
from specialize.errors import InputError

UNIGRAM, BPE = 1, 2
_TIE = 1e-3  # logarithms of probabilities, summed in float32

_TEXTS = (
    "",
    " ",
    "Ann has 4 bags of 5 nuts. How many nuts has she? 4*5 = 20, so the answer is 20.",
    "  two  spaces, a\ttab,\n\na new line and a space at the end \n",
    "1234567890 12,345.67 -3 50% $7 (a+b)/c <<3*4=12>> [x] {y} #### \\boxed{1}",
    "Größe, naïve café, ½ of ² x³ — “quoted” … ‘it’s’ ﬁne №5 Å",
    "中文 日本語 한국어 русский العربية ελληνικά 😀👍🏽 ∑√≤≠×÷",
    "hello▁world ▁ ▁▁a▁",
)


def write(vocabulary: pathlib.Path, folder: pathlib.Path, *, rows: int) -> SpecialIds:
    """Writes spiece.model and the tokenizer files into `folder`.

    ByT5's bytes have no spiece.model: transformers has a tokenizer of its own for them.

    Args:
        vocabulary: a SentencePiece model such as spiece.model, or "byt5".
        folder: the folder to write into.
        rows: rows of the embedding.

    Returns:
        The ids of padding and EOS.

    Raises:
        InputError: `vocabulary` is not a SentencePiece model of a T5, it has more ids
            than rows, or transformers cannot tokenize as it does.
    """
    transformers = quiet.import_transformers()

    original = read_vocabulary(vocabulary, rows=rows)
    if original.bytes_are_pieces:
        transformers.ByT5Tokenizer(extra_ids=original.extra_ids).save_pretrained(folder)
        _compare(folder, original, ())
        return original.special
    model = parsed(vocabulary.read_bytes())
    shutil.copyfile(vocabulary, folder / "spiece.model")
    kind = model.trainer_spec.model_type
    if kind not in (UNIGRAM, BPE):
        raise InputError(
            f"{vocabulary} is a SentencePiece model of type {kind}; only unigram and "
            "BPE models can be exported. Name another vocabulary."
        )
    _build(model, original).save_pretrained(folder)
    scores = [one.score for one in model.pieces] if kind == UNIGRAM else []
    _compare(folder, original, scores)
    return original.special


def _compare(
    folder: pathlib.Path, original: Vocabulary, scores: Sequence[float]
) -> None:
    transformers = quiet.import_transformers()

    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    found = difference(loaded, original, scores)
    if found:
        raise InputError(
            f"{original.path} cannot be exported: transformers gives other pieces. "
            f"{found} Name another vocabulary, or use the weights with SentencePiece."
        )


def difference(
    tokenizer: Any, vocabulary: Vocabulary, scores: Sequence[float] = ()
) -> str:
    """A sentence about the first text on which two tokenizers differ, or "".

    Two ways to divide a text that are equally probable under a unigram model ("11", "1"
    and "1", "11") count as one: rounding decides between them in either library.

    Args:
        tokenizer: a tokenizer of transformers.
        vocabulary: the SentencePiece model that it must agree with.
        scores: scores of the pieces of a unigram model.
    """
    texts = list(_texts(vocabulary, set(map(str, tokenizer.all_special_tokens))))
    theirs = tokenizer(texts).input_ids
    for text, found in zip(texts, theirs, strict=True):
        expected = vocabulary.encode(text)
        if list(found) != [*expected, vocabulary.eos_id]:
            pieces = [vocabulary.piece(index) for index in expected]
            others = tokenizer.convert_ids_to_tokens(found)[:-1]
            if "".join(pieces) == "".join(others) and scores:
                ways = (expected, found[:-1])
                first, second = (sum(scores[i] for i in way) for way in ways)
                if abs(first - second) < _TIE:
                    continue
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(pieces, others, strict=False))
                    if a != b
                ),
                min(len(pieces), len(others)),
            )
            return (
                f"{text[:60]!r} has from piece {at} on {pieces[at : at + 4]} in "
                f"SentencePiece and {others[at : at + 4]} in transformers."
            )
        if vocabulary.unk_id not in expected:
            decoded = tokenizer.decode(found, skip_special_tokens=True)
            if decoded != (wanted := vocabulary.decode(expected)):
                return f"Decoded, {wanted[:60]!r} becomes {decoded[:60]!r}."
    return ""


def _texts(vocabulary: Vocabulary, special: set[str]) -> Iterator[str]:
    """Ordinary texts, every piece among its neighbours, and pieces at random."""
    yield from _TEXTS
    written = filter(None, map(vocabulary.spelling, range(vocabulary.size)))
    pieces = [
        piece
        for piece in (spelt.decode("utf-8", "ignore") for spelt in written)
        if piece and not any(token in piece for token in special)
    ]
    for start in range(0, len(pieces), 40):
        yield "".join(pieces[start : start + 40])
        yield " ".join(pieces[start : start + 40])
    chance = random.Random(0)
    letters = sorted(set("".join(pieces)) | set(" \n09Zé"))
    for number in range(300 if pieces else 0):
        alphabet = letters if number % 3 == 0 else pieces
        text = "".join(chance.choices(alphabet, k=chance.randint(1, 30)))
        if not any(token in text for token in special):
            yield text


def _build(model: Any, original: Vocabulary) -> Any:
    """The tokenizer of transformers that follows the model's own settings."""
    import tokenizers

    transformers = quiet.import_transformers()
    from tokenizers import processors

    normal = model.normalizer_spec
    user = [one.piece for one in model.pieces if one.type == USER_DEFINED]
    tokenizer = tokenizers.Tokenizer(_algorithm(model, bool(user)))
    tokenizer.normalizer = _normalizer(normal)
    tokenizer.pre_tokenizer = _pre_tokenizer(user)
    tokenizer.decoder = _decoder(normal)
    named = (original.pad_id, original.eos_id, original.unk_id)
    pad, end, unknown = map(original.piece, named)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end],
        pair=["$A", end, "$B", end],
        special_tokens=[(end, original.eos_id)],
    )
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(original.extra_ids))]
    control = [one.piece for one in model.pieces if one.type == CONTROL]
    special = dict.fromkeys([pad, end, unknown, *control, *sentinels])
    tokenizer.add_special_tokens(list(special))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        extra_special_tokens=sentinels[::-1],
        clean_up_tokenization_spaces=False,
    )


def _algorithm(model: Any, whole_pieces: bool) -> Any:
    from tokenizers import models

    unknown, bytes_ = model.trainer_spec.unk_id, model.trainer_spec.byte_fallback
    pieces = [one.piece for one in model.pieces]
    if model.trainer_spec.model_type == UNIGRAM:
        scored = [(one.piece, one.score) for one in model.pieces]
        return models.Unigram(scored, unk_id=unknown, byte_fallback=bytes_)
    # SentencePiece joins the two neighbours whose joined piece has the highest score.
    scores = {one.piece: one.score for one in model.pieces if one.type == NORMAL}
    merges = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[(left, right) for _, left, right in sorted(merges)],
        unk_token=pieces[unknown],
        fuse_unk=True,
        byte_fallback=bytes_,
        ignore_merges=whole_pieces,
    )


def _normalizer(settings: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    stripped = settings.remove_extra_whitespaces
    prefix = [normalizers.Prepend(SPACE)] if settings.add_dummy_prefix else []
    if not stripped:
        # Also before characters that the character map removes.
        steps += prefix
    if settings.precompiled_charsmap:
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if stripped:
        # Only spaces count; the character map has turned other whitespace into them.
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if settings.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if stripped:
        # A "▁" of the text itself is a space at the end, and nowhere else.
        steps += [normalizers.Replace(Regex(f"{SPACE}+\\z"), ""), *prefix]
    return normalizers.Sequence(steps)


def _pre_tokenizer(user: list[str]) -> Any:
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = []
    if user:
        # Pieces that the user defined are never split or joined.
        longest_first = sorted(user, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    return pre_tokenizers.Sequence(steps)


def _decoder(settings: Any) -> Any:
    from tokenizers import decoders

    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if settings.add_dummy_prefix:
        # Where spaces are removed, all at the start are: none is part of a text.
        most = 1 << 16 if settings.remove_extra_whitespaces else 1
        steps.append(decoders.Strip(content=" ", left=most))
    return decoders.Sequence(steps)
