"""A key that occurs twice in a dictionary of a gin file is refused, wherever it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize import config
from specialize.config.repeats import repeats
from specialize.errors import InputError

KEYS = ["'a'", '"b"', "1", "(1, 'a')", "('a', (2,))", "%A", "@m.f", "None", "('c')"]
LEAVES = ["1", "'a'", "'a: b, {'", "%A", "@m.f()", "[]", "(1, 2)", "{}", "[{'a': 1}]"]


@st.composite
def literals(draw, depth=3):
    """The text of a value, and whether one of its dictionaries has a key twice."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(LEAVES)), False
    space = st.sampled_from(["", " ", "\n  ", "  # {'a': 1, 'a': 2}\n"])
    inner = draw(st.lists(literals(depth=depth - 1), max_size=4))
    twice = any(repeated for _, repeated in inner)
    if draw(st.booleans()):
        items = "".join(f"{text},{draw(space)}" for text, _ in inner)
        return draw(st.sampled_from(["[{}]", "({})"])).format(items), twice
    keys = [draw(st.sampled_from(KEYS)) for _ in inner]
    items = "".join(
        f"{key}{draw(space)}: {text},{draw(space)}"
        for key, (text, _) in zip(keys, inner, strict=True)
    )
    return f"{{{items}}}", twice or len(set(keys)) < len(keys)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(first=literals(), second=literals())
def test_repeated_keys_are_found_in_any_value(first, second):
    text = f"# {{\nM = {first[0]}\nf.x = {second[0]}\n"
    assert bool(list(repeats(text))) == (first[1] or second[1]), text


@pytest.mark.parametrize(
    ("same", "key"),
    [("'a': 1, \"a\": 2", '"a"'), ("1: 2, 1.0: 3", "1.0"), ("(1,): 2, (1,): 3", None)],
)
def test_keys_that_python_holds_equal_are_one(same, key):
    (found,) = repeats(f"M = {{{same}}}")
    assert key in (None, found.key)


def test_file_and_both_lines_are_named(tmp_path):
    path = tmp_path / "study.gin"
    path.write_text(
        "N = 1\nARMS = {\n  'a': {'X': 1},\n  'b': {},\n  'a': {'X': 2},\n}"
    )
    with pytest.raises(InputError) as caught:
        config.read([str(path)])
    assert str(caught.value) == (
        f"{path}:5: the key 'a' occurs twice in one dictionary, first in line 3. "
        "Remove or rename one of them."
    )
    path.write_text("N = {}")
    with pytest.raises(InputError, match=r"^--gin.N: the key 'a' occurs twice"):
        config.read([str(path)], ["N = {'a': 1, 'a': 2}"])
