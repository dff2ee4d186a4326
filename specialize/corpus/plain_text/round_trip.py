"""Whether a right text is still right as the student is taught to spell it."""

import functools
from collections.abc import Sequence

from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.writer import Path, Writer
from specialize.corpus.spec import AlignmentSpec
from specialize.corpus.vocabulary import read_vocabulary
from specialize.digests import vocabulary_digest
from specialize.judging.answers import verdict
from specialize.judging.spec import JudgeSpec


def writer_of(spec: AlignmentSpec) -> Writer:
    """The writer of a specification; kept for as long as the process.

    Raises:
        InputError: the vocabulary cannot be read.
    """
    try:
        content = vocabulary_digest(spec.vocabulary)
    except OSError:
        content = ""  # the vocabulary itself says what is wrong
    return _writer(spec.vocabulary, spec.rows, spec.digits, spec.unwritable, content)


def as_spelt(
    text: str,
    answers: Sequence[str],
    judging: JudgeSpec,
    writer: Writer,
    *,
    answer: str | None = None,
) -> tuple[str | None, SpellingCounts]:
    """Judges a right text again as it comes out of the student's vocabulary.

    Args:
        text: what the student is taught.
        answers: the gold answers.
        judging: the judge.
        writer: how the student writes.
        answer: the part of `text` that the judge reads; None: all.

    Returns:
        None if it is right, else the reason, one of `funnel.REASONS`; and what the
        student cannot write of the text.
    """
    counts = writer.counts(text)
    if counts.samples and writer.policy == "drop":
        return "unwritable", counts
    read = text if answer is None else answer
    spelt = writer.spelt(read)
    if spelt == read or verdict(spelt, answers, judging).correct:
        return None, counts
    return "not_right_as_spelt", counts


@functools.lru_cache(maxsize=4)
def _writer(
    path: Path, rows: int | None, digits: str, policy: str, content: str
) -> Writer:
    del content  # another file of the same name is another vocabulary
    return Writer(read_vocabulary(path, rows=rows, digits=digits), policy)
