"""One self-contained page about one or more runs: no network, no script.

Each section shows results from the folders of the runs and names what is missing. The
same content is available as markdown, for a README.
"""

import datetime
import os
from collections.abc import Sequence
from typing import Any

import jinja2

from specialize import __version__, outputs
from specialize.errors import InputError
from specialize.evaluation.report import accuracy, comparisons, origins
from specialize.evaluation.report.runs import Run, read_run


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    command: str = "",
) -> list[Run]:
    """Writes the page, as markdown if `out` ends in `.md`.

    Args:
        paths: Folders of runs or results files. The page is about the first one and
            compares it with the others (other sizes, ablations).
        out: The file to write.
        base: Run or results file of its base model.
        command: The command line, shown on the page.

    Returns:
        The runs as they were read.

    Raises:
        InputError: A path has nothing of ours.
    """
    if not paths:
        raise InputError("there is no run to report on: name a run's folder.")
    runs = [read_run(path) for path in paths]
    origin = read_run(base) if base is not None else None
    sections = [
        accuracy.scores(runs, origin),
        accuracy.prompts(runs, origin),
        origins.funnel(runs),
        origins.curves(runs),
        comparisons.trade_off(runs, origin),
        *([comparisons.choice(runs)] if any(run.weighed for run in runs) else []),
        comparisons.scaling(runs),
        accuracy.won_and_lost(runs[0], origin),
        origins.provenance(runs, origin, command),
    ]
    main = runs[0].last
    context = {
        "title": f"{runs[0].name}: what specialisation did",
        "lead": accuracy.lead(runs[0], origin),
        "sections": sections,
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "has_scores": main is not None,
    }
    markdown = os.fspath(out).endswith(".md")
    template = f"report.{'md' if markdown else 'html'}.j2"
    templates = _templates(markdown)
    outputs.write_text(out, templates.get_template(template).render(context))
    return runs


def _markdown(value: Any) -> Any:
    """A text that neither HTML nor a link or image of markdown can be in."""
    if not isinstance(value, str):
        return value
    return value.replace("<", "&lt;").replace("](", "]\\(").replace("\n", " ")


def _templates(markdown: bool) -> jinja2.Environment:
    return jinja2.Environment(
        finalize=_markdown if markdown else None,
        loader=jinja2.PackageLoader("specialize.evaluation.report"),
        autoescape=jinja2.select_autoescape(("html", "html.j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
