"""A served teacher scores texts that it did not write: `specialize corpus score`.

A request has the prompt with the text after it, asks for it to be sent back (`echo`)
with the log-probabilities of its tokens, and for one more token, because servers refuse
none. What is stored is the scored text with its tokens, as if the teacher had sampled
it, so export and build need nothing else. vLLM, SGLang and llama-cpp-python can do it.
"""

import itertools
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from specialize.corpus.records import Completion, TeacherToken
from specialize.corpus.sampling.endpoint import OpenAITeacher
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.spec import CAN_SCORE, Endpoint, check_scores
from specialize.corpus.sampling.teachers import Answer, Ask, Unusable
from specialize.corpus.sampling.wire import echoed_tokens, paid_for, token_counts
from specialize.corpus.spelling import spell
from specialize.corpus.wording import BREAK, PAPER
from specialize.errors import InputError

# What refusals of `echo` say.
_REFUSES_ECHO = re.compile(r"\becho\b|logits_all|prompt.logprobs", re.IGNORECASE)

# Why the next answer to the same request may be another one.
_BROKEN = ("malformed", "error")


class Text(NamedTuple):
    """A text to score, and how whoever wrote it ended it."""

    text: str
    finish_reason: str = "stop"


# (id of a question, number of the text) -> the text
Texts = Mapping[tuple[str, int], Text]


class ScoringTeacher(OpenAITeacher):
    """A server that says how likely given texts are, at temperature 1.

    Args:
        endpoint: the server; only its model, top-k, timeout, key and extra fields are
            used.
        texts: the texts that will be asked for.

    Raises:
        InputError: the server is known not to score texts, or as `OpenAITeacher`.
    """

    ADDRESS = "--base_url and --model"

    def __init__(self, endpoint: Endpoint, texts: Texts):
        check_scores(endpoint.base_url, "--base_url")
        super().__init__(endpoint)
        self._texts = texts

    def describe(self) -> dict[str, Any]:
        """Everything that the scores depend on, besides the texts."""
        known = self.endpoint.describe()
        kept = ("model", "api", "top_logprobs", "extra_body")
        return {"scored": True} | {name: known[name] for name in kept if name in known}

    async def ask(self, ask: Ask) -> Answer:
        """Scores one text; see `Teacher.ask`."""
        given = self._texts[ask.problem_id, ask.first_sample]
        text = given.text
        began = time.monotonic()
        try:
            body = await self._post(
                ask.prompt + text,
                count=1,
                seed=0,
                temperature=1.0,
                max_tokens=1,
                echo=True,
            )
        except Unusable as error:
            if error.reason == "refused" and _REFUSES_ECHO.search(str(error)):
                raise InputError(
                    f"the server does not score given texts ({error}); {CAN_SCORE}."
                ) from error
            raise
        seconds = time.monotonic() - began
        where = f"scores of {ask.problem_id}, text {ask.first_sample}"
        try:
            with paid_for(body):
                tokens = scored(body, ask.prompt, text, where)
                choice = as_choice(given, tokens)
                stored = json.dumps({"choices": [choice]}, ensure_ascii=False).encode()
                choices = self._choices(stored, where)
        except Unusable as error:
            # Scores are not drawn: only a broken answer may be whole the next time.
            error.again = error.reason in _BROKEN
            raise
        prompt_tokens, completion_tokens = token_counts(body)
        return Answer(choices, stored, prompt_tokens, completion_tokens, seconds)


def scored(body: bytes, prompt: str, text: str, where: str) -> list[TeacherToken]:
    """The tokens of a text in a response that begins with its prompt.

    A token across the border of the two is no token of the text: the part of it that is
    in the text is unknown, as is a text's first token if there is no prompt.

    Raises:
        InputError: the server has not sent the prompt back.
        Unusable: the tokens do not spell prompt and text.
    """
    sent, tokens = echoed_tokens(body, where)
    if not sent.startswith(prompt + text):
        raise InputError(
            f"{where}: the server has not sent the given text back, so it does not "
            f"score texts; {CAN_SCORE}."
        )
    # A mark of the beginning, or the space that SentencePiece puts there, perhaps as
    # several bytes that the server has lost, is not in the text.
    lost = itertools.takewhile(lambda one: not one.token, tokens)
    starts = range(sum(1 for _ in lost) + 2)
    spelt = (spell(prompt + text, tokens[start:]) for start in starts)
    covering = next((found for found in spelt if found is not None), None)
    if covering is None:
        raise Unusable("tokens_differ", f"{where}: the tokens do not spell the text")
    left, found = len(prompt.encode()), list[TeacherToken]()
    for token in covering:
        if left and len(token.token) <= left:
            left -= len(token.token)
        elif left:
            found.append(TeacherToken(token.token[left:], -math.inf, ()))
            left = 0
        else:
            found.append(token)
    return found


def check_prompts(store: ResponseStore, template: str) -> None:
    """Checks that stored scores are of texts that begin a line, as `template` ends.

    Raises:
        InputError: they were made by an older version, which put a text right after
            the question.
    """
    before = store.settings() or {}
    was = before.get("prompt_template", PAPER.teacher)
    if before.get("scored") and f"{was}{BREAK}" == template:
        raise InputError(
            f"{store.path} was scored by an older version of specialize, which sent no "
            "line break between the question and the text, so its scores are those of "
            "another text. Name another --responses to score the texts anew."
        )


def check_texts(store: ResponseStore, texts: Texts) -> None:
    """Checks that what is stored are scores of these texts.

    Raises:
        InputError: a text is another than when it was scored.
    """
    for one in store.completions(of={name for name, _ in texts}):
        given = texts.get((one.problem_id, one.sample))
        was = Text(one.text, one.finish_reason)
        if given is None or given == was:
            continue
        what = f"it was {one.text[:60]!r}"
        if given.text == was.text:
            what = (
                f"its finish_reason was {was.finish_reason!r}, now it is "
                f"{given.finish_reason!r}"
            )
        raise InputError(
            f"text {one.sample} of {one.problem_id!r} has changed since it was scored "
            f"in {store.path}: {what}. Give the same texts, give another text a "
            "number of its own ('sample'), or name another --responses."
        )


def texts_of(completions: Iterable[Completion]) -> dict[tuple[str, int], Text]:
    """The texts by question and number.

    Raises:
        InputError: there is none, or a number is given twice.
    """
    found: dict[tuple[str, int], Text] = {}
    for one in completions:
        key = (one.problem_id, one.sample)
        if key in found:
            raise InputError(
                f"there are two texts {one.sample} of {one.problem_id!r}. Give each "
                "text of a question its own number ('sample')."
            )
        if one.text:
            # A database has the first 100 characters of this word (`wire`).
            found[key] = Text(one.text, one.finish_reason[:100])
    if not found:
        raise InputError("there is no text to score. Name a file with --texts.")
    return found


def as_choice(given: Text, tokens: Sequence[TeacherToken]) -> dict[str, Any]:
    """A choice as a chat server sends it, whose tokens are exact bytes."""

    def option(token: bytes, logprob: float) -> dict[str, Any]:
        shown = token.decode("utf-8", "replace")
        # Minus infinity is no JSON; anything so small is impossible, too.
        return {"token": shown, "bytes": list(token), "logprob": max(logprob, -9999.0)}

    content = [
        option(one.token, one.logprob)
        | {"top_logprobs": [option(other, value) for other, value in one.top]}
        for one in tokens
    ]
    return {
        "index": 0,
        "text": given.text,
        "finish_reason": given.finish_reason,
        "logprobs": {"content": content},
    }
