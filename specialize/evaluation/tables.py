"""The table of an evaluation: accuracy, n, interval, how answers were found."""

from rich.markup import escape
from rich.table import Table

from specialize.errors import visible
from specialize.evaluation.comparison import compare
from specialize.evaluation.results import Results, number_of
from specialize.progress import table_console


def show(results: Results, base: Results | None = None) -> None:
    """Prints the `table` of the results on standard output."""
    table_console(160).print(table(results, base))


def _plain(text: str) -> str:
    """A text that rich shows as it is, and that does not control the terminal."""
    return escape(visible(text))


def table(results: Results, base: Results | None = None) -> Table:
    """The results as a table, suites first, then averages.

    Args:
        results: The results.
        base: Results of the base model, for differences over shared questions.
    """
    title = str(results.model.get("checkpoint") or results.model.get("file") or "")
    title = _plain(title)
    shown = Table(title=title, title_justify="left")
    shown.add_column("suite")
    shown.add_column("prompt")
    shown.add_column("split")
    shown.add_column("n", justify="right")
    shown.add_column("accuracy", justify="right")
    shown.add_column("95 % interval")
    if base is not None:
        shown.add_column("base", justify="right")
        shown.add_column("difference over shared questions")
    shown.add_column("marked / last / none")
    shown.add_column("ceiling")
    for scores in (results.suites, results.averages):
        for key, score in scores.items():
            suite, _, prompt = key.partition(":")
            cells = [
                suite,
                prompt.replace("_", " "),
                results.split(key),
                number_of(score),
                f"{score['accuracy']:.1%}",
                f"[{score['low']:.1%}, {score['high']:.1%}]",
            ]
            if base is not None:
                old = base.scores.get(key)
                cells.append("–" if old is None else f"{old['accuracy']:.1%}")
                cells.append(str(compare(key, results, base)))
            how = score.get("how", {})
            cells.append(" / ".join(str(count) for count in how.values()))
            ceiling = score.get("ceiling", {}).get("accuracy", 1.0)
            cells.append(f"{ceiling:.1%}" if ceiling < 1 else "")
            shown.add_row(*map(_plain, cells))
        shown.add_section()
    return shown
