"""Responses as vLLM, SGLang, llama.cpp, OpenAI and gateways send them."""

import json
import math

import hypothesis
import pytest
from hypothesis import strategies

from specialize.corpus.records import is_whole
from specialize.corpus.sampling.teachers import Unusable
from specialize.corpus.sampling.wire import token_counts, usable_choices


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


def held_back(texts, reported, p=0.9):
    """Tokens as llama.cpp's server sends them: alternatives of `texts`, `reported`."""
    content = []
    for number, (text, shown) in enumerate(zip(texts, reported, strict=True)):
        logprob = math.log(p) - number / 1024
        options = [(text, logprob), (b"!", math.log(0.04)), (b"?", math.log(0.02))]
        top = [
            {"id": 9, "token": t.decode("utf-8", "replace"), "bytes": list(t),
             "logprob": value}
            for t, value in options
        ]  # fmt: skip
        entry = {"id": 9, "token": shown.decode(), "bytes": list(shown)}
        content.append(entry | {"logprob": logprob, "top_logprobs": top})
    text = b"".join(reported).decode()
    return response({"text": text, "logprobs": {"content": content}})


@pytest.mark.parametrize("p", [0.9, 0.5, 0.3])
@pytest.mark.parametrize(
    ("texts", "reported"),
    [
        ([b"Two", b".", b"\n", b"Five"], [b"Two", b".", b"", b"\nFive"]),
        ([b"\n", b"Qu", b"ick"], [b"", b"", b"\nQuick"]),
        ([b"\n", b"A", b" b", b"\n", b"C"], [b"", b"\nA", b" b", b"", b"\nC"]),
        ([b"4", b" \xc3", b"\x97", b" 5"], [b"4", b"", " ×".encode(), b" 5"]),
    ],
)
def test_tokens_that_llamacpp_holds_back_are_read_as_they_were_sampled(
    texts, reported, p
):
    _, tokens = read(held_back(texts, reported, p))
    assert [token for token, _, _ in tokens] == texts
    for number, (text, logprob, top) in enumerate(tokens):
        assert logprob == pytest.approx(math.log(p) - number / 1024)
        assert top.keys() == {text, b"!", b"?"}


@pytest.mark.parametrize("p", [0.9, 0.45])
@pytest.mark.parametrize(
    ("texts", "reported", "text"),
    [
        # The text ends in what may begin a stop text, then the teacher ends it.
        ([b"Two", b".", b"\n"], [b"Two", b".", b""], "Two.\n"),
        ([b"Two", b"\n", b"Quest"], [b"Two", b"", b""], "Two\nQuest"),
        ([b"5", b" \xc3", b"\x97", b"\n"], [b"5", b"", " ×".encode(), b""], "5 ×\n"),
        # A stop text is cut with the tokens that began it, or inside one of them.
        ([b"Two", b".", b"\n", b"Question"], [b"Two", b".", b"", b""], "Two."),
        ([b"Two", b".", b"\n\n", b"Question"], [b"Two", b".", b"", b""], "Two.\n"),
        # The text that is released is an alternative of its own.
        ([b"is", b" ", b"4"], [b"is", b"", b" 4"], "is 4"),
        ([b"a", b"\n", b"\n", b"b"], [b"a", b"", b"", b"\n\nb"], "a\n\nb"),
    ],
)
def test_a_token_that_llamacpp_still_holds_at_the_end_is_the_end_of_the_text(
    texts, reported, text, p
):
    body = json.loads(held_back(texts, reported, p))
    (choice,) = body["choices"]
    choice["text"] = text
    content = choice["logprobs"]["content"]
    if reported[-1] == b" 4":
        other = {"id": 4, "token": " 4", "bytes": [32, 52], "logprob": -4.0}
        content[-1]["top_logprobs"].append(other)
    end = {"id": 1, "token": "", "bytes": [], "logprob": -0.5}
    content.append(end | {"top_logprobs": [end]})
    _, tokens = read(json.dumps(body).encode())
    found = [token for token, _, _ in tokens if token]
    assert b"".join(found).decode().rstrip() == text.rstrip()
    assert found == texts[: len(found)]
    for number, (one, logprob, top) in enumerate(tokens[: len(found)]):
        assert logprob == pytest.approx(math.log(p) - number / 1024)
        assert {one, b"!", b"?"} <= top.keys()


