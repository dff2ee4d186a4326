"""Renders one verified sample as records in the requested formats.

`build`, `write` and the Beam pipeline share this work. It is a pure function of the
sample, the problems and the specifications, so any process or machine can run it.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from specialize.corpus import prompts
from specialize.corpus.alignment.aligning import align, check_method, one_hot
from specialize.corpus.alignment.rows import SOFT
from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import as_spelt, writer_of
from specialize.corpus.records import HUMAN, Completion, Problem, RecordId
from specialize.corpus.spec import AlignmentSpec, RecordsSpec
from specialize.errors import InputError
from specialize.judging.answers import verdict
from specialize.judging.spec import JudgeSpec


def human_completion(problem: Problem) -> Completion:
    """The human rationale as a completion whose teacher reports no probabilities.

    Raises:
        ValueError: the problem has no rationale or no answer.
    """
    if problem.rationale is None or not problem.answers:
        raise ValueError(f"{problem.id} has no human rationale with an answer")
    return Completion(problem.id, HUMAN, prompts.solution(problem))


class Rendered(NamedTuple):
    """The records of one sample.

    Attributes:
        records: the records; empty if the sample was rejected.
        rejection: why there are none (one of `funnel.REASONS`), or None.
        aligned: whether the text could be aligned.
        dropped: (format, reason) of records that were too long.
        spelling: the number pieces of the target.
    """

    records: list[DistillRecord]
    rejection: str | None
    aligned: bool
    dropped: list[tuple[str, str]]
    spelling: SpellingCounts


class Renderer:
    """Renders samples in the requested formats."""

    def __init__(
        self,
        alignment: AlignmentSpec,
        records: RecordsSpec,
        problems: Sequence[Problem],
        pool: Sequence[Problem] | None = None,
        judge: JudgeSpec | None = None,
    ):
        """Reads the vocabulary.

        Args:
            alignment: how teacher rows are made.
            records: which records are written.
            problems: all problems, which completions name by id.
            pool: problems to draw demonstrations from; only those with a rationale and
                an answer are used. None draws from `problems`.
            judge: the judge of answer-only targets as the student spells them; None
                takes all. Samples were judged before.

        Raises:
            InputError: the vocabulary cannot be read.
        """
        self.alignment = alignment
        self.spec = records
        self.writer = writer_of(alignment)
        # Targets are spelled as the writer says, inputs as evaluation spells them.
        self.vocabulary = self.writer.vocabulary
        self.input_vocabulary = writer_of(
            dataclasses.replace(alignment, digits="whole")
        ).vocabulary
        check_method(alignment.method, self.vocabulary)
        self.problems = {problem.id: problem for problem in problems}
        source = problems if pool is None else pool
        self.judge = judge
        self.pool = [p for p in source if p.rationale is not None and p.answers]
        # Without a single rationale, answers still make answer-only demonstrations.
        self.answered = self.pool or [p for p in source if p.answers]

    def align(
        self, completion: Completion, where: str = "this completion"
    ) -> AlignedTarget | None:
        """The completion in student tokens, or None if it cannot be aligned.

        They spell the completion as the writer writes it.
        """
        k = self.alignment.k
        if completion.tokens is None:
            text = self.writer.text(completion.text).strip()
            return one_hot(text, self.vocabulary, k)
        return align(
            completion.tokens,
            completion.text,
            self.vocabulary,
            method=self.alignment.method,
            k=k,
            machine=self.writer.machine,
            where=where,
        )

    def render(
        self,
        completion: Completion,
        *,
        first: bool,
        target: AlignedTarget | None = None,
        where: str = "this completion",
    ) -> Rendered:
        """Renders one sample in every format that applies, CoT formats first.

        Args:
            completion: a verified sample.
            first: whether it is its question's first correct sample, from which the
                answer-only records are made.
            target: the aligned completion, if it is already known. The completion is
                then as the writer writes it.
            where: "file:line", for messages.
        """
        spec = self.spec
        problem = self.problems[completion.problem_id]
        formats = spec.cot_formats
        aligned = True
        if target is not None:
            own = [*self.vocabulary.encode(completion.text.strip())]
            if target.ids.tolist() != [*own, self.vocabulary.eos_id]:
                raise InputError(
                    f"{where}: its 'ids' are not those of its text, which begins "
                    f"{completion.text[:60]!r}. Align the completions again."
                )
            if (most := int(target.teacher_ids.max(initial=0))) >= self.vocabulary.rows:
                raise InputError(
                    f"{where}: a row has the id {most}, but the vocabulary has "
                    f"{self.vocabulary.rows} rows. Align the completions again."
                )
        if formats and target is None:
            target = self.align(completion, where)
            aligned = target is not None
            written = self.writer.text(completion.text)
            completion = dataclasses.replace(
                completion, text=written, tokens=None, reasoning=0
            )
            formats = formats if aligned else ()
        records: list[DistillRecord] = []
        dropped: list[tuple[str, str]] = []
        due = formats + (spec.answer_formats if first else ())
        for name in due:
            record, misspelt = self._record(name, problem, completion, target)
            reason = misspelt or self._too_long(record)
            if reason is None:
                records.append(record)
            else:
                dropped.append((name, reason))
        rejection = None
        if not records:
            if dropped:
                rejection = dropped[0][1]
            else:
                rejection = "not_wanted" if aligned else "unaligned"
        spelling = SpellingCounts()
        if records and target is not None and completion.sample != HUMAN:
            numbers = self.writer.has_digit[target.ids]
            spelling.number_pieces = int(numbers.sum())
            spelling.soft_number_pieces = int((numbers & (target.origin == SOFT)).sum())
        return Rendered(records, rejection, aligned, dropped, spelling)

    def _pool(self, name: str, problem: Problem) -> list[Problem]:
        pool = self.pool if name.endswith("_cot") else self.answered
        if not pool and self.answered:
            raise InputError(
                f"{problem.source or problem.id}: the format {name} shows solved "
                "problems with a rationale, and none of the problems has one. Name "
                "their column in 'fields.rationale' of the task file, or a file with "
                "rationales with --demonstrations_from, or write other formats: "
                "--formats zero_shot_cot zero_shot_answer_only."
            )
        return pool

    def _record(
        self,
        name: str,
        problem: Problem,
        completion: Completion,
        target: AlignedTarget | None,
    ) -> tuple[DistillRecord, str | None]:
        """One record, and why it cannot be taught, if so."""
        spec = self.spec
        demonstrations: list[Problem] = []
        is_cot = name.endswith("_cot")
        if name.startswith("in_context"):
            # Even draws for CoT, odd for answer-only: no two records share one.
            draw = 2 * (completion.sample - HUMAN) + (not is_cot)
            demonstrations = prompts.draw_demonstrations(
                self._pool(name, problem),
                problem,
                spec.demonstrations,
                seed=spec.seed,
                draw=draw,
            )
        inputs, targets = prompts.render(
            name, problem, demonstrations, target=completion.text if is_cot else None
        )
        reason = None
        if not is_cot:
            reason = self._misspelt(targets, problem)
            targets = self.writer.text(targets)
            target = one_hot(targets, self.vocabulary, self.alignment.k)
        assert target is not None  # CoT formats are rendered only with a target
        sample = "human" if completion.sample == HUMAN else str(completion.sample)
        record = DistillRecord(
            id=str(RecordId(problem.id, sample, name)),
            format=name,
            inputs=inputs,
            targets=targets,
            input_ids=np.asarray(self.input_vocabulary.encode(inputs), np.int32),
            target=target,
        )
        return record, reason

    def _misspelt(self, targets: str, problem: Problem) -> str | None:
        """Why an answer-only target cannot be taught, if so."""
        if self.judge is None or self.writer.spelt(targets) == targets:
            return None
        reason, _ = as_spelt(targets, problem.answers, self.judge, self.writer)
        # A gold that the judge does not find in its own target stays.
        is_read = verdict(targets, problem.answers, self.judge).correct
        return reason if reason == "unwritable" or is_read else None

    def _too_long(self, record: DistillRecord) -> str | None:
        limit = self.spec.max_target_tokens
        if limit is not None and len(record.target.ids) > limit:
            return "target_too_long"
        limit = self.spec.max_input_tokens
        if limit is not None and len(record.input_ids) > limit:
            return "input_too_long"
        return None
