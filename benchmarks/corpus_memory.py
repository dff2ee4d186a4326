"""How much memory `corpus build` needs for millions of completions.

Repeats the texts of the real Codex completions, without log-probabilities, and builds a
corpus in one process; prints one JSON row with the largest anonymous memory, which must
not grow with the number of completions:

    python benchmarks/corpus_memory.py --data ../shared/data --count 2000000

As there are only fifty texts, verdicts and alignments of a text are computed once and
looked up afterwards; everything else is as in `specialize corpus build`. This shortens
hours to minutes, so compare memory, not seconds.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import corpus_throughput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with gsm8k, codex and t5")
    parser.add_argument("--count", type=int, default=200_000, help="completions")
    parser.add_argument("--formats", nargs="+", default=["zero_shot_cot"])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        build(pathlib.Path(arguments.data), arguments.inside, arguments.formats)
        return
    row_commit = corpus_throughput.commit()
    with tempfile.TemporaryDirectory() as name:
        completions = pathlib.Path(name) / "completions.jsonl"
        corpus_throughput.write_completions(
            pathlib.Path(arguments.data),
            completions,
            arguments.count,
            with_tokens=False,
        )
        began = time.monotonic()
        run = subprocess.Popen([sys.executable, *sys.argv, "--inside", name])
        watch = corpus_throughput.Watch(run.pid)
        status = run.wait()
        peak, anonymous, cpu_seconds = watch.stop()
        if status:
            raise SystemExit(status)
        manifest = json.loads((pathlib.Path(name) / "corpus/corpus.json").read_text())
    row = {
        "benchmark": "corpus_memory",
        "completions": arguments.count,
        "records": {name: f["records"] for name, f in manifest["formats"].items()},
        "anonymous_mib": round(anonymous / 2**20),
        "peak_mib": round(peak / 2**20),
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "cores": os.cpu_count(),
        "commit": row_commit,
    }
    print(json.dumps(row))


def build(data: pathlib.Path, folder: str, formats: list[str]) -> None:
    """`specialize corpus build` in this process, which computes each text once."""
    from specialize.cli import main as specialize
    from specialize.corpus.building import passes, rendering

    verify, align = passes.verify_as_spelt, rendering.Renderer.align
    verdicts: dict = {}
    targets: dict = {}

    @functools.wraps(verify)
    def verified(sample, problem, *others):
        key = sample.completion.text
        if key not in verdicts:
            verdicts[key] = verify(sample, problem, *others)
        return verdicts[key]

    @functools.wraps(align)
    def aligned(self, completion, *others):
        key = completion.text
        if key not in targets:
            targets[key] = align(self, completion, *others)
        return targets[key]

    passes.verify_as_spelt = verified
    rendering.Renderer.align = aligned  # pyright: ignore[reportAttributeAccessIssue]
    words = ["corpus", "build", "--problems", str(data / "gsm8k" / "train.jsonl")]
    words += ["--vocabulary", str(data / "t5" / "spiece.model"), "--no_rationales"]
    words += ["--completions", f"{folder}/completions.jsonl"]
    words += ["--teacher", "code-davinci-002", "--processes", "1", "--shards", "16"]
    words += ["--formats", *formats, "--out", f"{folder}/corpus"]
    raise SystemExit(specialize(words))


if __name__ == "__main__":
    main()
