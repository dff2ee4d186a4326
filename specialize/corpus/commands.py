"""`specialize corpus ...`: arguments in, one call out."""

# pyright: reportPrivateUsage=false
# argparse gives the type of `add_subparsers` no public name.

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from specialize.corpus.manifest import Manifest

Command = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def register(subparsers: Commands) -> None:
    """Adds `corpus` and its sub-commands."""
    corpus = subparsers.add_parser(
        "corpus",
        help="sample a teacher, verify, align, and write what a student learns",
    )
    commands = corpus.add_subparsers(metavar="STEP", required=True, dest="step")
    _register_sample(commands)
    _register_export(commands)
    _register_verify(commands)
    _register_align(commands)
    _register_write(commands)
    _register_build(commands)
    _register_import(commands)
    _register_inspect(commands)
    _register_stats(commands)


def _add(
    commands: Commands,
    name: str,
    run: Command,
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--problems", required=True, metavar="FILE", help="the benchmark's own file"
    )
    parser.add_argument(
        "--dataset",
        default="gsm8k",
        choices=("gsm8k", "multiarith", "asdiv", "svamp", "bbh"),
        help="whose layout the problem file has",
    )


def _add_completions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--completions",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files of teacher completions (exports or notebook dumps)",
    )
    parser.add_argument(
        "--teacher", default=None, help="who wrote them; default: what their cards say"
    )


