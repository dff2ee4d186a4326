"""How well a teacher row brackets the truth where a student writes, by alignment.

    python on_policy_bound.py --world runs/quickstart --student runs/quickstart/none

The teacher of the miniature world knows the true probability of everything that it can
write, and scores texts that a student wrote. At every position whose text before it is
one that the teacher could have written, the next piece has a true distribution. A row
is right if the probability of every piece lies between its entry and its entry plus the
tail. The table has the total variation between row and truth, where the tail counts as
an event of its own, for `bytes`, for `dtw` (the paper's) and for a greedy merge: pieces
and tokens are grouped until both end at the same byte; a piece that is a token has the
alternatives that are pieces, and the first piece of any other group has the product of
its tokens' probabilities.
"""

import argparse
import collections
import json
import pathlib
import re

import numpy as np

import specialize
from specialize.corpus.alignment import time_warping
from specialize.corpus.alignment.aligning import check_tokens
from specialize.corpus.alignment.given_ids import (
    align_given,
    common_pieces,
    open_endings,
    speaks_as_student,
    text_of,
)
from specialize.corpus.alignment.rows import SOFT
from specialize.corpus.wording import PAPER
from specialize.inference.engine import Engine
from specialize.quickstart.exact_teacher import (
    ExactTeacher,
    line_choices,
    value_after,
)
from specialize.quickstart.word_problems import problems

ALL = 1000  # entries of a row: no mass is cut


def line_texts(problem, number, value):
    """Every text of a line with its probability, and how the next line begins."""
    texts = [("", 1.0)]
    for options in line_choices(problem, number, value):
        texts = [
            (text + more, p * q) for text, p in texts for more, q in options.items()
        ]
    for text, p in texts:
        if number > len(problem.changes):
            yield text, p
            continue
        following = line_choices(problem, number + 1, value_after(text, value))[0]
        for more, q in following.items():
            yield text + more, p * q


class Truth:
    """The true distribution of the next piece of a line, after given pieces."""

    def __init__(self, vocabulary):
        self._vocabulary = vocabulary
        self._lines = {}

    def after(self, problem, number, value, before):
        """Piece -> probability; empty if the teacher cannot have written this."""
        key = (problem, number, value)
        if key not in self._lines:
            eos = self._vocabulary.eos_id
            self._lines[key] = [
                ((*self._vocabulary.encode(text), eos), p)
                for text, p in line_texts(problem, number, value)
            ]
        found = collections.defaultdict(float)
        for pieces, p in self._lines[key]:
            if pieces[: len(before)] == before and len(pieces) > len(before):
                found[pieces[len(before)]] += p
        total = sum(found.values())
        return {piece: p / total for piece, p in found.items()}


def greedy_rows(tokens, raw, vocabulary):
    """The rows of a greedy merge, one per piece of the text."""
    segmentation = vocabulary.segment(raw)
    ends = np.cumsum([len(one.token) for one in tokens]).tolist()
    by_name = {vocabulary.spelling(i): i for i in range(vocabulary.size)}
    rows, token = [], 0
    group = []
    for number, piece_end in enumerate(segmentation.ends):
        group.append(number)
        taken = []
        while token < len(tokens) and ends[token] <= piece_end:
            taken.append(tokens[token])
            token += 1
        if taken and ends[token - 1] != piece_end:
            continue
        if not taken:
            continue
        own = segmentation.ids[group[0]]
        row = {own: float(np.exp(sum(one.logprob for one in taken)))}
        if len(group) == len(taken) == 1:
            for text, logprob in taken[0].top:
                if (piece := by_name.get(text)) is not None:
                    row[piece] = float(np.exp(logprob))
        rows.append(row)
        rows += [{segmentation.ids[i]: 1.0} for i in group[1:]]
        group = []
    return rows + [{}] * (len(segmentation.ids) - len(rows))


def distance(row, truth):
    tail = max(0.0, 1.0 - sum(row.values()))
    pieces = row.keys() | truth.keys()
    return 0.5 * (sum(abs(row.get(p, 0) - truth.get(p, 0)) for p in pieces) + tail)


