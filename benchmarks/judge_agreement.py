"""Does our judge agree with what others published about real models' outputs?

    python benchmarks/judge_agreement.py [--data ../shared/data] [--bbh REPO]
        [--gsm8k REPO] [--zero-shot-cot REPO] [--abel REPO] [--chat REPO] [--gpt4 REPO]
        [--record FILE] [--against FILE]

REPO is a checkout of a public repository:

- suzgunmirac/BIG-Bench-Hard holds code-davinci-002's 13,022 outputs on the 27 tasks,
  with and without chain of thought, and the accuracy of each of the 54 files;
- openai/grade-school-math holds the outputs of four models on GSM8K's test set with a
  verdict for each of the 5,276;
- kojima-takeshi188/zero_shot_cot holds text-davinci-002's outputs, with and without
  "Let's think step by step", on ten tasks whose answers are numbers, letters or yes and
  no, each with the answer that was read in it;
- GAIR-NLP/abel holds the outputs of fine-tuned Llama models on GSM8K, on a rewritten
  GSM8K and on multiple-choice questions, with a verdict for each;
- x1nx3r/benchmark-reports holds chat outputs of two Llama 3.2 3B models on the 27 tasks
  of BBH, one of which thinks aloud, with the verdicts of a large language model;
- suzgunmirac/meta-prompting holds GPT-4's outputs on MGSM and tasks of BBH.

The folder of shared data holds GSM8K's 8,792 human solutions, the 81 worked examples of
BBH's prompts, and 46 completions of a small chat model on GSM8K.

Prints one row for each file or model: n, the published figure, ours, and where single
verdicts are published how many differ and how many of these only we accept. Exits with
1 if any figure of the first two differs. The judges of the others are cruder than ours
or guess, so that differences are listed with --show and must be read. --record stores
our verdicts; --against names every verdict that moved since they were stored.
"""

import argparse
import collections
import dataclasses
import gzip
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from specialize.corpus.tasks.known import shipped
from specialize.judging.answers import Verdict, judge

ZERO_SHOT_TASKS = {
    **dict.fromkeys(("gsm8k", "multiarith", "svamp", "addsub", "singleeq"), "number"),
    **dict.fromkeys(("shuffled_objects", "date_understanding", "aqua"), "choice"),
    **dict.fromkeys(("strategyqa", "coin_flip"), "yes_no"),
}
ZERO_SHOT_RECORD = re.compile(
    r"\n\d_th_sampling\n(?P<text>.*?)\npred_before : .*?\npred_mode : (?P<read>.*?)\n"
    r"GT : (?P<gold>.*?)\n\*{5,}",
    re.DOTALL,
)
ABEL_FILES = [
    *(
        f"{name}/{size}"
        for name in ("gsm8k", "gsm8k_robust")
        for size in ("7b", "13b", "70b")
    ),
    "mathgpt/70b",
]
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """One output of a model: where it is from, what is asked, what others say."""

    source: str
    kind: str
    gold: str
    text: str
    published: bool | None = None


def big_bench_hard(repository: pathlib.Path) -> Iterator[Output]:
    """Codex's outputs; verdicts are not published, the accuracy of a file is."""
    for style, (task, kind) in itertools.product(
        ("cot", "direct"), shipped("bbh").subtasks.items()
    ):
        for record in json.loads(_codex_file(repository, style, task))["outputs"]:
            yield Output(
                f"{style:7}{task}", kind, record["target"], record["prediction"]
            )


def _codex_file(repository: pathlib.Path, style: str, task: str, end: str = ".json"):
    folder = repository / f"code-davinci-002-outputs/code-davinci-002-{style}"
    name = f"{task}_few_shot_template_0-255000{end}"
    return (folder / name).read_text(encoding="utf-8")


def codex_accuracies(repository: pathlib.Path) -> dict[str, float]:
    """The published accuracy of each of the 54 files."""
    return {
        f"{style:7}{task}": json.loads(
            _codex_file(repository, style, task, "_eval_metrics.jsonl").split("\n")[0]
        )["accuracy"]
        / 100
        for style, task in itertools.product(("cot", "direct"), shipped("bbh").subtasks)
    }


