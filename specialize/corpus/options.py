"""Options that several sub-commands of `specialize corpus` share."""

# pyright: reportPrivateUsage=false
# argparse gives the type of `add_subparsers` no public name.

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from specialize import checks, typed_json
from specialize.corpus.choices import (
    ALIGNMENTS,
    DIGITS,
    FORMATS,
    REASONING,
    UNWRITABLE,
)
from specialize.corpus.sampling.spec import (
    UPLOAD_EVERY_S,
    RequestSpec,
    SamplingSpec,
)
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)
from specialize.corpus.tasks.known import find, index, of_file
from specialize.errors import InputError
from specialize.judging.choices import ANSWER_TYPES, JUDGES
from specialize.judging.spec import JudgeSpec

if TYPE_CHECKING:
    from specialize.corpus.storage.manifest import Manifest

Command = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(
    commands: Commands, name: str, run: Command, help: str
) -> argparse.ArgumentParser:
    """Adds a sub-command that calls `run`."""
    parser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + "."
    )
    parser.set_defaults(run=run)
    return parser


def add_problems(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the file of the questions."""
    parser.add_argument(
        "--problems", required=required, metavar="FILE", help="file of the questions"
    )
    parser.add_argument(
        "--task",
        "--dataset",
        default=index().default,
        metavar="TASK",
        help="how the problems are read: a task file (.toml, .json), or one of "
        + ", ".join(index().tasks),
    )


def add_completions(parser: argparse.ArgumentParser) -> None:
    """Adds the files of the completions."""
    parser.add_argument(
        "--completions",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files of teacher completions (exports or notebook dumps)",
    )
    parser.add_argument(
        "--teacher",
        default=None,
        help="name of the teacher on the card (default: as the cards of the "
        "completions say)",
    )
    parser.add_argument(
        "--reasoning",
        choices=REASONING,
        default=None,
        help="what to do with reasoning before an answer (<think> and the like): drop "
        "it, keep it before the answer, or refuse the sample (default: as the card of "
        "the completions says, or else drop)",
    )


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the file that a stage writes."""
    parser.add_argument(
        "--out",
        required=required,
        metavar="FILE",
        help="output, .jsonl or .jsonl.gz"
        + ("" if required else "; required unless --dry_run"),
    )
    parser.set_defaults(in_buckets=("out", "rejected"))


def add_no_rationales(parser: argparse.ArgumentParser) -> None:
    """Adds `--no_rationales`."""
    parser.add_argument(
        "--no_rationales", action="store_true", help="leave the human rationales out"
    )


def sources(arguments: argparse.Namespace) -> Sources:
    """What `add_problems`, `add_completions` and `add_no_rationales` read."""
    return Sources(
        arguments.problems,
        arguments.completions,
        arguments.task,
        getattr(arguments, "teacher", None),
        not getattr(arguments, "no_rationales", False),
        getattr(arguments, "reasoning", None),
    )


def add_asking(parser: argparse.ArgumentParser, *, numbers: bool = True) -> None:
    """Adds the options of every teacher: what it is asked, where responses go.

    Args:
        parser: the command.
        numbers: whether it asks for a number of samples.
    """
    parser.add_argument(
        "--responses",
        required=True,
        metavar="FILE",
        help="the response database, which may be in a bucket",
    )
    parser.add_argument(
        "--prompt",
        default=None,
        metavar="FILE",
        help="prompt prefix: text before each question, such as demonstrations "
        "(default: none)",
    )
    parser.add_argument(
        "--limit",
        type=checks.count,
        default=None,
        metavar="N",
        help="ask only the first N questions (default: all)",
    )
    if numbers:
        parser.add_argument(
            "--n", type=int, default=SamplingSpec.samples, help="samples per question"
        )
        parser.add_argument(
            "--max_n",
            type=int,
            default=None,
            help="most samples of a question that has no right one yet (default: as "
            "many as --n)",
        )
        parser.add_argument(
            "--n_per_request",
            type=int,
            default=SamplingSpec.samples_per_request,
            help="samples per request",
        )
    parser.add_argument(
        "--top_logprobs",
        type=int,
        default=RequestSpec.top_logprobs,
        help="alternatives per token",
    )
    parser.add_argument(
        "--log_every",
        type=checks.pause,
        default=30.0,
        help="seconds between progress lines",
    )
    parser.add_argument(
        "--upload_every",
        type=checks.pause,
        default=UPLOAD_EVERY_S,
        metavar="SECONDS",
        help="seconds between uploads of a database in a bucket; if this machine is "
        "lost, responses since the last upload are lost",
    )
    parser.set_defaults(in_buckets=("responses",))


def sampling(arguments: argparse.Namespace) -> SamplingSpec:
    """What `add_asking` and `add_answer_type` read."""
    judge = judging(arguments)
    names = {"samples": "--n", "max_samples": "--max_n"}
    with checks.called(samples_per_request="--n_per_request", **names):
        return SamplingSpec(
            arguments.n, arguments.max_n, arguments.n_per_request, judge=judge
        )


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which samples are kept."""
    group = parser.add_argument_group("verification")
    add_answer_type(group)
    group.add_argument(
        "--near_duplicates",
        type=float,
        metavar="SIMILARITY",
        default=None,
        help="reject samples at least this similar to an earlier one, 0 to 1 "
        "(default: none)",
    )
    group.add_argument(
        "--max_samples",
        type=int,
        metavar="N",
        default=None,
        help="keep at most N right samples per question (default: all)",
    )


def acceptance(arguments: argparse.Namespace) -> AcceptanceSpec:
    """What `add_judging` read."""
    judge = judging(arguments)
    with checks.called(
        near_duplicates="--near_duplicates", max_samples="--max_samples"
    ):
        return AcceptanceSpec(judge, arguments.near_duplicates, arguments.max_samples)


def add_answer_type(group: "argparse._ArgumentGroup") -> None:
    """Adds the options of the judge."""
    group.add_argument(
        "--answer_type",
        default=None,
        choices=ANSWER_TYPES,
        help="kind of final answer of the questions (default: that of the task)",
    )
    group.add_argument(
        "--rule",
        default=None,
        choices=JUDGES,
        help="the judge: exact (ours), or reference (as the paper's code) (default: "
        "that of the task)",
    )


def judging(arguments: argparse.Namespace) -> JudgeSpec:
    """What `add_problems` and `add_answer_type` read."""
    judge = of_file(find(arguments.task), arguments.problems).judge
    chosen = {"judge": arguments.rule, "answer_type": arguments.answer_type}
    return dataclasses.replace(
        judge, **{name: value for name, value in chosen.items() if value is not None}
    )


def add_spelling(
    group: "argparse._ArgumentGroup | argparse.ArgumentParser", *, required: bool = True
) -> None:
    """Adds the student's vocabulary, and what becomes of text that it cannot write."""
    group.add_argument(
        "--vocabulary",
        required=required,
        metavar="FILE",
        help="the student's SentencePiece model, or 'byt5' for the bytes of ByT5"
        + ("" if required else ": also judge answers as it spells them"),
    )
    group.add_argument(
        "--unwritable",
        default=None,
        choices=UNWRITABLE,
        help="text that the vocabulary cannot write: rewrite it as plain text (the "
        "default), drop such samples, or keep it as <unk>",
    )


def add_alignment(parser: argparse.ArgumentParser) -> None:
    """Adds the student's vocabulary and the options of the teacher rows."""
    group = parser.add_argument_group("alignment")
    add_spelling(group)
    group.add_argument(
        "--digits",
        default=None,
        choices=DIGITS,
        help="numbers in targets: as the vocabulary spells them (whole, the default), "
        "or digit by digit (single)",
    )
    add_rows(group)
    add_k(group)
    group.add_argument(
        "--alignment",
        default=AlignmentSpec.method,
        choices=ALIGNMENTS,
        help="how tokens of the teacher become pieces of the student",
    )


def add_rows(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """Adds `--rows`."""
    group.add_argument(
        "--rows",
        type=checks.count,
        default=None,
        help="embedding rows of the student (default: the vocabulary rounded up to "
        "a multiple of 128; 32128 for T5)",
    )


def add_k(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """Adds `--k`."""
    group.add_argument(
        "--k",
        type=checks.count,
        default=AlignmentSpec.k,
        help="entries of a teacher row, which corpora that are mixed must share",
    )


def alignment(arguments: argparse.Namespace) -> AlignmentSpec:
    """What `add_alignment` or `add_spelling` read."""
    chosen = {
        "rows": getattr(arguments, "rows", None),
        "k": getattr(arguments, "k", None),
        "method": getattr(arguments, "alignment", None),
        "unwritable": getattr(arguments, "unwritable", None),
        "digits": getattr(arguments, "digits", None),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    with checks.called(**{name: f"--{name}" for name in ("rows", "k")}):
        return AlignmentSpec(arguments.vocabulary, **given)


def student(arguments: argparse.Namespace) -> AlignmentSpec | None:
    """What an optional `add_spelling` read; None without a vocabulary."""
    if arguments.vocabulary is None and arguments.unwritable is not None:
        raise InputError(
            f"--unwritable {arguments.unwritable} needs --vocabulary, which says what "
            "the student can write. Name it, or leave --unwritable out."
        )
    return None if arguments.vocabulary is None else alignment(arguments)


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the records."""
    group = parser.add_argument_group("formats")
    group.add_argument(
        "--formats",
        nargs="+",
        metavar="FORMAT",
        default=None,
        help=f"prompt formats to write, of {', '.join(FORMATS)} (default: all four)",
    )
    group.add_argument(
        "--demonstrations",
        type=int,
        default=RecordsSpec.demonstrations,
        help="demonstrations per in-context prompt",
    )
    group.add_argument(
        "--demonstrations_from",
        metavar="FILE",
        default=None,
        help="file of the task to draw demonstrations from (default: the problems)",
    )
    group.add_argument(
        "--seed", type=int, default=RecordsSpec.seed, help="seed of the draw"
    )
    group.add_argument(
        "--max_input_tokens",
        type=int,
        default=None,
        metavar="N",
        help="leave out records with more tokens of input (default: no limit)",
    )
    group.add_argument(
        "--max_target_tokens",
        type=int,
        default=None,
        metavar="N",
        help="leave out records with more tokens of target (default: no limit)",
    )


def records(arguments: argparse.Namespace) -> RecordsSpec:
    """What `add_formats` read."""
    names = ("formats", "demonstrations", "max_input_tokens", "max_target_tokens")
    with checks.called(**{name: f"--{name}" for name in names}):
        return RecordsSpec(
            arguments.formats or FORMATS,
            arguments.demonstrations,
            arguments.demonstrations_from,
            arguments.seed,
            arguments.max_input_tokens,
            arguments.max_target_tokens,
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the corpus folder."""
    parser.add_argument("--out", required=True, metavar="DIR", help="the corpus folder")
    parser.add_argument(
        "--shards",
        type=int,
        default=FolderSpec.num_shards,
        help="number of file shards per format",
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace an earlier corpus in DIR"
    )
    parser.set_defaults(in_buckets=("out",))


def folder(arguments: argparse.Namespace) -> FolderSpec:
    """What `add_output` read."""
    with checks.called(num_shards="--shards"):
        return FolderSpec(arguments.out, arguments.shards, arguments.replace)


def json_object(text: str) -> dict[str, Any]:
    """Reads a JSON object; its values, which may be secret, are in no message."""
    try:
        return typed_json.decode(text, dict[str, Any], "what was given")
    except InputError as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object; {error}") from error


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds `--processes`."""
    parser.add_argument(
        "--processes",
        type=checks.few,
        default=None,
        help="number of processes, which does not change the result (default: one per "
        "core)",
    )


def show(manifest: "Manifest") -> int:
    """Prints the funnel of a corpus that was written."""
    from specialize.corpus.storage.funnel import Funnel
    from specialize.progress import console

    funnel = Funnel.from_json(manifest.funnel, "the corpus")
    console.print(funnel.table(manifest.counts(), judged=manifest.judged))
    return 0
