"""The tables of a study, for the terminal and for the page."""

from collections.abc import Sequence

from rich.table import Table

from specialize.evaluation.study.outcome import Estimate, Outcome
from specialize.progress import table_console

# Title, header and rows.
Rows = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def show(found: Outcome) -> None:
    """Prints scores, differences and claims on standard output."""
    console = table_console(200)
    for title, header, rows in tables(found):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def tables(found: Outcome) -> list[Rows]:
    """The tables that the study has."""
    made = [_scores(found)]
    if found.reference and any(found.differences.values()):
        made.append(_differences(found))
    if found.claims:
        made.append(_claims(found))
    return made


def measures(found: Outcome) -> list[str]:
    """The measures that an arm has, in the order of the study."""
    return list(dict.fromkeys(name for one in found.scores.values() for name in one))


def _scores(found: Outcome) -> Rows:
    names = measures(found)
    title = (
        f"Accuracy in per cent, means over seeds ({found.done} of {found.cells} cells)"
    )
    rows: list[Sequence[str]] = []
    for arm, one in found.scores.items():
        if not one:
            continue  # no cell of it is done
        seeds = max(score.n for score in one.values())
        cells = [share(one[name]) if name in one else "–" for name in names]
        rows.append((arm, str(seeds), *cells))
    return title, ("arm", "seeds", *(name.replace("_", " ") for name in names)), rows


def _differences(found: Outcome) -> Rows:
    names = measures(found)
    rows = [
        (arm, *(points(one[name]) if name in one else "–" for name in names))
        for arm, one in found.differences.items()
        if one
    ]
    header = ("arm", *(name.replace("_", " ") for name in names))
    return f"Points above {found.reference}, paired by seed", header, rows


def _claims(found: Outcome) -> Rows:
    rows = [
        (
            "" if number else claim.text,
            one.text,
            f"{one.number * 100:+.1f}",
            points(one.estimate),
            one.verdict,
            "" if number else claim.verdict,
        )
        for claim in found.claims
        for number, one in enumerate(claim.contrasts)
    ]
    header = ("claim", "contrast", "more than", "points found", "", "verdict")
    return "Claims", header, rows


def share(one: Estimate) -> str:
    """A share in per cent with its interval, cut at 0 and 100: "91.5 [88.0, 95.0]"."""
    if one.mean is None:
        return "–"
    text = f"{one.mean * 100:.1f}"
    if one.low is not None and one.high is not None:
        text += f" [{max(one.low, 0) * 100:.1f}, {min(one.high, 1) * 100:.1f}]"
    return text + answered(one)


def points(one: Estimate) -> str:
    """A difference in points with its interval and p."""
    if one.mean is None:
        return "–"
    text = f"{one.mean * 100:+.1f}"
    if one.low is not None and one.high is not None and one.p_value is not None:
        p = "< 0.001" if one.p_value < 0.001 else f"= {one.p_value:.3f}"
        text += f" [{one.low * 100:+.1f}, {one.high * 100:+.1f}], p {p}"
    return text + answered(one)


def answered(one: Estimate) -> str:
    """Of how many questions, if only some have an answer: " (5 to 7 of 40 questions)".

    The numbers are the least and the largest of the seeds.
    """
    if not one.answered:
        return ""
    ranges = [
        f"{min(some):,}" + (f" to {max(some):,}" if len(set(some)) > 1 else "")
        for some in zip(*one.answered.values(), strict=True)
    ]
    return f" ({ranges[0]} of {ranges[1]} questions)"
