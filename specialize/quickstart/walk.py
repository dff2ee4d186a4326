"""The main job on a miniature world, by the same commands that real data take.

`specialize quickstart` generates the world (`miniature`), then runs the commands that a
user would type: build the corpus, train a base student, let it answer prompts, and
specialise it on the teacher's distributions in three ways that forget more or less: on
the corpus alone, with texts of other tasks beside it, and with the base student as a
second teacher. All four students are evaluated. Every command is printed before it runs
and can be run by hand.
"""

import argparse
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specialize import checks, memory, outputs, run_folder
from specialize.errors import InputError, TerminatedError
from specialize.processes import parts

# What a suite of the miniature world measures -> the suite and its prompt format.
SUITES = {
    "in_distribution": "gsm8k:zero_shot_cot",
    "out_of_distribution": "multiarith:zero_shot_cot",
    "in_context": "gsm8k:few_shot_cot",
    "replayed_tasks": "replayed:zero_shot_answer_only",
    "unreplayed_tasks": "bbh:zero_shot_answer_only",
    "by_demonstration": "demonstrated:zero_shot_answer_only",
}
# The specialists, and what is mixed into the corpus for each of them: nothing, texts of
# other tasks, or what the base student answers to prompts.
SPECIALISTS = {
    "none": None,
    "replay": "world/replay.jsonl",
    "student": "base_answers",
}
# Of 100 examples, how many are not from the corpus.
SHARE = 20
# Demonstrations per in-context prompt; the paper's four would triple the time of a run
# on two cores, and the student would learn nothing more.
DEMONSTRATIONS = 1
# Warmup of every student; a run of fewer steps has a shorter one.
WARMUP_STEPS = 20

