"""How long a corpus of the paper's size takes, and how much memory.

Repeats the real Codex completions until there are as many as the paper kept, builds
the four formats with `specialize corpus build`, and prints one JSON row:

    python benchmarks/corpus_throughput.py --data ../shared/data --count 207000

The limit is 15 minutes and 2 GiB on two cores. Memory is the largest sum of the
proportional set sizes of all processes of the run, sampled five times a second;
anonymous memory is the part of it that belongs to no file, which must not grow with the
number of completions. CPU seconds are the sum over the same processes; where others use
the machine they say more than seconds do.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with gsm8k, codex and t5")
    parser.add_argument("--count", type=int, default=207_000, help="completions")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--alignment", default="bytes", choices=("bytes", "dtw"))
    parser.add_argument("--formats", nargs="+", help="formats (default: all four)")
    parser.add_argument(
        "--without_tokens",
        action="store_true",
        help="the texts alone, without log-probabilities: a third of the time",
    )
    arguments = parser.parse_args()
    data = pathlib.Path(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        completions = folder / "completions.jsonl"
        with_tokens = not arguments.without_tokens
        write_completions(data, completions, arguments.count, with_tokens=with_tokens)
        words = [sys.executable, "-m", "specialize", "corpus", "build"]
        words += ["--problems", str(data / "gsm8k" / "train.jsonl")]
        words += ["--vocabulary", str(data / "t5" / "spiece.model")]
        words += ["--completions", str(completions), "--teacher", "code-davinci-002"]
        words += ["--no_rationales", "--alignment", arguments.alignment]
        words += ["--processes", str(arguments.processes), "--shards", "16"]
        words += ["--formats", *arguments.formats] if arguments.formats else []
        words += ["--out", str(folder / "corpus")]
        row_commit = commit()  # before: others may commit while it runs
        began = time.monotonic()
        run = subprocess.Popen(words)
        watch = Watch(run.pid)
        status = run.wait()
        seconds = time.monotonic() - began
        peak, anonymous, cpu_seconds = watch.stop()
        if status:
            raise SystemExit(status)
        manifest = json.loads((folder / "corpus" / "corpus.json").read_text())
        written = sum(shard["bytes"] for shard in manifest["shards"])
    row = {
        "benchmark": "corpus_throughput",
        "completions": arguments.count,
        "records": {name: f["records"] for name, f in manifest["formats"].items()},
        "alignment": arguments.alignment,
        "tokens": with_tokens,
        "processes": arguments.processes,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "completions_per_second": round(arguments.count / seconds, 1),
        "minutes_for_207000": round(207_000 / arguments.count * seconds / 60, 2),
        "peak_mib": round(peak / 2**20),
        "anonymous_mib": round(anonymous / 2**20),
        "written_mib": round(written / 2**20),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "commit": row_commit,
    }
    print(json.dumps(row))


def write_completions(
    data: pathlib.Path, path: pathlib.Path, count: int, *, with_tokens: bool = True
) -> None:
    """Exports the real samples again and again, each with a number of its own."""
    from specialize.corpus.completions import completion_to_json, read_completions
    from specialize.corpus.tasks.known import read_problems

    problems = read_problems(data / "gsm8k" / "train.jsonl", "gsm8k")
    dump = data / "codex" / "codex_raw_q0_50samples.json"
    records = [
        completion_to_json(sample.completion)
        for sample in read_completions(dump, problems)
    ]
    if not with_tokens:
        for record in records:
            for name in ("tokens", "token_logprobs", "top_logprobs"):
                del record[name]
    # Serialised once: there may be millions of lines.
    lines = [
        json.dumps({name: record[name] for name in record if name != "sample"})[1:]
        for record in records
    ]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(f'{{"sample": {number}, {lines[number % len(lines)]}\n')


class Watch:
    """Samples memory and CPU time of a process and its descendants until stopped."""

    def __init__(self, pid: int):
        """Starts sampling."""
        self._pid = pid
        self._peak = self._anonymous = 0
        self._seconds: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> tuple[int, int, float]:
        """The most memory and anonymous memory seen, in bytes, and all CPU seconds."""
        self._done.set()
        self._thread.join()
        return self._peak, self._anonymous, sum(self._seconds.values())

    def _sample(self) -> None:
        while not self._done.wait(0.2):
            pids = descendants(self._pid)
            now = [proportional(pid) for pid in pids]
            self._peak = max(self._peak, sum(every for every, _ in now))
            self._anonymous = max(self._anonymous, sum(own for _, own in now))
            # By process: one that has ended is reaped by no one we could ask.
            self._seconds |= {pid: used for pid in pids if (used := cpu_time(pid))}


def descendants(pid: int) -> list[int]:
    """`pid` and everything below it."""
    found = [pid]
    for parent in found:
        try:
            for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def proportional(pid: int) -> tuple[int, int]:
    """Proportional set size in bytes, and its anonymous part.

    Shared pages count once over all sharers.
    """
    found = {"Pss:": 0, "Pss_Anon:": 0}
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *values = line.split()
            if name in found:
                found[name] = int(values[0]) * 1024
    except OSError:
        pass
    return found["Pss:"], found["Pss_Anon:"]


def cpu_time(pid: int) -> float:
    """CPU seconds of a process, user and system; 0 once it has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def commit() -> str:
    """The commit of the working tree this ran from, or "unknown"."""
    here = pathlib.Path(__file__).parent
    words = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
