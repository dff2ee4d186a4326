"""`specialize corpus sample`, `score` and `export`: arguments in, one call out."""

import argparse
import dataclasses
from typing import Any

from specialize import checks
from specialize.corpus import options
from specialize.corpus.sampling.spec import (
    APIS,
    CONVENTIONS,
    Endpoint,
    PaceSpec,
    PriceSpec,
    RequestSpec,
    SamplingSpec,
)


def register_sample(commands: options.Commands) -> None:
    """Adds `sample`."""
    parser = options.add(
        commands, "sample", _sample, "ask a served teacher for samples with top-k"
    )
    options.add_problems(parser)
    options.add_asking(parser)
    _add_server(parser, default="https://api.openai.com/v1")
    parser.add_argument(
        "--api", default=Endpoint.api, choices=APIS, help="API of the server"
    )
    parser.add_argument(
        "--system", default=None, help="system message, with --api chat (default: none)"
    )
    ask = parser.add_argument_group("requests")
    ask.add_argument(
        "--temperature",
        type=float,
        default=RequestSpec.temperature,
        help="sampling temperature",
    )
    ask.add_argument(
        "--top_p",
        type=float,
        default=RequestSpec.top_p,
        help="nucleus sampling: the smallest set of tokens with this probability",
    )
    ask.add_argument(
        "--max_tokens",
        type=int,
        default=RequestSpec.max_tokens,
        help="longest completion in tokens",
    )
    ask.add_argument(
        "--stop",
        nargs="*",
        default=RequestSpec.stop,
        metavar="TEXT",
        help="texts at which a completion ends",
    )
    ask.add_argument("--seed", type=int, default=SamplingSpec.seed, help="random seed")
    ask.add_argument(
        "--no_seed", action="store_true", help="send no seed: some servers refuse it"
    )
    ask.add_argument(
        "--without_logprobs",
        action="store_true",
        help="ask for no log-probabilities, which some servers refuse; every teacher "
        "row is then one-hot",
    )
    ask.add_argument(
        "--logprobs_are",
        default="auto",
        choices=CONVENTIONS,
        help="whether the server applies the temperature to its log-probabilities; "
        "auto finds out",
    )
    _add_pace(parser)
    judging = parser.add_argument_group("verification")
    options.add_answer_type(judging)
    options.add_spelling(judging, required=False)


def register_score(commands: options.Commands) -> None:
    """Adds `score`."""
    parser = options.add(
        commands, "score", _score, "ask a served teacher how likely given texts are"
    )
    options.add_problems(parser)
    parser.add_argument(
        "--texts",
        default=None,
        metavar="FILE",
        help="JSON lines {problem_id, sample, text}, as of 'corpus export' (default: "
        "the human rationales of the problems)",
    )
    options.add_asking(parser, numbers=False)
    _add_server(parser, default=None)
    _add_pace(parser)
    options.add_answer_type(parser.add_argument_group("verification"))


