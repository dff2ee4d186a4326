"""Responses as vLLM, SGLang, llama.cpp, OpenAI and gateways send them."""

import json

import pytest

from specialize.corpus.sampling.teachers import Unusable
from specialize.corpus.sampling.wire import usable_choices


def response(choice, **fields):
    return json.dumps({"choices": [{"index": 0, **choice}], **fields}).encode()


def chat(text, tokens, **message):
    """A chat response; tokens are (token, bytes, logprob, alternatives)."""
    content = [
        {
            "token": token,
            "bytes": data,
            "logprob": value,
            "top_logprobs": [
                {"token": t, "bytes": list(t.encode()), "logprob": lp} for t, lp in top
            ],
        }
        for token, data, value, top in tokens
    ]
    body = {"role": "assistant", "content": text, **message}
    return response({"message": body, "logprobs": {"content": content}})


def read(body):
    (choice,) = usable_choices(body, "x")
    return choice.text, [(t.token, t.logprob, dict(t.top)) for t in choice.tokens]


def test_openai_chat_gives_bytes_of_half_characters():
    body = chat(
        "é!",
        [("\\xc3", [0xC3], -0.1, [("e", -3.0)]), ("\\xa9", [0xA9], -0.2, []),
         ("!", [33], -0.3, [])],
    )  # fmt: skip
    text, tokens = read(body)
    assert text == "é!"
    assert [token for token, _, _ in tokens] == [b"\xc3", b"\xa9", b"!"]
    assert tokens[0][2] == {b"\xc3": -0.1, b"e": -3.0}


def test_openai_completions_write_half_characters_as_bytes():
    logprobs = {
        "tokens": ["bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{"bytes:\\xc3": -0.1, " e": -3}, {"bytes:\\xa9": -0.2}],
        "text_offset": [0, 0],
    }
    text, tokens = read(response({"text": "é", "logprobs": logprobs}))
    assert (text, tokens[0][2]) == ("é", {b"\xc3": -0.1, b" e": -3})


def test_vllm_chat_gives_the_replacement_characters_bytes():
    body = chat(
        "a é",
        [("a", [97], -0.1, [("b", -9999.0)]),
         (" \ufffd", list(" \ufffd".encode()), -0.1, [(" b", -4.0)]),
         ("\ufffd", list("\ufffd".encode()), -0.2, [])],
    )  # fmt: skip
    _, tokens = read(body)
    assert tokens[0][2] == {b"a": -0.1}, "-9999 is no probability"
    assert tokens[1][0] == " é".encode()
    assert tokens[1][1] == pytest.approx(-0.3)
    assert tokens[1][2][b" b"] == -4.0


def test_llamacpps_own_server_sends_the_chat_layout_for_completions():
    content = [{"id": 5, "token": "1", "bytes": [49], "logprob": -0.5,
                "top_logprobs": [{"id": 5, "token": "1", "bytes": [49],
                                  "logprob": -0.5}]}]  # fmt: skip
    text, tokens = read(response({"text": "1", "logprobs": {"content": content}}))
    assert (text, tokens) == ("1", [(b"1", -0.5, {b"1": -0.5})])


@pytest.mark.parametrize("value", [None, float("-inf"), -9999.0, -3.4e38])
def test_what_cannot_be_sampled_is_no_alternative_however_it_is_written(value):
    logprobs = {"tokens": ["1"], "token_logprobs": [-0.5],
                "top_logprobs": [{"1": -0.5, "2": value}]}  # fmt: skip
    _, tokens = read(response({"text": "1", "logprobs": logprobs}))
    assert tokens == [(b"1", -0.5, {b"1": -0.5})]
    _, tokens = read(chat("1", [("1", [49], -0.5, [("2", value)])]))
    assert tokens == [(b"1", -0.5, {b"1": -0.5})]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("The", [" The"], ["The"]),
        ("The", ["\n", "\n\n", "The"], ["The"]),
        (" The", ["The"], [" The"]),
        ("\nThe end", ["\n", "The", " end"], ["\n", "The", " end"]),
    ],
)
def test_white_space_a_server_strips_at_the_beginning_is_no_fault(
    text, tokens, expected
):
    body = chat(text, [(t, list(t.encode()), -0.5, [(" A", -2.0)]) for t in tokens])
    found, spelled = read(body)
    assert found == text
    assert [token.decode() for token, _, _ in spelled] == expected
    assert spelled[-1][2][b" A"] == -2.0


def test_a_reasoning_parser_is_named_as_the_reason():
    tokens = [(t, None, -0.1, []) for t in ("<think>", "Hm", "</think>", "4")]
    with pytest.raises(Unusable, match="reasoning parser.*--extra_body") as caught:
        usable_choices(chat("4", tokens, reasoning_content="Hm"), "x")
    assert caught.value.reason == "tokens_differ"


def test_tokens_that_are_ids_are_named_as_the_reason():
    with pytest.raises(Unusable, match="return-tokens-as-token-ids"):
        usable_choices(chat("4", [("token_id:19", None, -0.1, [])]), "x")


def test_an_error_sent_as_a_success_says_what_the_server_says():
    body = json.dumps({"error": {"message": "no provider", "code": 502}}).encode()
    with pytest.raises(Unusable, match="no provider"):
        usable_choices(body, "x")


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"3", b"null", b'{"choices": 3}', b'{"choices": [3]}', b"{}",
     b'{"choices": [{"text": null}]}', b'{"choices": [{"message": null}]}',
     b'{"choices": [{"index": "a", "text": ""}]}', b"\xff"],
)  # fmt: skip
def test_what_is_no_response_is_malformed(body):
    with pytest.raises(Unusable) as caught:
        usable_choices(body, "x")
    assert caught.value.reason == "malformed"
