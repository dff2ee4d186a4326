"""Asking a teacher for n samples per question: concurrent, limited, resumable.

Each request asks for a block of samples of one question. The blocks, and the seed of
each, depend only on the run's seed, the question and the number of the block's first
missing sample. So a run that was killed and started again sends the requests that an
uninterrupted run would have sent, and no others.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import random
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from specialize.corpus.plain_text.round_trip import as_spelt, writer_of
from specialize.corpus.prompts import teacher_prompt
from specialize.corpus.reasoning import answer_of
from specialize.corpus.records import Completion, Problem, is_whole
from specialize.corpus.sampling.limits import Limits
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.scoring import Text
from specialize.corpus.sampling.spec import SamplingSpec
from specialize.corpus.sampling.tables import Standing
from specialize.corpus.sampling.tally import Tally
from specialize.corpus.sampling.teachers import (
    MOST_UNSCORED,
    Answer,
    Ask,
    Busy,
    Choice,
    Teacher,
    Unusable,
    in_vain,
    scores_nothing,
)
from specialize.errors import InputError
from specialize.judging.answers import verdict
from specialize.processes.signals import Arrivals

# A response that cannot be used or comes too late costs money; other transient errors
# cost nothing.
_PAID_ATTEMPTS = 3
_LONGEST_BACKOFF_S = 60.0
# A token of English is about four bytes; only for the first estimate of a prompt.
_BYTES_PER_TOKEN = 4
_FIRST_ANSWER_TOKENS = 256.0


class _Block(NamedTuple):
    """Samples of one question that one request asks for."""

    problem_id: str
    first: int
    size: int


class Sampler:
    """One run that asks one teacher and writes to one store.

    Args:
        problems: the questions, which were added to the store.
        teacher: the teacher.
        store: the response database.
        prompt_prefix: text before each question, such as demonstrations; may be empty.
        sampling: how many samples, at which pace and price.
        texts: (question, number) -> a text that the teacher scores; they are asked for,
            whatever `sampling` says.
        stopping: as the attribute, if the caller has made it.

    Attributes:
        tally: what is known so far.
        stopping: set when no more requests are sent; those in flight are waited for.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        teacher: Teacher,
        store: ResponseStore,
        prompt_prefix: str,
        sampling: SamplingSpec,
        texts: Mapping[tuple[str, int], Text] | None = None,
        stopping: asyncio.Event | None = None,
    ):
        """Finds out what is missing."""
        self.tally = Tally(questions=len(problems))
        self._problems = {problem.id: problem for problem in problems}
        self._teacher = teacher
        self._store = store
        self._prompt_prefix = prompt_prefix
        self._sampling = sampling
        self._texts = texts
        self._given = collections.defaultdict[str, set[int]](set)
        for question, number in texts or ():
            self._given[question].add(number)
        self._student = sampling.student and writer_of(sampling.student)
        pace = sampling.pace
        self._limits = Limits(pace.requests_per_minute, pace.tokens_per_minute)
        self._standings = store.standings()
        self._missing: collections.Counter[str] = collections.Counter()
        # Without their prompts: those of a whole run would fill the memory.
        self._pending: collections.deque[_Block] = collections.deque()
        self._changed = asyncio.Condition()
        self.stopping = stopping or asyncio.Event()
        self._arrivals = Arrivals()
        self._barren = 0  # asks given up in a row, with no success between them
        self._unproven: list[tuple[Ask, Unusable]] = []  # not yet `unscored`
        self._mean_answer = _FIRST_ANSWER_TOKENS
        self._prepare()

    def stop(self) -> None:
        """Sends no more requests; waits for those in flight."""
        self.stopping.set()

    async def run(self) -> Tally:
        """Asks for everything that is missing, and returns the final tally.

        Raises:
            InputError: no request can succeed (wrong key, wrong model, no
                log-probabilities, ...). All earlier responses are stored.
        """
        loop = asyncio.get_running_loop()
        # One thread: SQLite's commits wait for the disk, the event loop does not.
        with concurrent.futures.ThreadPoolExecutor(1) as self._writer:
            # Outside the main thread, the caller handles signals.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                for name in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(name, self._interrupt, name)
            try:
                async with asyncio.TaskGroup() as group:
                    self._workers = [
                        group.create_task(self._work())
                        for _ in range(self._sampling.pace.concurrency)
                    ]
                if self.tally.done:
                    await self._remember()
            except BaseExceptionGroup as error:
                # Not `except*`: Python 3.11.2 wraps what is raised in it once more.
                known = error.subgroup(InputError)
                if known is None:
                    raise
                raise known.exceptions[0] from None
            finally:
                for name in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(name)
        return self.tally

    def _interrupt(self, number: int) -> None:
        is_new = self._arrivals.is_new(number)
        if self.stopping.is_set() and is_new:  # do not wait for responses
            for worker in self._workers:
                worker.cancel()
        self.stop()

    def _prepare(self) -> None:
        self._judge_the_rest()
        usage = self._store.usage()
        tally = self.tally
        self._pay(usage.prompt_tokens, usage.completion_tokens)
        for problem in self._problems.values():
            standing = self._standings.setdefault(problem.id, Standing(set()))
            tally.cached += len(standing.samples)
            tally.right += standing.right
            due = self._due(problem.id, standing)
            tally.planned += len(standing.samples.union(due))
            self._enqueue(problem.id, due)
            if not self._missing[problem.id] and standing.samples:
                tally.unsolved += not standing.solved

    def _due(self, identity: str, standing: Standing) -> Collection[int]:
        """Which samples a question should have, as far as is known."""
        if self._texts is not None:
            return self._given[identity]
        return range(self._number_due(standing))

    def _number_due(self, standing: Standing) -> int:
        sampling, have = self._sampling, standing.samples
        if sampling.max_samples is None or len(have) < sampling.samples:
            return sampling.samples
        # After `samples` there are only whole blocks. Each is decided on when the block
        # before it is complete; a block that was begun is finished.
        block = sampling.samples_per_request
        begun = max(have) + 1
        if begun > sampling.samples and begun % block:
            return min(sampling.max_samples, -(-begun // block) * block)
        if standing.solved:
            return sampling.samples
        return min(sampling.max_samples, (begun // block + 1) * block)

    def _enqueue(self, identity: str, due: Collection[int]) -> None:
        """Queues requests for those samples of `due` that are missing."""
        have = self._standings[identity].samples
        size = self._sampling.samples_per_request
        missing = sorted(sample for sample in due if sample not in have)
        # Consecutive samples have equal differences to their places in `missing`.
        runs = itertools.groupby(
            enumerate(missing), lambda pair: (pair[1] - pair[0], pair[1] // size)
        )
        for _, run in runs:
            samples = [sample for _, sample in run]
            self._pending.append(_Block(identity, samples[0], len(samples)))
        self._missing[identity] += len(missing)

    def _ask(self, block: _Block) -> Ask:
        identity, first, count = block
        problem = self._problems[identity]
        prompt = teacher_prompt(self._prompt_prefix, problem.question, problem.wording)
        key = f"{self._sampling.seed}/{identity}/{first}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1
        return Ask(identity, first, count, prompt, seed)

    async def _work(self) -> None:
        while (block := await self._next()) is not None:
            try:
                await self._serve(self._ask(block))
            except InputError:
                # The group cancels the other workers. A timeout that ends at the same
                # moment may swallow that; such a worker must find nothing more to do.
                self.stop()
                raise
            finally:
                self.tally.in_flight -= 1
                async with self._changed:
                    self._changed.notify_all()

    async def _next(self) -> _Block | None:
        async with self._changed:
            while True:
                if self.stopping.is_set() or self._too_expensive():
                    return None
                if self._pending:
                    self.tally.in_flight += 1
                    return self._pending.popleft()
                if not self.tally.in_flight:
                    return None
                await self._changed.wait()

    def _too_expensive(self) -> bool:
        limit = self._sampling.price.max_cost
        return limit is not None and self.tally.spent >= limit

    async def _serve(self, ask: Ask) -> None:
        answer = await self._persist(ask)
        if answer is None:
            return
        tally = self.tally
        loop = asyncio.get_running_loop()
        got = len(answer.choices)
        right = await loop.run_in_executor(self._writer, self._keep, ask, answer)
        self._barren = 0
        await self._remember()
        standing = self._standings[ask.problem_id]
        standing.samples.update(range(ask.first_sample, ask.first_sample + got))
        standing.right += right
        tally.done += got
        tally.cut += sum(not is_whole(one.finish_reason) for one in answer.choices)
        tally.right += right
        self._pay(answer.prompt_tokens or 0, answer.completion_tokens or 0)
        self._missing[ask.problem_id] -= got
        if got < ask.count:
            # The server sent fewer choices than asked for (llama.cpp sends one), so ask
            # for the rest of the block.
            first, count = ask.first_sample + got, ask.count - got
            self._pending.appendleft(_Block(ask.problem_id, first, count))
        elif not self._missing[ask.problem_id]:
            self._finish_question(ask.problem_id)

    def _keep(self, ask: Ask, answer: Answer) -> int:
        """Stores an answer, then judges it; the number of right samples."""
        self._store.add(ask, answer)
        right = {
            sample: self._is_right(ask.problem_id, choice)
            for sample, choice in enumerate(answer.choices, ask.first_sample)
        }
        self._store.set_right(ask.problem_id, right)
        return sum(right.values())

    def _is_right(self, problem_id: str, found: Choice | Completion) -> bool:
        if not is_whole(found.finish_reason):
            return False
        if isinstance(found, Choice):
            found = Completion(problem_id, 0, found.text, reasoning=found.reasoning)
        answers = self._problems[problem_id].answers
        try:
            answer = answer_of(found)
            judge = self._sampling.judge
            right = verdict(answer, answers, judge).correct
            if self._student is None or not right:
                return right
            reason, counts = as_spelt(answer, answers, judge, self._student)
        except (ArithmeticError, RecursionError, ValueError):
            return False  # what the judge cannot read ends no run that is paid for
        self.tally.spelling.add(counts)
        self.tally.misspelt += reason is not None
        return reason is None

    def _judge_the_rest(self) -> None:
        """Judges what an earlier run stored, but was ended before it judged."""
        found = [
            (one.problem_id, one.sample, self._is_right(one.problem_id, one))
            for one in self._store.completions(unjudged=True)
            if one.problem_id in self._problems
        ]
        for problem_id, sample, right in found:
            self._store.set_right(problem_id, {sample: right})
            self._standings[problem_id].right += right

    def _finish_question(self, identity: str) -> None:
        standing = self._standings[identity]
        if standing.solved:
            return
        due = self._due(identity, standing)
        if more := sum(sample not in standing.samples for sample in due):
            self.tally.planned += more
            self._enqueue(identity, due)
        else:
            self.tally.unsolved += 1

    async def _persist(self, ask: Ask) -> Answer | None:
        """Asks until there is an answer; None if the request is given up."""
        pace, tally = self._sampling.pace, self.tally
        paid = 0
        fault: Busy | Unusable | None = None
        for attempt in range(pace.attempts):
            estimate = len(ask.prompt) / _BYTES_PER_TOKEN
            estimate += ask.count * self._mean_answer
            await self._limits.wait(estimate)
            if attempt and (self.stopping.is_set() or self._too_expensive()):
                return None
            tally.requests += 1
            try:
                answer = await self._teacher.ask(ask)
            except (Busy, Unusable) as error:
                fault = error
                tally.retries[error.reason] += 1
                tally.last_fault = str(error)
                unusable = isinstance(error, Unusable)
                if unusable:
                    await self._pay_in_vain(error, estimate)
                paid += unusable or error.reason == "timeout"
                if paid >= _PAID_ATTEMPTS or (unusable and not error.again):
                    break
                if unusable:
                    continue
                if error.retry_after is not None:
                    self._limits.pause(error.retry_after)
                elif attempt + 1 < pace.attempts:
                    await self._sleep(_backoff(pace.backoff_s, attempt))
            else:
                used = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
                self._limits.settle(estimate, used or None)
                tally.recent.append((time.monotonic(), 1, used))
                if answer.completion_tokens:
                    mean = answer.completion_tokens / len(answer.choices)
                    self._mean_answer += 0.1 * (mean - self._mean_answer)
                return answer
        assert fault is not None
        await self._give_up(ask, fault)
        return None

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _give_up(self, ask: Ask, fault: Busy | Unusable) -> None:
        tally = self.tally
        tally.failed += ask.count
        tally.last_fault = str(fault)
        lasting = None
        if self._texts is not None:
            tally.given_up[ask.problem_id, ask.first_sample] = fault
            if isinstance(fault, Unusable) and fault.is_lasting:
                lasting = fault
        # A server that has scored other texts will score more of them.
        if lasting is None or lasting.again or not (tally.done or tally.cached):
            self._barren += 1  # before the disk is waited for: other workers go on
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._writer, self._store.add_failure, ask, fault.reason, str(fault)
        )
        most = max(5, self._sampling.pace.concurrency)
        if lasting is not None:
            self._unproven.append((ask, lasting))
            if tally.done and not lasting.again:
                await self._remember()
            if self._barren >= (most := max(most, MOST_UNSCORED)):
                raise scores_nothing(most, lasting)
        elif self._barren >= most:
            raise in_vain(most, fault)
        last = not self._pending and tally.in_flight == 1
        if last and isinstance(fault, Busy) and not tally.done:
            raise in_vain(self._barren, fault)

    async def _remember(self) -> None:
        """Stores which texts cannot be scored, once another one was.

        Until then, the server may be one that scores nothing.
        """
        loop, texts = asyncio.get_running_loop(), self._texts or {}
        while self._unproven:
            ask, fault = self._unproven.pop()
            text = texts[ask.problem_id, ask.first_sample].text
            await loop.run_in_executor(
                self._writer, self._store.add_unscored, ask.problem_id, text, fault
            )

    async def _pay_in_vain(self, fault: Unusable, estimate: float) -> None:
        """Counts what an answer cost that cannot be used, also for later runs."""
        prompt, completion = (number or 0 for number in fault.usage)
        if not prompt + completion:
            return
        self._limits.settle(estimate, prompt + completion)
        self.tally.recent.append((time.monotonic(), 1, prompt + completion))
        self._pay(prompt, completion)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._writer, self._store.add_unusable, prompt, completion
        )

    def _pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        tally = self.tally
        tally.prompt_tokens += prompt_tokens
        tally.completion_tokens += completion_tokens
        tally.spent += self._sampling.price.of(prompt_tokens, completion_tokens)


def _backoff(first: float, attempt: int) -> float:
    # Jitter, so that the workers do not all ask again at the same moment.
    longest = min(_LONGEST_BACKOFF_S, first * 2**attempt)
    return longest * random.uniform(0.5, 1.0)
