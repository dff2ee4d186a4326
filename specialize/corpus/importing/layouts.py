"""The layouts of foreign files: one JSON object -> completions, or why they are lost.

| layout (`choices.LAYOUTS`) | an object is |
|---|---|
| ours | a line of `specialize corpus export` |
| notebook | a question with `samples` that have `steps` |
| batch | a result of a batch: `custom_id` and a response or an error |
| body | the response of a server, perhaps in `response` |
| vllm | a `RequestOutput` of vLLM: `prompt`, `outputs` with `text` and `token_ids` |
| messages | a conversation, of which the last reply is the completion |
| rows | a question and a text, or a list of texts, in fields of any of several names |

What each says about its question is in `Clues`; `matching` finds the question.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from specialize.corpus.completions import samples_of
from specialize.corpus.importing.bodies import (
    Json,
    an_object,
    as_chat,
    choice,
    is_body,
    objects,
    text_of,
)
from specialize.corpus.lines import Line
from specialize.corpus.records import Completion
from specialize.corpus.sampling.teachers import Choice, Unusable
from specialize.corpus.sampling.wire import read_choices
from specialize.errors import InputError

# Names of fields of rows; the first one that a row has counts.
TEXTS = (
    "generations generation completions completion responses response outputs output "
    "predictions prediction generated_text text solutions solution answer"
).split()
QUESTIONS = "question problem prompt instruction query input".split()
IDS = "problem_id custom_id question_id problem_idx key id uid index".split()
_REASONING = "reasoning_content reasoning thinking".split()
_REASONS = "finish_reasons finish_reason stop_reason".split()
_USERS, _MODELS = ("user", "human"), ("assistant", "gpt", "model", "bot")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of the fields of rows; None takes the first that is known.

    Attributes:
        question: the question.
        text: the text, or the list of texts.
        id: what identifies the question.
    """

    question: str | None = None
    text: str | None = None
    id: str | None = None


class Clues(NamedTuple):
    """What an object says about the question that it answers.

    Attributes:
        ids: what may identify it.
        texts: what may be the question, or a prompt with it.
    """

    ids: list[str]
    texts: list[str]


class Lost(NamedTuple):
    """A completion that cannot be used.

    Attributes:
        reason: one of `report.LOSSES`.
        detail: what was found.
    """

    reason: str
    detail: str


class Read(NamedTuple):
    """What was read of one object.

    Attributes:
        clues: what it says about its question.
        found: its completions, without the id of the problem, or why they are lost.
        model: name of the teacher, if it says one.
    """

    clues: Clues
    found: list[Completion | Lost]
    model: str | None = None


def layout_of(record: Json, fields: Fields = Fields()) -> str | None:
    """The layout of an object, one of `choices.LAYOUTS`, or None if it is unknown."""
    if fields.text in record or fields.question in record:
        return "rows"
    if "custom_id" in record and record.keys() & {"response", "error", "result"}:
        return "batch"
    if is_body(record) or is_body(record.get("response")):
        return "batch" if "key" in record else "body"
    outputs = objects(record.get("outputs"))
    if outputs and "text" in outputs[0]:
        return "vllm"
    if "samples" in record and "steps" in (objects(record["samples"]) or [{}])[0]:
        return "notebook"
    if _conversation(record):
        return "messages"
    if {"text", "sample"} <= record.keys() or {"text", "tokens"} <= record.keys():
        return "ours"
    return "rows" if any(record.get(name) is not None for name in TEXTS) else None


def read(line: Line, record: Json, layout: str, fields: Fields = Fields()) -> Read:
    """The completions of one object.

    Args:
        line: the object as it is in the file.
        record: the same, decoded.
        layout: its layout, one of `choices.LAYOUTS`.
        fields: names of the fields of rows.
    """
    where = line.where
    model = record.get("model")
    found: list[Completion | Lost]
    if layout in ("ours", "notebook"):
        found = _ours(line, layout)
    elif layout == "batch":
        body, found = _of_batch(record)
        if body is not None:
            found, model = _choices(as_chat(body), where), body.get("model")
    elif layout == "body":
        body = record if is_body(record) else an_object(record.get("response"))
        found, model = _choices(as_chat(body), where), body.get("model")
    elif layout == "vllm":
        made = [_of_vllm(one) for one in objects(record.get("outputs"))]
        found = _choices({"choices": made} if made else {}, where)
    elif layout == "messages":
        found = _choices({"choices": _of_messages(record)}, where)
    else:
        found = _choices({"choices": _of_rows(record, fields)}, where)
    name = model if isinstance(model, str) and model else None
    return Read(clues_of(record, fields), found, name)


