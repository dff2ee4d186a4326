"""The difference between two results, over the questions that both of them answered.

Every table and page takes its differences from this module. If two runs share only a
part of their questions, the difference is over that part and notes it; if they were
asked different splits, there is no difference.
"""

import dataclasses

from specialize.evaluation.results import Results
from specialize.evaluation.scoring.averages import members
from specialize.evaluation.scoring.statistics import Interval


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the questions they share, or why they cannot be compared.

    Attributes:
        n: Number of shared questions, 0 without a comparison.
        before: Accuracy of the base over them.
        after: Accuracy of the new system over them.
        difference: `after` minus `before` with its bootstrap interval.
        p_value: Exact McNemar test; None for an average over suites.
        note: Which questions only one of the two was asked, or why nothing is compared.
    """

    n: int = 0
    before: float = 0.0
    after: float = 0.0
    difference: Interval | None = None
    p_value: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.difference is None:
            return f"– ({self.note})"
        value, low, high = (x * 100 for x in dataclasses.astuple(self.difference))
        text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        if self.p_value is not None:
            p = "< 0.001" if self.p_value < 0.001 else f"= {self.p_value:.3f}"
            text += f", p {p}"
        return f"{text}, n {self.n:,}" + (f" ({self.note})" if self.note else "")


def compare(key: str, results: Results, base: Results) -> Comparison:
    """Compares one suite, or an average over suites.

    For an average, every suite counts the same, and each is compared over its own
    shared questions.

    Args:
        key: "suite:prompt", of `results.suites` or `results.averages`.
        results: Results of the new system.
        base: Results of the old system.
    """
    # Most tables compare nothing.
    import numpy as np

    from specialize.evaluation.scoring import paired

    average = key in results.averages and key not in results.suites
    keys = members(key, results.suites) if average else [key]
    if average and set(keys) != set(members(key, base.suites)):
        return Comparison(note="base: other suites")
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    partial = ""
    for one in keys:
        new, old = results.split(one), base.split(one)
        if one not in base.suites:
            return Comparison(note="base: not asked")
        if new != old:
            return Comparison(note=f"base: split {old}, not {new}")
        right = [
            {line["id"]: bool(line["correct"]) for line in found.lines(one)}
            for found in (base, results)
        ]
        shared = [id for id in right[1] if id in right[0]]
        if not shared:
            return Comparison(
                note="no question is shared" if all(right) else "no predictions to pair"
            )
        if any(len(found) > len(shared) for found in right):
            partial = f"shared of {len(right[0]):,} and {len(right[1]):,}"
            partial = "shared questions only" if average else partial
        before, after = (np.array([one[id] for id in shared]) for one in right)
        pairs.append((before, after))
    if not pairs:
        return Comparison(note="no predictions to pair")
    if average:
        difference, p_value = paired.compare_macro(pairs), None
    else:
        found = paired.compare(*pairs[0])
        difference, p_value = found.difference, found.p_value
    before, after = (float(np.mean([np.mean(p[i]) for p in pairs])) for i in (0, 1))
    n = sum(len(one) for one, _ in pairs)
    return Comparison(n, before, after, difference, p_value, partial)