def _add_judging(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("verification")
    _add_answer_type(group)
    group.add_argument(
        "--near_duplicates",
        type=float,
        metavar="SIMILARITY",
        default=None,
        help="drop a question's later samples that are at least this similar (0 to 1)",
    )
    group.add_argument(
        "--max_samples",
        type=int,
        metavar="N",
        default=None,
        help="keep at most N right samples a question",
    )


def _add_answer_type(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--answer_type",
        default="number",
        choices=(
            "number",
            "choice",
            "boolean",
            "yes_no",
            "valid_invalid",
            "words",
            "brackets",
            "text",
        ),
        help="what kind of answer the questions have",
    )
    group.add_argument(
        "--rule",
        default="exact",
        choices=("exact", "reference"),
        help="how answers are read: ours, or as the paper's code does",
    )


def _add_alignment(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("alignment")
    group.add_argument(
        "--vocabulary",
        required=True,
        metavar="FILE",
        help="the student's SentencePiece model",
    )
    group.add_argument(
        "--rows",
        type=int,
        default=None,
        help="rows of the student's embedding; default: the vocabulary rounded up to "
        "a multiple of 128 (32128 for T5)",
    )
    group.add_argument("--k", type=int, default=5, help="alternatives a position")
    group.add_argument(
        "--alignment", default="bytes", choices=("bytes", "dtw"), help="method"
    )


def _add_formats(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("formats")
    group.add_argument(
        "--formats",
        nargs="+",
        metavar="FORMAT",
        default=None,
        help="which to write; default: all four",
    )
    group.add_argument(
        "--demonstrations", type=int, default=4, help="in-context demonstrations"
    )
    group.add_argument(
        "--demonstrations_from",
        metavar="FILE",
        default=None,
        help="GSM8K file to draw demonstrations from; default: the problems",
    )
    group.add_argument("--seed", type=int, default=0, help="of the demonstrations")
    group.add_argument(
        "--max_input_tokens", type=int, default=None, help="leave out longer inputs"
    )
    group.add_argument(
        "--max_target_tokens", type=int, default=None, help="leave out longer targets"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the corpus folder")
    parser.add_argument("--shards", type=int, default=4, help="files a format")
    parser.add_argument(
        "--replace", action="store_true", help="replace an earlier corpus in DIR"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected 1 or more")
    return int(text)


def _json_object(text: str) -> dict[str, object]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a JSON object")
    return cast(dict[str, object], value)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=_count,
        default=None,
        help="how many work; default: one a core. Does not change the result",
    )


def _register_verify(commands: Commands) -> None:
    parser = _add(commands, "verify", _verify, "keep the completions that are right")
    _add_problems(parser)
    _add_completions(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help=".jsonl[.gz]")
    parser.add_argument(
        "--rejected",
        default=None,
        metavar="FILE",
        help="list the others there, with the reason",
    )
    _add_processes(parser)
    _add_judging(parser)


def _verify(arguments: argparse.Namespace) -> int:
    from specialize.corpus import pipeline, stages
    from specialize.progress import console

    funnel = stages.verify(
        pipeline.read_problems(arguments.problems, arguments.dataset),
        arguments.completions,
        arguments.out,
        dataset=arguments.dataset,
        teacher=arguments.teacher,
        answer_type=arguments.answer_type,
        rule=arguments.rule,
        near_duplicate=arguments.near_duplicates,
        max_samples=arguments.max_samples,
        rejected=arguments.rejected,
        processes=arguments.processes,
    )
    console.print(funnel.table())
    return 0


def _register_align(commands: Commands) -> None:
    parser = _add(
        commands, "align", _align, "verified completions to rows over student tokens"
    )
    _add_problems(parser)
    parser.add_argument(
        "--completions", required=True, metavar="FILE", help="what 'verify' wrote"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=".jsonl[.gz]")
    _add_processes(parser)
    _add_alignment(parser)


def _align(arguments: argparse.Namespace) -> int:
    from specialize.corpus import pipeline, stages
    from specialize.corpus.rendering import Settings
    from specialize.progress import console

    funnel = stages.align(
        pipeline.read_problems(arguments.problems, arguments.dataset),
        arguments.completions,
        arguments.out,
        Settings(
            vocabulary=arguments.vocabulary,
            rows=arguments.rows,
            k=arguments.k,
            alignment=arguments.alignment,
        ),
        processes=arguments.processes,
    )
    console.print(funnel.table())
    return 0


def _register_write(commands: Commands) -> None:
    parser = _add(
        commands, "write", _write, "aligned samples and human rationales to a corpus"
    )
    _add_problems(parser)
    parser.add_argument(
        "--aligned", required=True, metavar="FILE", help="what 'align' wrote"
    )
    parser.add_argument(
        "--no_rationales", action="store_true", help="leave the human rationales out"
    )
    _add_output(parser)
    _add_processes(parser)
    _add_alignment(parser)
    _add_formats(parser)


def _write(arguments: argparse.Namespace) -> int:
    from specialize.corpus import pipeline, stages
    from specialize.corpus.problems import read_gsm8k
    from specialize.corpus.records import FORMATS
    from specialize.corpus.rendering import Settings

    pool = arguments.demonstrations_from
    manifest = stages.write(
        arguments.problems,
        pipeline.read_problems(arguments.problems, arguments.dataset),
        arguments.aligned,
        arguments.out,
        Settings(
            vocabulary=arguments.vocabulary,
            rows=arguments.rows,
            k=arguments.k,
            alignment=arguments.alignment,
            formats=tuple(arguments.formats or FORMATS),
            demonstrations=arguments.demonstrations,
            seed=arguments.seed,
            max_input_tokens=arguments.max_input_tokens,
            max_target_tokens=arguments.max_target_tokens,
        ),
        pool=None if pool is None else read_gsm8k(pool),
        rationales=not arguments.no_rationales,
        dataset=arguments.dataset,
        num_shards=arguments.shards,
        processes=arguments.processes,
        replace=arguments.replace,
    )
    return _show(manifest)


def _show(manifest: "Manifest") -> int:
    from specialize.corpus.funnel import Funnel
    from specialize.progress import console

    console.print(Funnel.from_json(manifest.funnel).table(manifest.counts()))
    return 0


def _register_build(
    commands: Commands,
) -> None:
    parser = _add(
        commands,
        "build",
        _build,
        "local files to a corpus: read, verify, align and write in one go",
    )
    _add_problems(parser)
    _add_completions(parser)
    parser.add_argument(
        "--no_rationales",
        action="store_true",
        help="leave the human rationales out",
    )
    _add_output(parser)
    _add_processes(parser)
    parser.add_argument(
        "--beam",
        default=None,
        metavar="OPTIONS",
        help="work on Apache Beam, with these options of its runner in one word, for "
        "example '--runner=FlinkRunner --flink_master=host:8081'",
    )
    _add_judging(parser)
    _add_alignment(parser)
    _add_formats(parser)


def _build(arguments: argparse.Namespace) -> int:
    import shlex

    from specialize.corpus import pipeline
    from specialize.corpus.records import FORMATS

    manifest = pipeline.build(
        arguments.problems,
        arguments.vocabulary,
        arguments.out,
        completions_paths=arguments.completions,
        dataset=arguments.dataset,
        teacher=arguments.teacher,
        rationales=not arguments.no_rationales,
        formats=arguments.formats or FORMATS,
        demonstrations=arguments.demonstrations,
        demonstrations_from=arguments.demonstrations_from,
        seed=arguments.seed,
        k=arguments.k,
        alignment=arguments.alignment,
        rows=arguments.rows,
        answer_type=arguments.answer_type,
        rule=arguments.rule,
        near_duplicate=arguments.near_duplicates,
        max_samples=arguments.max_samples,
        max_input_tokens=arguments.max_input_tokens,
        max_target_tokens=arguments.max_target_tokens,
        num_shards=arguments.shards,
        processes=arguments.processes,
        replace=arguments.replace,
        beam_options=None if arguments.beam is None else shlex.split(arguments.beam),
    )
    return _show(manifest)


def _register_sample(commands: Commands) -> None:
    parser = _add(
        commands, "sample", _sample, "ask a served teacher for samples with top-k"
    )
    _add_problems(parser)
    parser.add_argument(
        "--responses", required=True, metavar="FILE", help="the database of answers"
    )
    parser.add_argument("--model", required=True, help="as the server calls it")
    parser.add_argument(
        "--base_url", default="https://api.openai.com/v1", help="of the server"
    )
    parser.add_argument(
        "--api", default="completions", choices=("completions", "chat"), help="endpoint"
    )
    parser.add_argument(
        "--prompt",
        default=None,
        metavar="FILE",
        help="worked examples before each question",
    )
    parser.add_argument("--system", default=None, help="system message (chat)")
    parser.add_argument(
        "--limit", type=_count, default=None, help="first N questions only"
    )
    parser.add_argument(
        "--api_key_env",
        default="OPENAI_API_KEY",
        help="environment variable that holds the key",
    )
    ask = parser.add_argument_group("what to ask for")
    ask.add_argument("--n", type=int, default=8, help="samples of every question")
    ask.add_argument(
        "--max_n",
        type=int,
        default=None,
        help="up to this many of a question without a right one so far",
    )
    ask.add_argument("--n_per_request", type=int, default=4, help="choices a request")
    ask.add_argument("--temperature", type=float, default=0.5, help="of sampling")
    ask.add_argument("--top_p", type=float, default=1.0, help="of sampling")
    ask.add_argument("--max_tokens", type=int, default=256, help="of an answer")
    ask.add_argument(
        "--stop", nargs="*", default=["\nQuestion:"], help="where an answer ends"
    )
    ask.add_argument("--top_logprobs", type=int, default=5, help="alternatives a token")
    ask.add_argument("--seed", type=int, default=0, help="of the run")
    ask.add_argument(
        "--no_seed",
        action="store_true",
        help="send no seed, for servers that refuse it",
    )
    ask.add_argument(
        "--extra_body",
        type=_json_object,
        default={},
        metavar="JSON",
        help="more fields of every request, for example '{\"min_p\": 0}'",
    )
    ask.add_argument(
        "--logprobs_are",
        default="auto",
        choices=("auto", "before_temperature", "after_temperature", "unknown"),
        help="what the server's log-probabilities are; auto finds out",
    )
    pace = parser.add_argument_group("pace and price")
    pace.add_argument("--concurrency", type=int, default=16, help="requests at once")
    pace.add_argument("--requests_per_minute", type=float, default=None, help="limit")
    pace.add_argument("--tokens_per_minute", type=float, default=None, help="limit")
    pace.add_argument("--attempts", type=int, default=8, help="tries of a request")
    pace.add_argument("--backoff", type=float, default=0.5, help="first wait, seconds")
    pace.add_argument("--timeout", type=float, default=120.0, help="seconds")
    pace.add_argument(
        "--price_input", type=float, default=0.0, help="of a million prompt tokens"
    )
    pace.add_argument(
        "--price_output", type=float, default=0.0, help="of a million answer tokens"
    )
    pace.add_argument("--max_cost", type=float, default=None, help="stop when spent")
    pace.add_argument(
        "--log_every", type=float, default=30.0, help="seconds between progress lines"
    )
    judging = parser.add_argument_group("verification")
    _add_answer_type(judging)


def _sample(arguments: argparse.Namespace) -> int:
    from specialize.corpus import pipeline, sample
    from specialize.corpus.endpoint import Endpoint
    from specialize.corpus.sampling import Plan
    from specialize.progress import console

    problems = pipeline.read_problems(arguments.problems, arguments.dataset)
    tally = sample.sample(
        problems[: arguments.limit],
        Endpoint(
            base_url=arguments.base_url,
            model=arguments.model,
            api=arguments.api,
            top_logprobs=arguments.top_logprobs,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            max_tokens=arguments.max_tokens,
            stop=tuple(text.replace("\\n", "\n") for text in arguments.stop),
            system=arguments.system,
            send_seed=not arguments.no_seed,
            timeout_s=arguments.timeout,
            api_key_env=arguments.api_key_env,
            extra_body=arguments.extra_body,
        ),
        arguments.responses,
        Plan(
            samples=arguments.n,
            max_samples=arguments.max_n,
            samples_per_request=arguments.n_per_request,
            seed=arguments.seed,
            concurrency=arguments.concurrency,
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            attempts=arguments.attempts,
            backoff_s=arguments.backoff,
            price_input=arguments.price_input,
            price_output=arguments.price_output,
            max_cost=arguments.max_cost,
            answer_type=arguments.answer_type,
            rule=arguments.rule,
        ),
        prompt=sample.read_prompt(arguments.prompt),
        convention=arguments.logprobs_are,
        dataset=arguments.dataset,
        log_every_s=arguments.log_every,
    )
    missing = tally.planned - tally.cached - tally.done
    if missing > 0:
        console.print(
            f"{missing} samples are missing ({tally.failed} given up). Run the same "
            "command again to ask for them."
        )
    return 1 if missing > 0 else 0


def _register_export(commands: Commands) -> None:
    parser = _add(
        commands, "export", _export, "the database of answers as sorted JSON lines"
    )
    parser.add_argument("--responses", required=True, metavar="FILE", help="database")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".jsonl or .jsonl.gz"
    )


def _export(arguments: argparse.Namespace) -> int:
    from specialize.corpus import sample
    from specialize.progress import console

    count = sample.export(arguments.responses, arguments.out)
    console.print(f"{count:,} completions in {arguments.out}")
    return 0


def _register_import(commands: Commands) -> None:
    parser = _add(
        commands,
        "import-released",
        _import_released,
        "the paper authors' released pickles to a corpus, read safely",
    )
    parser.add_argument(
        "--pickles", required=True, nargs="+", metavar="FILE", help="one a format"
    )
    parser.add_argument(
        "--problems",
        default=None,
        metavar="FILE",
        help="GSM8K's training file, so that records carry its ids",
    )
    parser.add_argument(
        "--vocabulary", required=True, metavar="FILE", help="T5's SentencePiece model"
    )
    parser.add_argument("--rows", type=int, default=None, help="embedding rows")
    parser.add_argument("--teacher", default="code-davinci-002", help="who answered")
    parser.add_argument("--k", type=int, default=5, help="alternatives a position")
    _add_output(parser)
    _add_processes(parser)


def _import_released(arguments: argparse.Namespace) -> int:
    from specialize.corpus.problems import read_gsm8k
    from specialize.corpus.released import import_released

    return _show(
        import_released(
            arguments.pickles,
            arguments.vocabulary,
            arguments.out,
            problems=read_gsm8k(arguments.problems) if arguments.problems else (),
            teacher=arguments.teacher,
            k=arguments.k,
            rows=arguments.rows,
            num_shards=arguments.shards,
            processes=arguments.processes,
            replace=arguments.replace,
        )
    )


def _register_inspect(commands: Commands) -> None:
    parser = _add(
        commands,
        "inspect",
        _inspect,
        "one sample closely: teacher tokens, student pieces, top-k before and after",
    )
    parser.add_argument("--corpus", default=None, metavar="DIR", help="a corpus")
    parser.add_argument(
        "--id",
        default=None,
        help="'<problem>/<sample>/<format>' of a corpus, or '<problem>/<sample>' of "
        "completions",
    )
    parser.add_argument(
        "--index", type=int, default=0, help="n-th record of the corpus"
    )
    parser.add_argument(
        "--problems", default=None, metavar="FILE", help="benchmark file"
    )
    parser.add_argument(
        "--dataset",
        default="gsm8k",
        choices=("gsm8k", "multiarith", "asdiv", "svamp", "bbh"),
        help="whose layout the problem file has",
    )
    parser.add_argument(
        "--completions",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of completions, for the teacher's tokens",
    )
    parser.add_argument(
        "--html", default=None, metavar="FILE", help="write a page instead"
    )
    _add_alignment(parser)


def _inspect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from specialize import outputs
    from specialize.corpus import inspection, looking, pipeline
    from specialize.corpus.rendering import Settings
    from specialize.errors import InputError

    problems = []
    if arguments.problems:
        problems = pipeline.read_problems(arguments.problems, arguments.dataset)
    elif arguments.completions or not arguments.corpus:
        raise InputError("--problems is needed to read completions. Name their file.")
    if arguments.corpus:
        shown = looking.look_at_record(
            arguments.corpus,
            arguments.vocabulary,
            identity=arguments.id,
            index=arguments.index,
            completions=arguments.completions,
            problems=problems,
        )
    else:
        shown = looking.look_at_completion(
            arguments.completions,
            problems,
            Settings(
                vocabulary=arguments.vocabulary,
                rows=arguments.rows,
                k=arguments.k,
                alignment=arguments.alignment,
            ),
            arguments.id or "",
        )
    if arguments.html:
        outputs.write_text(arguments.html, inspection.page(shown))
    else:
        Console().print(inspection.terminal(shown))
    return 0


def _register_stats(commands: Commands) -> None:
    parser = _add(
        commands,
        "stats",
        _stats,
        "funnel, lengths, aligned share and bytes of a corpus",
    )
    parser.add_argument("--corpus", required=True, metavar="DIR", help="a corpus")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")


def _stats(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from specialize.corpus import looking

    if arguments.json:
        print(json.dumps(looking.summary(arguments.corpus), indent=2))
    else:
        Console().print(looking.tables(arguments.corpus))
    return 0
