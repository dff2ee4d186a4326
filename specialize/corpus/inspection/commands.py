"""`specialize corpus inspect` and `stats`: arguments in, one call out."""

import argparse

from specialize.corpus import options


def register_inspect(commands: options.Commands) -> None:
    """Adds `inspect`."""
    parser = options.add(
        commands,
        "inspect",
        _inspect,
        "show one sample: teacher tokens, student pieces, top-k before and after",
    )
    parser.add_argument("--corpus", default=None, metavar="DIR", help="a corpus")
    parser.add_argument(
        "--id",
        default=None,
        help="'<problem>/<sample>/<format>' of a corpus, or '<problem>/<sample>' of "
        "completions",
    )
    parser.add_argument("--index", type=int, default=0, help="record number")
    options.add_problems(parser, required=False)
    parser.add_argument(
        "--completions",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of completions, to show the teacher's tokens",
    )
    parser.add_argument(
        "--html", default=None, metavar="FILE", help="write an HTML page"
    )
    parser.set_defaults(in_buckets=("html",))
    options.add_alignment(parser)


def _inspect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from specialize import checks, outputs
    from specialize.corpus.inspection import lookup, view
    from specialize.corpus.tasks.known import read_problems
    from specialize.errors import InputError

    checks.whole("--index", arguments.index, 0)
    problems = []
    if arguments.problems:
        problems = read_problems(arguments.problems, arguments.task)
    elif arguments.completions:
        raise InputError("--problems is needed to read completions. Name their file.")
    elif not arguments.corpus:
        raise InputError(
            "There is nothing to show. Name --corpus, or --completions with --problems."
        )
    if arguments.corpus:
        shown = lookup.look_at_record(
            arguments.corpus,
            arguments.vocabulary,
            identity=arguments.id,
            index=arguments.index,
            completions=arguments.completions,
            problems=problems,
        )
    else:
        shown = lookup.look_at_completion(
            arguments.completions,
            problems,
            options.alignment(arguments),
            arguments.id or "",
        )
    if arguments.html:
        outputs.write_text(arguments.html, view.page(shown))
    else:
        Console().print(view.terminal(shown))
    return 0


def register_stats(commands: options.Commands) -> None:
    """Adds `stats`."""
    parser = options.add(
        commands, "stats", _stats, "show a corpus: funnel, lengths, soft share, size"
    )
    parser.add_argument("--corpus", required=True, metavar="DIR", help="a corpus")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")


def _stats(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from specialize.corpus.inspection import lookup

    if arguments.json:
        print(json.dumps(lookup.summary(arguments.corpus), indent=2))
    else:
        Console().print(lookup.tables(arguments.corpus))
    return 0
