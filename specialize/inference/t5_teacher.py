"""A T5 checkpoint as a teacher: batched sampling on the mesh, with exact top-k.

Requests arrive one by one, as for any teacher (`corpus.sampling`); those of similar
length are decoded together. Each sequence has its own key, made of its request's seed,
so a completion depends on neither the batch nor the order of the requests.

A teacher with the student's vocabulary needs no alignment: where it writes the pieces
that the vocabulary itself would, `align` with method "bytes" returns its distributions
unchanged.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specialize import processes, typed_json
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.spec import (
    MOST_AT_ONCE,
    UPLOAD_EVERY_S,
    PaceSpec,
    SamplingSpec,
)
from specialize.corpus.sampling.tally import Tally
from specialize.corpus.sampling.teachers import Answer, Ask, Unusable
from specialize.corpus.sampling.wire import usable_choices
from specialize.corpus.spelling import token_text
from specialize.corpus.tasks.known import find, index, licence_of, read_problems
from specialize.corpus.vocabulary import Vocabulary
from specialize.inference.engine import Engine
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import (
    decoding_settings,
    load_engine,
    weights_digest,
)
from specialize.student.decoding.decoding import Generated

# Requests that arrive while the device decodes form the next batch. If they do not fill
# it, it starts when none has arrived for this time: the workers meanwhile store their
# answers and then ask again.
_QUIET_S = 0.05
# Requests in flight: enough to fill a batch of one length.
_ASKS_PER_ROW = 4


class _Waiting(NamedTuple):
    ask: Ask
    ids: list[int]
    answer: "asyncio.Future[Answer]"
    since: float


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What is decoded together: sequences of ids, and a seed for each of the rows."""

    rows: list[list[int]]
    length: int
    seeds: list[int]


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions that a checkpoint is asked.

    Attributes:
        problems_path: the file of the problems.
        task: how the problems are read: a task, its name or its file; None: the
            default task.
        prompt_path: file of the prompt prefix; None: no prefix.
        limit: number of problems to ask, the first ones of the file; None: all.
    """

    problems_path: str | os.PathLike[str]
    task: Any = None
    prompt_path: str | os.PathLike[str] | None = None
    limit: int | None = None


class T5Teacher:
    """A `Teacher` that decodes here, on a mesh of any number of devices.

    Args:
        engine: decodes with method "sample"; its tokenizer is `vocabulary`. It draws
            the same number of samples for every prompt; a request may take fewer.
        vocabulary: the checkpoint's vocabulary.
        name: name for cards and the settings of the response database.
        alternatives: K of the recorded distributions.
        announce: called with each batch before it is decoded, so that the other
            processes of the mesh decode it too (`follow`).
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        name: str,
        alternatives: int = 5,
        announce: Callable[[Any], None] = lambda batch: None,
    ):
        self._engine = engine
        self._vocabulary = vocabulary
        self.name = name
        self._alternatives = alternatives
        self._announce = announce
        self._waiting: dict[int, list[_Waiting]] = collections.defaultdict(list)
        self._serving: asyncio.Task[None] | None = None
        # One thread: the device decodes one batch after the other anyway.
        self._device = concurrent.futures.ThreadPoolExecutor(1)
        self._weights = weights_digest(engine.params)
        self._spellings = [_spelling(vocabulary, i) for i in range(vocabulary.rows)]
        # The network may have more rows, which write nothing either.
        more = engine.module.config.vocab_size - vocabulary.rows
        self._spellings += [b""] * more

    def describe(self) -> dict[str, Any]:
        """Everything that its completions depend on."""
        decoding = self._engine.decoding
        return {
            "teacher": self.name,
            "weights": self._weights,
            "network": self._engine.module.config.identity(),
            "vocabulary_sha256": self._vocabulary.sha256,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_logprobs": self._alternatives,
            "max_tokens": decoding.output_length,
            "input_length": decoding.input_length,
        }

    async def ask(self, ask: Ask) -> Answer:
        """Answers one request, together with others of similar length.

        Raises:
            Unusable: the prompt is longer than the engine's inputs.
            InputError: the batch cannot be decoded.
        """
        ids = [*self._vocabulary.encode(ask.prompt), self._vocabulary.eos_id]
        if len(ids) > self._engine.decoding.input_length:
            raise Unusable(
                "prompt_too_long",
                f"the prompt of {ask.problem_id} has {len(ids)} tokens, more than "
                f"INPUT_LENGTH = {self._engine.decoding.input_length}",
                again=False,
            )
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        group = self._waiting[self._engine.padded_length(len(ids))]
        group.append(_Waiting(ask, ids, answer, time.monotonic()))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def close(self) -> None:
        """Stops the thread."""
        if self._serving is not None:
            self._serving.cancel()
        self._device.shutdown(wait=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        size = self._engine.decoding.batch_size
        while any(self._waiting.values()):
            await self._until_full_or_quiet()
            length = max(self._waiting, key=lambda n: (len(self._waiting[n]), n))
            group = self._waiting[length]
            batch, self._waiting[length] = group[:size], group[size:]
            batch = [one for one in batch if not one.answer.cancelled()]
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(
                    self._device, self._answer, batch, length
                )
            except Exception as error:  # every request of the batch gets it
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, Unusable):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    async def _until_full_or_quiet(self) -> None:
        before = -1
        while True:
            sizes = [len(group) for group in self._waiting.values()]
            if max(sizes) >= self._engine.decoding.batch_size or sum(sizes) == before:
                return
            before = sum(sizes)
            await asyncio.sleep(_QUIET_S)

    def _answer(
        self, batch: Sequence[_Waiting], length: int
    ) -> list[Answer | Unusable]:
        seeds = [one.ask.seed for one in batch]
        seeds += seeds[-1:] * (self._engine.decoding.batch_size - len(seeds))
        asked = _Batch([one.ids for one in batch], length, seeds)
        self._announce(dataclasses.asdict(asked))
        found = _decoded(self._engine, asked, self._alternatives)
        steps = found.steps
        assert steps is not None
        decoding = self._engine.decoding
        shape = (decoding.batch_size, -1, decoding.output_length)
        tokens = np.asarray(found.tokens).reshape(shape)
        arrays = (tokens, *map(np.asarray, steps))
        answers: list[Answer | Unusable] = []
        for row, one in enumerate(batch):
            choices = [
                self._choice(index, *(array[row, index] for array in arrays))
                for index in range(one.ask.count)
            ]
            written = sum(choice.pop("num_tokens") for choice in choices)
            body = json.dumps({"choices": choices}, ensure_ascii=False).encode()
            try:
                usable = usable_choices(body, one.ask.problem_id)
            except Unusable as error:
                answers.append(error)
                continue
            seconds = time.monotonic() - one.since
            answers.append(Answer(usable, body, len(one.ids), written, seconds))
        return answers

    def _choice(
        self,
        index: int,
        tokens: np.ndarray,
        logprobs: np.ndarray,
        top_ids: np.ndarray,
        top_logprobs: np.ndarray,
    ) -> dict[str, Any]:
        """One sequence in the layout of OpenAI's chat, which `wire` reads."""
        ends = np.flatnonzero(tokens == self._vocabulary.eos_id)
        length = int(ends[0]) if ends.size else len(tokens)
        content: list[dict[str, Any]] = []
        for position in range(length):
            spelt = self._spellings[tokens[position]]
            if not spelt:  # padding writes no text
                continue
            top = zip(top_ids[position], top_logprobs[position], strict=True)
            content.append(
                self._entry(spelt, logprobs[position])
                | {
                    "top_logprobs": [
                        # EOS and padding write nothing; their mass is in the tail.
                        self._entry(self._spellings[i], value)
                        for i, value in top
                        if self._spellings[i]
                    ]
                }
            )
        data = b"".join(bytes(entry["bytes"]) for entry in content)
        return {
            "index": index,
            "text": data.decode("utf-8", "replace"),
            "finish_reason": "stop" if ends.size else "length",
            "logprobs": {"content": content},
            "num_tokens": length + bool(ends.size),
        }

    def _entry(self, spelt: bytes, logprob: Any) -> dict[str, Any]:
        return {
            "token": token_text(spelt),
            "bytes": list(spelt),
            "logprob": min(float(logprob), 0.0),
        }


