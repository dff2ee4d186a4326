"""Where a fact has to be written twice, this compares the two."""

import pathlib
import re

import pytest

from specialize.config import scanning
from specialize.student.loss.losses import MODES
from specialize.student.network.architecture import REMAT_POLICIES

ROOT = pathlib.Path(__file__).parent.parent


def values_in_comment(macro: str) -> list[str]:
    """The quoted values in the comment above a macro of values.gin."""
    text = (scanning.package_folder() / "runs/values.gin").read_text()
    found = re.search(rf"((?:^# .*\n)+){macro} = ", text, re.MULTILINE)
    assert found, macro
    return re.findall(r"'(\w+)'", found[1])


@pytest.mark.parametrize(
    "macro, known", [("REMAT_POLICY", REMAT_POLICIES), ("LOSS_MODE", MODES)]
)
def test_the_comment_of_a_macro_lists_the_values_it_takes(macro, known):
    assert values_in_comment(macro) == list(known)


def test_the_page_about_plans_lists_the_remat_policies_in_order():
    text = (ROOT / "docs/how-to/plan.md").read_text()
    listed = re.search(r"cheapest remat policy that fits \(([^:]*):", text)
    assert listed
    assert re.findall(r"`(\w+)`", listed[1]) == list(REMAT_POLICIES)