def _add_server(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument(
        "--base_url",
        default=default,
        required=default is None,
        help="URL of the server",
    )
    parser.add_argument(
        "--api_key_env",
        default=Endpoint.api_key_env,
        help="environment variable of the key",
    )
    parser.add_argument(
        "--extra_body",
        type=options.json_object,
        default={},
        metavar="JSON",
        help="more fields of every request, for example '{\"min_p\": 0}'",
    )


def _add_pace(parser: argparse.ArgumentParser) -> None:
    pace = parser.add_argument_group("pace and price")
    pace.add_argument(
        "--concurrency", type=int, default=PaceSpec.concurrency, help="requests at once"
    )
    for what in ("requests", "tokens"):
        pace.add_argument(
            f"--{what}_per_minute",
            type=float,
            default=None,
            metavar="N",
            help=f"most {what} in a minute (default: no limit)",
        )
    pace.add_argument(
        "--attempts", type=int, default=PaceSpec.attempts, help="attempts per request"
    )
    pace.add_argument(
        "--backoff",
        type=float,
        default=PaceSpec.backoff_s,
        metavar="SECONDS",
        help="seconds before the second attempt; they double with each attempt",
    )
    pace.add_argument(
        "--timeout",
        type=float,
        default=Endpoint.timeout_s,
        metavar="SECONDS",
        help="most seconds of an attempt",
    )
    pace.add_argument(
        "--price_input",
        type=float,
        default=PriceSpec.per_input,
        help="price of a million prompt tokens",
    )
    pace.add_argument(
        "--price_output",
        type=float,
        default=PriceSpec.per_output,
        help="price of a million completion tokens",
    )
    pace.add_argument(
        "--max_cost",
        type=float,
        default=None,
        metavar="COST",
        help="stop at this cost (default: no limit)",
    )


def _pace(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_add_pace` read, as fields of `SamplingSpec`."""
    names = ("concurrency", "requests_per_minute", "tokens_per_minute", "attempts")
    names += ("price_input", "price_output", "max_cost")
    with checks.called(backoff_s="--backoff", **{name: f"--{name}" for name in names}):
        pace = PaceSpec(
            concurrency=arguments.concurrency,
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            attempts=arguments.attempts,
            backoff_s=arguments.backoff,
        )
        price = PriceSpec(
            arguments.price_input, arguments.price_output, arguments.max_cost
        )
    return {"pace": pace, "price": price}


def _endpoint(
    arguments: argparse.Namespace, request: dict[str, Any], **more: Any
) -> Endpoint:
    """What `_add_server` and `_add_pace` read.

    Args:
        arguments: the parsed options.
        request: fields of `RequestSpec`.
        **more: further fields of `Endpoint`.
    """
    names = ("temperature", "top_p", "max_tokens", "stop", "top_logprobs")
    names += ("base_url", "extra_body", "model", "system")
    with checks.called(timeout_s="--timeout", **{name: f"--{name}" for name in names}):
        return Endpoint(
            base_url=arguments.base_url,
            model=arguments.model,
            request=RequestSpec(**request),
            timeout_s=arguments.timeout,
            api_key_env=arguments.api_key_env,
            extra_body=arguments.extra_body,
            **more,
        )


def _score(arguments: argparse.Namespace) -> int:
    from specialize.corpus.completions import read_completions
    from specialize.corpus.prompts import solution
    from specialize.corpus.records import Completion
    from specialize.corpus.sampling import panel, sample, scoring
    from specialize.corpus.tasks.known import find, licence_of, read_problems

    task = find(arguments.task)
    problems = read_problems(arguments.problems, task)[: arguments.limit]
    if arguments.texts is None:
        solved = [one for one in problems if one.rationale is not None and one.answers]
        found = [Completion(one.id, 0, solution(one)) for one in solved]
    else:
        found = [one.completion for one in read_completions(arguments.texts, problems)]
    endpoint = _endpoint(
        arguments, {"top_logprobs": arguments.top_logprobs}, send_seed=False
    )
    tally = sample.score(
        problems,
        scoring.texts_of(found),
        endpoint,
        arguments.responses,
        SamplingSpec(judge=options.judging(arguments), **_pace(arguments)),
        prompt_prefix=sample.read_prompt_prefix(arguments.prompt),
        dataset=task.name,
        licence=licence_of(task, arguments.problems),
        log_every_s=arguments.log_every,
        upload_every_s=arguments.upload_every,
    )
    return panel.say_what_is_missing(tally)


def _sample(arguments: argparse.Namespace) -> int:
    from specialize.corpus.sampling import panel, sample
    from specialize.corpus.tasks.known import find, licence_of, read_problems

    task = find(arguments.task)
    problems = read_problems(arguments.problems, task)
    request = {name: getattr(arguments, name) for name in ("temperature", "top_p")}
    request |= {
        "max_tokens": arguments.max_tokens,
        "stop": tuple(text.replace("\\n", "\n") for text in arguments.stop),
        "top_logprobs": arguments.top_logprobs,
        "logprobs": not arguments.without_logprobs,
    }
    endpoint = _endpoint(
        arguments,
        request,
        api=arguments.api,
        system=arguments.system,
        send_seed=not arguments.no_seed,
    )
    tally = sample.sample(
        problems[: arguments.limit],
        endpoint,
        arguments.responses,
        dataclasses.replace(
            options.sampling(arguments),
            seed=arguments.seed,
            student=options.student(arguments),
            **_pace(arguments),
        ),
        prompt_prefix=sample.read_prompt_prefix(arguments.prompt),
        convention=arguments.logprobs_are,
        dataset=task.name,
        licence=licence_of(task, arguments.problems),
        log_every_s=arguments.log_every,
        upload_every_s=arguments.upload_every,
    )
    return panel.say_what_is_missing(tally)


def register_export(commands: options.Commands) -> None:
    """Adds `export`."""
    parser = options.add(
        commands, "export", _export, "write a response database as sorted JSON lines"
    )
    parser.add_argument(
        "--responses", required=True, metavar="FILE", help="response database"
    )
    options.add_out(parser)
    parser.set_defaults(in_buckets=("responses", "out"))


def _export(arguments: argparse.Namespace) -> int:
    from specialize.corpus.sampling import sample
    from specialize.progress import say

    count = sample.export(arguments.responses, arguments.out)
    say(f"{count:,} completions in {arguments.out}")
    return 0