def _decoded(engine: Engine, asked: _Batch, alternatives: int) -> Generated:
    keys = jax.vmap(jax.random.key)(jnp.asarray(asked.seeds, jnp.uint32))
    return engine.decode(asked.rows, asked.length, keys, alternatives=alternatives)


def follow(
    engine: Engine, alternatives: int, messages: processes.Messages
) -> Sequence[int]:
    """Decodes the batches that process 0 announces, until it sends numbers instead."""
    weights_digest(engine.params)  # as `T5Teacher` does
    while True:
        received = messages.receive()
        if isinstance(received, list):
            return received
        asked = typed_json.convert(received, _Batch, "a message of process 0")
        jax.block_until_ready(_decoded(engine, asked, alternatives))


def _spelling(vocabulary: Vocabulary, index: int) -> bytes:
    """The text of a piece; empty for padding, EOS and rows without a piece."""
    if index == vocabulary.unk_id:
        return vocabulary.decode([index]).encode()
    return vocabulary.spelling(index) or b""


def sample_checkpoint(
    model: Any,
    checkpoint: str,
    decoding: DecodingSpec,
    *,
    questions: Questions,
    sampling: SamplingSpec,
    responses: str | os.PathLike[str],
    top_logprobs: int = 5,
    name: str | None = None,
    vocabulary_path: str | os.PathLike[str] | None = None,
    mesh: Any = None,
    log_every_s: float = 30.0,
    upload_every_s: float = UPLOAD_EVERY_S,
) -> Tally:
    """Samples a checkpoint's solutions into a response database, resumably.

    Args:
        model: the teacher's network in a `Student`.
        checkpoint: weights in any layout that `checkpoints.load_params` reads.
        decoding: sampling temperature, nucleus, seed, batch size and lengths. The
            method is always "sample", and `sampling` says how many samples are drawn.
            A prompt that is longer than the input length is given up.
        questions: the questions to ask.
        sampling: how many samples each question gets, and which judge says which are
            right. `decoding` determines seed and pace.
        responses: the response database, or its URL in a bucket, which process 0
            writes; made if it does not exist, else continued.
        top_logprobs: number of alternatives per token; their distribution is that of
            the model, before temperature and nucleus.
        name: name of the teacher, for cards. None: the checkpoint's path.
        vocabulary_path: SentencePiece model of the checkpoint. None: the environment
            variable SPECIALIZE_VOCABULARY.
        mesh: the device mesh, in any form that `specialize.mesh` reads.
        log_every_s: seconds between log lines off a terminal.
        upload_every_s: seconds between uploads of a database in a bucket.

    Returns:
        The final tally; the next run asks for the samples that it lacks.

    Raises:
        InputError: a file, the checkpoint or a setting is invalid.
    """
    task = find(questions.task or index().default)
    problems = read_problems(questions.problems_path, task)
    prompt_prefix = sample.read_prompt_prefix(questions.prompt_path)
    sampling = dataclasses.replace(
        sampling,
        seed=decoding.seed,
        pace=PaceSpec(min(_ASKS_PER_ROW * decoding.batch_size, MOST_AT_ONCE)),
    )
    decoding = dataclasses.replace(
        decoding, method="sample", num_samples=sampling.samples_per_request
    )
    decoding.check_distributions()
    engine, vocabulary = load_engine(
        model, checkpoint, decoding, vocabulary_path=vocabulary_path, mesh=mesh
    )
    engine.check_alternatives("--top_logprobs", top_logprobs)
    if jax.process_count() > 1:
        settings = decoding_settings(engine, vocabulary)
        processes.agree(
            {**settings, "top_logprobs": top_logprobs},
            what="weights or settings",
            remedy="Give every process the same files and options.",
        )
    messages = processes.Messages("sample")
    if jax.process_index() != 0:
        planned, cached, done, failed = follow(engine, top_logprobs, messages)
        return Tally(planned=planned, cached=cached, done=done, failed=failed)
    name = name or checkpoint
    tally = asyncio.run(
        sample.run(
            problems[: questions.limit],
            T5Teacher(engine, vocabulary, name, top_logprobs, messages.send),
            responses,
            sampling,
            prompt_prefix=prompt_prefix,
            convention="before_temperature",
            dataset=task.name,
            licence=licence_of(task, questions.problems_path),
            log_every_s=log_every_s,
            upload_every_s=upload_every_s,
        )
    )
    messages.send([tally.planned, tally.cached, tally.done, tally.failed])
    return tally
