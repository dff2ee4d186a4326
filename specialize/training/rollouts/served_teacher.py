"""A served model, of any vocabulary, as the teacher of the student's own texts.

Process 0 asks the server to score the texts (`corpus.sampling.scoring`) and sends the
rows to the others. Answers are stored before they are used, by their texts: what a
server has scored once is never asked again, in whatever window the student writes it.
"""

import asyncio
import collections
import concurrent.futures
import io
import re
import threading
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from specialize import paths, processes, sharding
from specialize.corpus.alignment.given_ids import (
    GivenText,
    align_given,
    open_endings,
    speaks_as_student,
    text_of,
)
from specialize.corpus.records import Problem, RecordId, TeacherToken
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.scoring import ScoringTeacher, Text
from specialize.corpus.sampling.spec import (
    Endpoint,
    PaceSpec,
    RequestSpec,
    SamplingSpec,
)
from specialize.corpus.sampling.tally import Tally
from specialize.corpus.sampling.teachers import (
    MOST_UNSCORED,
    Unusable,
    scores_nothing,
)
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.progress import say
from specialize.training.rollouts.spec import Ends, RolloutSpec
from specialize.training.rollouts.windows import Rows, UnfinishedError
from specialize.training.rollouts.writing import Texts

# Seconds between two looks for a signal, and in which a server may answer after one.
_LOOK, _GRACE = 0.2, 5.0
# Options in messages of `corpus score`, as they are called in training.
_MACROS = {
    "--responses": "MODEL_DIR",
    "--base_url": "ROLLOUT_SERVER",
    "--model": "ROLLOUT_MODEL",
    "--prompt": "ROLLOUT_PROMPT_PATH",
    "--api_key_env": "ROLLOUT_API_KEY_ENV",
    "--concurrency": "ROLLOUT_CONCURRENCY",
    "--top_logprobs": "ROLLOUT_TOP_K",
}
_OPTIONS = re.compile(rf"(?:{'|'.join(_MACROS)})\b")


