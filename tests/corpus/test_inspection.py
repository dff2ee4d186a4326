"""inspect and stats say what a corpus holds, and why."""

import html.parser
import json
import math

import numpy as np
import pytest
from rich.console import Console

from specialize.corpus.alignment.aligning import align, one_hot
from specialize.corpus.completions import read_completions
from specialize.corpus.inspection import lookup, view
from specialize.corpus.records import TeacherToken
from specialize.corpus.spec import AlignmentSpec
from specialize.corpus.storage import shards
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

import flat  # isort: skip


@pytest.fixture(scope="module")
def vocabulary(world):
    return Vocabulary(world.vocabulary)


@pytest.fixture(scope="module")
def problems(world):
    return read_problems(world.problems, "gsm8k")


@pytest.fixture(scope="module")
def corpus(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("inspected") / "corpus"
    flat.build(
        world.problems,
        world.vocabulary,
        out,
        completions=(world.completions,),
        teacher="grammar",
        demonstrations=1,
        num_shards=1,
        processes=1,
    )
    return out


def right_sample(world, problems):
    gold = {p.id: p.answers[0] for p in problems}
    for sample in read_completions(world.completions, problems):
        completion = sample.completion
        if completion.text.endswith(f"is {gold[completion.problem_id]}"):
            return completion
    raise AssertionError("the teacher never was right")


def text_of(shown):
    console = Console(record=True, width=140, file=open("/dev/null", "w"))
    console.print(view.terminal(shown))
    console.file.close()
    return console.export_text()


def test_groups_tile_the_text_and_end_where_both_tokenizers_have_a_boundary(
    world, problems, vocabulary
):
    completion = right_sample(world, problems)
    target = align(completion.tokens, completion.text, vocabulary, k=5)
    shown = view.view(
        "x", completion.text, target, vocabulary, tokens=completion.tokens
    )
    *groups, last = shown.groups
    assert [p.origin for p in last.positions] == ["eos"]
    tokens = [token.text for group in groups for token in group.tokens]
    assert tokens == [view.visible(t.token.decode()) for t in completion.tokens]
    positions = [p.position for group in groups for p in group.positions]
    assert positions == list(range(len(target.ids) - 1))
    for group in groups:
        teacher = "".join(token.text for token in group.tokens)
        student = "".join(position.piece for position in group.positions)
        fold = str.maketrans("", "", "␣⏎▁")
        assert teacher.translate(fold) == student.translate(fold)
    assert len(groups) > len(completion.tokens) / 3
    assert {g.style for g in groups[:2]} == {"cyan", "yellow"}


def test_the_view_shows_the_rows_as_they_are(world, problems, vocabulary):
    completion = right_sample(world, problems)
    target = align(completion.tokens, completion.text, vocabulary, k=5)
    shown = view.view(
        "x", completion.text, target, vocabulary, tokens=completion.tokens
    )
    for group in shown.groups:
        for position in group.positions:
            row = target.teacher_logprobs[position.position]
            used = row > -np.inf
            assert [o.probability for o in position.top] == pytest.approx(
                np.exp(row[used]).tolist()
            )
            assert position.piece == vocabulary.piece(target.ids[position.position])
            assert position.tail == pytest.approx(target.tail[position.position])
    first = shown.groups[0].tokens[0]
    assert first.probability == pytest.approx(math.exp(completion.tokens[0].logprob))
    lines = [line.strip() for line in text_of(shown).splitlines()]
    flow = lines[lines.index("teacher tokens") + 1]
    assert flow.startswith(first.text) and "top-k" not in flow


def test_a_piece_over_two_tokens_and_a_token_over_two_pieces_are_one_group(vocabulary):
    text = "eggs now 12"
    ends = {span.end for span in vocabulary.spans(text)}
    inner = next(n for n in range(1, len(text)) if n not in ends)
    cuts = [0, inner, len(text)]
    tokens = tuple(
        TeacherToken(text[a:b].encode(), -0.1, ((text[a:b].encode(), -0.1),))
        for a, b in zip(cuts, cuts[1:], strict=False)
    )
    target = align(tokens, text, vocabulary, k=3)
    shown = view.view("x", text, target, vocabulary, tokens=tokens)
    assert len(shown.groups) == 2  # all of it, and EOS
    assert len(shown.groups[0].tokens) == 2


def test_the_terminal_says_why_a_position_is_one_hot(vocabulary):
    shown = view.view("x", "7 eggs", one_hot("7 eggs", vocabulary, 5), vocabulary)
    text = text_of(shown)
    assert "the teacher reports no probabilities" in text
    assert "the end of the target" in text
    assert "0.0 % of the positions are soft" in text


def test_tokens_or_a_vocabulary_that_do_not_fit_are_refused(
    world, problems, vocabulary
):
    completion = right_sample(world, problems)
    target = align(completion.tokens, completion.text, vocabulary, k=5)
    with pytest.raises(InputError, match="do not spell"):
        view.view(
            "x", completion.text, target, vocabulary, tokens=completion.tokens[1:]
        )
    with pytest.raises(InputError, match="its ids are not those"):
        view.view("x", "another text", target, vocabulary)


def test_a_record_is_shown_with_the_tokens_of_its_completion(world, problems, corpus):
    completion = right_sample(world, problems)
    identity = f"{completion.problem_id}/{completion.sample}/in_context_cot"
    shown = lookup.look_at_record(
        corpus,
        world.vocabulary,
        identity=identity,
        completions=[world.completions],
        problems=problems,
    )
    text = text_of(shown)
    assert identity in text
    assert "step by step" in text
    assert sum(len(group.tokens) for group in shown.groups) == len(completion.tokens)
    assert shown.soft_share > 0.9


def test_a_record_is_shown_without_completions_too(world, corpus):
    shown = lookup.look_at_record(corpus, world.vocabulary, index=3)
    records = list(shards.read_shards(corpus))
    assert shown.title == records[3].id
    assert not any(group.tokens for group in shown.groups)


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.texts = []
        self.outside = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.outside += [values[n] for n in ("src", "href") if n in values]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_holds_everything_and_needs_nothing(world, problems, vocabulary):
    text = "<b>1 & 2</b>"
    target = one_hot(text, vocabulary, 5)
    page = view.page(view.view("<i>", text, target, vocabulary))
    parser = Cells()
    parser.feed(page)
    assert not parser.outside
    assert "<b>1" not in page
    assert "<i>" not in page
    completion = right_sample(world, problems)
    target = align(completion.tokens, completion.text, vocabulary, k=5)
    shown = view.view(
        "x", completion.text, target, vocabulary, tokens=completion.tokens
    )
    parser = Cells()
    parser.feed(view.page(shown))
    for group in shown.groups:
        for part in (*group.tokens, *group.positions):
            assert (part.text if hasattr(part, "text") else part.piece) in parser.texts


def test_a_completion_is_aligned_on_the_spot(world, problems):
    completion = right_sample(world, problems)
    alignment = AlignmentSpec(vocabulary=str(world.vocabulary), k=3)
    identity = f"{completion.problem_id}/{completion.sample}"
    shown = lookup.look_at_completion(
        [world.completions], problems, alignment, identity
    )
    assert max(len(p.top) for g in shown.groups for p in g.positions) == 3
    shown = lookup.look_at_completion([], problems, alignment, "gsm8k-train-0/human")
    assert shown.soft_share == 0


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("gsm8k-train-0", "names no sample"),
        ("gsm8k-train-0/99", "no sample 99"),
        ("gsm8k-train-999/human", "not among"),
    ],
)
def test_a_sample_that_is_not_there_is_refused(world, problems, identity, message):
    alignment = AlignmentSpec(vocabulary=str(world.vocabulary))
    with pytest.raises(InputError, match=message):
        lookup.look_at_completion([world.completions], problems, alignment, identity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": 10_000}, "has no record 10000"),
        ({"identity": "x/0/zero_shot_cot"}, "has no 'x/0/zero_shot_cot'"),
        ({"identity": "gsm8k-train-0/0/cot"}, "names no format"),
    ],
)
def test_a_record_that_is_not_there_is_refused(world, corpus, options, message):
    with pytest.raises(InputError, match=message):
        lookup.look_at_record(corpus, world.vocabulary, **options)


