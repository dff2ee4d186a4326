"""Responses of other APIs -> the layout of OpenAI's chat completions.

Anthropic's messages, Gemini's candidates and OpenAI's responses become an object with
`choices`, which `sampling.wire` reads. The fields of texts, reasoning, finish reasons
and log-probabilities get other names; their values stay as they are.
"""

from collections.abc import Iterable
from typing import Any, cast

Json = dict[str, Any]


def is_body(value: Any) -> bool:
    """Whether a value looks like a response of one of the APIs."""
    body = an_object(value)
    return "choices" in body or any(looks(body) for looks, _ in _APIS)


def as_chat(body: Json) -> Json:
    """A response with `choices`; one of OpenAI's chat or completions is unchanged."""
    if "choices" in body:
        return body
    for looks, read in _APIS:
        if looks(body):
            return {"choices": read(body)}
    return body


def choice(
    text: str | None,
    reasoning: str | None = None,
    finish_reason: Any = None,
    logprobs: list[Any] | None = None,
) -> Json:
    """One choice in the layout of chat completions."""
    return {
        "message": {"content": text, "reasoning_content": reasoning or None},
        "finish_reason": finish_reason,
        "logprobs": None if not logprobs else {"content": logprobs},
    }


def an_object(value: Any) -> Json:
    """The value if it is an object, else {}."""
    return cast(Json, value) if isinstance(value, dict) else {}


def objects(value: Any) -> list[Json]:
    """The objects of a list; [] if the value is not a list."""
    items = cast(list[Any], value) if isinstance(value, list) else []
    return [cast(Json, one) for one in items if isinstance(one, dict)]


def text_of(content: Any) -> str | None:
    """The text of a message: a text, or a list of parts with texts."""
    if isinstance(content, str) or content is None:
        return content
    parts = cast(list[Any], content) if isinstance(content, list) else []
    texts = [one if isinstance(one, str) else _part(one) for one in parts]
    return "".join(texts) if texts else None


def _part(part: Any) -> str:
    found = an_object(part).get("text")
    return found if isinstance(found, str) else ""


def _joined(texts: Iterable[Any]) -> str:
    return "\n".join(one for one in texts if isinstance(one, str))


def _is_message(body: Json) -> bool:
    return isinstance(body.get("content"), list) and "stop_reason" in body


def _of_messages(body: Json) -> list[Json]:
    """Anthropic: parts of type "thinking" and "text"."""
    parts = objects(body["content"])
    said = "".join(_part(one) for one in parts if one.get("type") == "text")
    thought = _joined(p.get("thinking") for p in parts if p.get("type") == "thinking")
    return [choice(said, thought, body.get("stop_reason"))]


def _is_gemini(body: Json) -> bool:
    return isinstance(body.get("candidates"), list)


def _of_candidates(body: Json) -> list[Json]:
    """Gemini: parts, of which those with `thought` are reasoning."""
    found: list[Json] = []
    for candidate in objects(body["candidates"]):
        parts = objects(an_object(candidate.get("content")).get("parts"))
        said = "".join(_part(one) for one in parts if not one.get("thought"))
        thought = _joined(_part(one) for one in parts if one.get("thought"))
        reported = an_object(candidate.get("logprobsResult"))
        chosen = objects(reported.get("chosenCandidates"))
        tops = objects(reported.get("topCandidates"))
        tokens = [
            _gemini_token(one)
            | {
                "top_logprobs": [
                    _gemini_token(other)
                    for other in objects(tops[at].get("candidates"))
                ]
                if at < len(tops)
                else []
            }
            for at, one in enumerate(chosen)
        ]
        found.append(choice(said, thought, candidate.get("finishReason"), tokens))
    return found


def _gemini_token(one: Json) -> Json:
    return {"token": one.get("token"), "logprob": one.get("logProbability")}


def _is_response(body: Json) -> bool:
    return isinstance(body.get("output"), list) and (
        body.get("object") == "response" or "status" in body
    )


def _of_responses(body: Json) -> list[Json]:
    """OpenAI's responses: items of type "reasoning" and "message"."""
    items = objects(body["output"])
    parts = [
        part
        for item in items
        if item.get("type") == "message"
        for part in objects(item.get("content"))
    ]
    thought = _joined(
        _part(part)
        for item in items
        if item.get("type") == "reasoning"
        for part in [*objects(item.get("summary")), *objects(item.get("content"))]
    )
    reason = an_object(body.get("incomplete_details")).get("reason")
    tokens = [one for part in parts for one in objects(part.get("logprobs"))]
    said = "".join(map(_part, parts))
    return [choice(said, thought, reason or body.get("status"), tokens)]


_APIS = (
    (_is_message, _of_messages),
    (_is_gemini, _of_candidates),
    (_is_response, _of_responses),
)
