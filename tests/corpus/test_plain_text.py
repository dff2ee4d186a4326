"""The table for Markdown and LaTeX, and rows after text that T5 cannot write."""

import itertools
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from teacher_cases import token, vocabulary_of

from specialize.corpus.alignment import byte_offsets
from specialize.corpus.alignment.aligning import check_tokens, rewritten
from specialize.corpus.alignment.readings import Reader
from specialize.corpus.plain_text import table
from specialize.corpus.plain_text.counting import visible
from specialize.corpus.plain_text.machine import Machine, State
from specialize.corpus.plain_text.round_trip import as_spelt
from specialize.corpus.plain_text.tokens import rewrite
from specialize.corpus.plain_text.writer import Writer
from specialize.corpus.records import TeacherToken
from specialize.corpus.vocabulary import Vocabulary
from specialize.judging.answers import verdict
from specialize.judging.spec import JudgeSpec

ASCII = Machine(lambda character: character.isascii())


@pytest.fixture(scope="session")
def t5(shared_data: pathlib.Path) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model")


@pytest.fixture(scope="session")
def digits(shared_data: pathlib.Path) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model", digits="single")


@pytest.fixture(scope="session")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """Words and ASCII without the signs that T5 lacks, digits one by one."""
    folder = tmp_path_factory.mktemp("poor")
    vocabulary_of(folder, ["▁cat", "s", "▁cats", "▁x", "▁8", "▁4", "times", "div"])
    path = folder / "exact.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    kept = [p for p in model.pieces if not set(p.piece) & set(table.NEEDED)]
    kept = [p for p in model.pieces[:3]] + [p for p in kept if p.type == p.NORMAL]
    del model.pieces[:]
    model.pieces.extend(kept)
    (folder / "poor.model").write_bytes(model.SerializeToString())
    return Vocabulary(folder / "poor.model")


# The table -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("She has $5 and $6.50, so 5 * 2 = $11.", None),
        ("He pays $6000 / 4 =$ 1500, or $1.5/2=$.75 a pack.", None),
        ("a_b, 3/4, #5 and 2**3 or 2 ** 3", None),
        ("#### 72", None),
        ("**8** \\times 9", "8 x 9"),
        ("8\\times9\\div3", "8 x 9/3"),
        ("8 × 9 ÷ 3 − 1", "8 x 9 / 3 - 1"),
        ("\\boxed{\\text{Yes}}.", "Yes."),
        ("\\boxed{72 clips}", "72 clips"),
        ("\\boxed{1{,}072} \\boxed{1,\\!072} 1\\,072", "1,072 1,072 1,072"),
        ("\\frac{144}{2}", "144/2"),
        ("\\dfrac{a + b}{2}", "(a + b)/2"),
        ("\\frac{\\text{miles}}{hour}", "(miles)/hour"),
        ("3\\frac{1}{2}, 3½ and ½", "3 1/2, 3 1/2 and 1/2"),
        ("\\frac12", "1/2"),
        ("\\[ x = 3 \\] and \\(y\\)", " x = 3  and y"),
        ("$x = 3$, $$y$$ and \\$5", "x = 3, y and $5"),
        ("$8 \\times 9 = 72$.", "$8 x 9 = 72."),
        ("72¢", "72 cents"),
        ("10^2, 10^{2}, 10^{a+b}, 90^\\circ", "10**2, 10**2, 10**(a+b), 90°"),
        ("3² m²", "3**2 m**2"),
        ("x_{12}", "x_12"),
        ("{1, 2} \\{3\\}", "(1, 2) (3)"),
        ("a < b <= c ≤ d", "a less than b at most c at most d"),
        ("~72, about~72 and ~~no~~ x~y", "about 72, about about 72 and no x y"),
        ("## Step **one**\n### 2. Two", "Step one\n2. Two"),
        ("#### 1. One", "1. One"),
        ("```python\nx = 1\n```\n`x`", "\nx = 1\n\nx"),
        ("\\begin{align*} x \\\\ y \\end{align*}", " x   y "),
        ("\\sqrt{16} \\leq 4", "sqrt(16) at most 4"),
        ("\\left(\\foo\\right)", "(foo)"),
        ("Łódź", "Lodz"),
        ("50\\% \\& more", "50% & more"),
        ("😀 文", None),
    ],
)
def test_the_table_writes_plain_text(text: str, plain: str | None) -> None:
    assert ASCII.text(text) == (text if plain is None else plain)


