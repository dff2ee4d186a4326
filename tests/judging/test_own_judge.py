"""A judge of one's own, called from a notebook."""

import pytest

import specialize
from specialize.errors import InputError


def test_a_notebook_judges_a_text_with_a_judge_of_ones_own(tmp_path):
    file = tmp_path / "near.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Found:\n"
        "    value: str\n"
        "def near(prediction, golds):\n"
        "    found = Found(prediction.split()[-1])\n"
        "    return abs(float(found.value) - float(golds[0])) < 1, found.value\n"
    )
    found = specialize.judge("about 17.6", gold=18, judge=f"{file}:near")
    assert (found.correct, found.value) == (True, "17.6")
    with pytest.raises(InputError, match="judge is 'exat', expected one of exact"):
        specialize.judge("18", gold=18, judge="exat")