class ServedTeacher:
    """Rows from a server; see `making.Teacher`.

    Args:
        spec: the server, its model and its prompts.
        problems: the questions by their ids.
        vocabulary: the student's vocabulary.
        responses: the response database, or its URL in a bucket.
        k: number of entries of a row.

    Raises:
        InputError: the server is known not to score texts, or a setting is invalid.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        problems: Mapping[str, Problem],
        vocabulary: Vocabulary,
        responses: str,
        k: int,
    ) -> None:
        assert spec.server is not None and spec.model is not None
        self._spec, self._vocabulary, self._k = spec, vocabulary, k
        self._path = responses
        self._messages = processes.Messages("rollouts")
        self._compared = False  # the database's settings with these, in this process
        self._barren = 0  # texts without scores in a row, in this process
        self._prefix = sample.read_prompt_prefix(
            spec.prompt_path and paths.local(spec.prompt_path)
        )
        self._endpoint = Endpoint(
            spec.server,
            spec.model,
            request=RequestSpec(temperature=1.0, top_logprobs=spec.top_k, stop=()),
            api_key_env=spec.api_key_env,
        )
        ScoringTeacher(self._endpoint, {})  # refuses what no server can do, now
        self._problems = problems

    def read(self, texts: Texts, ends: Ends) -> Rows:
        """See `making.Teacher.read`."""
        data = b""
        if jax.process_index() == 0:
            rows = self._read(texts, ends)
            buffer = io.BytesIO()
            np.savez(buffer, **rows._asdict())
            data = buffer.getvalue()
            self._messages.send("read")
        else:
            self._messages.receive()  # takes no part of the devices while it waits
        with np.load(io.BytesIO(sharding.bytes_from_leader(data))) as file:
            return Rows(**{name: file[name] for name in Rows._fields})

    def _read(self, texts: Texts, ends: Ends) -> Rows:
        given: list[tuple[str, GivenText]] = []
        for record, ids in zip(texts.asked.records, texts.ids, strict=True):
            problem = self._problem(record)
            before = problem.wording.closing_words
            given.append((problem.id, text_of(ids.tolist(), self._vocabulary, before)))
        wanted = dict.fromkeys(
            (name, one.text) for name, one in given if one.text.strip()
        )
        known = self._scores(list(wanted), ends)
        scores = [(known.get((name, one.text), ()), one) for name, one in given]
        also_open = open_endings(scores, self._vocabulary)
        named = all(speaks_as_student(*pair, self._vocabulary) for pair in scores)
        parts, scored = [], []
        for (name, one), ids in zip(given, texts.ids, strict=True):
            tokens = known.get((name, one.text), ())
            if not tokens:  # nothing to score, or the server cannot
                one = text_of([], self._vocabulary)
            parts.append(
                align_given(
                    *(tokens, one, len(ids), self._vocabulary),
                    k=self._k,
                    where=f"the scores of a text of {name}",
                    also_open=also_open,
                    named=named,
                )
            )
            scored.append(len(tokens))
        columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Rows(*columns, scored=np.asarray(scored, np.int64))

    def _problem(self, record: str) -> Problem:
        name = RecordId.read(record).problem
        if (found := self._problems.get(name)) is None:
            raise InputError(
                f"the record {record!r} answers no question of "
                f"{self._spec.problems_path} (ROLLOUT_PROBLEMS_PATH). Name the "
                "questions that the corpus was built from."
            )
        return found

    def _scores(
        self, wanted: Sequence[tuple[str, str]], ends: Ends
    ) -> dict[tuple[str, str], tuple[TeacherToken, ...]]:
        """The teacher's tokens of (question, text), those that it can score."""
        if not wanted:
            return {}
        names = list(dict.fromkeys(name for name, _ in wanted))
        known: dict[tuple[str, int], Text] = {}
        unscored: dict[tuple[str, str], tuple[str, str]] = {}
        if paths.exists(self._path):
            with ResponseStore(paths.local(self._path)) as store:
                known = {
                    (one.problem_id, one.sample): Text(one.text, one.finish_reason)
                    for one in store.completions(of=names)
                }
                unscored = store.unscored(names)
        texts = _numbered([pair for pair in wanted if pair not in unscored], known)
        # The database says what its scores belong to when it is asked for more.
        if len(texts) > len(known) or not self._compared:
            unscored |= self._asked(names, texts, ends)
            self._compared = True
        with ResponseStore(paths.local(self._path)) as store:
            found = {
                (one.problem_id, one.text): one.tokens or ()
                for one in store.completions(of=names)
            }
        reasons = collections.Counter(
            unscored[pair][0] for pair in wanted if pair not in found
        )
        if reasons:
            said = ", ".join(f"{name} {count:,}" for name, count in reasons.items())
            last = [unscored[pair][1] for pair in wanted if pair not in found][-1]
            say(
                f"{reasons.total():,} of the {len(wanted):,} texts of this window have "
                f"no scores ({said}), so no loss: {last}"
            )
        return {pair: found[pair] for pair in wanted if pair in found}

    def _asked(
        self, names: Sequence[str], texts: Mapping[tuple[str, int], Text], ends: Ends
    ) -> dict[tuple[str, str], tuple[str, str]]:
        """Asks for what is missing; (reason, message) of what cannot be scored.

        Raises:
            UnfinishedError: the run ends; what was scored is stored.
            InputError: a text was not scored for a reason that may pass, or no text was
                scored and none of many before them.
        """
        tally = self._ask(names, texts, ends)
        missing = tally.planned - tally.cached - tally.done
        unscored: dict[tuple[str, str], tuple[str, str]] = {}
        for (name, number), fault in tally.given_up.items():
            if isinstance(fault, Unusable) and fault.is_lasting:
                unscored[name, texts[name, number].text] = fault.reason, str(fault)
        if len(unscored) < missing:
            if ends():
                raise UnfinishedError
            raise InputError(
                f"the teacher has not scored {missing - len(unscored):,} of the texts "
                f"({tally.last_fault}). What it has scored is stored; the same command "
                "resumes the run."
            )
        self._barren = 0 if tally.done else self._barren + len(unscored)
        if self._barren >= MOST_UNSCORED:
            last = Unusable(*list(unscored.values())[-1])
            raise _as_in_training(scores_nothing(self._barren, last))
        return unscored

    def _ask(
        self, names: Sequence[str], texts: Mapping[tuple[str, int], Text], ends: Ends
    ) -> Tally:
        sampling = SamplingSpec(
            samples_per_request=1, pace=PaceSpec(concurrency=self._spec.concurrency)
        )
        interrupted = threading.Event()

        async def ask() -> Tally:
            stopping = asyncio.Event()
            asking = asyncio.create_task(
                sample.run(
                    [self._problems[name] for name in names],
                    ScoringTeacher(self._endpoint, texts),
                    self._path,
                    sampling,
                    prompt_prefix=self._prefix,
                    convention="before_temperature",
                    texts=texts,
                    log_every_s=None,
                    stopping=stopping,
                )
            )
            left = _GRACE
            while left > 0 and not interrupted.is_set():
                if (await asyncio.wait([asking], timeout=_LOOK))[0]:
                    return asking.result()
                if ends():
                    stopping.set()
                    left -= _LOOK
            asking.cancel()
            await asyncio.wait([asking])
            raise UnfinishedError

        # In a thread of its own, where signals stay those of the run.
        with concurrent.futures.ThreadPoolExecutor(1, "teacher") as worker:
            try:
                asked = worker.submit(asyncio.run, ask())
                # Python handles a signal between two instructions, and this thread
                # may not be interrupted while it waits.
                while not concurrent.futures.wait([asked], timeout=_LOOK).done:
                    pass
                return asked.result()
            except InputError as error:
                raise _as_in_training(error) from None
            finally:
                interrupted.set()  # else a second Ctrl-C would wait for the server


def _as_in_training(error: InputError) -> InputError:
    return InputError(_OPTIONS.sub(lambda found: _MACROS[found[0]], str(error)))


def _numbered(
    wanted: Sequence[tuple[str, str]], known: Mapping[tuple[str, int], Text]
) -> dict[tuple[str, int], Text]:
    """(question, number) -> text: what is known, and new texts with free numbers."""
    texts = dict(known)
    have = {(name, one.text) for (name, _), one in known.items()}
    used: dict[str, set[int]] = collections.defaultdict(set)
    for name, number in known:
        used[name].add(number)
    for name, text in wanted:
        if (name, text) in have:
            continue
        number = next(n for n in range(len(used[name]) + 1) if n not in used[name])
        used[name].add(number)
        texts[name, number] = Text(text)
    return texts