Command = Callable[[Sequence[str]], int]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `quickstart`."""
    command = subparsers.add_parser(
        "quickstart",
        help="watch a tiny student become a specialist, in ten minutes on a CPU",
        description=__doc__,
    )
    command.add_argument(
        "--out",
        default="runs/quickstart",
        metavar="DIR",
        help="folder for all results",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the run")
    command.add_argument(
        "--base_steps", type=int, default=600, help="steps of the base student"
    )
    command.add_argument(
        "--steps", type=int, default=750, help="steps of each specialisation"
    )
    command.add_argument(
        "--problems", type=int, default=2000, help="problems that the teacher solves"
    )
    command.add_argument(
        "--test_problems", type=int, default=200, help="questions per math suite"
    )
    command.add_argument(
        "--prepare",
        action="store_true",
        help="make world, corpus, base student and its answers, and no specialist",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    memory.keep_freed()
    # The command line passes itself, because this package must not import it.
    quickstart(
        arguments.out,
        command=arguments.main,
        seed=arguments.seed,
        base_steps=arguments.base_steps,
        steps=arguments.steps,
        problems=arguments.problems,
        test_problems=arguments.test_problems,
        prepare=arguments.prepare,
    )
    return 0


def quickstart(
    out: str,
    *,
    command: Command,
    seed: int = 0,
    base_steps: int = 600,
    steps: int = 750,
    problems: int = 2000,
    test_problems: int = 200,
    prepare: bool = False,
) -> dict[str, Any]:
    """Runs the whole example and writes `results.json`.

    Args:
        out: folder for the world, the corpora, the students and the report.
        command: runs one `specialize` command line, and returns its exit status.
        seed: random seed; determines world, initialisation, order and demonstrations.
        base_steps: optimizer steps of the base student's pre-training.
        steps: optimizer steps of each specialisation.
        problems: number of training problems of the world.
        test_problems: number of questions per math suite.
        prepare: whether to end before the first specialist, for a study.

    Returns:
        The content of `results.json`: `suites.<name>.<base, none, replay or student>`
        with accuracy, n and the 95 % Wilson interval; {} if `prepare`.

    Raises:
        InputError: a number is below 1, `out` is not ours, or a command rejected its
            input.
    """
    from specialize.progress import console, say
    from specialize.quickstart import miniature
    from specialize.quickstart.exact_teacher import TEACHER_NAME

    sizes = dict(base_steps=base_steps, steps=steps, problems=problems)
    for name, value in {**sizes, "test_problems": test_problems}.items():
        checks.whole(f"--{name}", value)
    checks.whole("--seed", seed, 0, most=2**32 - 1)
    began = time.monotonic()
    # Absolute, so that the commands below can be pasted in any folder.
    folder = outputs.claim(out, "quickstart").absolute()
    world, vocabulary = folder / "world", folder / "vocabulary.model"

    _say("1/6", "A miniature world: problems, an exact teacher, generic tasks")
    miniature.write(
        world,
        seed=seed,
        num_train=problems,
        num_test=test_problems,
        num_pretraining=20 * problems,
        num_replayed=2 * problems,
        num_prompts=3 * problems,
    )
    miniature.train_vocabulary(world / "text.txt", vocabulary)

    def run(*words: str) -> None:
        line = f"{_program()} {shlex.join(words)}"
        console.print(
            f"$ {line}", style="dim", markup=False, highlight=False, soft_wrap=True
        )
        with parts.in_this_process():
            status = command(words)
        if status > 128:  # a signal; `train` has saved its work
            raise TerminatedError(status)
        if status:
            raise InputError(f"{line!r} ended with {status}.")

    _say("2/6", "Corpus: verify the teacher, align its tokens, write four formats")
    run(
        *("corpus", "build"),
        *("--problems", str(world / "gsm8k" / "train.jsonl")),
        *("--completions", str(world / "completions.jsonl")),
        *("--teacher", TEACHER_NAME, "--no_rationales"),
        *("--vocabulary", str(vocabulary)),
        *("--demonstrations", str(DEMONSTRATIONS)),
        *("--seed", str(seed)),
        # A repetition makes the same corpus again.
        *("--out", str(folder / "corpus"), "--replace"),
    )

    def gin(**macros: Any) -> list[str]:
        places: dict[str, Any] = {"VOCABULARY_PATH": str(vocabulary), "SEED": seed}
        return [f"--gin.{k}={v!r}" for k, v in (places | macros).items()]

    _teach_the_base(run, gin, folder, base_steps)
    if prepare:
        return {}
    _say("5/6", "Specialise: KL to the teacher's distribution, in three ways")
    _specialise(run, gin, folder, steps)

    _say("6/6", "Evaluate: what was gained, and what it cost")
    _evaluate(run, gin, folder)
    models = ("base", *SPECIALISTS)
    results = {
        "seed": seed,
        "suites": _scores({name: folder / f"{name}.json" for name in models}),
        "seconds": round(time.monotonic() - began, 1),
    }
    outputs.write_json(folder / run_folder.RESULTS, results)
    _table(results)
    report = folder / "report.html"
    runs = [str(folder / name) for name in reversed(SPECIALISTS)]
    run("report", *runs, "--base", str(folder / "base"), "--out", str(report))
    say(f"results: {folder / run_folder.RESULTS}   report: {report}")
    return results


Run = Callable[..., None]
Gin = Callable[..., list[str]]


def _teach_the_base(run: Run, gin: Gin, folder: pathlib.Path, steps: int) -> None:
    _say("3/6", "Base student: a tiny T5 learns the generic tasks and plain sums")
    run(
        *("train", "--gin_file", "runs/train.gin"),
        *("--gin_file", "recipes/quickstart_base.gin"),
        *gin(
            TEXT_PATH=str(folder / "world" / "pretraining.jsonl"),
            MODEL_DIR=str(folder / "base"),
            TRAIN_STEPS=steps,
            WARMUP_STEPS=min(WARMUP_STEPS, steps // 4),
        ),
    )

    _say("4/6", "Second teacher: the base student answers prompts that have no answer")
    run(
        *("label", "--gin_file", "recipes/quickstart_evaluate.gin"),
        *gin(CHECKPOINT_PATH=str(folder / "base"), DECODING="sample", OUTPUT_LENGTH=32),
        *("--prompts", str(folder / "world" / "prompts.jsonl")),
        *("--out", str(folder / "base_answers"), "--replace"),
    )


def _specialise(run: Run, gin: Gin, folder: pathlib.Path, steps: int) -> None:
    corpus = str(folder / "corpus")
    for name, other in SPECIALISTS.items():
        mixture: Any = "specialize_corpus_four_formats"
        if other is not None:
            mixture = {corpus: 100 - SHARE, str(folder / other): SHARE}
        run(
            *("train", "--gin_file", "runs/train.gin"),
            *("--gin_file", "recipes/quickstart.gin"),
            *gin(
                CORPUS_DIR=corpus,
                MIXTURE_OR_TASK_NAME=mixture,
                INITIAL_CHECKPOINT_PATH=str(folder / "base"),
                MODEL_DIR=str(folder / name),
                TRAIN_STEPS=steps,
                WARMUP_STEPS=min(WARMUP_STEPS, steps // 4),
            ),
        )


def _evaluate(run: Run, gin: Gin, folder: pathlib.Path) -> None:
    world = folder / "world"
    for name in ("base", *SPECIALISTS):
        tasks = [str(world / f"{one}.toml") for one in ("replayed", "demonstrated")]
        run(
            *("evaluate", "--gin_file", "runs/evaluate.gin"),
            *("--gin_file", "recipes/quickstart_evaluate.gin"),
            *gin(
                BENCHMARKS_DIR=str(world),
                CHECKPOINT_PATH=str(folder / name),
                OUTPUT_DIR=str(folder / name / run_folder.EVALUATION),
                SUITES=tuple(SUITES.values()),
                TASKS=tuple(tasks),
            ),
            *("--json", str(folder / f"{name}.json")),
        )


def _scores(files: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    from specialize.evaluation.results import Results

    found = {name: Results.load(path).scores for name, path in files.items()}
    return {
        what: {
            name: {key: scores[suite][key] for key in ("accuracy", "n", "low", "high")}
            for name, scores in found.items()
        }
        for what, suite in SUITES.items()
    }


def _table(results: Mapping[str, Any]) -> None:
    from rich.table import Table

    from specialize.progress import console, table_console

    heads = ("base", "specialised", "with replay", "with second teacher")
    table = Table("suite", "n", *heads, title="What specialisation gained and lost")
    for name, scores in results["suites"].items():
        cells = [
            f"{s['accuracy']:.1%} [{s['low'] * 100:.0f}, {s['high'] * 100:.0f}]"
            for s in scores.values()
        ]
        table.add_row(name.replace("_", " "), str(scores["base"]["n"]), *cells)
    table_console(110).print(table)
    generic = results["suites"]["unreplayed_tasks"]
    lost = [
        (generic["base"]["accuracy"] - generic[name]["accuracy"]) * 100
        for name in SPECIALISTS
    ]
    console.print(
        f"Of tasks that are never shown again it lost {lost[0]:.1f} points alone, "
        f"{lost[1]:.1f} with replay of other tasks and {lost[2]:.1f} with the base "
        f"student as a second teacher; {results['seconds'] / 60:.1f} minutes in all."
    )


def _program() -> str:
    """How a shell starts `specialize`, whose environment may not be active."""
    if shutil.which("specialize"):
        return "specialize"
    return shlex.join([sys.executable, "-m", "specialize"])


def _say(part: str, text: str) -> None:
    from specialize.progress import console

    console.rule(f"[bold]{part}[/bold] {text}", align="left")
