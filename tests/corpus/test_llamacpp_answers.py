"""What llama.cpp's own server does otherwise than OpenAI's: `n`, and cut tokens."""

import json
import types

import pytest

from specialize.corpus.sampling.endpoint import _most_choices
from specialize.corpus.sampling.teachers import Unusable
from specialize.corpus.sampling.wire import usable_choices

REFUSALS = [
    ("Field 'n': Value must be between 1 <= value <= 2, but got 4", 2),
    ("Field 'n': Value must be between 1 <= value <= 1, but got 4", 1),
    ("n must be 1 when using greedy sampling, got 4.", 1),
    ("Invalid n value (currently only n = 1 is supported)", 1),
    ("'n' : number must be at most 1", 1),
    ("Unsupported parameter: 'n'.", 1),
    ('{"param": "n", "message": "this model gives one choice"}', 1),
    ("`n` may be up to 3", 3),
    ("n <= 2 for this model", 2),
    ("n must be at most 128", 1),  # no reason to refuse 4, so one at a time
    ("the context has 2048 tokens, the prompt 3000", None),
    ("logprobs must be at most 5", None),
    ("bad\\n request", None),
    ("value of n_probs must be at most 2", None),
    ("top-n must be at most 2", None),
]


@pytest.mark.parametrize(("said", "most"), REFUSALS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_of_n_says_how_many_choices_there_are(said, most, status):
    assert (
        _most_choices(
            types.SimpleNamespace(status_code=status, content=said.encode()), 4
        )
        == most
    )


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_another_status_or_one_choice_is_no_such_refusal(status):
    said = REFUSALS[0][0]
    assert (
        _most_choices(
            types.SimpleNamespace(status_code=status, content=said.encode()), 4
        )
        is None
    )
    assert (
        _most_choices(types.SimpleNamespace(status_code=400, content=said.encode()), 1)
        is None
    )


def body(text, tokens):
    content = [
        {
            "token": token,
            "bytes": list(token.encode()),
            "logprob": -0.5,
            "top_logprobs": [{"token": token, "logprob": -0.5}],
        }
        for token in tokens
    ]
    choice = {"text": text, "index": 0, "finish_reason": "stop"}
    return json.dumps({"choices": [choice | {"logprobs": {"content": content}}]})


@pytest.mark.parametrize("rest", ["\n", " ", "\n\n", " \t\n", ""])
@pytest.mark.parametrize("tokens", [["It", " is", " 1", "8"], ["é", "."], ["\n", "4"]])
def test_what_a_stop_text_leaves_of_a_token_is_not_in_the_sample(tokens, rest):
    """ "18" and "\\n\\n" with the stop text "\\nQuestion:" is sent as "18\\n"."""
    written = "".join(tokens)
    [choice] = usable_choices(body(written + rest, tokens).encode(), "x")
    assert choice.text == written
    assert [one.token.decode() for one in choice.tokens] == tokens


@pytest.mark.parametrize("rest", ["x", "\nQ", " and more"])
def test_more_text_than_tokens_is_of_no_use(rest):
    with pytest.raises(Unusable, match="do not spell the text"):
        usable_choices(body(f"It is 18{rest}", ["It", " is", " 18"]).encode(), "x")