MARKUP = (
    "**",
    "*",
    " 8",
    "4",
    "\\",
    "\\times",
    " \\div",
    "\\frac{",
    "\\boxed{",
    "\\text{",
    "}{",
    "}",
    "{",
    "{,}",
    "$",
    "$$",
    "^",
    "^{",
    "_{",
    "#",
    "####",
    "\n",
    "`",
    "```",
    "~",
    "<",
    "=",
    "\\(",
    "\\,",
    "½",
    "²",
    "×",
    "−",
    " ",
    "é",
    "😀",
    "left",
    "\\begin{",
    "-",
    "(",
    "\\circ",
)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=12))
def test_a_text_in_pieces_is_rewritten_as_the_whole(parts: list[str]) -> None:
    state, written = State(), ""
    for part in parts:
        out, state = ASCII.feed(state, part)
        written += out
    assert written + ASCII.finish(state) == ASCII.text("".join(parts))


@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from(MARKUP), max_size=12).map("".join))
def test_no_sign_of_markup_is_left(text: str) -> None:
    assert not set(ASCII.text(text)) & set(table.NEEDED)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text("ab 1.,$*#_-\n'", max_size=30).filter(lambda t: "**" not in t),
)
def test_what_is_not_markup_stays(text: str) -> None:
    lines = [line.lstrip() for line in text.split("\n")]
    if not any(line.startswith("#") for line in lines) and "$" not in text:
        assert ASCII.text(text) == text


@settings(max_examples=80, deadline=None)
@given(
    raw=st.lists(st.sampled_from(MARKUP), min_size=1, max_size=8).map("".join),
    data=st.data(),
)
def test_tokens_spell_the_rewritten_text_however_it_is_cut(
    raw: str, data: st.DataObject
) -> None:
    coded = raw.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(coded)), max_size=6)))
    bounds = [0, *cuts, len(coded)]
    tokens = [coded[a:b] for a, b in itertools.pairwise(bounds)]
    others = [data.draw(st.lists(st.binary(min_size=1, max_size=3))) for _ in tokens]
    found = rewrite(tokens, others, ASCII, Reader.is_control)
    if found is None:
        assert ASCII.text(raw) == raw
        return
    assert b"".join(found.tokens) == found.text == ASCII.text(raw).encode()
    assert len(found.alternatives) == len(tokens) == len(found.tokens)


# Teacher rows ----------------------------------------------------------------------


def rows_of(
    tokens: list[TeacherToken], vocabulary: Vocabulary, machine: Machine | None
) -> list[dict[str, float]]:
    raw = b"".join(t.token for t in tokens)
    steps = check_tokens(tokens, raw, "test")
    if machine is not None:
        steps, raw = rewritten(steps, raw, machine)
    # These teachers have tokens of their own, even if all are pieces of the student.
    rows = byte_offsets.rows(steps, raw, vocabulary, named=False)
    assert rows.ids == vocabulary.encode(raw.decode())
    return [
        {vocabulary.piece(index): mass for index, mass in row.items()}
        for row in rows.masses
    ]


def test_the_map_reads_alternatives_as_it_reads_the_text(poor: Vocabulary) -> None:
    tokens = [
        token("8", 0.9, {"4": 0.1}),
        token(" \\times", 0.5, {" \\div": 0.25, " ×": 0.1, " *": 0.1}),
        token(" 8", 0.9, {" \\boxed{": 0.1}),
    ]
    first, sign, last = rows_of(tokens, poor, Writer(poor).machine)
    assert first == pytest.approx({"▁8": 0.9, "▁4": 0.1})
    assert sign == pytest.approx({"▁x": 0.6, "▁": 0.35})
    # " ×" writes the same, but what follows it is not known: 0.1 of 0.6.
    assert last == pytest.approx({"▁8": 0.75})


def test_a_mark_that_writes_nothing_decides_nothing(poor: Vocabulary) -> None:
    tokens = [
        token(" **", 0.6, {" 4": 0.3}),
        token("8", 0.9, {"4": 0.1}),
        token("**", 0.5, {".": 0.3}),
        token(".", 0.8, {"**": 0.1, "=": 0.1}),
    ]
    first, end = rows_of(tokens, poor, Writer(poor).machine)
    assert first == pytest.approx({"▁8": 0.54, "▁4": 0.36})
    # "." without "**" is ".", too; "**" once more says nothing of what follows.
    assert end == pytest.approx({".": 0.7, "=": 0.05})


