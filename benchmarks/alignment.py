"""Both alignments on the real Codex samples: what they determine, and how fast.

    python benchmarks/alignment.py --data ../shared/data
    python benchmarks/alignment.py --data ../shared/data --completions 207000

The samples are repeated up to the number asked for and spread over processes, as
`specialize corpus build` does. Prints the tables of docs/explanation/alignment.md.

`bytes` remembers how it read an alternative, and all 50 samples answer one question,
so repeating them flatters it. The last table therefore forgets everything after so many
samples, as if each group answered a question that shares no word with another: 28 is
the paper's corpus (207,000 samples of 7,473 questions), 1 the worst there can be.
"""

import argparse
import concurrent.futures
import importlib.metadata
import json
import math
import multiprocessing
import os
import pathlib
import platform
import statistics
import time

import numpy as np

from specialize.corpus.alignment.aligning import align
from specialize.corpus.alignment.readings import reader_of
from specialize.corpus.records import ORIGINS, TeacherToken
from specialize.corpus.vocabulary import Vocabulary

Sample = tuple[list[TeacherToken], str]

_world: tuple[list[Sample], Vocabulary] | None = None


def read_samples(data: pathlib.Path) -> list[Sample]:
    """The 50 samples without the end of the prompt and the final newlines."""
    path = data / "codex" / "codex_raw_q0_50samples.json"
    samples: list[Sample] = []
    for sample in json.loads(path.read_text())["samples"]:
        tokens: list[TeacherToken] = []
        for step in sample["steps"][2:-2]:
            top = {text.encode(): log(p) for text, p in reversed(step)}
            own = step[0][0].encode()
            tokens.append(TeacherToken(own, top[own], tuple(top.items())))
        samples.append((tokens, b"".join(t.token for t in tokens).decode()))
    return samples


def log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def prepare(data: pathlib.Path) -> None:
    global _world
    _world = read_samples(data), Vocabulary(data / "t5" / "spiece.model")


def work(job: tuple[str, int, int, int]) -> tuple[int, float]:
    assert _world is not None
    start = time.process_time()
    samples, vocabulary = _world
    method, k, begin, end = job
    tokens = 0
    for number in range(begin, end):
        target = align(*samples[number % 50], vocabulary, method=method, k=k)
        assert target is not None
        tokens += len(target.ids)
    return tokens, time.process_time() - start


def speed(
    data: pathlib.Path, method: str, count: int, processes: int, k: int
) -> tuple[float, float, float]:
    """Completions and target tokens a second, and CPU seconds a completion.

    Processes are started and have read the samples once beforehand.
    """
    chunk = 500
    jobs = [
        (method, k, begin, min(begin + chunk, count))
        for begin in range(0, count, chunk)
    ]
    with concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=prepare,
        initargs=(data,),
    ) as pool:
        list(pool.map(work, [(method, k, 0, 50)] * processes))
        start = time.perf_counter()
        done = list(pool.map(work, jobs))
        seconds = time.perf_counter() - start
    tokens = sum(part for part, _ in done)
    busy = sum(part for _, part in done)
    return count / seconds, tokens / seconds, busy / count


def forgetful(data: pathlib.Path, method: str, k: int, group: int) -> float:
    """CPU milliseconds a completion where nothing is remembered from group to group.

    One process; the median of seven groups of different samples.
    """
    assert _world is not None
    samples = list({text: (tokens, text) for tokens, text in _world[0]}.values())
    found: list[float] = []
    for number in range(7):
        vocabulary = Vocabulary(data / "t5" / "spiece.model")
        reader_of(vocabulary)  # made once a process, so no part of a completion's time
        start = 6 * number
        chosen = [samples[(start + i) % len(samples)] for i in range(group)]
        began = time.process_time()
        for sample in chosen:
            align(*sample, vocabulary, method=method, k=k)
        found.append(1000 * (time.process_time() - began) / group)
    return statistics.median(found)