@pytest.mark.parametrize("p", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("whole", [" ×", "🧮", "é", "家"])
def test_of_a_character_that_llamacpp_completes_the_last_token_alone_is_known(
    whole, size, p
):
    text = whole.encode()
    if size == len(text):
        return  # the whole character is one token
    body = held_back([b"4", text[-size:], b" 5"], [b"4", text, b" 5"], p)
    _, tokens = read(body)
    assert [token for token, _, _ in tokens] == [
        b"4",
        text[:-size],
        text[-size:],
        b" 5",
    ]
    assert tokens[1][1:] == (-math.inf, {})
    assert tokens[2][2].keys() == {text[-size:], b"!", b"?"}
    assert tokens[0][2].keys() == {b"4", b"!", b"?"}


def test_a_reply_with_an_emoji_of_llamacpp_is_used():
    value = -0.00031273486092686653
    top = [
        {"id": 106 + n, "token": "\ufffd", "bytes": [174 + n], "logprob": logprob}
        for n, logprob in enumerate((value, -10.05))
    ]
    emoji = {"id": 106, "token": "🧮", "bytes": list("🧮".encode()), "logprob": value}
    end = {"id": 9, "token": "", "bytes": [], "logprob": -1.58}
    content = [emoji | {"top_logprobs": top}, end | {"top_logprobs": [end]}]
    text, tokens = read(response({"text": "🧮", "logprobs": {"content": content}}))
    assert text == "🧮"
    # The server reports one probability of three tokens: that of the last byte.
    assert tokens == [
        (b"\xf0\x9f\xa7", -math.inf, {}),
        (b"\xae", value, {b"\xae": value, b"\xaf": -10.05}),
    ]


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


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    "before",
    [
        ["<think>", "Hm", ",", " 4", "?", "</think>"],
        ["<think>\n", "Hm, 4?", "\n</think>\n\n"],
        ["Hm, 4?", "\n\n"],
        ["<|channel|>", "analysis", "<|message|>", "Hm, 4?", "<|end|>"],
    ],
)
def test_reasoning_that_a_server_sends_apart_is_before_the_text(before, field):
    tokens = [(t, None, -0.1, [("~", -3.0)]) for t in (*before, "4", "<|im_end|>")]
    (choice,) = usable_choices(chat("4", tokens, **{field: "Hm, 4?"}), "x")
    assert choice.text == "".join(before) + "4"
    assert choice.text[choice.reasoning :] == "4"
    assert [one.token.decode() for one in choice.tokens] == [*before, "4"]


def test_reasoning_without_its_tokens_is_one_token_of_which_nothing_is_known():
    body = chat("4", [("4", None, -0.1, [])], reasoning_content="Hm?")
    (choice,) = usable_choices(body, "x")
    assert (choice.text, choice.reasoning) == ("Hm?\n\n4", 5)
    first, second = choice.tokens
    assert first.is_unknown
    assert (second.token, second.logprob) == (b"4", -0.1)


def test_a_text_that_is_not_after_the_reasoning_of_the_tokens_is_refused():
    tokens = [(t, None, -0.1, []) for t in ("<think>", "Hm", "</think>", "4")]
    with pytest.raises(Unusable, match="reasoning parser.*--extra_body") as caught:
        usable_choices(chat("5", tokens, reasoning_content="Hm"), "x")
    assert caught.value.reason == "tokens_differ"
    with pytest.raises(Unusable, match="reasoning parser.*--extra_body"):
        usable_choices(chat("4", tokens, reasoning_content="Ho"), "x")


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "content_filter"])
@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_answer_that_is_cut_in_its_reasoning_is_a_cut_sample(text, reason):
    tokens = [(t, None, -0.1, []) for t in ("<think>", "Hm")]
    body = json.loads(chat(text, tokens, reasoning_content="Hm"))
    body["choices"][0]["finish_reason"] = reason
    (choice,) = usable_choices(json.dumps(body).encode(), "x")
    assert (choice.text, choice.finish_reason) == ("", reason)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None, "refusal": None}])
def test_log_probabilities_may_be_missing_if_no_rows_are_wanted(logprobs):
    body = response({"text": "4", "logprobs": logprobs})
    with pytest.raises(Unusable):
        usable_choices(body, "x")
    (choice,) = usable_choices(body, "x", rows=False)
    assert (choice.text, choice.tokens) == ("4", None)


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