def test_digits_of_a_fraction_keep_their_rivals(poor: Vocabulary) -> None:
    tokens = [
        token(" \\", 1.0),
        token("frac", 0.8, {"boxed": 0.2}),
        token("{", 1.0),
        token("8", 0.5, {"4": 0.4}),
        token("}{", 0.75, {"}": 0.25}),
        token("4", 0.9, {"8": 0.1}),
        token("}", 1.0),
    ]
    number, slash, four = rows_of(tokens, poor, Writer(poor).machine)
    assert number == pytest.approx({"▁8": 0.4, "▁4": 0.32})
    assert slash == pytest.approx({"/": 1.0})
    assert four == pytest.approx({"4": 0.675, "8": 0.075})


def test_an_end_that_goes_on_elsewhere_leaves_the_alternative_open(
    poor: Vocabulary,
) -> None:
    once = token(" 8", 0.5, {" *": 0.5})
    (row,) = rows_of([once], poor, Writer(poor).machine)
    assert row == pytest.approx({"▁8": 0.5, "▁": 0.5})
    tokens = [once, token(" *", 1.0), token("*", 1.0), token("4", 1.0)]
    row, *_ = rows_of(tokens, poor, Writer(poor).machine)
    assert row == pytest.approx({"▁8": 0.5})  # "*" is seen to go on as "**"


def test_half_a_command_leaves_its_word_open(poor: Vocabulary) -> None:
    tokens = [token(" cat", 0.5, {" cat\\te": 0.2, " cat\\": 0.1, " 8\\%": 0.1})]
    (row,) = rows_of(tokens, poor, Writer(poor).machine)
    assert row == pytest.approx({"▁cat": 0.5, "▁8": 0.1})


def test_the_end_of_the_text_is_no_markup(poor: Vocabulary) -> None:
    tokens = [token(" cat", 1.0), token(" \\times", 0.5, {"<|im_end|>": 0.5})]
    rows = rows_of(tokens, poor, Writer(poor).machine)
    assert rows[1] == pytest.approx({"▁x": 0.5, "</s>": 0.5})


def test_an_unknown_piece_has_mass_like_any_other(poor: Vocabulary) -> None:
    tokens = [
        token("8", 0.9, {"4": 0.1}),
        token("\\times", 0.5, {"\\div": 0.4}),
        token(" 8", 0.9, {" 4": 0.1}),
    ]
    first, unknown, word, last = rows_of(tokens, poor, None)
    assert unknown == pytest.approx({"<unk>": 0.9})  # its tail is 0.1
    assert word == pytest.approx({"times": 5 / 9, "div": 4 / 9})
    assert last == pytest.approx({"▁8": 0.9, "▁4": 0.1})


Tree = dict[str, tuple[float, "Tree"]]

WORDS = (" 8", " 4", " cat", " cats", ".", " x", "\n", " =")
SIGNS = (" \\times", " \\div", " ×", " {", "}", " <", "\\", " \\foo", "≠")
# No token ends in the middle of a unit that another token goes on with: that is the
# assumption of docs/explanation/plain_text.md.
MARKED = (
    " \\times",
    " \\div",
    " ×",
    " **",
    "**",
    " \\(",
    "\\)",
    " \\boxed{",
    " \\frac{8}{4}",
    " \\sqrt{",
    "}",
    " \\text{",
    " #",
    "\n##",
    " $x",
    " \\le",
    "\\left",
    " *",
    " <",
    "²",
)


@st.composite
def teachers(draw: st.DrawFn, words: tuple[str, ...], depth: int = 3) -> Tree:
    """A teacher known in full: after each text, its tokens and their probabilities."""
    if depth == 0:
        return {}
    chosen = draw(st.lists(st.sampled_from(words), min_size=1, max_size=3, unique=True))
    weights = draw(
        st.lists(st.integers(1, 9), min_size=len(chosen), max_size=len(chosen))
    )
    return {
        word: (weight / sum(weights), draw(teachers(words, depth - 1)))
        for word, weight in zip(chosen, weights, strict=True)
    }


def paths(tree: Tree) -> Iterator[list[tuple[str, Tree]]]:
    """Every text of a teacher, as tokens beside the alternatives to them."""
    if not tree:
        yield []
    for word, (_, after) in tree.items():
        for rest in paths(after):
            yield [(word, tree), *rest]


