"""A server that scores texts, exactly, and fails on command as `fault_server`."""

import math

from fault_server import TOKEN, FaultServer


def probability(before, token):
    """What the server says of a token, by the one before it."""
    return 0.1 + 0.8 * ((sum(map(ord, before)) * 7 + sum(map(ord, token))) % 97) / 97


class EchoServer(FaultServer):
    """Sends the prompt back with log-probabilities, and one token more."""

    def _choice(self, request, index, fault, chat):
        body = request.body
        if not body.get("echo") or fault == "no echo":
            return super()._choice(request, index, None, chat)
        text = body["prompt"] + " so"
        tokens = TOKEN.findall(text)
        values = [
            math.log(probability(before, token))
            for before, token in zip(tokens, tokens[1:], strict=False)
        ]
        tops = [
            {token: value, "zz": math.log(0.05)}
            for token, value in zip(tokens[1:], values, strict=True)
        ]
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [None, *values],
            "top_logprobs": [None, *tops],
        }
        choice = {"index": 0, "finish_reason": "length", "logprobs": logprobs}
        return choice | {"text": text, "full": text}
