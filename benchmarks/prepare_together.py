"""How much sooner two processes have prepared the examples of a corpus than one.

Builds a corpus of the four formats from the real Codex completions, repeated until
there are as many as the paper kept, and prepares its examples by one process and by
two, one after the other and again (`--times`). Prints one JSON row with the seconds of
each and the ratio of the medians, without the time that Python takes to start; and the
same for CPU seconds of the process that spends most, which other work on the machine
does not change:

    python benchmarks/prepare_together.py --data ../shared/data --count 207000

Every process may use one core, as if it were a machine of its own with the same number
of cores as the other; with `--all_cores` both may use all.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import corpus_throughput

FORMATS = (
    *("in_context_cot", "in_context_answer_only"),
    *("zero_shot_cot", "zero_shot_answer_only"),
)
TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
LENGTHS = {"inputs": 1024, "targets": 256} | dict.fromkeys(TEACHER, 256)
CODE = f"""
import sys, time
import seqio, specialize_tasks
from specialize import sharding
from specialize.training.data.mixtures import load_mixture

folder, address, count, index = sys.argv[1:]
sharding.initialize_distributed(address, int(count), int(index))
sharding.barrier("ready")
began, cpu = time.monotonic(), time.process_time()
mixture = "specialize_corpus_four_formats"
found = load_mixture(mixture, "train", {LENGTHS!r}, folder, exchange=folder)
sharding.barrier("done")
spent = time.monotonic() - began, time.process_time() - cpu
print("seconds", *spent, "digest", found.digest, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with gsm8k, codex and t5")
    parser.add_argument("--count", type=int, default=207_000, help="completions")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--corpus", help="a corpus that is there, instead of a new one")
    parser.add_argument("--all_cores", action="store_true")
    arguments = parser.parse_args()
    data = pathlib.Path(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        corpus = arguments.corpus or build(data, folder, arguments.count)
        seconds, cpu = {1: [], 2: []}, {1: [], 2: []}
        digests = set()
        for time in range(arguments.times):
            for count in seconds:
                place = folder / f"{time} {count}"
                found = prepare(data, corpus, place, count, arguments.all_cores)
                seconds[count].append(found[0])
                cpu[count].append(found[1])
                digests.add(found[2])
    assert len(digests) == 1, "the examples differ"
    row = {
        "benchmark": "prepare_together",
        "completions": arguments.count,
        "one": seconds[1],
        "two": seconds[2],
        "ratio": ratio(seconds),
        "one_cpu": cpu[1],
        "two_cpu": cpu[2],
        "cpu_ratio": ratio(cpu),
        "cores_per_process": "all" if arguments.all_cores else 1,
        "cpu": platform.processor() or platform.machine(),
    }
    print(json.dumps(row))


def ratio(found: dict[int, list[float]]) -> float:
    """Median of two processes over that of one."""
    return statistics.median(found[2]) / statistics.median(found[1])


def build(data: pathlib.Path, folder: pathlib.Path, count: int) -> str:
    completions = folder / "completions.jsonl"
    corpus_throughput.write_completions(data, completions, count)
    words = [sys.executable, "-m", "specialize", "corpus", "build"]
    words += ["--problems", str(data / "gsm8k" / "train.jsonl")]
    words += ["--vocabulary", str(data / "t5" / "spiece.model")]
    words += ["--completions", str(completions), "--teacher", "code-davinci-002"]
    words += ["--no_rationales", "--shards", "16", "--out", str(folder / "corpus")]
    subprocess.run(words, check=True)
    return str(folder / "corpus")


def prepare(
    data: pathlib.Path, corpus: str, place: pathlib.Path, count: int, all_cores: bool
) -> tuple[float, float, str]:
    """Until `count` processes have prepared all.

    The seconds, the CPU seconds of the process that spends most, and the digest.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed")
    variables = {
        "SPECIALIZE_CORPUS_DIR": corpus,
        "SPECIALIZE_VOCABULARY": str(data / "t5" / "spiece.model"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    address = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        words = [sys.executable, "-c", CODE, place, address, str(count), str(index)]
        if not all_cores:
            words = ["taskset", "-c", str(cores[index]), *words]
        started.append(
            subprocess.Popen(
                words, env=os.environ | variables, stdout=subprocess.PIPE, text=True
            )
        )
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit(f"a process failed: {said}")
    found = [text.partition("seconds ")[2].split() for text in said]
    return float(found[0][0]), max(float(one[1]) for one in found), found[0][3]


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