def every_text(
    tree: Tree, vocabulary: Vocabulary, machine: Machine | None
) -> Iterator[tuple[list[str], list[dict[str, float]], list[str], dict[str, float]]]:
    """Each text of a teacher: tokens, rows, pieces, and the true mass of any pieces.

    The true masses are keyed by the pieces from the beginning, joined by "|".
    """
    found = []
    truth: dict[str, float] = defaultdict(float)
    for path in paths(tree):
        text = "".join(word for word, _ in path)
        written = text if machine is None else machine.text(text)
        pieces = [vocabulary.piece(i) for i in (*vocabulary.encode(written), 1)]
        probability = float(np.prod([options[word][0] for word, options in path]))
        for end in range(len(pieces) + 1):
            truth["|".join(pieces[:end])] += probability
        found.append((path, pieces))
    for path, pieces in found:
        tokens = [
            token(
                word,
                options[word][0],
                {other: p for other, (p, _) in options.items() if other != word},
            )
            for word, options in path
        ]
        rows = rows_of(tokens, vocabulary, machine)
        yield [word for word, _ in path], rows, pieces, truth


def is_bracketed(tree: Tree, vocabulary: Vocabulary, machine: Machine | None) -> None:
    """The true conditionals are between a row and that row with its tail."""
    for words, rows, pieces, truth in every_text(tree, vocabulary, machine):
        for k, row in enumerate(rows):
            tail = 1 - sum(row.values())
            before = "|".join(pieces[:k])
            possible = {
                name.removeprefix(before).lstrip("|")
                for name in truth
                if name.startswith(before) and name.count("|") == k - (k == 0)
            }
            for piece in row.keys() | possible:
                whole = "|".join([*pieces[:k], piece])
                exactly = truth.get(whole, 0.0) / truth[before]
                known = row.get(piece, 0.0)
                assert known <= exactly + 1e-9, (words, k, piece)
                assert exactly <= known + tail + 1e-9, (words, k, piece)


def is_never_too_much(
    tree: Tree, vocabulary: Vocabulary, machine: Machine | None
) -> None:
    """No pieces are given more than their probability from the beginning."""
    for words, rows, pieces, truth in every_text(tree, vocabulary, machine):
        reached = 1.0
        for k, row in enumerate(rows):
            for piece, mass in row.items():
                true = truth.get("|".join([*pieces[:k], piece]), 0.0)
                assert reached * mass <= true + 1e-9, (words, k, piece)
            reached *= row[pieces[k]]


UNKNOWN = (" 8", " 4", " cat", " \\times", " \\div", " {x", " <s", " ×=", " =")
PLAIN = (" 8", " 4", " cat", " \\times", " \\div", " \\cdot", " ≠", " \\leq", "\n**s**")


@settings(max_examples=50, deadline=None)
@given(tree=teachers(UNKNOWN))
def test_rows_after_an_unknown_piece_bracket_the_true_conditionals(
    poor: Vocabulary, tree: Tree
) -> None:
    is_bracketed(tree, poor, None)


@settings(max_examples=50, deadline=None)
@given(tree=teachers(PLAIN))
def test_rows_of_rewritten_text_bracket_the_true_conditionals(
    poor: Vocabulary, tree: Tree
) -> None:
    is_bracketed(tree, poor, Writer(poor).machine)


@settings(max_examples=50, deadline=None)
@given(tree=teachers((*WORDS, *SIGNS)))
def test_unknown_pieces_are_never_given_too_much(poor: Vocabulary, tree: Tree) -> None:
    is_never_too_much(tree, poor, None)


@settings(max_examples=50, deadline=None)
@given(tree=teachers((*WORDS, *MARKED)))
def test_rewritten_text_is_never_given_too_much(poor: Vocabulary, tree: Tree) -> None:
    is_never_too_much(tree, poor, Writer(poor).machine)


# The policies ----------------------------------------------------------------------


def test_a_writer_rewrites_only_what_the_vocabulary_lacks(
    t5: Vocabulary, poor: Vocabulary, tmp_path: pathlib.Path
) -> None:
    rich = vocabulary_of(tmp_path, ["▁cat"])
    text = "José: \\boxed{8} × 9"
    assert Writer(rich).text(text) == text  # it has every sign of the table
    assert Writer(t5).text(text) == "José: 8 x 9"
    assert Writer(t5, "keep").text(text) == Writer(t5, "drop").text(text) == text
    assert Writer(t5).spelt("a\nb\n\n c") == "a b c"


