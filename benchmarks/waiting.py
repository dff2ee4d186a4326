r"""How long commands make one wait: CPU seconds of two checkouts, side by side.

Each checkout has its own `.venv`. The student is that of a small quickstart:

    specialize quickstart --problems 40 --test_problems 8 --base_steps 2 --steps 2 \
        --out own/small
    python benchmarks/waiting.py --old ../old --new . --quickstart own/small \
        --data ../shared/data

Prints one JSON row per command: the median CPU seconds (user and system, all processes)
of both checkouts, which take turns, and their ratio. The last rows are `train` of the
new checkout alone, with an empty and then a filled cache of compiled programs: seconds
of compiling, and CPU seconds until the first step is done.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile

import corpus_throughput

PREDICTION = {
    "suite": "gsm8k",
    "id": "gsm8k-test-861",
    "prediction": "The answer is 18.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", required=True, help="checkout to compare with")
    parser.add_argument("--new", default=".", help="checkout that is measured")
    parser.add_argument("--quickstart", required=True, help="folder of a quickstart")
    parser.add_argument("--data", required=True, help="folder with gsm8k")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trains", type=int, default=3)
    arguments = parser.parse_args()
    quickstart = pathlib.Path(arguments.quickstart).resolve()
    data = pathlib.Path(arguments.data).resolve()
    trees = {
        name: pathlib.Path(getattr(arguments, name)).resolve()
        for name in ("old", "new")
    }
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "predictions.jsonl").write_text(json.dumps(PREDICTION))
        judge = [
            "evaluate",
            "--predictions",
            "predictions.jsonl",
            "--max_examples",
            "1",
        ]
        judge += ["--benchmarks", str(data), "--json", "results.json"]
        convert = ["convert", "--source", str(quickstart / "student")]
        convert += ["--target", "converted"]
        for title, words in (("convert", convert), ("evaluate --predictions", judge)):
            spent: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(arguments.repeats):
                for name, tree in trees.items():
                    shutil.rmtree(work / "converted", ignore_errors=True)
                    # A test split without these questions came after e7ad40d.
                    every = (
                        ["--split", "all"] if words is judge and name == "new" else []
                    )
                    spent[name].append(cpu_seconds(tree, [*words, *every], work))
            show(title, arguments.repeats, "old", "new", spent)
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(arguments.trains):
            shutil.rmtree(work / "cache", ignore_errors=True)
            for name in ("first", "second"):
                compiled, step = train(trees["new"], quickstart, work)
                found.setdefault("compiled", {}).setdefault(name, []).append(compiled)
                found.setdefault("step", {}).setdefault(name, []).append(step)
        show("train: compiled", arguments.trains, "first", "second", found["compiled"])
        show("train: first step", arguments.trains, "first", "second", found["step"])


def show(
    title: str, repeats: int, old: str, new: str, seconds: dict[str, list[float]]
) -> None:
    """Prints the row of one command."""
    medians = {name: statistics.median(every) for name, every in seconds.items()}
    row = {
        "command": title,
        "repeats": repeats,
        **{f"{name}_s": round(value, 2) for name, value in medians.items()},
        "ratio": round(medians[new] / medians[old], 3),
        "cores": os.cpu_count(),
        "commit": corpus_throughput.commit(),
    }
    print(json.dumps(row), flush=True)


def cpu_seconds(tree: pathlib.Path, words: list[str], work: pathlib.Path) -> float:
    """CPU seconds of one command, its processes included."""
    before = os.times()
    program = [tree / ".venv/bin/specialize", *words]
    done = subprocess.run(program, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    after = os.times()
    spent = (after.children_user, after.children_system)
    return sum(spent) - before.children_user - before.children_system


def train(
    tree: pathlib.Path, quickstart: pathlib.Path, work: pathlib.Path
) -> tuple[float, float]:
    """One step of the base student: seconds of compiling, CPU seconds to the step."""
    shutil.rmtree(work / "run", ignore_errors=True)
    words = [tree / ".venv/bin/specialize", "train", "--gin_file", "runs/train.gin"]
    words += ["--gin_file", "recipes/quickstart_base.gin"]
    words += [f"--gin.VOCABULARY_PATH='{quickstart}/vocabulary.model'"]
    words += [f"--gin.TEXT_PATH='{quickstart}/world/pretraining.jsonl'"]
    words += ["--gin.SEED=0", "--gin.TRAIN_STEPS=1", "--gin.WARMUP_STEPS=0"]
    words += ["--gin.MODEL_DIR='run'"]
    run = subprocess.Popen(
        words,
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "SPECIALIZE_CACHE_DIR": str(work / "cache")},
    )
    assert run.stdout is not None
    compiled = step = 0.0
    said: list[str] = []
    for line in run.stdout:
        said.append(line)
        if found := re.search(r"compiled in ([\d.]+) s", line):
            compiled = float(found[1])
        elif line.startswith("step 1/1"):
            step = corpus_throughput.cpu_time(run.pid)
    if run.wait() or not step:
        raise SystemExit("".join(said))
    return compiled, step


if __name__ == "__main__":
    main()
