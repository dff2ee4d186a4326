"""Prompts and targets: a problem in one of the four formats, and demonstrations.

The texts are those of the problem's `wording`. In contrast to the code of Fu et al.
(ICML 2023), questions are never cut, a question is never among its own demonstrations,
and a seed determines which demonstrations are drawn.
"""

import random
from collections.abc import Iterator, Sequence

from specialize.corpus.choices import FORMATS
from specialize.corpus.records import Problem
from specialize.corpus.wording import PAPER, Wording
from specialize.errors import InputError


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
    inputs = render_inputs(
        format, problem.question, demonstrations, wording=problem.wording
    )
    if format.endswith("_answer_only"):
        return inputs, _answer_line(problem, problem.wording)
    if target is not None:
        return inputs, target.strip()
    return inputs, solution(problem)


def render_inputs(
    format: str,
    question: str,
    demonstrations: Sequence[Problem] = (),
    *,
    wording: Wording = PAPER,
) -> str:
    """Writes the encoder text alone, for questions that a model is asked.

    Args:
        format: one of `FORMATS`.
        question: the query's text.
        demonstrations: solved problems, in order; empty for zero-shot formats.
        wording: how the prompt is written.

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
    solved: list[str] = []
    for one in demonstrations:
        answer_only = format.endswith("_answer_only")
        target = (_answer_line if answer_only else solution)(one, wording)
        solved.append(wording.demonstration(format, one.question, target))
    return f"{''.join(solved)}{wording.input(format, question)}"


def solution(problem: Problem, wording: Wording | None = None) -> str:
    """The decoder text of a human rationale: its lines, then the answer.

    Args:
        problem: the problem.
        wording: None takes that of the problem.

    Raises:
        InputError: the problem has no rationale or no answer.
    """
    wording = wording or problem.wording
    _answer_line(problem, wording)
    if problem.rationale is None:
        raise InputError(
            f"{problem.source or problem.id} has no rationale, which CoT formats need. "
            "Use a file with rationales, or give a teacher's text."
        )
    return wording.solution(problem.rationale, problem.answers[0])


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


def teacher_prompt(prompt_prefix: str, question: str, wording: Wording = PAPER) -> str:
    """The prompt of a completion teacher: the prompt prefix, then the question.

    The teacher continues it with a line break and its first step. Where a text is given
    instead, the wording is `Wording.before_a_text`.

    Args:
        prompt_prefix: demonstrations with a blank line between them: "Question: ...",
            "Let's think step by step", the reasoning and "The answer is ...".
        question: the query's text.
        wording: how the question is written.
    """
    prefix = prompt_prefix.rstrip("\n")
    opening = f"{prefix}\n\n" if prefix else ""
    return f"{opening}{wording.asked(question)}"


def _answer_line(problem: Problem, wording: Wording) -> str:
    if not problem.answers:
        raise InputError(
            f"{problem.source or problem.id} has no gold answer to write. Only solved "
            "problems can be targets or demonstrations."
        )
    return wording.final(problem.answers[0])


def _normalised(question: str) -> str:
    return " ".join(question.split())


def _shuffled(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below `count` in random order, O(1) for each (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        chosen = rng.randrange(last + 1)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.pop(last, last)