def test_what_cannot_be_written_is_counted_by_character(t5: Vocabulary) -> None:
    text = "**8** \\times {9}\n= 72 ✅✅\n"
    rewriting = Writer(t5).counts(text)
    assert rewriting.to_json() == {
        "samples": 1,
        "rewritten_samples": 1,
        "lost_samples": 1,
        "newline_samples": 1,
        "newlines": 1,
        "characters": {"✅": 2, "\\": 1, "{": 1, "}": 1},
        "rewritten": {"**": 2, "\\times": 1, "{": 1, "}": 1},
        "lost": {"✅": 2},
    }
    kept = Writer(t5, "keep").counts(text)
    assert kept.lost == kept.characters == rewriting.characters
    assert not kept.rewritten
    assert Writer(t5).counts("8 cats").to_json() == {}


@pytest.mark.parametrize(
    ("gold", "kind", "text"),
    [
        ("yes", "yes_no", "\\boxed{\\text{Yes}}."),
        ("no", "yes_no", "**No**"),
        ("(B)", "choice", "\\boxed{\\text{(B)}} because of C"),
        ("72", "number", "The answer is \\frac{144}{2}"),
        ("1072", "number", "\\boxed{1{,}072}"),
        ("72", "number", "The answer is 72¢."),
        ("-72", "number", "The answer is **−72**."),
        ("3.5", "number", "The answer is 3½."),
        ("72", "number", "She sold \\boxed{72} clips in the 2 months."),
        ("72", "number", "#### 72"),
        ("72", "number", "### Final\n72"),
        ("] }", "brackets", "The answer is ] }"),
    ],
)
def test_a_right_text_counts_only_if_it_is_right_as_spelt(
    t5: Vocabulary, gold: str, kind: str, text: str
) -> None:
    judge = JudgeSpec(answer_type=kind)
    assert verdict(text, [gold], judge).correct
    for policy in ("rewrite", "keep"):
        writer = Writer(t5, policy)
        reason, _ = as_spelt(text, [gold], judge, writer)
        right = verdict(writer.spelt(text), [gold], judge).correct
        assert reason == (None if right else "not_right_as_spelt")
        if policy == "rewrite":
            assert right == (kind != "brackets")  # T5 has no "}"
    dropped, _ = as_spelt(text, [gold], judge, Writer(t5, "drop"))
    if t5.unwritable(text):
        assert dropped == "unwritable"


# Digits ----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(text=st.text("0123456789 .,/$%ab\n", max_size=20))
def test_single_digits_change_the_pieces_and_not_the_text(
    t5: Vocabulary, digits: Vocabulary, text: str
) -> None:
    ids = digits.encode(text)
    assert digits.decode(ids) == t5.decode(t5.encode(text))
    for index in ids:
        found = [c for c in digits.piece(index) if c.isdigit()]
        assert len(found) < 2 and (not found or len(digits.piece(index)) < 3)


def test_single_digits_keep_the_rivals_of_a_digit(
    t5: Vocabulary, digits: Vocabulary
) -> None:
    tokens = [
        token(" ", 1.0),
        token("1", 0.9, {"2": 0.1}),
        token("2", 0.6, {"5": 0.28}),
        token(" cats", 1.0),
    ]
    whole, *_ = rows_of(tokens, t5, None)
    assert whole == pytest.approx({"▁12": 0.54})
    first, second, *_ = rows_of(tokens, digits, None)
    assert first == pytest.approx({"▁1": 0.9, "▁2": 0.1})
    assert second == pytest.approx({"2": 0.6, "5": 0.28})


# The documentation -----------------------------------------------------------------


def test_the_page_states_the_whole_table() -> None:
    root = pathlib.Path(__file__).parents[2]
    page = (root / "docs/explanation/plain_text.md").read_text()
    assert f"Version {table.VERSION}." in page
    stated: dict[str, str] = {}
    for row in page.splitlines():
        cells = [cell.strip() for cell in row.strip("| ").split(" | ")]
        if row.startswith(("| `", "| U")) and len(cells) == 2:
            names = re.findall(r"`([^`]+)`|(U\+[0-9A-F]+)", cells[0])
            stated |= dict.fromkeys(map("".join, names), cells[1])
    commands = table.COMMANDS | dict.fromkeys(table.SILENT, "")
    wanted = {
        **{visible(sign): text for sign, text in table.CHARACTERS.items()},
        **table.ALWAYS,
        **table.FRACTIONS,
        **{f"\\{name}": text for name, text in commands.items()},
        **{f"\\{sign}": text for sign, text in table.SIGNS.items()},
    }
    del wanted["\\`"]  # said in words
    words = {"": "nothing", " ": "a space"}
    for name, text in wanted.items():
        assert stated.get(name) == words.get(text, f"`{text}`"), name
    for name in table.ARGUMENT | table.FRACTION:
        assert f"`\\{name}" in page
