"""What is each rule of the judge worth?

    python benchmarks/judge_ablation.py --data ../shared/data
        [--cases ../shared/cases/judge.jsonl] [--bbh REPO] ... [--every N]

Judges real outputs (the sources of judge_agreement.py), hand-made cases and the texts
of the judge's tests without one rule after the other. Prints a row for each rule: how
many verdicts on real outputs change, how many right answers are lost and gained, and
how many cases and tests are then wrong. --every takes each Nth real output. A rule
without any number is worth nothing, and the script then exits with 1.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import judge_agreement

from specialize.judging import marks, ranks, segments, sentences
from specialize.judging.answers import judge
from specialize.judging.choices import ANSWER_TYPES
from specialize.judging.readers import labels, letters, lists, numbers, statements

TESTS = pathlib.Path(__file__).parent.parent / "tests/judging"
LETTERS, LISTS, NUMBERS = ("choice",), ("words",), ("number",)
LABELS = ("boolean", "yes_no", "valid_invalid")

# rule -> (module, what of it is taken away, types of answers that it concerns)
RULES: dict[str, tuple[ModuleType, str, tuple[str, ...]]] = {
    "thoughts are set apart": (segments, "_THOUGHT", ANSWER_TYPES),
    "channels are set apart": (segments, "_CHANNEL", ANSWER_TYPES),
    "end tokens end a text": (segments, "_END_TOKENS", ANSWER_TYPES),
    "padding tokens are blanks": (segments, "_IDLE_TOKENS", ANSWER_TYPES),
    "LaTeX around words is dropped": (segments, "_LATEX", ANSWER_TYPES),
    "an option's full stop ends nothing": (sentences, "_OPTION_LETTER", ANSWER_TYPES),
    "... before a lower-case word": (sentences, "_LETTER", ANSWER_TYPES),
    "mark: ####": (marks, "_HASHES", ANSWER_TYPES),
    "mark: the answer is": (marks, "_PHRASE", ANSWER_TYPES),
    "mark: Answer:": (marks, "_COLON", ANSWER_TYPES),
    "mark: \\boxed": (marks, "_BOX", ANSWER_TYPES),
    "mark: <answer>": (marks, "_TAG", ANSWER_TYPES),
    "mark: JSON": (marks, "_FIELD", ANSWER_TYPES),
    "next question after an empty line": (ranks, "_NEXT_BLOCK", ANSWER_TYPES),
    "next question on a line": (ranks, "_NEXT_LINE", ANSWER_TYPES),
    "next question anywhere": (ranks, "_NEXT_INLINE", ANSWER_TYPES),
    "sub-questions go on": (ranks, "_is_part", ANSWER_TYPES),
    "a restated question goes on": (ranks, "_RESTATED", ANSWER_TYPES),
    "denied answers": (ranks, "_DENIED", ANSWER_TYPES),
    "withheld answers": (ranks, "_WITHHELD", ANSWER_TYPES),
    "a cut-off reply states little": (ranks, "_FINISHED", ANSWER_TYPES),
    "letters: conclusions": (letters, "_CONCLUDES", LETTERS),
    "letters: choosing words": (letters, "_CHOOSES", LETTERS),
    "letters: reports choose nothing": (letters, "_REPORTS", LETTERS),
    "letters: contrasts": (letters, "_CONTRASTS", LETTERS),
    "letters: but": (letters, "_BUT", LETTERS),
    "letters: asides": (letters, "_ASIDE", LETTERS),
    "letters: denied before": (letters, "_NOT_BEFORE", LETTERS),
    "letters: denied after": (letters, "_NOT_AFTER", LETTERS),
    "letters: refuted": (letters, "_WRONG", LETTERS),
    "letters: several offers": (letters, "_OFFERED", LETTERS),
    "letters: reprinted options": (letters, "_NEXT_LINE", LETTERS),
    "letters: options one by one": (letters, "_NEXT_OPTION", LETTERS),
    "letters: items of a list": (letters, "_LISTED", LETTERS),
    "letters: A: is no letter": (letters, "_SPEAKER", LETTERS),
    "letters: the only one, said": (letters, "_POINTS_TO", LETTERS),
    "letters: the only one, at an end": (letters, "_ENDS_WITH", LETTERS),
    "labels: conclusions": (labels, "_CONCLUDES", LABELS),
    "labels: the argument is": (labels, "_ARGUMENT", LABELS),
    "labels: suppositions": (labels, "_SUPPOSES", LABELS),
    "labels: conditions": (labels, "_CONDITION", LABELS),
    "labels: yes and no": (labels, "_JOINS", LABELS),
    "labels: operands before": (labels, "_OPERAND_AFTER", LABELS),
    "labels: operands after": (labels, "_OPERAND_BEFORE", LABELS),
    "labels: results": (labels, "_RESULT", LABELS),
    "labels: openings of sentences": (labels, "_OPENING", LABELS),
    "lists: prose after a list": (lists, "_PROSE", LISTS),
    "lists: and": (lists, "_AND", LISTS),
    "lists: is a, b and c": (lists, "_SAID", LISTS),
    "numbers: emphasis": (numbers, "_EMPHASISED", NUMBERS),
    "numbers: words of a conclusion": (numbers, "_NUMBER_WORD", NUMBERS),
    "numbers: unfinished sums": (numbers, "_is_cut_off", NUMBERS),
    "numbers: headings": (numbers, "_HEADING", NUMBERS),
    "numbers: Step 1: is none": (numbers, "_STEP", NUMBERS),
    "numbers: several steps": (numbers, "_STEPS", NUMBERS),
    "numbers: first of a list": (numbers, "_FIRST_OF_LIST", NUMBERS),
    "numbers: counted subjects": (numbers, "_COUNTED_SUBJECT", NUMBERS),
    "numbers: 5 or 6": (numbers, "_HEDGE", NUMBERS),
    "numbers: 5, 4, 9": (numbers, "_LISTED", NUMBERS),
    "numbers: 9 times 2, which is 18": (numbers, "_RESULTS_IN", NUMBERS),
    "numbers: half of the": (numbers, "_PART_OF", NUMBERS),
    "numbers: explained": (numbers, "_EXPLAINED", NUMBERS),
    "numbers: minus": (numbers, "_NEGATIVE_WORD", NUMBERS),
    "statements: conditions": (statements, "_CONDITION", NUMBERS),
    "statements: resets": (statements, "_RESET", NUMBERS),
    "statements: circumstances": (statements, "_CIRCUMSTANCE", NUMBERS),
    "statements: purposes": (statements, "_PURPOSE", NUMBERS),
    "statements: given numbers": (statements, "_GIVEN", NUMBERS),
    "statements: attributes": (statements, "_ATTRIBUTE", NUMBERS),
    "statements: the cost is": (statements, "_GIVES", NUMBERS),
    "statements: parts after a colon": (statements, "_BREAKDOWN", NUMBERS),
    "statements: prices": (statements, "_PRICED", NUMBERS),
    "statements: in 3 days": (statements, "_OPENS_WITH", NUMBERS),
}
Text = tuple[str, list[str], str, bool | None]


@contextlib.contextmanager
def without(module: ModuleType, name: str) -> Iterator[None]:
    """Takes a rule away: its pattern matches nothing, or its function says no."""
    kept: Any = getattr(module, name)
    if callable(kept):
        setattr(module, name, lambda *_: False)
    else:
        setattr(module, name, re.compile(f"(?!)(?:{kept.pattern})", kept.flags))
    try:
        yield
    finally:
        setattr(module, name, kept)


def judged(texts: list[Text], types: tuple[str, ...]) -> list[bool]:
    """Whether each text of these types is right; others are False."""
    return [
        kind in types and judge(text, golds, kind).correct
        for kind, golds, text, _ in texts
    ]


def hand_made(path: pathlib.Path) -> list[Text]:
    """Texts of a file of cases, each with whether it answers rightly."""
    texts: list[Text] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            record = json.loads(line)
            golds = record["gold"]
            golds = [golds] if isinstance(golds, str) else golds
            right = record.get("expected", record.get("right"))
            texts.append((record["answer_type"], golds, record["text"], right))
    return texts


def tested() -> list[Text]:
    """The texts of the judge's tests: a table of hazards and reworded answers."""
    sys.path.insert(0, str(TESTS))
    hazards = importlib.import_module("test_answer_hazards")
    kinds = importlib.import_module("test_answer_kinds")

    texts: list[Text] = hand_made(TESTS / "rewordings.jsonl")
    for records in kinds.KINDS.values():
        for record in records:
            text, gold = kinds.sibling(record, kinds.VALUES, kinds.WORDS[:4])
            texts.append((record["answer_type"], [gold], text, record["right"]))
    for text, gold, right, _ in hazards.NUMBERS:
        texts.append(("number", [gold], text, right))
    for text, right, _ in hazards.CHOICES:
        texts.append(("choice", ["(B)"], text, right))
    for kind, text, gold, right, _ in hazards.LABELS:
        texts.append((kind, [gold], text, right))
    return texts