def clues_of(record: Json, fields: Fields = Fields()) -> Clues:
    """What an object says about its question, from the surest on."""
    ids: list[str] = []
    texts: list[str] = []
    inner = ("request", "body", "params", "metadata")
    parts = [an_object(record.get(one)) for one in inner]
    for values in (record, *parts):
        for name in (fields.id, *IDS):
            value = values.get(name) if name else None
            if isinstance(value, str | int) and not isinstance(value, bool):
                ids.append(str(value))
        talk = _conversation(values) or objects(values.get("input"))
        for turn in objects(values.get("contents"))[-1:]:  # Gemini
            texts.append(text_of(turn.get("parts")) or "")
        asked = [one for one in talk if _role(one) in _USERS]
        if asked:
            texts.append(_content(asked[-1]) or "")
        for name in (fields.question, *QUESTIONS):
            value = values.get(name) if name else None
            if isinstance(value, str):
                texts.append(value)
        if isinstance(more := values.get("input"), str) and more:
            texts.append(f"{values.get('instruction', '')}\n{more}")
    return Clues(ids, [text for text in texts if text.strip()])


def _ours(line: Line, layout: str) -> list[Completion | Lost]:
    try:
        samples = samples_of(line, "", dumped=layout == "notebook")
    except InputError as error:
        return [Lost("malformed", str(error))]
    return [
        one.completion if one.rejection is None else Lost(one.rejection, one.where)
        for one in samples
    ]


def _of_batch(record: Json) -> tuple[Json | None, list[Completion | Lost]]:
    """The body of a batch's result, or why there is none."""
    if outcome := an_object(record.get("result")):  # Anthropic
        if message := an_object(outcome.get("message")):
            return message, []
        return None, [Lost("error", _shown(outcome.get("error") or outcome))]
    if (error := record.get("error")) is not None:
        return None, [Lost("error", _shown(error))]
    answer = an_object(record.get("response"))
    body = an_object(answer.get("body")) if "body" in answer else answer
    status = answer.get("status_code", 200)
    if not body:
        found = _shown(record.get("response"))
        return None, [Lost("malformed", f"'response' is {found}")]
    if status != 200 and not is_body(body):
        error = body.get("error") or body
        return None, [Lost("error", f"HTTP {status}: {_shown(error)}")]
    return body, []


def _choices(body: Json, where: str) -> list[Completion | Lost]:
    """The completions of a response with `choices`."""
    try:
        found = read_choices(body, where, rows=False)
    except Unusable as error:
        return [Lost(error.reason, str(error))]
    return [
        Completion("", at, one.text, one.tokens, one.finish_reason, one.reasoning)
        if isinstance(one, Choice)
        else Lost(one.reason, str(one))
        for at, one in enumerate(found)
    ] or [Lost("malformed", f"{where}: no completions")]


def _of_vllm(output: Json) -> Json:
    ids, reported = output.get("token_ids"), output.get("logprobs")
    tokens: list[Any] = []
    if isinstance(ids, list | tuple) and isinstance(reported, list) and reported:
        for index, step in zip(
            cast(Sequence[Any], ids), cast(list[Any], reported), strict=False
        ):
            options: dict[str, Json] = {}
            for name, one in an_object(step).items():
                option = an_object(one)
                options[name] = option | {"token": option.get("decoded_token")}
            own = options.get(str(index), {})
            tokens.append({**own, "top_logprobs": list(options.values())})
    return {
        "text": output.get("text"),
        "finish_reason": output.get("finish_reason"),
        "logprobs": {"content": tokens} if tokens else None,
    }


def _of_messages(record: Json) -> list[Json]:
    talk = _conversation(record)
    if not talk or _role(talk[-1]) not in _MODELS:
        return []
    reply = talk[-1]
    thought = next((reply[name] for name in _REASONING if reply.get(name)), None)
    return [choice(_content(reply), thought, _first(record, _REASONS))]


def _conversation(record: Json) -> list[Json]:
    """The messages of an object, in order; [] if it holds no conversation."""
    for name in ("messages", "conversations", "conversation"):
        if found := objects(record.get(name)):
            return found
    prompt, reply = objects(record.get("prompt")), objects(record.get("completion"))
    return [*prompt, *reply]


def _role(message: Json) -> str:
    return str(message.get("role", message.get("from", "")))


def _content(message: Json) -> str | None:
    return text_of(message.get("content", message.get("value")))


def _of_rows(record: Json, fields: Fields) -> list[Json]:
    value = _first(record, [fields.text] if fields.text else TEXTS)
    texts = cast(list[Any], value) if isinstance(value, list) else [value]
    reasons = _first(record, _REASONS)
    thoughts = _first(record, _REASONING)
    return [
        choice(_said(one), _at(thoughts, index), _at(reasons, index))
        for index, one in enumerate(texts)
    ]


def _said(value: Any) -> Any:
    """A text, also if it is in an object, as pipelines of Transformers write it."""
    if not (found := an_object(value)):
        return value
    return _first(found, ["generated_text", "text", "content"])


def _first(record: Json, names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _at(value: Any, index: int) -> Any:
    """Element `index` of a list, or what counts for all."""
    if not isinstance(value, list):
        return value
    items = cast(list[Any], value)
    return items[index] if index < len(items) else None


def _shown(value: Any) -> str:
    return json.dumps(value)[:300]