def measure(texts, vocabulary, most):
    """Violations and distances at the positions of (problem, ids of a text)."""
    teacher, truth = ExactTeacher(), Truth(vocabulary)
    counts = collections.Counter()
    sums = collections.Counter()
    scored = []
    for problem, ids in texts:
        given = text_of(ids, vocabulary)
        # The student has no line breaks; its teacher writes one after a sentence.
        given = given._replace(raw=re.sub(rb"\. ", b".\n", given.raw))
        if given.ids:
            scored.append((problem, ids, given, teacher.score(problem, given.text)))
    # As of the texts of a window of steps.
    endings = open_endings(
        [(tokens, given) for *_, given, tokens in scored], vocabulary
    )
    named = all(
        speaks_as_student(tokens, given, vocabulary) for *_, given, tokens in scored
    )
    for problem, ids, given, tokens in scored:
        found = align_given(
            *(tokens, given, len(ids), vocabulary),
            k=ALL,
            where=problem.id,
            also_open=endings,
            named=named,
        )
        steps = check_tokens(tokens, given.raw, problem.id)
        warped = time_warping.rows(steps, given.raw, vocabulary)
        merged = greedy_rows(tokens, given.raw, vocabulary)
        for mine, theirs, number, value, before in positions(
            problem, given, vocabulary
        ):
            exact = truth.after(problem, number, value, before)
            if not exact:
                continue
            row = {
                int(piece): float(p)
                for piece, p in zip(found[0][mine], found[1][mine], strict=True)
                if p > 0
            }
            tail = float(found[2][mine])
            counts["positions"] += 1
            counts["known"] += bool(row)
            for piece in exact.keys() | row.keys():
                low, true = row.get(piece, 0.0), exact.get(piece, 0.0)
                wrong = low > true + 1e-6 or true > low + tail + 1e-6
                counts["violations"] += wrong
            sums["bytes"] += distance(row, exact)
            soft = warped.origins[theirs] == SOFT
            one_hot = {warped.ids[theirs]: 1.0}
            sums["dtw"] += distance(warped.masses[theirs] if soft else one_hot, exact)
            sums["greedy"] += distance(merged[theirs], exact)
            if counts["positions"] == most:
                return counts, sums
    return counts, sums


def positions(problem, given, vocabulary):
    """(id, piece, line, value before it, pieces of the line before it)."""
    segmentation = vocabulary.segment(given.raw)
    raw, value = given.raw.decode(), problem.start
    lines = []  # (first byte, number, value)
    at = 0
    for number, line in enumerate(raw.splitlines(keepends=True)):
        # The line break before a line belongs to its first piece.
        lines.append((max(0, at - 1), number, value))
        value, at = value_after(line, value), at + len(line.encode())
    starts = [0, *segmentation.ends[:-1]]
    for mine, theirs in common_pieces(given, vocabulary):
        first, number, before = max(x for x in lines if x[0] <= starts[theirs])
        if number > len(problem.changes) + 1:
            continue
        begin = next(i for i, start in enumerate(starts) if start >= first)
        yield mine, theirs, number, before, tuple(segmentation.ids[begin:theirs])


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--world", required=True, help="folder of a quickstart")
    flags.add_argument("--student", required=True, help="its checkpoint")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--positions", type=int, default=10_000)
    flags.add_argument("--count", type=int, default=600, help="questions")
    given = flags.parse_args()
    world = pathlib.Path(given.world)
    student = specialize.load(given.student, vocabulary=world / "vocabulary.model")
    asked = problems(given.count, seed=given.seed, prefix="gsm8k-test")
    prompts = [PAPER.input("zero_shot_cot", one.question) for one in asked]
    decoding = specialize.DecodingSpec(
        "sample", batch_size=100, input_length=160, output_length=64, seed=given.seed
    )
    engine = Engine(
        *(student.model.module, student.params, student.vocabulary, student.mesh),
        decoding,
    )
    found = {one.index: list(one.ids[0]) for one in engine.generate(prompts)}
    texts = [(one, found[number]) for number, one in enumerate(asked)]
    counts, sums = measure(texts, student.vocabulary, given.positions)
    rows = counts["positions"]
    result = dict(counts) | {
        f"total variation, {name}": round(total / rows, 4)
        for name, total in sums.items()
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
