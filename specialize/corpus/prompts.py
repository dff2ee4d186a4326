r"""The four formats of the paper, and the teacher's prompt.

q is the question, n the gold answer, r the human rationale or a teacher's text:

| format | encoder text | decoder text |
|---|---|---|
| zero_shot_answer_only | `Q: {q} A:` | `The answer is {n}` |
| zero_shot_cot | `Q: {q}\nLet's think step by step` | `{r}\nThe answer is {n}` |
| in_context_answer_only | demonstrations, then `Q: {q}\nA:` | `The answer is {n}` |
| in_context_cot | demonstrations, then as zero_shot_cot | `{r}\nThe answer is {n}` |

A demonstration is `Q: {q}\nA: The answer is {n}\n\n`, or, for CoT,
`Q: {q}\nLet's think step by step\n{r}\nThe answer is {n}\n\n`.

These are the texts of Fu et al. (ICML 2023), except that questions are never cut, a
question is never among its own demonstrations, and a seed determines which
demonstrations are drawn.
"""

import random
from collections.abc import Iterator, Sequence

from specialize.corpus.choices import FORMATS
from specialize.corpus.records import Problem
from specialize.errors import InputError

STEP_BY_STEP = "Let's think step by step"


def render(
    format: str,
    problem: Problem,
    demonstrations: Sequence[Problem] = (),
    target: str | None = None,
) -> tuple[str, str]:
    """Writes one problem in one format.

    Args:
        format: one of `FORMATS`.
        problem: the query.
        demonstrations: solved problems, in order; empty for zero-shot formats.
        target: a CoT text to learn instead of the human rationale, for example a
            teacher's completion (ends "The answer is 72"). Answer-only formats
            ignore it.

    Returns:
        (inputs, targets): encoder and decoder text.

    Raises:
        InputError: the query or a demonstration has no answer, or no rationale where
            the format needs one.
    """
    inputs = render_inputs(format, problem.question, demonstrations)
    if format.endswith("_answer_only"):
        return inputs, _answer_line(problem)
    if target is not None:
        return inputs, target.strip()
    return inputs, _solution(problem)


def render_inputs(
    format: str, question: str, demonstrations: Sequence[Problem] = ()
) -> str:
    """Writes the encoder text alone, for questions that a model is asked.

    Args:
        format: one of `FORMATS`.
        question: the query's text.
        demonstrations: solved problems, in order; empty for zero-shot formats.

    Raises:
        InputError: a demonstration lacks what the format needs.
        ValueError: the format is unknown, or the demonstrations do not fit it.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {FORMATS}")
    if format.startswith("in_context_") != bool(demonstrations):
        raise ValueError(
            f"{format} got {len(demonstrations)} demonstrations: in-context formats "
            "need some, zero-shot formats none"
        )
    if format == "zero_shot_answer_only":
        return f"Q: {question} A:"
    if format == "zero_shot_cot":
        return f"Q: {question}\n{STEP_BY_STEP}"
    solved: list[str] = []
    for one in demonstrations:
        if format == "in_context_answer_only":
            solved.append(f"Q: {one.question}\nA: {_answer_line(one)}\n\n")
        else:
            solved.append(f"Q: {one.question}\n{STEP_BY_STEP}\n{_solution(one)}\n\n")
    ending = "A:" if format == "in_context_answer_only" else STEP_BY_STEP
    return f"{''.join(solved)}Q: {question}\n{ending}"


def cot_target(rationale: str, answer: str) -> str:
    """The decoder text of a human rationale: its lines, then the answer."""
    rationale = rationale.strip()
    answer_line = f"The answer is {answer}"
    return f"{rationale}\n{answer_line}" if rationale else answer_line


def draw_demonstrations(
    pool: Sequence[Problem], problem: Problem, n: int = 4, *, seed: int, draw: int = 0
) -> list[Problem]:
    """Draws demonstrations for one query.

    The result depends only on the pool, the query's id, `seed` and `draw`, so every
    process can draw the demonstrations of a record without drawing the others.

    Args:
        pool: solved problems to draw from.
        problem: the query. Neither it nor a problem with the same question (up to
            whitespace) is drawn, whatever its id.
        n: number of demonstrations.
        seed: random seed of the corpus.
        draw: number of the draw for this query, for example the sample's number.

    Returns:
        `n` problems with different questions, in random order.

    Raises:
        InputError: the pool has fewer than `n` other questions.
    """
    # A string seed goes through SHA-512: the same on every machine and process.
    rng = random.Random(f"{seed}/{draw}/{problem.id}")
    used = {_normalised(problem.question)}
    drawn: list[Problem] = []
    for index in _shuffled(len(pool), rng):
        if len(drawn) == n:
            break
        question = _normalised(pool[index].question)
        if question not in used:
            used.add(question)
            drawn.append(pool[index])
    if len(drawn) < n:
        raise InputError(
            f"{problem.source or problem.id}: {n} demonstrations were asked for, but "
            f"the pool has {len(drawn)} other questions. Ask for fewer or add problems."
        )
    return drawn


def teacher_prompt(prompt_prefix: str, question: str) -> str:
    """The prompt of a completion teacher: the prompt prefix, then the question.

    The teacher continues it with a line break and its first step.

    Args:
        prompt_prefix: demonstrations with a blank line between them: "Question: ...",
            "Let's think step by step", the reasoning and "The answer is ...".
        question: the query's text.
    """
    prefix = prompt_prefix.rstrip("\n")
    opening = f"{prefix}\n\n" if prefix else ""
    return f"{opening}Question: {question}\n{STEP_BY_STEP}"


def _answer_line(problem: Problem) -> str:
    if not problem.answers:
        raise InputError(
            f"{problem.source or problem.id} has no gold answer to write. Only solved "
            "problems can be targets or demonstrations."
        )
    return f"The answer is {problem.answers[0]}"


def _solution(problem: Problem) -> str:
    _answer_line(problem)
    if problem.rationale is None:
        raise InputError(
            f"{problem.source or problem.id} has no rationale, which CoT formats need. "
            "Use GSM8K's training file, or give a teacher's text."
        )
    return cot_target(problem.rationale, problem.answers[0])


def _normalised(question: str) -> str:
    return " ".join(question.split())


def _shuffled(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below `count` in random order, O(1) for each (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        chosen = rng.randrange(last + 1)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.pop(last, last)
