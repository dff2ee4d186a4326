"""One call of `specialize corpus sample`, and the export of its response database."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from specialize import paths, typed_json
from specialize.corpus.completions import write_completions
from specialize.corpus.prompts import teacher_prompt
from specialize.corpus.records import Problem
from specialize.corpus.sampling import panel, scoring
from specialize.corpus.sampling.endpoint import OpenAITeacher
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.sampler import Sampler
from specialize.corpus.sampling.spec import (
    CONVENTIONS,
    UPLOAD_EVERY_S,
    Endpoint,
    SamplingSpec,
)
from specialize.corpus.sampling.tally import Tally
from specialize.corpus.sampling.teachers import Busy, Teacher, Unusable
from specialize.corpus.sampling.uploads import opened
from specialize.corpus.storage import cards
from specialize.corpus.tasks.known import index
from specialize.corpus.wording import PAPER
from specialize.errors import InputError
from specialize.progress import say, track

Path = str | os.PathLike[str]

_CONVENTIONS = {True: "before_temperature", False: "after_temperature", None: "unknown"}


def sample(
    problems: Sequence[Problem],
    endpoint: Endpoint,
    responses: Path,
    sampling: SamplingSpec,
    *,
    prompt_prefix: str = "",
    convention: str = "auto",
    dataset: str | None = None,
    licence: str = cards.UNKNOWN,
    log_every_s: float = 30.0,
    upload_every_s: float = UPLOAD_EVERY_S,
) -> Tally:
    """Asks a server for every sample that is still missing.

    Args:
        problems: the questions.
        endpoint: the server and its requests.
        responses: the response database, or its URL in a bucket; made if it does not
            exist, else continued.
        sampling: how many samples, at which pace and price.
        prompt_prefix: text before each question, such as demonstrations; may be empty.
        convention: whether the server reports log-probabilities before or after
            temperature, one of `CONVENTIONS`; "auto" finds out with two requests of
            one token.
        dataset: name of the task, for the card; None: the default task.
        licence: of the problems' file, for the card.
        log_every_s: seconds between log lines off a terminal.
        upload_every_s: seconds between uploads of a database in a bucket.

    Returns:
        The final tally. The next run asks for its `failed` samples, and for those that
        a stop left out.

    Raises:
        InputError: the settings differ from those of the database, or no request can
            succeed.
    """
    if convention not in CONVENTIONS:
        raise InputError(
            f"convention is {convention!r}, expected one of {CONVENTIONS}."
        )
    teacher = OpenAITeacher(endpoint)
    return asyncio.run(
        run(
            problems,
            teacher,
            responses,
            sampling,
            prompt_prefix=prompt_prefix,
            convention=convention,
            dataset=dataset,
            licence=licence,
            log_every_s=log_every_s,
            upload_every_s=upload_every_s,
        )
    )


def score(
    problems: Sequence[Problem],
    texts: scoring.Texts,
    endpoint: Endpoint,
    responses: Path,
    sampling: SamplingSpec,
    *,
    prompt_prefix: str = "",
    dataset: str | None = None,
    licence: str = cards.UNKNOWN,
    log_every_s: float = 30.0,
    upload_every_s: float = UPLOAD_EVERY_S,
) -> Tally:
    """Asks a server how likely given texts are, those that are still missing.

    Args:
        problems: the questions.
        texts: (id of a question, number) -> a text that answers it. The stored
            samples have these numbers.
        endpoint: the server.
        responses: as in `sample`.
        sampling: pace, price and judge; the numbers of samples are those of `texts`.
        prompt_prefix: as in `sample`; it may differ from what the student reads.
        dataset: as in `sample`.
        licence: as in `sample`.
        log_every_s: as in `sample`.
        upload_every_s: as in `sample`.

    Returns:
        The final tally.

    Raises:
        InputError: as in `sample`; the server does not score texts, or a text is
            another than when it was scored.
    """
    with_texts = {name for name, _ in texts}
    asked = [one for one in problems if one.id in with_texts]
    ids = {one.id for one in asked}
    texts = {key: text for key, text in texts.items() if key[0] in ids}
    if not asked:
        raise InputError("no text answers one of the questions: check their ids.")
    return asyncio.run(
        run(
            asked,
            scoring.ScoringTeacher(endpoint, texts),
            responses,
            dataclasses.replace(sampling, samples_per_request=1),
            prompt_prefix=prompt_prefix,
            convention="before_temperature",
            dataset=dataset,
            licence=licence,
            log_every_s=log_every_s,
            upload_every_s=upload_every_s,
            texts=texts,
        )
    )


async def run(
    problems: Sequence[Problem],
    teacher: Teacher,
    responses: Path,
    sampling: SamplingSpec,
    *,
    prompt_prefix: str = "",
    convention: str = "unknown",
    dataset: str | None = None,
    licence: str = cards.UNKNOWN,
    log_every_s: float | None = 30.0,
    upload_every_s: float = UPLOAD_EVERY_S,
    texts: scoring.Texts | None = None,
    stopping: asyncio.Event | None = None,
) -> Tally:
    """Samples like `sample`, or scores `texts`, with any `Teacher`, and closes it.

    Nothing is shown if `log_every_s` is None. `stopping` is that of the `Sampler`.
    """
    if texts is not None:
        problems = [
            dataclasses.replace(one, wording=one.wording.before_a_text)
            for one in problems
        ]
    settings = teacher.describe() | {
        "prompt_sha256": hashlib.sha256(prompt_prefix.encode()).hexdigest(),
        "seed": sampling.seed,
        "samples_per_request": sampling.samples_per_request,
        "dataset": dataset or index().default,
    }
    if (template := problems[0].wording.teacher) != PAPER.teacher:
        settings["prompt_template"] = template
    try:
        with opened(responses, upload_every_s) as (store, uploads):
            if texts is not None:
                scoring.check_prompts(store, template)
            store.configure(settings)
            store.add_questions(problems)
            if texts is not None:
                scoring.check_texts(store, texts)
            if store.noted("licence") not in (None, licence):
                licence = f"{cards.UNKNOWN}: questions of files with other licences"
            store.note("licence", licence)
            sampler = Sampler(
                problems, teacher, store, prompt_prefix, sampling, texts, stopping
            )
            asks = isinstance(teacher, OpenAITeacher)
            sampler.tally.one_hot = asks and settings["top_logprobs"] == 0
            if store.noted("teacher") is None:
                store.note("teacher", teacher.name)
                store.note("prompt", prompt_prefix)
            if uploads is not None:  # before anything is paid for
                uploads.now()
            shown: Any = contextlib.nullcontext()
            if log_every_s is not None:
                shown = panel.watch(sampler.tally, log_every_s=log_every_s)
            async with (
                shown,
                contextlib.nullcontext()
                if uploads is None
                else uploads.regularly(sampler.stopping),
            ):
                if sampler.tally.one_hot:
                    store.note("convention", "none")
                if store.noted("convention") in (None, "unknown"):
                    first = teacher_prompt(
                        prompt_prefix, problems[0].question, problems[0].wording
                    )
                    found = await _convention(teacher, convention, first)
                    store.note("convention", found)
                return await sampler.run()
    finally:
        await teacher.close()


def export(responses: Path, out: Path) -> int:
    """Writes the stored completions as JSON lines, sorted by question and sample.

    The card is written beside it. Equal samples give equal bytes, whatever the order in
    which they arrived.

    Args:
        responses: the response database, or its URL in a bucket.
        out: the file; gzipped if it ends in `.gz`.

    Returns:
        Number of completions that were written.

    Raises:
        InputError: there is no database, or it is empty.
    """
    with ResponseStore(paths.local(responses), name=responses) as store:
        card = card_of(store)
        if not store.usage().responses:
            raise InputError(
                f"{responses} holds no responses yet. Run 'specialize corpus sample'."
            )
        completions = track(store.completions(), "export completions")
        count = write_completions(out, completions)
    cards.write_card(out, card)
    return count


def card_of(store: ResponseStore) -> cards.Card:
    """The card of the store's completions."""
    settings: dict[str, Any] = dict(store.settings() or {})
    prompt_sha256 = str(settings.pop("prompt_sha256", ""))
    dataset = str(settings.pop("dataset", ""))
    licence = store.noted("licence") or f"{cards.UNKNOWN}: not stored by version 0.1"
    settings["logprobs"] = store.noted("convention") or "unknown"
    return cards.Card(
        teacher=str(store.noted("teacher") or cards.UNKNOWN),
        prompt_sha256=prompt_sha256,
        sampling=settings,
        licences={dataset: str(licence)},
        sources=[],
    )


def read_prompt_prefix(path: Path | None) -> str:
    """Reads the text before each question; "" without a file.

    Raises:
        InputError: the file is missing or not UTF-8.
    """
    if path is None:
        return ""
    file = pathlib.Path(path)
    typed_json.refuse_device(file, remedy="Name a text file of demonstrations.")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a prompt ({error}). Name a text file of "
            "demonstrations: 'Question: ...', its reasoning, 'The answer is ...'."
        ) from error


async def _convention(teacher: Teacher, convention: str, prompt: str) -> str:
    if convention != "auto":
        return convention
    if not isinstance(teacher, OpenAITeacher):
        return "unknown"
    try:
        found = _CONVENTIONS[await teacher.logprobs_are_raw(prompt)]
    except (Busy, Unusable) as error:
        # The run itself waits for a busy server; the next run probes again.
        say(f"log-probability convention: unknown ({error})")
        return "unknown"
    say(f"log-probabilities are reported {found.replace('_', ' ')}")
    return found
