"""`specialize corpus import`: arguments in, one call out."""

import argparse

from specialize.corpus import options
from specialize.corpus.choices import LAYOUTS
from specialize.corpus.sampling.spec import CONVENTIONS


def register_import(commands: options.Commands) -> None:
    """Adds `import`."""
    parser = options.add(
        commands,
        "import",
        _import,
        "turn teacher outputs that were made elsewhere into a file of completions",
    )
    options.add_problems(parser)
    options.add_completions(parser)
    options.add_out(parser, required=False)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="write nothing; show what would be kept, what is lost and why, and three "
        "examples before and after",
    )
    group = parser.add_argument_group("layout")
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=None,
        help="layout of the files (default: found out for every object)",
    )
    for name, help in (
        ("question", "the question"),
        ("text", "the text, or the list of texts"),
        ("id", "what identifies the question"),
    ):
        group.add_argument(
            f"--{name}_field",
            metavar="NAME",
            default=None,
            help=f"field of {help}, in the layout rows",
        )
    group.add_argument(
        "--requests",
        nargs="+",
        default=[],
        metavar="FILE",
        help="requests of a batch, if its custom_id is not the id of a problem",
    )
    rows = parser.add_argument_group("log-probabilities")
    rows.add_argument(
        "--without_logprobs",
        action="store_true",
        help="take completions without log-probabilities; their rows are one-hot",
    )
    rows.add_argument(
        "--logprobs_are",
        default="unknown",
        choices=CONVENTIONS[1:],
        help="whether the server applied the temperature to its log-probabilities",
    )
    judging = parser.add_argument_group("verification")
    options.add_answer_type(judging)
    options.add_spelling(judging, required=False)


def _import(arguments: argparse.Namespace) -> int:
    from specialize.corpus.importing import convert
    from specialize.corpus.importing.layouts import Fields
    from specialize.errors import InputError
    from specialize.progress import console, say

    if arguments.out is None and not arguments.dry_run:
        raise InputError("--out is missing. Name a file, or preview with --dry_run.")
    fields = Fields(arguments.question_field, arguments.text_field, arguments.id_field)
    spec = convert.ImportSpec(
        arguments.layout,
        fields,
        arguments.requests,
        arguments.without_logprobs,
        arguments.logprobs_are,
    )
    report = convert.convert(
        options.sources(arguments),
        None if arguments.dry_run else arguments.out,
        spec,
        judge=options.judging(arguments),
        student=options.student(arguments),
    )
    console.print(report.tables(), soft_wrap=True)
    if arguments.dry_run:
        console.print(report.shown(), soft_wrap=True)
        say("nothing was written (--dry_run)")
    else:
        say(f"{report.written:,} completions in {arguments.out}")
    return 0