def grade_school_math(repository: pathlib.Path) -> Iterator[Output]:
    """Four models on GSM8K, with OpenAI's verdicts."""
    path = repository / "grade_school_math/data/example_model_solutions.jsonl"
    records = _json_lines(path)
    for model, record in itertools.product(MODELS, records):
        gold = record["ground_truth"].rpartition("A:")[2].strip()
        said = record[model]
        yield Output(
            f"gsm8k  {model}", "number", gold, said["solution"], said["is_correct"]
        )


def zero_shot_cot(repository: pathlib.Path) -> Iterator[Output]:
    """text-davinci-002 on ten tasks: "the answer that was read equals the gold"."""
    for (task, kind), style in itertools.product(
        ZERO_SHOT_TASKS.items(), ("zero_shot_cot", "zero_shot")
    ):
        log = (repository / "log" / f"{task}_{style}.log").read_text(encoding="utf-8")
        for record in ZERO_SHOT_RECORD.finditer(log):
            text, gold = record["text"].rpartition("\nA: ")[2], record["gold"]
            published = record["read"] == gold
            yield Output(
                f"{task}, {style}", kind, _as_gold(gold, kind), text, published
            )


def abel(repository: pathlib.Path) -> Iterator[Output]:
    """Fine-tuned Llama models; a gold that is a letter is a choice."""
    for name in ABEL_FILES:
        for record in _json_lines(repository / "outputs" / f"{name}.jsonl"):
            gold = str(record["gold"])
            kind = "choice" if re.fullmatch("[A-Z]", gold) else "number"
            yield Output(
                f"abel {name}",
                kind,
                _as_gold(gold, kind),
                record["response"],
                record["result"],
            )


def chat(repository: pathlib.Path) -> Iterator[Output]:
    """Two chat models on BBH, judged by a large language model."""
    for style, folder in (("thinking", ""), ("plain", "_base")):
        results = sorted((repository / f"llm_judge_results{folder}").glob("*.json"))
        data = sorted((repository / f"llm_judge_data{folder}").glob("*.jsonl"))
        for questions, verdicts in zip(data, results, strict=True):
            said = {one["id"]: one for one in json.loads(verdicts.read_text())}
            kind = shipped("bbh").subtasks[questions.stem]
            for record in _json_lines(questions):
                if record["ID"] in said:
                    yield Output(
                        f"chat {style}: {kind}",
                        kind,
                        record["GROUND_TRUTH"],
                        record["MODEL_RESPONSE"],
                        bool(said[record["ID"]]["is_correct"]),
                    )


