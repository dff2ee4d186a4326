"""What the policies for unwritable text and the digits do to real completions.

    python benchmarks/plain_text.py --data ../shared/data
    python benchmarks/plain_text.py --data ../shared/data --show 10

46 chat completions of Qwen2.5-Coder 0.5B on GSM8K, which write Markdown and LaTeX, and
50 of code-davinci-002. Prints the tables of docs/explanation/plain_text.md. `--show`
prints the texts of so many samples before and after instead.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from specialize.corpus.alignment.targets import AlignedTarget
from specialize.corpus.building.rendering import Renderer
from specialize.corpus.building.verification import verify_as_spelt
from specialize.corpus.completions import Sample, read_completions
from specialize.corpus.plain_text.counting import SpellingCounts, shown
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.records import ORIGINS, Problem
from specialize.corpus.spec import AlignmentSpec, RecordsSpec
from specialize.corpus.tasks.known import read_problems
from specialize.judging.spec import JudgeSpec

FILES = {
    "Qwen2.5-Coder 0.5B, chat": "modern/qwen2.5-coder-0.5b-instruct_chat.jsonl.gz",
    "code-davinci-002": "codex/codex_raw_q0_50samples.json",
}
POLICIES = (
    ("keep", "whole"),
    ("drop", "whole"),
    ("rewrite", "whole"),
    ("rewrite", "single"),
)
JUDGE = JudgeSpec(answer_type="number")


def measured(
    samples: Sequence[Sample], problems: Sequence[Problem], spec: AlignmentSpec
) -> dict[str, str]:
    """One column of a table."""
    by_id = {problem.id: problem for problem in problems}
    writer = writer_of(spec)
    renderer = Renderer(spec, RecordsSpec(), problems)
    right = verified = 0
    counts = SpellingCounts()
    targets: list[AlignedTarget] = []
    for sample in samples:
        completion = sample.completion
        problem = by_id[completion.problem_id]
        reason, found = verify_as_spelt(sample, problem, JUDGE, writer)
        right += found is not None
        verified += reason is None
        mine = writer.counts(completion.text)
        if mine.samples and spec.unwritable == "drop":
            continue
        counts.add(mine)
        target = renderer.align(completion, sample.where)
        assert target is not None
        targets.append(target)
    total = len(samples)
    value = {
        "right as sampled": f"{right} of {total}",
        "right as the student spells them": f"{verified} of {total}",
        "samples with rows": str(len(targets)),
    }
    if not targets:
        return value
    ids = np.concatenate([target.ids[:-1] for target in targets])
    soft = np.concatenate([t.origin[:-1] == ORIGINS.index("soft") for t in targets])
    tail = np.concatenate([target.tail[:-1] for target in targets])
    probs = np.concatenate([np.exp(t.teacher_logprobs[:-1]) for t in targets])
    own = np.concatenate([t.ids[:-1, None] == t.teacher_ids[:-1] for t in targets])
    # Of the mass that is not on the target's piece, how much the row keeps.
    mine = (probs * own).sum(axis=1)
    others = (probs * ~own).sum(axis=1)
    numbers = writer.has_digit[ids]
    unknown = ids == writer.vocabulary.unk_id
    value |= {
        "target pieces without EOS": f"{len(ids):,}",
        "`<unk>` among them": f"{unknown.sum():,} = {unknown.mean():.1%}",
        "characters made `<unk>`": f"{sum(counts.lost.values()):,}",
        "newlines made spaces": f"{counts.newlines:,}",
        "soft share": f"{soft.mean():.1%}",
        "soft share of number pieces": f"{soft[numbers].mean():.1%}",
    }
    for name, chosen in (("number", numbers), ("other", ~numbers)):
        use = chosen & soft
        left = others[use].sum() / (1 - mine[use]).sum()
        value[f"number of soft {name} pieces"] = f"{use.sum():,}"
        value[f"kept mass at soft {name} pieces"] = f"{1 - tail[use].mean():.3f}"
        value[f"kept of the mass on rivals, {name} pieces"] = f"{left:.1%}"
    value["mass on rivals kept per sample"] = f"{others[soft].sum() / len(targets):.2f}"
    if counts.characters:
        value["unwritable"] = shown(counts.characters)
        value["left"] = shown(counts.lost) or "none"
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--show", type=int, default=0)
    arguments = parser.parse_args()
    data = arguments.data
    problems = read_problems(data / "gsm8k" / "train.jsonl", "gsm8k")
    vocabulary = data / "t5" / "spiece.model"
    for teacher, file in FILES.items():
        found = list(read_completions(data / file, problems))
        samples = [sample for sample in found if sample.rejection is None]
        if arguments.show:
            writer = writer_of(AlignmentSpec(vocabulary))
            for sample in samples[:: max(1, len(samples) // arguments.show)]:
                text = sample.completion.text
                print(f"--- {sample.where}\n{text}\n>>>\n{writer.spelt(text)}\n")
            continue
        columns = [
            measured(
                samples,
                problems,
                AlignmentSpec(
                    vocabulary, k=arguments.k, unwritable=policy, digits=digits
                ),
            )
            for policy, digits in POLICIES
        ]
        heads = [f"{p}, {d} digits" for p, d in POLICIES]
        print(f"\n{teacher}: {len(samples)} of {len(found)} completions are usable\n")
        print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for name in max(columns, key=len):
            cells = [column.get(name, "") for column in columns]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
