"""Does our judge agree with what others published about real models' outputs?

    python benchmarks/judge_agreement.py [--bbh REPO] [--gsm8k REPO]
                                         [--zero-shot-cot REPO] [--abel REPO]

REPO is a checkout of a public repository:

- suzgunmirac/BIG-Bench-Hard holds code-davinci-002's 13,022 outputs on the 27 tasks,
  with and without chain of thought, and the accuracy of each of the 54 files;
- openai/grade-school-math holds the outputs of four models on GSM8K's test set with a
  verdict for each of the 5,276;
- kojima-takeshi188/zero_shot_cot holds text-davinci-002's outputs, with and without
  "Let's think step by step", on ten tasks whose answers are numbers, letters or yes and
  no, each with the answer that was read in it;
- GAIR-NLP/abel holds the outputs of fine-tuned Llama models on GSM8K, on a rewritten
  GSM8K and on multiple-choice questions, with a verdict for each.

Prints one row for each file or model: n, the published figure, ours, and where single
verdicts are published how many differ and how many of these only we accept. Exits with
1 if any figure of the first two differs. The judges of the other two are cruder than
ours (the first number behind "is", a full stop that makes "10." no number), so that
differences are listed with --show and must be read.
"""

import argparse
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterable

from specialize.corpus.benchmarks import bbh
from specialize.judging.answers import judge

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


def big_bench_hard(repository: pathlib.Path) -> int:
    """Compares the accuracy of every published file; returns how many differ."""
    outputs = repository / "code-davinci-002-outputs"
    differing = files = right = count = 0
    for style in ("cot", "direct"):
        for task, answer_type in bbh.ANSWER_TYPES.items():
            name = f"{task}_few_shot_template_0-255000"
            folder = outputs / f"code-davinci-002-{style}"
            text = (folder / f"{name}.json").read_text(encoding="utf-8")
            records = json.loads(text)["outputs"]
            metrics = (folder / f"{name}_eval_metrics.jsonl").read_text().split("\n")
            published = json.loads(metrics[0])["accuracy"] / 100
            correct = sum(
                judge(record["prediction"], [record["target"]], answer_type).correct
                for record in records
            )
            ours = correct / len(records)
            files, count, right = files + 1, count + len(records), right + correct
            differs = abs(ours - published) > 1e-9
            differing += differs
            print(
                f"{style:7}{task:42}{len(records):5}{published:9.2%}{ours:9.2%}"
                f"{'  differs' if differs else ''}"
            )
    print(f"BBH: {files - differing} of {files} accuracies equal, {count} outputs")
    return differing


def grade_school_math(repository: pathlib.Path) -> int:
    """Compares every published verdict; returns how many differ."""
    path = repository / "grade_school_math/data/example_model_solutions.jsonl"
    records = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    differing = 0
    for model in MODELS:
        published = ours = apart = 0
        for record in records:
            gold = record["ground_truth"].rpartition("A:")[2].strip()
            verdict = judge(record[model]["solution"], [gold])
            published += record[model]["is_correct"]
            ours += verdict.correct
            apart += verdict.correct != record[model]["is_correct"]
        n = len(records)
        print(
            f"gsm8k  {model:42}{n:5}{published / n:9.2%}{ours / n:9.2%}  {apart} apart"
        )
        differing += apart
    total = len(records) * len(MODELS)
    print(f"GSM8K: {total - differing} of {total} verdicts equal")
    return differing


def zero_shot_cot(repository: pathlib.Path, show: bool) -> None:
    """Compares our verdict with "the answer that was read equals the gold"."""
    for (task, kind), style in itertools.product(
        ZERO_SHOT_TASKS.items(), ("zero_shot_cot", "zero_shot")
    ):
        path = repository / "log" / f"{task}_{style}.log"
        records = []
        for record in ZERO_SHOT_RECORD.finditer(path.read_text(encoding="utf-8")):
            output = record["text"].rpartition("\nA: ")[2]
            gold = record["gold"]
            published = record["read"] == gold
            records.append((output, _as_gold(gold, kind), kind, published))
        _compare(f"{task}, {style}", records, show)


def abel(repository: pathlib.Path, show: bool) -> None:
    """Compares every published verdict; a gold that is a letter is a choice."""
    for name in ABEL_FILES:
        path = repository / "outputs" / f"{name}.jsonl"
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            gold = str(record["gold"])
            kind = "choice" if re.fullmatch("[A-Z]", gold) else "number"
            records.append(
                (record["response"], _as_gold(gold, kind), kind, record["result"])
            )
        _compare(f"abel {name}", records, show)


def _compare(
    name: str, records: Iterable[tuple[str, str, str, bool]], show: bool
) -> None:
    n = accepted = ours = apart = only_ours = 0
    for output, gold, kind, published in records:
        verdict = judge(output, [gold], kind)
        n += 1
        accepted += published
        ours += verdict.correct
        apart += verdict.correct != published
        only_ours += verdict.correct and not published
        if show and verdict.correct != published:
            print(f"--- gold {gold!r}, published {published}, ours {verdict}\n{output}")
    print(
        f"{name:49}{n:5}{accepted / n:9.2%}{ours / n:9.2%}  {apart} apart, "
        f"{only_ours} of them accepted by us alone"
    )


def _as_gold(gold: str, kind: str) -> str:
    return f"({gold})" if kind == "choice" else gold


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bbh", type=pathlib.Path, help="suzgunmirac/BIG-Bench-Hard")
    parser.add_argument("--gsm8k", type=pathlib.Path, help="openai/grade-school-math")
    parser.add_argument(
        "--zero-shot-cot", type=pathlib.Path, help="kojima-takeshi188/zero_shot_cot"
    )
    parser.add_argument("--abel", type=pathlib.Path, help="GAIR-NLP/abel")
    parser.add_argument("--show", action="store_true", help="print what differs")
    arguments = parser.parse_args()
    differing = 0
    if arguments.bbh:
        differing += big_bench_hard(arguments.bbh)
    if arguments.gsm8k:
        differing += grade_school_math(arguments.gsm8k)
    if arguments.zero_shot_cot:
        zero_shot_cot(arguments.zero_shot_cot, arguments.show)
    if arguments.abel:
        abel(arguments.abel, arguments.show)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
