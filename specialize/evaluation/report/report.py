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
from specialize.evaluation.report import accuracy, comparisons, origins, studies
from specialize.evaluation.report.runs import Run, read_run
from specialize.evaluation.report.section import Section
from specialize.evaluation.study import outcome
from specialize.paths import name_of

Path = str | os.PathLike[str]


def report(
    paths: Sequence[Path],
    out: Path,
    *,
    base: Path | None = None,
    command: str = "",
) -> list[Run]:
    """Writes the page, as markdown if `out` ends in `.md`.

    Args:
        paths: Folders of runs or results files. The page is about the first one and
            compares it with the others (other sizes, ablations). Or the folder of a
            study alone.
        out: The file to write.
        base: Run or results file of its base model.
        command: The command line, shown on the page.

    Returns:
        The runs as they were read; none for a study.

    Raises:
        InputError: A path has nothing of ours, or a study is not alone.
    """
    if not paths:
        raise InputError("there is no run to report on: name a run's folder.")
    if any(map(studies.is_study, paths)):
        if len(paths) > 1 or base is not None:
            raise InputError("a study has a page of its own. Name it alone.")
        _write_study(paths[0], out)
        return []
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
    title = f"{runs[0].name}: what specialisation did"
    _write(out, title, accuracy.lead(runs[0], origin), sections)
    return runs


def _write_study(path: Path, out: Path) -> None:
    found = outcome.load(path)
    title = f"{name_of(path)}: a study"
    _write(out, title, studies.lead(found), studies.sections(found))


def _write(out: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    context = {
        "title": title,
        "lead": lead,
        "sections": sections,
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    markdown = os.fspath(out).endswith(".md")
    template = f"report.{'md' if markdown else 'html'}.j2"
    templates = _templates(markdown)
    outputs.write_text(out, templates.get_template(template).render(context))


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
