"""`specialize corpus ...`: arguments in, one call out."""

import argparse

from specialize.corpus import options
from specialize.corpus.importing import commands as importing_commands
from specialize.corpus.inspection import commands as inspection_commands
from specialize.corpus.sampling import commands as sampling_commands


def register(subparsers: options.Commands) -> None:
    """Adds `corpus` and its sub-commands."""
    corpus = subparsers.add_parser(
        "corpus",
        help="sample a teacher, verify, align, and write what a student learns",
        description="Makes a corpus: problems, the completions of a teacher and its "
        "probabilities become the records that a student is trained on. 'build' runs "
        "all stages after sampling. The other commands run one stage each, or read "
        "what a stage wrote.",
    )
    commands = corpus.add_subparsers(metavar="STEP", required=True, dest="step")
    sampling_commands.register_sample(commands)
    sampling_commands.register_score(commands)
    sampling_commands.register_export(commands)
    importing_commands.register_import(commands)
    _register_verify(commands)
    _register_align(commands)
    _register_write(commands)
    _register_build(commands)
    _register_import_released(commands)
    inspection_commands.register_inspect(commands)
    inspection_commands.register_stats(commands)


def _register_verify(commands: options.Commands) -> None:
    parser = options.add(
        commands, "verify", _verify, "keep the completions whose answer is right"
    )
    options.add_problems(parser)
    options.add_completions(parser)
    options.add_out(parser)
    parser.add_argument(
        "--rejected",
        default=None,
        metavar="FILE",
        help="file for the rejected ones, with the reason",
    )
    options.add_processes(parser)
    options.add_judging(parser)
    options.add_spelling(parser.add_argument_group("the student"), required=False)


def _verify(arguments: argparse.Namespace) -> int:
    from specialize.corpus.building import stages
    from specialize.progress import console

    funnel = stages.verify(
        options.sources(arguments),
        arguments.out,
        acceptance=options.acceptance(arguments),
        alignment=options.student(arguments),
        rejected=arguments.rejected,
        processes=arguments.processes,
    )
    console.print(funnel.table())
    return 0


def _register_align(commands: options.Commands) -> None:
    parser = options.add(
        commands, "align", _align, "turn verified completions into teacher rows"
    )
    options.add_problems(parser)
    parser.add_argument(
        "--completions",
        required=True,
        nargs=1,
        metavar="FILE",
        help="what 'verify' wrote",
    )
    options.add_out(parser)
    options.add_processes(parser)
    options.add_alignment(parser)


def _align(arguments: argparse.Namespace) -> int:
    from specialize.corpus.building import stages
    from specialize.progress import console

    funnel = stages.align(
        options.sources(arguments),
        options.alignment(arguments),
        arguments.out,
        processes=arguments.processes,
    )
    console.print(funnel.table())
    return 0


def _register_write(commands: options.Commands) -> None:
    parser = options.add(
        commands, "write", _write, "write aligned samples and rationales as a corpus"
    )
    options.add_problems(parser)
    parser.add_argument(
        "--aligned",
        required=True,
        dest="completions",
        nargs=1,
        metavar="FILE",
        help="what 'align' wrote",
    )
    options.add_no_rationales(parser)
    options.add_output(parser)
    options.add_processes(parser)
    options.add_alignment(parser)
    options.add_formats(parser)


def _write(arguments: argparse.Namespace) -> int:
    from specialize.corpus.building import stages

    return options.show(
        stages.write(
            options.sources(arguments),
            options.alignment(arguments),
            options.folder(arguments),
            records=options.records(arguments),
            processes=arguments.processes,
        )
    )


def _register_build(commands: options.Commands) -> None:
    parser = options.add(
        commands,
        "build",
        _build,
        "build a corpus from local files: read, verify, align and write",
    )
    options.add_problems(parser)
    options.add_completions(parser)
    options.add_no_rationales(parser)
    options.add_output(parser)
    options.add_processes(parser)
    parser.add_argument(
        "--beam",
        default=None,
        metavar="OPTIONS",
        help="build on Apache Beam, with these runner options in one argument, for "
        "example '--runner=FlinkRunner --flink_master=host:8081'",
    )
    options.add_judging(parser)
    options.add_alignment(parser)
    options.add_formats(parser)


def _build(arguments: argparse.Namespace) -> int:
    import shlex

    from specialize.corpus.building import pipeline

    manifest = pipeline.build(
        options.sources(arguments),
        options.alignment(arguments),
        options.folder(arguments),
        acceptance=options.acceptance(arguments),
        records=options.records(arguments),
        processes=arguments.processes,
        beam_options=None if arguments.beam is None else shlex.split(arguments.beam),
    )
    return options.show(manifest)


def _register_import_released(commands: options.Commands) -> None:
    parser = options.add(
        commands,
        "import-released",
        _import_released,
        "turn the pickles that the paper's authors released into a corpus",
    )
    parser.add_argument(
        "--pickles",
        required=True,
        nargs="+",
        metavar="FILE",
        help="one file per format",
    )
    parser.add_argument(
        "--problems",
        default=None,
        metavar="FILE",
        help="the training file of the release, whose ids the records get",
    )
    parser.add_argument(
        "--vocabulary", required=True, metavar="FILE", help="T5's SentencePiece model"
    )
    options.add_rows(parser)
    parser.add_argument(
        "--teacher",
        default="code-davinci-002",
        help="name of the teacher on the card",
    )
    options.add_k(parser)
    options.add_output(parser)
    options.add_processes(parser)


def _import_released(arguments: argparse.Namespace) -> int:
    from specialize.corpus.building import released
    from specialize.corpus.tasks.known import (
        UNKNOWN,
        licence_of,
        read_problems,
        shipped,
    )

    file = arguments.problems
    return options.show(
        released.import_released(
            arguments.pickles,
            options.alignment(arguments),
            options.folder(arguments),
            problems=read_problems(file, released.TASK) if file else (),
            licence=licence_of(shipped(released.TASK), file) if file else UNKNOWN,
            teacher=arguments.teacher,
            processes=arguments.processes,
        )
    )