def shared_data(folder: pathlib.Path) -> Iterator[Output]:
    """Solutions that people wrote, which are all right, and a small model's."""
    golds: dict[str, str] = {}
    for part in ("train", "test"):
        for index, record in enumerate(_json_lines(folder / f"gsm8k/{part}.jsonl")):
            gold = record["answer"].rpartition("####")[2].strip()
            golds[f"gsm8k-{part}-{index}"] = gold
            yield Output("GSM8K's solutions", "number", gold, record["answer"], True)
    for task, kind in shipped("bbh").subtasks.items():
        prompt = (folder / f"bbh/cot-prompts/{task}.txt").read_text(encoding="utf-8")
        for block in prompt.split("\nQ: ")[1:]:
            text = block.partition("\nA: ")[2].strip()
            gold = text.rpartition("the answer is ")[2].strip().removesuffix(".")
            yield Output("BBH's worked examples", kind, gold, text, True)
    for path in sorted((folder / "modern").glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().split("\n"):
            if line:
                record = json.loads(line)
                gold = golds[record["problem_id"]]
                yield Output("small chat model", "number", gold, record["text"])


def gpt4(repository: pathlib.Path) -> Iterator[Output]:
    """GPT-4, with seven ways of prompting, on MGSM and two tasks of BBH."""
    tasks = {"MGSM_*": "number", "multistep_*": "number", "word_sorting*": "words"}
    for pattern, kind in tasks.items():
        for path in sorted((repository / "outputs").glob(f"*/{pattern}.jsonl")):
            for record in _json_lines(path):
                gold, text = str(record["target"]), str(record["output"])
                yield Output(f"gpt4 {path.parent.name}: {kind}", kind, gold, text)


SOURCES: dict[str, Callable[[pathlib.Path], Iterable[Output]]] = {
    "data": shared_data,
    "bbh": big_bench_hard,
    "gsm8k": grade_school_math,
    "zero_shot_cot": zero_shot_cot,
    "abel": abel,
    "chat": chat,
    "gpt4": gpt4,
}


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each source of outputs."""
    parser.add_argument("--data", type=pathlib.Path, help="the folder of shared data")
    parser.add_argument("--bbh", type=pathlib.Path, help="suzgunmirac/BIG-Bench-Hard")
    parser.add_argument("--gsm8k", type=pathlib.Path, help="openai/grade-school-math")
    parser.add_argument(
        "--zero-shot-cot", type=pathlib.Path, help="kojima-takeshi188/zero_shot_cot"
    )
    parser.add_argument("--abel", type=pathlib.Path, help="GAIR-NLP/abel")
    parser.add_argument("--chat", type=pathlib.Path, help="x1nx3r/benchmark-reports")
    parser.add_argument("--gpt4", type=pathlib.Path, help="suzgunmirac/meta-prompting")


def outputs(arguments: argparse.Namespace) -> Iterator[Output]:
    """The outputs of the sources that were named."""
    for name, source in SOURCES.items():
        if getattr(arguments, name):
            yield from source(getattr(arguments, name))


def _json_lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def _as_gold(gold: str, kind: str) -> str:
    return f"({gold})" if kind == "choice" else gold


Groups = dict[str, list[tuple[Output, Verdict]]]


def _row(
    name: str, judged: list[tuple[Output, Verdict]], accuracy: float | None
) -> int:
    """Prints the row of one file or model; returns how many figures differ."""
    n = len(judged)
    ours = sum(verdict.correct for _, verdict in judged)
    published = [one for one in judged if one[0].published is not None]
    if accuracy is not None:
        differs = abs(ours / n - accuracy) > 1e-9
        print(f"{name:49}{n:5}{accuracy:9.2%}{ours / n:9.2%}{'  differs' * differs}")
        return differs
    if not published:
        print(f"{name:49}{n:5}{'':9}{ours / n:9.2%}")
        return 0
    accepted = sum(bool(output.published) for output, _ in published)
    apart = [one for one in published if one[0].published != one[1].correct]
    only_ours = sum(verdict.correct for _, verdict in apart)
    print(
        f"{name:49}{n:5}{accepted / n:9.2%}{ours / n:9.2%}  {len(apart)} apart, "
        f"{only_ours} of them accepted by us alone"
    )
    return len(apart)


def _moved(old: pathlib.Path, groups: Groups) -> None:
    """Names every verdict that differs from the stored one of the same source."""
    stored: dict[str, list[list[Any]]] = collections.defaultdict(list)
    for line in old.read_text("utf-8").splitlines():
        source, *verdict = json.loads(line)
        stored[source].append(verdict)
    moved = compared = 0
    for source, group in groups.items():
        before = stored.pop(source, [])
        if len(before) != len(group):
            print(f"{source.strip()}: {len(before)} verdicts stored, {len(group)} made")
            continue
        compared += len(group)
        for (output, verdict), (correct, value) in zip(group, before, strict=True):
            if [correct, value] != [verdict.correct, verdict.value]:
                moved += 1
                print(
                    f"moved: {source.strip()}, gold {output.gold!r}: {value!r} "
                    f"-> {verdict.value!r}, correct {correct} -> {verdict.correct}"
                )
    print(
        f"{moved} of {compared} verdicts moved; {len(stored)} stored sources not read"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sources(parser)
    parser.add_argument("--show", action="store_true", help="print what differs")
    parser.add_argument("--record", type=pathlib.Path, help="store our verdicts")
    parser.add_argument("--against", type=pathlib.Path, help="name moved verdicts")
    arguments = parser.parse_args()
    judged = [
        (output, judge(output.text, [output.gold], output.kind))
        for output in outputs(arguments)
    ]
    groups: Groups = collections.defaultdict(list)
    for output, verdict in judged:
        groups[output.source].append((output, verdict))
        if arguments.show and output.published not in (None, verdict.correct):
            print(f"--- gold {output.gold!r}, ours {verdict}\n{output.text}")
    accuracies = codex_accuracies(arguments.bbh) if arguments.bbh else {}
    differing = 0
    for name, group in groups.items():
        apart = _row(name, group, accuracies.get(name))
        differing += apart if name in accuracies or name.startswith("gsm8k ") else 0
    if arguments.record:
        lines = (json.dumps([o.source, v.correct, v.value]) for o, v in judged)
        arguments.record.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.against:
        _moved(arguments.against, groups)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
