"""Does our judge agree with what others published about real models' outputs?

    python benchmarks/judge_agreement.py [--bbh REPO] [--gsm8k REPO]

REPO is a checkout of a public repository:

- suzgunmirac/BIG-Bench-Hard holds code-davinci-002's 13,022 outputs on the 27 tasks,
  with and without chain of thought, and the accuracy of each of the 54 files;
- openai/grade-school-math holds the outputs of four models on GSM8K's test set with a
  verdict for each of the 5,276.

Prints one row for each file or model: n, the published figure, ours, and for GSM8K in
how many outputs the verdicts differ. Exits with 1 if any figure differs.
"""

import argparse
import json
import pathlib
import sys

from specialize.corpus.answers import judge
from specialize.evaluation import bbh

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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bbh", type=pathlib.Path, help="suzgunmirac/BIG-Bench-Hard")
    parser.add_argument("--gsm8k", type=pathlib.Path, help="openai/grade-school-math")
    arguments = parser.parse_args()
    differing = 0
    if arguments.bbh:
        differing += big_bench_hard(arguments.bbh)
    if arguments.gsm8k:
        differing += grade_school_math(arguments.gsm8k)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
