"""`specialize evaluate`, `select`, `infer`, `study` and `report`."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, TypeAlias

from specialize.corpus.tasks.known import index
from specialize.errors import InputError
from specialize.evaluation.spec import DEFAULT_SPLIT, SPLITS
from specialize.evaluation.study import commands as study
from specialize.inference import prompts
from specialize.judging.choices import JUDGES

if TYPE_CHECKING:
    from specialize.evaluation.pareto import Rule

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def register(subparsers: Commands) -> None:
    """Adds the evaluation commands."""
    from specialize import config

    evaluate = subparsers.add_parser(
        "evaluate",
        help="decode benchmarks with a checkpoint, judge them, print one table",
        description="Decodes and judges the suites that gin files name, or judges "
        "predictions of another model (--predictions). A rerun resumes a killed one.",
    )
    config.add_flags(evaluate)
    config.add_process_flags(evaluate)
    evaluate.add_argument("--json", metavar="FILE", help="write a copy of the results")
    evaluate.add_argument(
        "--max_examples", type=int, metavar="N", help="most questions per suite"
    )
    evaluate.add_argument(
        "--predictions",
        metavar="FILE",
        help="judge these instead of decoding: JSON lines with suite, id or input, "
        "and prediction, or of lm-evaluation-harness; needs --benchmarks or --tasks, "
        "no gin file",
    )
    evaluate.add_argument(
        "--suite",
        metavar="NAME",
        help="suite of the lines of --predictions that name none",
    )
    evaluate.add_argument(
        "--benchmarks", metavar="DIR", help="folder of the benchmark files"
    )
    evaluate.add_argument(
        "--tasks", nargs="+", metavar="FILE", help="task files, whose names are suites"
    )
    evaluate.add_argument(
        "--rule",
        choices=JUDGES,
        help="judge of the predictions (default: as configured, else exact)",
    )
    evaluate.add_argument(
        "--split",
        choices=SPLITS,
        help=f"questions to ask (default: as configured, else {DEFAULT_SPLIT})",
    )
    evaluate.add_argument(
        "--base",
        metavar="FILE",
        help="results of the base model, for differences and paired tests",
    )
    evaluate.set_defaults(
        run=_evaluate,
        in_buckets=("json",),
        is_alone=lambda flags: bool(flags.predictions),
    )

    _register_select(subparsers)
    _register_infer(subparsers)
    study.register(subparsers)
    _register_report(subparsers)


def _register_select(subparsers: Commands) -> None:
    from specialize import config

    select = subparsers.add_parser(
        "select",
        help="score every kept checkpoint on validation, choose one, test it once",
        description="Chooses a checkpoint by validation accuracy (GSM8K in "
        "distribution, M-A-S out of distribution), tests the chosen one once and "
        "writes a file with the choice and its criterion.",
    )
    config.add_flags(select)
    select.add_argument(
        "--by",
        default=None,
        metavar="SUITE",
        help="suite whose accuracy decides, or a group with an average "
        f"({', '.join(index().averages)}); or 'pareto', which weighs two abilities "
        f"(default: {index().default})",
    )
    weighing = select.add_argument_group(
        "with --by pareto",
        "The best target ability that loses at most so much of another, over the "
        "checkpoints of the run, its start, merges of these and other checkpoints.",
    )
    weighing.add_argument(
        "--target",
        metavar="SUITE",
        help=f"the ability that was specialised (default: {index().default})",
    )
    weighing.add_argument(
        "--retain",
        metavar="SUITE",
        help=f"the ability that is to be kept (default: {index().generic})",
    )
    weighing.add_argument(
        "--lose",
        type=float,
        metavar="POINTS",
        help="per cent of questions of it that may be lost on validation (default: 5)",
    )
    weighing.add_argument(
        "--start",
        metavar="CHECKPOINT",
        help="what the run began with (default: as its configuration says)",
    )
    weighing.add_argument(
        "--alphas",
        metavar="A",
        help="merges to try: shares of the newest checkpoint beside the start, as "
        "0.5:0.9:0.1 or 0.7,0.8",
    )
    weighing.add_argument(
        "--also",
        action="append",
        metavar="CHECKPOINT",
        help="another candidate, such as MODEL_DIR#ema; repeatable",
    )
    select.add_argument("--json", metavar="FILE", help="write a copy of the choice")
    config.add_process_flags(select)
    select.set_defaults(run=_select, in_buckets=("json",))


def _register_infer(subparsers: Commands) -> None:
    from specialize import config

    infer = subparsers.add_parser(
        "infer",
        help="turn a file of prompts into texts",
        description="Decodes prompts as gin files say. A rerun resumes a killed one.",
    )
    config.add_flags(infer)
    config.add_process_flags(infer)
    infer.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help=prompts.HELP,
    )
    infer.add_argument(
        "--out", required=True, metavar="FILE", help="file to write: JSON lines"
    )
    infer.set_defaults(run=_infer, in_buckets=("out",))


def _register_report(subparsers: Commands) -> None:
    report = subparsers.add_parser(
        "report",
        help="one self-contained page about one or more runs",
        description="Writes an HTML page (or markdown, if --out ends in .md) about the "
        "first run and compares it with the others.",
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="run folders or results")
    report.add_argument("--base", metavar="RUN", help="run or results of the base")
    report.add_argument(
        "--out", default="report.html", metavar="FILE", help="page to write"
    )
    report.set_defaults(run=_report, in_buckets=("out",))


def _evaluate(flags: argparse.Namespace) -> int:
    if flags.predictions:
        from specialize.evaluation.judge_predictions import evaluate_predictions
        from specialize.evaluation.spec import EvaluationSpec
        from specialize.judging.spec import JudgeSpec

        evaluate_predictions(
            flags.predictions,
            EvaluationSpec(
                benchmarks_dir=flags.benchmarks,
                split=flags.split or DEFAULT_SPLIT,
                max_examples=flags.max_examples,
                judge=JudgeSpec(flags.rule or JudgeSpec.judge),
                tasks=tuple(flags.tasks or ()),
            ),
            suite=flags.suite,
            json_path=flags.json,
            base=flags.base,
        )
        return 0
    if flags.suite:
        raise InputError("--suite is for --predictions. Name suites with --gin.SUITES.")
    from specialize import config, sharding

    sharding.join(flags)
    if flags.tasks:
        flags.tasks = tuple(flags.tasks)
    # A flag wins over the gin files.
    for macro in ("MAX_EXAMPLES", "RULE", "SPLIT", "TASKS"):
        value = getattr(flags, macro.lower())
        if value is not None:
            flags.gin_overrides.append(f"--gin.{macro}={value!r}")
    config.from_flags(flags, entry="specialize.evaluation.evaluate.evaluate")
    from specialize.evaluation import evaluate

    config.call(evaluate.evaluate, json_path=flags.json, base=flags.base)
    _keep_configuration()
    return 0


def _keep_configuration() -> None:
    """Saves the configuration and the values that were used in OUTPUT_DIR."""
    import jax

    from specialize import config

    found = config.current()
    folder = found and found.value("OUTPUT_DIR")
    if folder and jax.process_index() == 0:
        config.save(folder)
        config.save_operative(folder)


def _select(flags: argparse.Namespace) -> int:
    given = [name for name in _WEIGHING if getattr(flags, name) is not None]
    if given and flags.by != "pareto":
        raise InputError(f"--{given[0]} is for --by pareto. Add that, or leave it out.")
    from specialize import config, sharding

    sharding.join(flags)
    config.from_flags(flags, entry="specialize.evaluation.evaluate.evaluate")
    if flags.by == "pareto":
        from specialize.evaluation import pareto

        config.call(pareto.select_pareto, rule=_rule(flags), json_path=flags.json)
    else:
        from specialize.evaluation import selection

        config.call(selection.select, by=flags.by, json_path=flags.json)
    _keep_configuration()
    return 0


_WEIGHING = ("target", "retain", "lose", "start", "alphas", "also")


def _rule(flags: argparse.Namespace) -> "Rule":
    from specialize.checkpoints import weighing
    from specialize.evaluation.pareto import Rule

    given = {name: getattr(flags, name) for name in _WEIGHING}
    if flags.alphas is not None:
        given["alphas"] = tuple(map(float, weighing.alphas("--alphas", flags.alphas)))
    return Rule(**{name: value for name, value in given.items() if value is not None})


def _infer(flags: argparse.Namespace) -> int:
    from specialize import config, sharding

    sharding.join(flags)
    config.from_flags(flags, entry="specialize.evaluation.inferring.infer")
    from specialize.evaluation import inferring

    config.call(inferring.infer, prompts_path=flags.prompts, out=flags.out)
    return 0


def _report(flags: argparse.Namespace) -> int:
    from specialize.evaluation.report.report import report

    words = [os.path.basename(sys.argv[0]) or "specialize", *sys.argv[1:]]
    runs = report(flags.runs, flags.out, base=flags.base, command=" ".join(words))
    for run in runs:
        for text in run.missing:
            print(f"{run.name}: not found: {text}", file=sys.stderr)
    print(flags.out)
    return 0