def test_stats_are_those_of_the_records(corpus):
    value = lookup.summary(corpus)
    json.dumps(value)
    for name, part in value["formats"].items():
        records = list(shards.read_shards(corpus, formats=[name]))
        assert part["records"] == len(records)
        lengths = [len(r.target.ids) for r in records]
        assert part["targets"]["max"] == max(lengths)
        assert part["targets"]["mean"] == pytest.approx(np.mean(lengths), abs=0.01)
        origins = np.concatenate([r.target.origin for r in records])
        soft = (origins == 0).sum() / (origins != 2).sum()
        assert part["soft_share"] == pytest.approx(soft, abs=1e-6)
        size = sum(p.stat().st_size for p in corpus.glob(f"{name}-*"))
        assert part["bytes_per_token"] == pytest.approx(size / sum(lengths), abs=0.01)
    assert value["formats"]["zero_shot_cot"]["teacher_bytes_per_token"] == 22
    console = Console(record=True, width=80, file=open("/dev/null", "w"))
    console.print(lookup.tables(corpus))
    console.file.close()
    text = console.export_text()
    for word in ("Funnel", "kept mass", "in_context_answer_only targets", "22"):
        assert word in text


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_a_view_fits_the_terminal_and_loses_nothing(
    world, problems, vocabulary, columns
):
    completion = right_sample(world, problems)
    target = align(completion.tokens, completion.text, vocabulary, k=5)
    shown = view.view(
        "x", completion.text, target, vocabulary, tokens=completion.tokens
    )
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere)
        console.print(view.terminal(shown))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    if columns >= 80:
        table = text.partition("teacher token ")[2].splitlines()
        for group in shown.groups:
            for position in group.positions:
                cells = (position.piece, f"{position.tail:.4f}", position.origin)
                assert any(all(c in line for c in cells) for line in table), cells
                for option in position.top:
                    entry = f"{option.probability:.4f} {option.text}"
                    assert any(entry in line for line in table), entry