def wrong(texts: list[Text], types: tuple[str, ...]) -> int:
    """How many hand-made texts of these types are judged wrongly."""
    return sum(
        right != text[3]
        for text, right in zip(texts, judged(texts, types), strict=True)
        if text[0] in types
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    judge_agreement.add_sources(parser)
    parser.add_argument("--cases", type=pathlib.Path, help="hand-made cases")
    parser.add_argument("--every", type=int, default=1, help="step through the outputs")
    arguments = parser.parse_args()
    outputs = judge_agreement.outputs(arguments)
    real: list[Text] = [
        (output.kind, [output.gold], output.text, None)
        for output in itertools.islice(outputs, 0, None, arguments.every)
    ]
    cases = hand_made(arguments.cases) if arguments.cases else []
    tests = tested()
    before = {
        types: judged(real, types) for types in {rule[2] for rule in RULES.values()}
    }
    print(f"{len(real)} outputs, {len(cases)} cases, {len(tests)} texts of the tests\n")
    print("| without | changed | right lost | gained | cases | tests |")
    print("|---|---|---|---|---|---|")
    worthless = 0
    for rule, (module, name, types) in RULES.items():
        with without(module, name):
            after = judged(real, types)
            broken = (wrong(cases, types), wrong(tests, types))
        pairs = list(zip(before[types], after, strict=True))
        lost = sum(one and not other for one, other in pairs)
        gained = sum(other and not one for one, other in pairs)
        counts = (lost + gained, lost, gained, *broken)
        worthless += not any(counts)
        print(f"| {rule} | {' | '.join(map(str, counts))} |", flush=True)
    return int(worthless > 0)


if __name__ == "__main__":
    sys.exit(main())