def determined(method: str, k: int) -> dict[str, float]:
    """What a method says of the 50 samples."""
    assert _world is not None
    samples, vocabulary = _world
    parts = [align(*sample, vocabulary, method=method, k=k) for sample in samples]
    targets = [part for part in parts if part is not None]
    origin = np.concatenate([target.origin[:-1] for target in targets])
    probs = np.concatenate([np.exp(t.teacher_logprobs[:-1]) for t in targets])
    tail = np.concatenate([target.tail[:-1] for target in targets])
    own = np.concatenate([t.ids[:-1, None] == t.teacher_ids[:-1] for t in targets])
    soft = origin == ORIGINS.index("soft")
    entries = (probs[soft] > 0).sum(axis=1)
    return {
        "positions": len(origin),
        "soft": int(soft.sum()),
        "share": float(soft.mean()),
        "kept": float(1 - tail[soft].mean()),
        "known": float((1 - tail[soft]).sum() / len(origin)),
        "others": float((probs * ~own)[soft].sum() / len(origin)),
        "entries": float(entries.mean()),
        "sampled": float((probs * own)[soft].sum(axis=1).mean()),
    }


def token_ends() -> tuple[int, int, int]:
    """(tokens, of which whitespace alone, of which end within a piece)."""
    assert _world is not None
    samples, vocabulary = _world
    total = blank = within = 0
    for tokens, text in samples:
        ends = {span.end for span in vocabulary.spans(text)}
        byte = 0
        for token in tokens:
            byte += len(token.token)
            total += 1
            if token.token.isspace():
                blank += 1
            elif byte not in ends:
                within += 1
    return total, blank, within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--completions", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--k", type=int, default=5)
    arguments = parser.parse_args()
    prepare(arguments.data)
    print(f"50 Codex samples of one GSM8K question, K = {arguments.k}\n")
    found = {method: determined(method, arguments.k) for method in ("bytes", "dtw")}
    print("| | `bytes` | `dtw` |\n|---|---|---|")
    for key, label, form in (
        ("positions", "target positions without EOS", "{:,}"),
        ("soft", "soft positions", "{:,}"),
        ("share", "share of soft positions", "{:.1%}"),
        ("kept", "kept mass at soft positions", "{:.4f}"),
        ("sampled", "mass on the target itself at soft positions", "{:.4f}"),
        ("entries", "entries at soft positions", "{:.2f}"),
        ("known", "teacher mass a position, over all positions", "{:.4f}"),
        ("others", "of it on other ids than the target", "{:.4f}"),
    ):
        cells = [form.format(found[method][key]) for method in ("bytes", "dtw")]
        print(f"| {label} | {cells[0]} | {cells[1]} |")
    total, blank, within = token_ends()
    print(
        f"\n{total:,} sampled tokens: {blank} are whitespace alone, {within} "
        f"({within / (total - blank):.1%} of the others) end within a piece.\n"
    )
    print(
        "| method | processes | completions | a second | target tokens a second "
        "| CPU ms a completion |\n|---|---|---|---|---|---|"
    )
    for method, count in (
        ("bytes", arguments.completions),
        ("dtw", max(500, arguments.completions // 10)),
    ):
        rate, tokens, busy = speed(
            arguments.data, method, count, arguments.processes, arguments.k
        )
        print(
            f"| `{method}` | {arguments.processes} | {count:,} | {rate:,.0f} "
            f"| {tokens:,.0f} | {1000 * busy:.2f} |",
            flush=True,
        )
    print(
        "\n| method | forgets after | CPU ms a completion | a second and core |"
        "\n|---|---|---|---|"
    )
    for method in ("bytes", "dtw"):
        for group in (1, 28):
            cost = forgetful(arguments.data, method, arguments.k, group)
            print(
                f"| `{method}` | {group} | {cost:.2f} | {1000 / cost:,.0f} |",
                flush=True,
            )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("sentencepiece", "rapidfuzz", "numpy")
    )
    print(
        f"\nPython {platform.python_version()}, {versions}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
