"""How long does one verdict on a hostile text take?

    python benchmarks/judge_time.py [--sizes 10000 100000 1000000]

Repeats a piece of text to each size, for 20 families on which readers of answers go
astray, and judges it as each type of answer. Prints the slowest type of each family,
in milliseconds of processor time. Exits with 1 if a verdict takes more than a second
or time grows faster than length.
"""

import argparse
import sys
import time

from specialize.judging.answers import judge
from specialize.judging.choices import ANSWER_TYPES

FAMILIES = {
    "line breaks": "\n",
    "blanks": " ",
    "digits": "7",
    "numbers": "12 ",
    "groups of digits": "11,",
    "fractions": "1/2 ",
    "times": "1:1 ",
    "powers": "1e",
    "calculator marks": "<<1",
    "the answer is": "the answer is ",
    "open boxes": "\\boxed{",
    "open fields": '"answer":"',
    "questions": "Q1: x\n",
    "quoted words": "'ape', ",
    "options": "(A) or ",
    "headings": "#### x\n",
    "full stops": ".",
    "hyphens": "a-",
    "emphasis": "**",
    "ends of thoughts": "</think>",
}


def seconds(piece: str, size: int, answer_type: str) -> float:
    """Processor time of one verdict on a piece that is repeated to a size."""
    text = (piece * (size // len(piece) + 1))[:size]
    begin = time.process_time()
    judge(text, ["7"], answer_type)
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000]
    )
    sizes = parser.parse_args().sizes
    print("| family | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    slow = 0
    for name, piece in FAMILIES.items():
        times = [
            max(
                min(seconds(piece, size, one) for _ in range(2)) for one in ANSWER_TYPES
            )
            for size in sizes
        ]
        print(f"| {name} | " + " | ".join(f"{1000 * one:.1f}" for one in times) + " |")
        for (small, before), (large, after) in zip(
            zip(sizes, times, strict=True),
            list(zip(sizes, times, strict=True))[1:],
            strict=False,
        ):
            slow += after > 1 or after > before * large / small + 0.05
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
