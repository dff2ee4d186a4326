"""Small vocabularies and teachers for the tests of vocabulary, alignment and shards."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from specialize.corpus.records import TeacherToken
from specialize.corpus.vocabulary import Vocabulary

SENTENCES = (
    "she sold half as many clips in may as in april",
    "so she sold 48/2 = 24 clips, and 48 + 24 = 72 in total",
    "the answer is 72. therefore the answer was 72",
    "a café sells naïve drinks at $12.50 each",
    "In total Natalia sold clips to 48 of her friends",
)


def train_vocabulary(folder: pathlib.Path, size: int = 120) -> Vocabulary:
    """A unigram vocabulary with T5's settings, trained on a few sentences."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    path = folder / "small.model"
    path.write_bytes(model.getvalue())
    return Vocabulary(path)


def vocabulary_of(folder: pathlib.Path, pieces: Sequence[str]) -> Vocabulary:
    """A vocabulary of exactly these pieces and all printable ASCII characters.

    Longer pieces score higher, so a word is cut into as few pieces as can be.
    """
    train_vocabulary(folder)
    model = sentencepiece_model_pb2.ModelProto.FromString(
        (folder / "small.model").read_bytes()
    )
    del model.pieces[3:]
    wanted = dict.fromkeys(["▁", *map(chr, range(33, 127)), *pieces])
    for piece in wanted:
        model.pieces.add(piece=piece, score=-10.0 + 0.01 * len(piece))
    path = folder / "exact.model"
    path.write_bytes(model.SerializeToString())
    return Vocabulary(path)


def log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def token(
    sampled: str | bytes, probability: float, others: Mapping[str | bytes, float] = {}
) -> TeacherToken:
    """A teacher's token with its own probability and those of the others."""
    own = _bytes(sampled)
    top = {own: probability} | {_bytes(t): p for t, p in others.items()}
    return TeacherToken(
        own, log(probability), tuple((text, log(p)) for text, p in top.items())
    )


def codex_tokens(steps: Sequence[Sequence[Sequence[object]]]) -> list[TeacherToken]:
    """Tokens of a Codex dump: steps of [token, probability], the sampled one first."""
    tokens: list[TeacherToken] = []
    for step in steps:
        known: dict[str, float] = {}
        for text, probability in step:
            known.setdefault(str(text), float(str(probability)))
        own = str(step[0][0])
        rest = {text: p for text, p in known.items() if text != own}
        tokens.append(token(own, known[own], rest))
    return tokens


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