def plain(text, **fields):
    logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": None}
    return {"text": text, "logprobs": logprobs} | fields


@pytest.mark.parametrize(
    ("indices", "texts"),
    [
        ([0, 1, 2], "abc"),
        ([2, 0, 1], "bca"),
        ([0, 0, 0], "abc"),
        ([1, 1, 0], "abc"),
        ([None, None, None], "abc"),
        ([1, None, 7], "abc"),
        ([-5, 3, 9], "abc"),
    ],
)
def test_every_choice_is_kept_however_the_server_numbers_them(indices, texts):
    pairs = zip(indices, "abc", strict=True)
    body = json.dumps({"choices": [plain(text, index=n) for n, text in pairs]})
    found = usable_choices(body.encode(), "x")
    assert "".join(one.text for one in found) == texts
    assert len({one.index for one in found}) == 3


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_answer_that_is_all_reasoning_is_unusable_and_the_remedy_is_named(
    field, text
):
    tokens = [(t, None, -0.1, []) for t in ("<think>", "Hm")]
    body = chat(text, tokens, **{field: "Hm"})
    with pytest.raises(Unusable, match=r"--max_tokens.*parser.*--extra_body") as caught:
        usable_choices(body, "x")
    assert caught.value.reason == "only_reasoning"


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\\uDE00\\ud83d"])
def test_half_a_surrogate_pair_reaches_no_file(half):
    body = response(plain("The answer is 5", finish_reason="HERE"), note="HERE")
    (choice,) = usable_choices(body.replace(b"HERE", half.encode()), "x")
    assert set(choice.finish_reason) == {"\ufffd"}
    (choice,) = usable_choices(response(plain("5 \U0001f600")), "x")
    assert choice.text == "5 \U0001f600"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, (5, 7)),
        ({"prompt_tokens": True, "completion_tokens": "7"}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": -1}, (None, None)),
        ([1], (None, None)),
        ("much", (None, None)),
        (None, (None, None)),
    ],
)
def test_counts_that_are_none_leave_the_answer_usable(usage, counts):
    body = response(plain("5"), usage=usage)
    assert usable_choices(body, "x")
    assert token_counts(body) == counts


def test_only_words_for_an_end_are_whole():
    for word in ("stop", "STOP", "eos_token", "end_turn", " stop_sequence"):
        assert is_whole(word)
    for word in (
        *("length", "max_tokens", "MAX_TOKENS", "model_length", "content_filter"),
        *("abort", "error", "safety", "tool_calls", "cancelled", "\ufffd", ""),
    ):
        assert not is_whole(word)


odd = strategies.sampled_from(
    [
        *(None, True, -1, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "x"),
        *(
            [],
            [1],
            [[]],
            {},
            {"a": 1},
            "\ud800",
            [None] * 3,
            {"content": 3},
            3000000000,
        ),
    ]
)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            yield from places(one, (*path, key))


WHOLE = (
    json.loads(chat("5!", [("5", [53], -0.5, [("6", -2.0)]), ("!", None, -0.1, [])])),
    json.loads(response(plain("5", finish_reason="stop"), usage={"prompt_tokens": 3})),
    {"error": {"message": "no", "code": 3}},
)


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(strategies.sampled_from(WHOLE), strategies.data(), odd)
def test_a_field_of_another_type_makes_an_answer_unusable_or_does_not_matter(
    whole, data, value
):
    path = data.draw(strategies.sampled_from(list(places(whole))))
    changed = {"root": json.loads(json.dumps(whole))}
    inner = changed
    for key in ("root", *path)[:-1]:
        inner = inner[key]
    inner[("root", *path)[-1]] = value
    body = json.dumps(changed["root"]).encode()
    try:
        found = usable_choices(body, "x")
    except Unusable as error:
        assert len(str(error)) < 500
    else:
        for choice in found:
            choice.text.encode()
            choice.finish_reason.encode()
        token_counts(body)


@pytest.mark.parametrize(
    "inside", ["[" * 100_000, "1" * 5000, "1e999", '{"a":' * 100_000, '"' + "x" * 10]
)
def test_what_no_parser_reads_is_malformed(inside):
    for body in (f'{{"choices": {inside}', f'{{"choices": [], "more": {inside}'):
        with pytest.raises(Unusable) as caught:
            usable_choices(body.encode(), "x")
        assert caught.value.reason == "malformed"
